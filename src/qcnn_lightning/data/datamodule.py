"""Images as the network sees them: grey levels laid on a chain of N = 2^L sites, in batches.

All of a data set is held in memory, already in tree order, and a batch is one indexing operation. So loaders need
neither to make batches nor workers: a sampler yields the indices of a batch, or of several.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Int64, Real
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from qcnn_lightning.data.augmentation import AlteredBatches, Augmentation
from qcnn_lightning.data.batches import Batches, EvaluationBatches, TrainingBatches, stratified_choice
from qcnn_lightning.data.flattening import checked_order, lay_on_chain, pixel_order
from qcnn_lightning.data.images import LabelledImages, cache_path, prepare_cache, read_cache
from qcnn_lightning.data.sources import make_source
from qcnn_lightning.errors import InputError, RefusedRunError, checked_settings


class ImageDataModule(pl.LightningDataModule):
    """A data set's training, validation and test images.

    Everything is known once `prepare_data()` and `setup()` have run; both may be called again and then do nothing.

    Attributes:
        num_sites: N, pixels of the flattened image with its padding.
        image_shape: (height, width) before padding.
        pixel_order: int64 (N,), site of the chain -> pixel of the row-major image, or `flattening.PADDING`.
    """

    @checked_settings
    def __init__(
        self,
        *,
        name: str,
        cache: str | Path | None = None,
        test_fraction: float | None = None,
        size: int | None,
        flatten: str | Tensor,
        val_size: int,
        batch_size: int,
        batches_at_a_time: int = 1,
        evaluation_batch_size: int = 5000,
        population_size: int = 2048,
        augment: Mapping[str, Any] | None = None,
        seed: int,
        **of_source: Any,
    ):
        """Check the settings; nothing is fetched yet. Each argument is a key of `conf/data/`.

        Args:
            name: one of `sources.SOURCES`, or the dotted path of a `Source` of one's own.
            cache: folder that keeps the resized images, where resizing them takes long.
            test_fraction: part of the training images held out for testing where the source has no test images.
            size: height and width that images are resized to, in pixels; None leaves it to the source.
            flatten: as `flattening.pixel_order` takes it, or an order as `flattening.checked_order` does.
            val_size: number of training images held out as the split "val", each class in proportion; the choice is
                fixed.
            batch_size: training images a batch, over all devices.
            batches_at_a_time: most batches in one element of the training loader. Every batch is an optimisation step
                all the same; together they spare Lightning's work between steps.
            evaluation_batch_size: most images a batch in evaluation, over all devices.
            population_size: most images in `population_sample`.
            augment: settings of the `Augmentation` of what the training loader gives; all else is never altered.
            seed: with the epoch, all that the order of the training batches and their augmentation depend on.
            of_source: the source's own settings, such as `root`.

        Raises:
            InputError: a setting is out of range, or the source cannot be used.
        """
        super().__init__()
        for key, value, least in (
            ("size", 2 if size is None else size, 2),
            ("batch_size", batch_size, 1),
            ("batches_at_a_time", batches_at_a_time, 1),
            ("evaluation_batch_size", evaluation_batch_size, 1),
            ("population_size", population_size, 1),
            ("val_size", val_size, 0),
        ):
            if not isinstance(value, int) or value < least:
                raise InputError(f"data.{key}={value} must be a whole number, {least} or more.")
        if seed < 0:
            raise InputError(f"seed={seed} must be 0 or more.")
        if test_fraction is not None and not 0 < test_fraction < 1:
            raise InputError(f"data.test_fraction={test_fraction} must lie between 0 and 1.")
        self._paths = {"root": of_source.get("root"), "path": of_source.get("path"), "cache": cache}
        with self._failures_told():
            self._source = make_source(name, of_source)
        self.image_shape = self._source.image_shape(size)
        self.pixel_order: Int64[Tensor, " sites"] = (
            pixel_order(flatten, *self.image_shape)
            if isinstance(flatten, str)
            else checked_order(flatten, *self.image_shape, "the given order")
        )
        self.num_sites = len(self.pixel_order)
        self._augmentation = Augmentation(self.pixel_order, self.image_shape, **(augment or {}))
        self.seed = seed
        self._name, self._cache = name, cache
        self._test_fraction = test_fraction
        self._val_size, self._batch_size, self._batches_at_a_time = val_size, batch_size, batches_at_a_time
        self._evaluation_batch_size, self._population_size = evaluation_batch_size, population_size
        self._splits: dict[str, tuple[Tensor, Tensor]] | None = None
        self._class_names: tuple[str, ...] = ()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the labels."""
        self._loaded_splits()
        return self._class_names

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def splits(self) -> dict[str, tuple[Real[Tensor, "images sites"], Int64[Tensor, " images"]]]:
        """The splits "train", "val" (if `val_size` > 0) and "test" -> (images on the chain, labels)."""
        return self._loaded_splits()

    @property
    def evaluation_splits(self) -> tuple[str, ...]:
        """Names of the splits, in the order of the loaders of `val_dataloader`."""
        return tuple(self._loaded_splits())

    def population_sample(self) -> Real[Tensor, "sample sites"]:
        """A fixed random choice of training images, whose statistics stand for all; the same in every run."""
        images, _ = self._loaded_splits()["train"]
        shuffled = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        return images[shuffled[: self._population_size]]

    def prepare_data(self) -> None:
        """Fetch what is missing, check it, and prepare the cache; safe when several processes do it at once.

        Raises:
            InputError: see the source and `images.prepare_cache`; or a file or folder cannot be read or written.
        """
        if self._splits is not None:
            return
        with self._failures_told():
            if self._content is None:
                self._source.fetch()
            elif self._cache_path.exists():
                self._source.verify()
            else:
                self._source.fetch()
                prepare_cache(self._cache_path, self.image_shape, self._content, self._load)

    def setup(self, stage: str | None = None) -> None:
        """Read the images, hold out what the settings ask for and lay the pixels on the chain.

        Raises:
            InputError: the cache is damaged, the source cannot be read, or `augment`, `batch_size` or `val_size` do not
                fit the images.
        """
        if self._splits is not None:
            return
        with self._failures_told():
            if self._content is None:
                images = self._load()
            else:
                images = read_cache(self._cache_path, self.image_shape, self._content)
        self._known_by = self._content or images.digest()
        splits = dict(images.splits)
        if not (self._augmentation.changes_nothing or splits["train"][0].dtype == torch.uint8):
            raise InputError(
                f"data.augment alters 8-bit grey levels, and the images of data={self._name} are floats: leave it "
                "at its defaults, or give uint8 images."
            )
        if "test" not in splits:
            splits["train"], splits["test"] = _hold_out(splits["train"], self._num_test_images(len(splits["train"][1])))
        num_train = len(splits["train"][1])
        if self._val_size >= num_train:
            raise InputError(f"data.val_size={self._val_size} must be less than the {num_train} training images.")
        if self._val_size > 0:
            splits["train"], splits["val"] = _hold_out(splits["train"], self._val_size)
            num_train -= self._val_size
        if self._batch_size > num_train:
            raise InputError(f"data.batch_size={self._batch_size} is more than the {num_train} training images.")
        self._class_names = images.class_names
        self._splits = {
            split: (lay_on_chain(splits[split][0], self.pixel_order), splits[split][1])
            for split in ("train", "val", "test")
            if split in splits
        }

    def train_dataloader(self) -> DataLoader:
        """Lists of `batches_at_a_time` shuffled batches ((batch, sites), int64 (batch,)) of this device.

        Raises:
            InputError: a batch has fewer images than there are devices.
        """
        rank, world_size = self._device()
        num_images = len(self._loaded_splits()["train"][1])
        smallest = num_images % self._batch_size or self._batch_size
        if smallest < world_size:
            raise InputError(
                f"data.batch_size={self._batch_size} cuts the {num_images} training images into batches of which one "
                f"has {smallest}, fewer than the {world_size} devices; choose another."
            )
        batches = TrainingBatches(num_images, self._batch_size, self.seed, self._batches_at_a_time, rank, world_size)
        split = self._loaded_splits()["train"]
        altered = not self._augmentation.changes_nothing
        images = AlteredBatches(*split, self._augmentation, batches) if altered else Batches(*split)
        return DataLoader(images, batch_size=None, sampler=batches)

    def num_batches_in(self, num_elements: int) -> int:
        """Number of batches in the first elements of the training loader."""
        num_images = len(self._loaded_splits()["train"][1])
        return min(num_elements * self._batches_at_a_time, -(-num_images // self._batch_size))

    def val_dataloader(self) -> list[DataLoader]:
        """One loader for each of `evaluation_splits`: big batches in fixed order."""
        return [self._evaluation_loader(split) for split in self.evaluation_splits]

    def test_dataloader(self) -> DataLoader:
        """The test images in big batches, in fixed order."""
        return self._evaluation_loader("test")

    def _loaded_splits(self) -> dict[str, tuple[Tensor, Tensor]]:
        if self._splits is None:
            raise RuntimeError("No images yet: call prepare_data() and setup() first.")
        return self._splits

    def _device(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _evaluation_loader(self, split: str) -> DataLoader:
        num_images = len(self._loaded_splits()[split][1])
        batches = EvaluationBatches(num_images, self._evaluation_batch_size, *self._device())
        return DataLoader(TensorDataset(*self._loaded_splits()[split]), batch_size=None, sampler=batches)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint shall hold, to know the images again and to need no code of the user's for them."""
        return {"content": self._known_by, "pixel_order": self.pixel_order}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that a checkpoint was trained with these images, in this order; one from before may not say.

        Raises:
            RefusedRunError: it was trained with others.
        """
        if state_dict.get("content", self._known_by) != self._known_by:
            raise RefusedRunError(
                f"the images of data={self._name} are not those that the run was trained with: SHA-256 "
                f"{state_dict['content']} -> {self._known_by}; restore them, or train in another folder."
            )
        if not torch.equal(state_dict.get("pixel_order", self.pixel_order), self.pixel_order):
            raise RefusedRunError("data.flatten gives another order of the pixels than the run was trained with.")

    @contextmanager
    def _failures_told(self) -> Iterator[None]:
        """Turn what the file system says into a message that names the settings."""
        try:
            yield
        except OSError as error:
            where = ", ".join(f"data.{key}={path}" for key, path in self._paths.items() if path is not None)
            raise InputError(
                f"{error.filename or 'Reading or writing the data failed'}: {error.strerror or error} ({where})."
            ) from error

    @cached_property
    def _content(self) -> str | None:
        """Hash of what the images are made from; None if they are not kept in the cache."""
        return self._source.content()

    @property
    def _cache_path(self) -> Path:
        if self._cache is None:
            raise InputError(f"data={self._name} needs data.cache=DIR.")
        return cache_path(Path(self._cache).expanduser(), self._name, self.image_shape, str(self._content))

    def _load(self) -> LabelledImages:
        images = self._source.load(self.image_shape)
        images.check(self.image_shape, f"data={self._name}")
        return images

    def _num_test_images(self, num_images: int) -> int:
        if self._source.num_test_images is not None:
            return self._source.num_test_images
        if self._test_fraction is None:
            raise InputError(
                f"data={self._name} has no test images, so data.test_fraction must say how much to hold out."
            )
        return max(1, round(self._test_fraction * num_images))


def _hold_out(split: tuple[Tensor, Tensor], count: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Part a split in two: the rest, and `count` images held out."""
    images, labels = split
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    held_out[stratified_choice(labels, count)] = True
    return (images[~held_out], labels[~held_out]), (images[held_out], labels[held_out])
