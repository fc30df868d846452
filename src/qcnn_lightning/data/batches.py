"""Which images make up each batch: fixed by the seed and the epoch, whatever ran before and on however many devices."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Int64, Real
from torch import Tensor
from torch.utils.data import Dataset, Sampler

Batch = Sequence[Real[Tensor, "_ sites"] | Int64[Tensor, " _"]]
"""Images in tree order, and their labels."""


class Batches(Dataset[list[Batch]]):
    """Images and labels in memory; asked for the indices of several batches, it gives these batches."""

    def __init__(self, images: Real[Tensor, "images sites"], labels: Int64[Tensor, " images"]):
        self.images, self.labels = images, labels

    def __getitem__(self, indices: Sequence[Int64[Tensor, " _"]]) -> list[Batch]:
        sizes, chosen = [len(batch) for batch in indices], torch.cat(tuple(indices))
        return list(zip(self.chosen(chosen).split(sizes), self.labels[chosen].split(sizes), strict=True))

    def chosen(self, indices: Int64[Tensor, " chosen"]) -> Real[Tensor, "chosen sites"]:
        """Return the images with these indices."""
        return self.images[indices]


class TrainingBatches(Sampler[list[Tensor]]):
    """Shuffled batches; every image exactly once an epoch, the last batch short if the numbers do not divide.

    They come several at a time, which changes nothing about what is in each. The order depends on (seed, epoch) alone,
    so a resumed run sees the batches that the interrupted one would have seen. With several devices each batch is cut
    into as many contiguous parts, whose sizes differ by one image at most, and each device takes its own.
    """

    def __init__(
        self, num_images: int, batch_size: int, seed: int, at_a_time: int = 1, rank: int = 0, world_size: int = 1
    ):
        """Define the batches of every epoch.

        Args:
            num_images: size of the training set.
            batch_size: images a batch, over all devices.
            seed: with the epoch, the only thing that the order depends on.
            at_a_time: most batches that come together.
            rank: number of this device.
            world_size: number of devices.
        """
        self.num_images, self.batch_size = num_images, batch_size
        self.seed, self.at_a_time = seed, at_a_time
        self.rank, self.world_size = rank, world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is iterated over next; Lightning does so at the start of every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.num_images // (self.batch_size * self.at_a_time))

    def __iter__(self) -> Iterator[list[Int64[Tensor, " batch"]]]:
        # mixed, so that seed 0's epoch 1 is not seed 1's epoch 0
        state = np.random.SeedSequence((self.seed, self.epoch)).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(state[0]))
        order = torch.randperm(self.num_images, generator=generator)
        for together in order.split(self.batch_size * self.at_a_time):
            yield [batch.tensor_split(self.world_size)[self.rank] for batch in together.split(self.batch_size)]


class EvaluationBatches(Sampler[Tensor]):
    """All images once, in their order, in batches of nearly equal size, each shared out over the devices."""

    def __init__(self, num_images: int, batch_size: int, rank: int = 0, world_size: int = 1):
        """Define the batches; `batch_size` is the largest allowed, over all devices."""
        self.num_images, self.batch_size = num_images, batch_size
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        return -(-self.num_images // self.batch_size)

    def __iter__(self) -> Iterator[Int64[Tensor, " batch"]]:
        for batch in torch.arange(self.num_images).tensor_split(len(self)):
            yield batch.tensor_split(self.world_size)[self.rank]


def stratified_choice(labels: Int64[Tensor, " images"], count: int) -> Int64[Tensor, " count"]:
    """Indices of `count` images, each class in proportion, ascending; the same at every call.

    Within each class the images are put in a fixed random order and numbered; chosen are those whose number is the
    smallest fraction of their class.
    """
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    fraction = torch.empty(len(labels), dtype=torch.float64)
    for label in labels.unique():
        members = shuffled[labels[shuffled] == label]
        fraction[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    chosen = shuffled[fraction[shuffled].argsort(stable=True)[:count]]
    return chosen.sort().values
