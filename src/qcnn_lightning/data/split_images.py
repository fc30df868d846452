"""Images as the network sees them: grey levels on a chain of N = 2^L sites, split for training and testing.

The whole data set is in memory, in tree order. No Lightning here: its import takes as long as a small evaluation.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64, Real
from torch import Tensor

from qcnn_lightning.data.augmentation import Augmentation
from qcnn_lightning.data.batches import stratified_choice
from qcnn_lightning.data.flattening import checked_order, lay_on_chain, pixel_order
from qcnn_lightning.data.images import LabelledImages, cache_path, class_number, prepare_cache, read_cache
from qcnn_lightning.data.levels import DEQUANTISED, check_levels, rounded_to_levels
from qcnn_lightning.data.sources import make_source
from qcnn_lightning.errors import InputError, checked_settings
from qcnn_lightning.pixels import checked_white

MOST_PIXELS_A_SIDE = 1024
"""A tree of a million sites; no data set of such images fits into memory."""
STORED_AS = "ImageDataModule"
"""Under this name Lightning keeps `state_dict` in checkpoints."""


class SplitImages:
    """A data set's training, validation and test images.

    `prepare_data()` and `setup()` load them; further calls do nothing.

    Attributes:
        num_sites: N, pixels of the flattened image and padding.
        image_shape: (height, width) before padding.
        pixel_order: int64 (N,), site of the chain -> pixel of the row-major image, or `flattening.PADDING`.
        levels: K, the grey levels that the images are rounded to, or None.
        rounding: how, one of `levels.ROUNDINGS`.
        white: where the model lays the grey level 1.
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
        white: int | float = 1.0,
        levels: int | None = None,
        rounding: str = "bernoulli",
        redraw: bool = False,
        classes: Sequence[int | str] | None = None,
        val_size: int,
        batch_size: int,
        batches_per_item: int = 1,
        evaluation_batch_size: int = 5000,
        population_size: int = 2048,
        augment: Mapping[str, Any] | None = None,
        seed: int,
        **of_source: Any,
    ):
        """Check the settings; nothing is fetched yet. Each argument is a key of `conf/data/`.

        Args:
            name: one of `sources.SOURCES`, or the dotted path of the user's own `Source`.
            cache: folder of the resized images, if resizing takes long.
            test_fraction: part of the training images to hold out for testing if the source has no test images.
            size: height and width of the resized images in pixels; None leaves it to the source.
            flatten: name for `flattening.pixel_order`, or an order for `flattening.checked_order`.
            white: where the model lays the grey level 1 in its basis's interval; images are not changed.
            levels: K, the number of grey levels that images are rounded to; None leaves them as they are.
            rounding: how, as `levels.rounded_to_levels` takes it.
            redraw: whether training images are rounded anew in every epoch, instead of once.
            classes: numbers or names of the classes whose images are kept; None for all. The others are left out last:
                splits, binarised images and labels are those of all classes.
            val_size: training images to hold out as the split "val", each class in proportion, always the same.
            batch_size: training images in a batch, over all devices.
            batches_per_item: most batches in an item of the training loader. Every batch is an optimisation step;
                between items comes Lightning's own work.
            evaluation_batch_size: most images in an evaluation batch, over all devices.
            population_size: most images in `population_sample`.
            augment: settings of the training images' `Augmentation`; no other images are altered.
            seed: decides the order and augmentation of the training batches, with the epoch.
            of_source: the source's own settings, like `root`.

        Raises:
            InputError: a setting is out of range, or the source cannot be used.
        """
        super().__init__()
        for key, value, least in (
            ("size", 2 if size is None else size, 2),
            ("batch_size", batch_size, 1),
            ("batches_per_item", batches_per_item, 1),
            ("evaluation_batch_size", evaluation_batch_size, 1),
            ("population_size", population_size, 1),
            ("val_size", val_size, 0),
        ):
            if not isinstance(value, int) or value < least:
                raise InputError(f"data.{key}={value} must be a whole number, {least} or more.")
        self.white = checked_white(white)
        if seed < 0:
            raise InputError(f"seed={seed} must be 0 or more.")
        if test_fraction is not None and not 0 < test_fraction < 1:
            raise InputError(f"data.test_fraction={test_fraction} must lie between 0 and 1.")
        if size is not None and size > MOST_PIXELS_A_SIDE:
            raise InputError(f"data.size={size} must be at most {MOST_PIXELS_A_SIDE}.")
        check_levels(levels, rounding, redraw, augment or {})
        self.levels, self.rounding, self._redraw = levels, rounding, redraw
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
        if classes is not None and (isinstance(classes, str) or not len(classes) == len(set(map(str, classes))) > 0):
            raise InputError(f"data.classes={classes}: give a list of classes, each once, like data.classes=[3]")
        self._classes = None if classes is None else list(classes)
        self._val_size, self._batch_size, self._batches_per_item = val_size, batch_size, batches_per_item
        self._evaluation_batch_size, self._population_size = evaluation_batch_size, population_size
        self._splits: dict[str, tuple[Tensor, Tensor]] | None = None
        self._grey: Tensor | None = None
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
        """Names of the splits, in the order of `val_dataloader`."""
        return tuple(self._loaded_splits())

    def population_sample(self) -> Real[Tensor, "sample sites"]:
        """Return the training images that population statistics are measured on: a fixed random choice."""
        images, _ = self._loaded_splits()["train"]
        shuffled = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        return images[shuffled[: self._population_size].to(images.device)]

    def prepare_data(self) -> None:
        """Fetch what is missing, check it, and prepare the cache; several processes may do so at once.

        Raises:
            InputError: as the source and `images.prepare_cache`; or a file or folder cannot be read or written.
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
        """Read the images, hold out test and validation images, and put the pixels in tree order.

        Raises:
            InputError: the cache is damaged, the source cannot be read, or `augment`, `batch_size` or `val_size` does
                not fit the images.
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
        if self.levels is not None:
            # Seeds of their own: every run sees the same draw.
            for seed, (split, (pixels, labels)) in enumerate(sorted(images.splits.items())):
                splits[split] = rounded_to_levels(pixels, self.levels, self.rounding, seed), labels
        if not (self._augmentation.changes_nothing or splits["train"][0].dtype == torch.uint8):
            raise InputError(
                f"data.augment alters uint8 images, and those of data={self._name} are floats"
                f"{', as they are dequantised' if self.rounding == DEQUANTISED else ''}: leave it at its defaults, or "
                "give uint8 images."
            )
        if "test" not in splits:
            splits["train"], splits["test"] = _hold_out(splits["train"], self._num_test_images(len(splits["train"][1])))
        num_train = len(splits["train"][1])
        if self._val_size >= num_train:
            raise InputError(f"data.val_size={self._val_size} must be less than the {num_train} training images.")
        if self._val_size > 0:
            splits["train"], splits["val"] = _hold_out(splits["train"], self._val_size)
        if self._redraw:
            # The same images in the same order, before they were rounded.
            grey = images.splits["train"]
            if "test" not in images.splits:
                grey, _ = _hold_out(grey, self._num_test_images(len(grey[1])))
            grey = _hold_out(grey, self._val_size)[0] if self._val_size > 0 else grey
            self._grey = lay_on_chain(grey[0], self.pixel_order)
        chosen: Sequence[int] = range(len(images.class_names))
        if self._classes is not None:
            chosen = [class_number("data.classes", given, images.class_names) for given in self._classes]
            splits = self._of_classes(splits, torch.tensor(chosen))
        num_train = len(splits["train"][1])
        if self._batch_size > num_train:
            raise InputError(f"data.batch_size={self._batch_size} is more than the {num_train} training images.")
        trained_on = set(splits["train"][1].unique().tolist())
        without = [images.class_names[label] for label in chosen if label not in trained_on]
        if without:
            raise InputError(
                f"no training image of the class {without[0]} (data={self._name}) is left once test and validation "
                "images are held out: give more images of it, or lower data.test_fraction and data.val_size."
            )
        self._class_names = images.class_names
        self._splits = {
            split: (lay_on_chain(splits[split][0], self.pixel_order), splits[split][1])
            for split in ("train", "val", "test")
            if split in splits
        }

    def _of_classes(
        self, splits: dict[str, tuple[Tensor, Tensor]], chosen: Int64[Tensor, " chosen"]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the images of these classes alone; labels stay what they are.

        Raises:
            InputError: a split has none.
        """
        kept = {}
        for split, (images, labels) in splits.items():
            own = torch.isin(labels, chosen)
            if not own.any():
                raise InputError(f"data.classes={self._classes}: the split {split} has no image of these classes.")
            kept[split] = images[own], labels[own]
            if split == "train" and self._grey is not None:
                self._grey = self._grey[own]
        return kept

    @property
    def origin(self) -> str:
        """What the images are called, and where they come from."""
        return f"{self._name} {self._paths}"

    def take_images_of(self, other: "SplitImages") -> None:
        """Have the same images in memory as a data set with the same settings, apart from the seed, that is loaded."""
        # One dictionary: whoever moves the images moves them for all.
        self._splits, self._class_names, self._known_by = other._splits, other._class_names, other._known_by
        self._grey = other._grey

    def move_to(self, device: torch.device) -> None:
        """Keep the images in a GPU's memory, where batches are chosen and altered; elsewhere they stay in the CPU's."""
        if device.type == "cuda":
            splits = self._loaded_splits()
            for name, (images, labels) in splits.items():
                splits[name] = images.to(device), labels.to(device)
            self._augmentation.move_to(device)

    def _loaded_splits(self) -> dict[str, tuple[Tensor, Tensor]]:
        if self._splits is None:
            raise RuntimeError("No images yet: call prepare_data() and setup() first.")
        return self._splits

    @contextmanager
    def _failures_told(self) -> Iterator[None]:
        """Turn an OSError into an InputError that names the settings."""
        try:
            yield
        except OSError as error:
            where = ", ".join(f"data.{key}={path}" for key, path in self._paths.items() if path is not None)
            raise InputError(
                f"{error.filename or 'Reading or writing the data failed'}: {error.strerror or error} ({where})."
            ) from error

    @cached_property
    def _content(self) -> str | None:
        """Hash of the images' origin; None if the cache does not keep them."""
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
            raise InputError(f"data={self._name} has no test images: data.test_fraction must say how much to hold out.")
        return max(1, round(self._test_fraction * num_images))

    def state_dict(self) -> dict[str, Any]:
        """Return a hash of the images, and the pixel order: evaluation needs no user code to make it again."""
        return {"content": self._known_by, "pixel_order": self.pixel_order}


def _hold_out(split: tuple[Tensor, Tensor], count: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Split a split in two: the rest, and `count` images held out."""
    images, labels = split
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    held_out[stratified_choice(labels, count)] = True
    return (images[~held_out], labels[~held_out]), (images[held_out], labels[held_out])
