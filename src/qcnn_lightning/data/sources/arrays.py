"""Users' own arrays: an `.npz` file of images, or chains of sites, and their labels."""

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from qcnn_lightning.data.images import LabelledImages, resized
from qcnn_lightning.data.sources.source import Source
from qcnn_lightning.errors import InputError, checked_settings

KEYS = ("x_train", "y_train", "x_test", "y_test", "class_names")

_EXPECTED = (
    "expected an .npz file with x_train, (images, height, width) or (images, sites), uint8 or floats in [0, 1], and "
    "y_train, an integer or a text for each image; optionally x_test, y_test and class_names"
)


class Arrays(Source):
    """The arrays of an `.npz` file, read at once, without unpickling.

    `x_train` is (images, height, width), or (images, N): chains in tree order, taken as images of 1 x N pixels. uint8
    stays uint8, floats become float32. `y_train` holds integers or texts; its sorted values are the classes, renamed by
    `class_names`. `x_test` and `y_test` are optional.

    Args:
        path: the file.

    Raises:
        InputError: there is no such file, or it holds something else.
    """

    @checked_settings
    def __init__(self, path: str | Path | None = None):
        if path is None:
            raise InputError("data=arrays needs data.path=FILE.npz.")
        self.path = Path(path).expanduser()
        try:
            arrays = read_arrays(self.path)
            names, labels = numbered(arrays)
            images = {split: images_of(arrays[f"x_{split}"], f"x_{split}") for split in labels}
            check_alike(images, labels)
        except ValueError as problem:
            raise InputError(f"data.path={self.path}: {problem}; {_EXPECTED}.") from problem
        self._images = LabelledImages({split: (images[split], labels[split]) for split in labels}, names)
        _, height, width = images["train"].shape
        self._shape = height, width
        self._are_chains = arrays["x_train"].ndim == 2

    def image_shape(self, size: int | None) -> tuple[int, int]:
        """Return the images' own shape, or `size` x `size`.

        Raises:
            InputError: chains cannot be resized.
        """
        if size is None:
            return self._shape
        if self._are_chains:
            raise InputError(
                f"data.size={size}: data.path={self.path} holds chains, which cannot be resized; use null."
            )
        return size, size

    def load(self, shape: tuple[int, int]) -> LabelledImages:
        """Return the images, resized if they have another shape."""
        if shape == self._shape:
            return self._images
        splits = {
            split: (resized((Image.fromarray(image) for image in images.numpy()), shape), labels)
            for split, (images, labels) in self._images.splits.items()
        }
        return LabelledImages(splits, self._images.class_names)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays named in `KEYS` from a file.

    Raises:
        ValueError: it cannot be read, or lacks a needed array.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {key: file[key] for key in KEYS if key in file}
    except FileNotFoundError as error:
        raise ValueError("no such file") from error
    except OSError as error:
        raise ValueError(f"it cannot be read ({error.strerror or error})") from error
    except (ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"it is damaged, not an .npz file, or holds Python objects, which are refused ({error})"
        ) from error
    needed = KEYS[:4] if {"x_test", "y_test"} & arrays.keys() else KEYS[:2]
    if missing := [key for key in needed if key not in arrays]:
        raise ValueError(f"it has no {' and no '.join(missing)}")
    return arrays


def images_of(x: np.ndarray, key: str) -> Tensor:
    """Return images, (images, height, width), uint8 or float32; chains become images of 1 x N pixels.

    Raises:
        ValueError: the array has another shape, dtype or range.
    """
    if x.ndim not in (2, 3) or not x.size:
        raise ValueError(f"{key} has shape {x.shape}, not (images, height, width) or (images, sites)")
    sites = x.shape[1]
    if x.ndim == 2 and (sites < 2 or sites & (sites - 1)):
        raise ValueError(f"{key} holds chains of {sites} sites, but a tree has a power of two, 2 or more")
    if x.dtype != np.uint8:
        if x.dtype.kind != "f":
            raise ValueError(f"{key} has dtype {x.dtype}, neither uint8 nor a float")
        if not ((x >= 0) & (x <= 1)).all():
            raise ValueError(f"{key} has entries from {x.min():g} to {x.max():g}, which must lie in [0, 1]")
        x = x.astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(x[:, np.newaxis] if x.ndim == 2 else x))


def numbered(arrays: dict[str, np.ndarray]) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    """Return the class names, and every split's labels as int64 class numbers.

    Raises:
        ValueError: labels that are neither integers nor texts, a class without training images, or fewer than two
            classes.
    """
    given = {split: arrays[f"y_{split}"] for split in ("train", "test") if f"y_{split}" in arrays}
    for split, labels in given.items():
        if labels.ndim != 1 or labels.dtype.kind not in "iuU":
            raise ValueError(
                f"y_{split} has shape {labels.shape} and dtype {labels.dtype}, not an integer or text per image"
            )
    classes = np.unique(given["train"])
    if len(classes) < 2:
        raise ValueError(f"y_train holds {len(classes)} class, not two or more")
    for labels in given.values():
        if len(unknown := [label for label in np.unique(labels) if label not in classes]):
            raise ValueError(f"y_test holds the label {unknown[0]}, which y_train does not")
    names = arrays.get("class_names", classes.astype(str))
    if names.shape != classes.shape or names.dtype.kind != "U":
        raise ValueError(
            f"class_names has shape {names.shape} and dtype {names.dtype}, not a text for {len(classes)} classes"
        )
    numbers = {split: torch.from_numpy(np.searchsorted(classes, labels)) for split, labels in given.items()}
    return tuple(names.tolist()), numbers


def check_alike(images: dict[str, Tensor], labels: dict[str, Tensor]) -> None:
    """Check that every image has a label, and that test images have the shape and dtype of training images.

    Raises:
        ValueError: they do not.
    """
    for split, of_split in images.items():
        if len(of_split) != len(labels[split]):
            raise ValueError(f"x_{split} holds {len(of_split)} images, but y_{split} {len(labels[split])} labels")
        kind, expected = ((tuple(each.shape[1:]), each.dtype) for each in (of_split, images["train"]))
        if kind != expected:
            raise ValueError(f"x_{split} holds images of shape and dtype {kind}, but x_train of {expected}")


SOURCES = {"arrays": Arrays}
