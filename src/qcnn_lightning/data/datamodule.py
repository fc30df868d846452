"""The images of `split_images` in batches, for Lightning.

A batch is one indexing operation, so loaders need no workers: a sampler yields the indices of one or several batches.
"""

from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from qcnn_lightning.data.augmentation import AlteredBatches
from qcnn_lightning.data.batches import Batches, EvaluationBatches, TrainingBatches
from qcnn_lightning.data.levels import RedrawnBatches
from qcnn_lightning.data.split_images import SplitImages
from qcnn_lightning.errors import InputError, RefusedRunError


class ImageDataModule(SplitImages, pl.LightningDataModule):
    """A data set's images, in batches. The arguments are those of `SplitImages`."""

    def train_dataloader(self) -> DataLoader:
        """Return the loader of this device's training batches, lists of `batches_per_item` pairs of images and labels.

        Images are (batch, N), labels int64 (batch,).

        Raises:
            InputError: a batch has fewer images than there are devices.
        """
        rank, world_size = self._device()
        num_images = len(self._loaded_splits()["train"][1])
        smallest = num_images % self._batch_size or self._batch_size
        if smallest < world_size:
            raise InputError(
                f"data.batch_size={self._batch_size} leaves {smallest} of {num_images} training images for a batch, "
                f"fewer than the {world_size} devices; choose another."
            )
        batches = TrainingBatches(num_images, self._batch_size, self.seed, self._batches_per_item, rank, world_size)
        split = self._loaded_splits()["train"]
        altered = not self._augmentation.changes_nothing
        images = AlteredBatches(*split, self._augmentation, batches) if altered else Batches(*split)
        if self._grey is None or self.levels is None:
            return DataLoader(images, batch_size=None, sampler=batches)
        redrawn = RedrawnBatches(images, self._grey, self.levels, self.rounding, batches)
        return DataLoader(redrawn, batch_size=None, sampler=batches)

    def num_batches_in(self, num_items: int) -> int:
        """Return the number of batches in the first items of the training loader."""
        num_images = len(self._loaded_splits()["train"][1])
        return min(num_items * self._batches_per_item, -(-num_images // self._batch_size))

    def val_dataloader(self) -> list[DataLoader]:
        """Return a loader for each of `evaluation_splits`: large batches in fixed order."""
        return [self._evaluation_loader(split) for split in self.evaluation_splits]

    def test_dataloader(self) -> DataLoader:
        """Return the loader of the test images: large batches in fixed order."""
        return self._evaluation_loader("test")

    def _device(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _evaluation_loader(self, split: str) -> DataLoader:
        num_images = len(self._loaded_splits()[split][1])
        batches = EvaluationBatches(num_images, self._evaluation_batch_size, *self._device())
        return DataLoader(TensorDataset(*self._loaded_splits()[split]), batch_size=None, sampler=batches)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that a checkpoint was trained with these images in this order; old checkpoints may not say.

        Raises:
            RefusedRunError: it was trained with others.
        """
        if state_dict.get("content", self._known_by) != self._known_by:
            raise RefusedRunError(
                f"the images of data={self._name} are not those of the run: SHA-256 "
                f"{state_dict['content']} -> {self._known_by}; restore them, or train in another folder."
            )
        if not torch.equal(state_dict.get("pixel_order", self.pixel_order), self.pixel_order):
            raise RefusedRunError("data.flatten gives another pixel order than the run was trained with.")
