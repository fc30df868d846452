"""Images as the network sees them: 8-bit grey levels laid on a chain of N = 2^L sites, in batches.

All of a data set is held in memory as 8-bit tensors, already in tree order, and a batch is one indexing operation. So
loaders need neither to make batches nor workers: a sampler yields the indices of a batch, or of several.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from qcnn_lightning.data import sources
from qcnn_lightning.data.augmentation import AlteredBatches, Augmentation
from qcnn_lightning.data.batches import Batches, EvaluationBatches, TrainingBatches, stratified_choice
from qcnn_lightning.data.flattening import lay_on_chain, padded_num_sites, pixel_order
from qcnn_lightning.data.folder import ImageFolder
from qcnn_lightning.data.images import LabelledImages, cache_path, prepare_cache, read_cache, resized
from qcnn_lightning.errors import InputError, checked_settings

DATA_NAMES = (*sources.DATA_SETS, "digits", "folder")
"""The values of `data.name`."""

_DIGITS_TEST_IMAGES = 360


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
        root: str | Path | None = None,
        cache: str | Path | None = None,
        system_folders: Sequence[str | Path] = (),
        test_fraction: float | None = None,
        size: int,
        flatten: str,
        val_size: int,
        batch_size: int,
        batches_at_a_time: int = 1,
        evaluation_batch_size: int = 5000,
        population_size: int = 2048,
        augment: Mapping[str, Any] | None = None,
        seed: int,
    ):
        """Check the settings; nothing is read yet. Each argument is a key of `conf/data/`.

        Args:
            name: one of `DATA_NAMES`.
            root: where the data set's files are, or are put; not needed by digits.
            cache: folder that keeps the resized images; not needed by digits.
            system_folders: where a system package may have put the files (mnist, fmnist).
            test_fraction: part of the training images held out for testing when there is no `test/` (folder).
            size: height and width that images are resized to, in pixels.
            flatten: one of `flattening.FLATTENINGS`.
            val_size: number of training images held out as the split "val", each class in proportion; the choice is
                fixed.
            batch_size: training images a batch, over all devices.
            batches_at_a_time: most batches in one element of the training loader. Every batch is an optimisation step
                all the same; together they spare Lightning's work between steps.
            evaluation_batch_size: most images a batch in evaluation, over all devices.
            population_size: most images in `population_sample`.
            augment: settings of the `Augmentation` of what the training loader gives; all else is never altered.
            seed: with the epoch, all that the order of the training batches and their augmentation depend on.

        Raises:
            InputError: a setting is out of range.
        """
        super().__init__()
        if name not in DATA_NAMES:
            raise InputError(f"data.name={name} is not a data set; choose one of {', '.join(DATA_NAMES)}.")
        for key, value, least in (
            ("size", size, 2),
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
        for key, folder in (("root", root), ("cache", cache)):
            if folder is None and name != "digits":
                raise InputError(f"data={name} needs data.{key}=DIR.")
        if test_fraction is not None and not 0 < test_fraction < 1:
            raise InputError(f"data.test_fraction={test_fraction} must lie between 0 and 1.")
        self.pixel_order: Int64[Tensor, " sites"] = pixel_order(flatten, size, size)
        self.num_sites = padded_num_sites(size, size)
        self.image_shape = (size, size)
        self._augmentation = Augmentation(self.pixel_order, self.image_shape, **(augment or {}))
        self.seed = seed
        self._name, self._size = name, size
        self._root = Path(root or ".").expanduser()
        self._cache = Path(cache or ".").expanduser()
        self._system_folders = [Path(folder) for folder in system_folders]
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
    def splits(self) -> dict[str, tuple[UInt8[Tensor, "images sites"], Int64[Tensor, " images"]]]:
        """The splits "train", "val" (if `val_size` > 0) and "test" -> (images on the chain, labels)."""
        return self._loaded_splits()

    @property
    def evaluation_splits(self) -> tuple[str, ...]:
        """Names of the splits, in the order of the loaders of `val_dataloader`."""
        return tuple(self._loaded_splits())

    def population_sample(self) -> UInt8[Tensor, "sample sites"]:
        """A fixed random choice of training images, whose statistics stand for all; the same in every run."""
        images, _ = self._loaded_splits()["train"]
        shuffled = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        return images[shuffled[: self._population_size]]

    def prepare_data(self) -> None:
        """Fetch what is missing, check it, and prepare the cache; safe when several processes do it at once.

        Raises:
            InputError: see `sources.idx_files`, `folder.ImageFolder` and `images.prepare_cache`; or a file or folder
                cannot be read or written.
        """
        if self._splits is not None or self._name == "digits":
            return
        try:
            if self._name == "folder":
                self._prepare_folder()
            else:
                self._prepare_idx_set(sources.DATA_SETS[self._name])
        except OSError as error:
            where = f" (data.root={self._root}, data.cache={self._cache})"
            raise InputError(
                f"{error.filename or 'Reading or writing the data failed'}: {error.strerror or error}{where}."
            ) from error

    def _prepare_folder(self) -> None:
        folder = ImageFolder(self._root)
        prepare_cache(self._cache_path, self._size, self._content, lambda: folder.load(self._size))

    def _prepare_idx_set(self, data_set: sources.IdxDataSet) -> None:
        if not self._cache_path.exists():
            files = sources.idx_files(data_set, self._root, self._system_folders)
            prepare_cache(
                self._cache_path, self._size, self._content, lambda: _resized_idx(data_set, files, self._size)
            )
        elif files_there := sources.files_under_root(data_set, self._root):
            # not needed any more, but whoever altered them should hear of it
            sources.verify(data_set, files_there)

    def setup(self, stage: str | None = None) -> None:
        """Read the images, hold out what the settings ask for and lay the pixels on the chain.

        Raises:
            InputError: the cache is damaged, or `batch_size` or `val_size` do not fit the number of images.
        """
        if self._splits is not None:
            return
        images = self._read()
        splits = dict(images.splits)
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
        """Lists of `batches_at_a_time` shuffled batches (uint8 (batch, sites), int64 (batch,)) of this device.

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

    @cached_property
    def _content(self) -> str:
        """SHA-256 of what the images are made from."""
        if self._name == "folder":
            return ImageFolder(self._root).content()
        return hashlib.sha256(json.dumps(sources.DATA_SETS[self._name].sha256).encode()).hexdigest()

    @property
    def _cache_path(self) -> Path:
        return cache_path(self._cache, self._name, self._size, self._content)

    def _read(self) -> LabelledImages:
        if self._name == "digits":
            return _digits(self._size)
        return read_cache(self._cache_path, self._size, self._content)

    def _num_test_images(self, num_images: int) -> int:
        if self._name == "digits":
            return _DIGITS_TEST_IMAGES
        if self._test_fraction is None:
            raise InputError(f"{self._root} has no folder test/, so data.test_fraction must say how much to hold out.")
        return max(1, round(self._test_fraction * num_images))


def _hold_out(split: tuple[Tensor, Tensor], count: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Part a split in two: the rest, and `count` images held out."""
    images, labels = split
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    held_out[stratified_choice(labels, count)] = True
    return (images[~held_out], labels[~held_out]), (images[held_out], labels[held_out])


def _resized_idx(data_set: sources.IdxDataSet, files: dict[str, Path], size: int) -> LabelledImages:
    splits = {}
    for split, names in sources.IDX_FILES.items():
        images, labels = (sources.read_idx(data_set, name, files[name]) for name in names)
        splits[split] = (
            resized((Image.fromarray(image) for image in images), size),
            torch.from_numpy(labels.astype(np.int64)),
        )
    return LabelledImages(splits, data_set.class_names)


def _digits(size: int) -> LabelledImages:
    """scikit-learn's bundled 8x8 digits; their grey levels 0 to 16 become 0 to 255."""
    # imported here: scikit-learn takes longer to import than all the rest, and no other data set needs it
    from sklearn.datasets import load_digits

    digits = load_digits()
    levels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    images = resized((Image.fromarray(image) for image in levels), size)
    labels = torch.from_numpy(digits.target.astype(np.int64))
    return LabelledImages({"train": (images, labels)}, tuple(str(name) for name in digits.target_names))
