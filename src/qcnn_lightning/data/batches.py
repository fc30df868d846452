"""Which images make up each batch: seed and epoch decide, on any number of devices, resumed or not."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Int64, Real
from torch import Tensor
from torch.utils.data import Dataset, Sampler

Batch = Sequence[Real[Tensor, "_ sites"] | Int64[Tensor, " _"]]
"""Images in tree order, and their labels."""


class Batches(Dataset[list[Batch]]):
    """Images and labels in memory. Its item for the indices of several batches is a list of these batches."""

    def __init__(self, images: Real[Tensor, "images sites"], labels: Int64[Tensor, " images"]):
        self.images, self.labels = images, labels

    def __getitem__(self, indices: Sequence[Int64[Tensor, " _"]]) -> list[Batch]:
        sizes, chosen = [len(batch) for batch in indices], torch.cat(tuple(indices)).to(self.images.device)
        return list(zip(self.chosen(chosen).split(sizes), self.labels[chosen].split(sizes), strict=True))

    def chosen(self, indices: Int64[Tensor, " chosen"]) -> Real[Tensor, "chosen sites"]:
        """Return the images with these indices."""
        return self.images[indices]


class TrainingBatches(Sampler[list[Tensor]]):
    """Shuffled batches, several per item; every image once per epoch, the last batch possibly smaller.

    The order depends only on seed and epoch, so a resumed run sees the same batches. Several devices split each batch
    into contiguous parts whose sizes differ by at most one image; each device takes one.
    """

    def __init__(
        self, num_images: int, batch_size: int, seed: int, per_item: int = 1, rank: int = 0, world_size: int = 1
    ):
        """Define the batches of every epoch.

        Args:
            num_images: size of the training set.
            batch_size: images in a batch, over all devices.
            seed: decides the order, with the epoch.
            per_item: most batches in an item.
            rank: number of this device.
            world_size: number of devices.
        """
        self.num_images, self.batch_size = num_images, batch_size
        self.seed, self.per_item = seed, per_item
        self.rank, self.world_size = rank, world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch to iterate over next; Lightning calls this at the start of every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.num_images // (self.batch_size * self.per_item))

    def __iter__(self) -> Iterator[list[Int64[Tensor, " batch"]]]:
        # Mixed: epoch 1 of seed 0 must not be epoch 0 of seed 1.
        state = np.random.SeedSequence((self.seed, self.epoch)).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(state[0]))
        order = torch.randperm(self.num_images, generator=generator)
        for together in order.split(self.batch_size * self.per_item):
            yield [batch.tensor_split(self.world_size)[self.rank] for batch in together.split(self.batch_size)]


class EvaluationBatches(Sampler[Tensor]):
    """All images once, in order, in batches of nearly equal size; several devices split each batch."""

    def __init__(self, num_images: int, batch_size: int, rank: int = 0, world_size: int = 1):
        """Define the batches of at most `batch_size` images, over all devices."""
        self.num_images, self.batch_size = num_images, batch_size
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        return -(-self.num_images // self.batch_size)

    def __iter__(self) -> Iterator[Int64[Tensor, " batch"]]:
        for batch in torch.arange(self.num_images).tensor_split(len(self)):
            yield batch.tensor_split(self.world_size)[self.rank]


def stratified_choice(labels: Int64[Tensor, " images"], count: int) -> Int64[Tensor, " count"]:
    """Return the indices of `count` images, each class in proportion, ascending; the same at every call.

    A fixed random order ranks the images of each class. The chosen images have the smallest (rank + 1/2) / class size.
    """
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    fraction = torch.empty(len(labels), dtype=torch.float64)
    for label in labels.unique():
        members = shuffled[labels[shuffled] == label]
        fraction[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    chosen = shuffled[fraction[shuffled].argsort(stable=True)[:count]]
    return chosen.sort().values
