"""Labelled grey images of one size: how they are prepared, and the file that caches them.

Images are turned grey, resized with PIL's bilinear filter (which averages over a pixel's area when it shrinks) and
rounded to 8 bits. For 70 000 images that takes seconds, so a cache file keeps the result. The file is keyed by its
origin, replaced atomically, and checked at every read.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from filelock import FileLock
from PIL import Image, ImageOps
from safetensors import SafetensorError, safe_open
from torch import Tensor

from qcnn_lightning.errors import InputError
from qcnn_lightning.files import replace_atomically, temporaries_in

logger = logging.getLogger(__name__)

_PREPARATION = "8-bit grey, PIL bilinear, layout 1"
"""Part of the cache's key: change it if the same source would give other bytes."""


@dataclass(frozen=True)
class LabelledImages:
    """The splits of a data set, pixels in row-major order.

    Attributes:
        splits: "train", and perhaps "test" -> images, (images, height, width), uint8 or float32 in [0, 1], and labels,
            int64 (images,).
        class_names: in the order of the labels.
    """

    splits: dict[str, tuple[Tensor, Tensor]]
    class_names: tuple[str, ...]

    def check(self, shape: tuple[int, int], origin: str) -> None:
        """Check shapes, types and labels.

        Args:
            shape: expected (height, width).
            origin: where the images come from, for messages.

        Raises:
            InputError: shapes, types or labels are not those of the attributes above.
        """
        for split, (images, labels) in self.splits.items():
            fit = images.shape == (len(labels), *shape) and images.dtype in (torch.uint8, torch.float32)
            known = labels.dtype == torch.int64 and set(labels.tolist()) <= set(range(len(self.class_names)))
            if not (len(labels) and fit and known):
                raise InputError(
                    f"{origin} gave {split} images of shape {tuple(images.shape)} and {images.dtype}, with "
                    f"{len(labels)} labels of {labels.dtype}: expected (images, {shape[0]}, {shape[1]}), torch.uint8 "
                    f"or torch.float32, and as many labels of torch.int64, less than {len(self.class_names)}."
                )

    def tensors(self) -> dict[str, Tensor]:
        """Return all images and labels by their names in the cache."""
        names = ("images", "labels")
        return {
            f"{split}.{name}": each for split, of in self.splits.items() for name, each in zip(names, of, strict=True)
        }

    def digest(self) -> str:
        """Return a SHA-256 sum over everything."""
        return _digest(self.tensors(), {"class_names": json.dumps(self.class_names)})


def class_number(key: str, given: object, names: Sequence[str]) -> int:
    """Return the number of the class that a setting names, by its name or, if no class is called so, its number.

    Raises:
        InputError: there is no such class.
    """
    # Classes may be called "1", "2", "3": then a number is a name.
    if str(given) in names:
        return list(names).index(str(given))
    if isinstance(given, int) and 0 <= given < len(names):
        return given
    raise InputError(f"{key}={given}: there is no such class; choose 0 to {len(names) - 1}, or {', '.join(names)}")


def grey(image: Image.Image) -> Image.Image:
    """Return an image of any mode upright (EXIF) and in 8-bit grey.

    Transparent pixels become white. 16-bit grey levels are divided by 257. 32-bit numbers have no agreed white: their
    range becomes 0 to 255.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.uint32) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        values = np.asarray(image, dtype=np.float64)
        span = np.ptp(values) or 1.0
        return Image.fromarray(np.rint(255 * (values - values.min()) / span).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("L")


def resized(images: Iterable[Image.Image], shape: tuple[int, int]) -> Tensor:
    """Return grey images resized to `shape` = (height, width), stacked: uint8, or float32 for PIL's mode F."""
    pixels = [np.asarray(image.resize(shape[::-1], Image.Resampling.BILINEAR)) for image in images]
    return torch.from_numpy(np.stack(pixels))


def cache_path(folder: Path, name: str, shape: tuple[int, int], content: str) -> Path:
    """Return the cache file of the data set `name` at `shape` = (height, width), made from this content hash."""
    key = hashlib.sha256(json.dumps(_settings(shape, content)).encode()).hexdigest()
    return folder / f"{name}-{shape[0]}x{shape[1]}-{key[:16]}.safetensors"


def prepare_cache(path: Path, shape: tuple[int, int], content: str, prepare: Callable[[], LabelledImages]) -> None:
    """Write the cache file if it is missing, with the images of `prepare`; one process at a time.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(lock_of(path))
        lock.acquire()
    except OSError as error:
        raise InputError(f"data.cache={path.parent} cannot be written: {error}. Choose another data.cache.") from error
    try:
        if not path.exists():
            remove_left_caches(path)
            logger.info("Preparing %dx%d images (once), kept in %s", *shape, path)
            _write(path, prepare(), _settings(shape, content))
    finally:
        lock.release()


def lock_of(path: Path) -> Path:
    """Return the lock of a cache file, which is held while it is prepared."""
    return path.with_name(f".{path.stem}.lock")


def remove_left_caches(path: Path) -> None:
    """Remove the temporary files of processes that were killed while they prepared this cache, or one beside it.

    This one's lock is held; whoever prepares another holds that one's.
    """
    for temporary in temporaries_in(path.parent):
        prepared = path.with_name(temporary.stem.removeprefix("."))
        lock = nullcontext() if prepared == path else FileLock(lock_of(prepared), timeout=0)
        with suppress(OSError), lock:
            temporary.unlink(missing_ok=True)


def read_cache(path: Path, shape: tuple[int, int], content: str) -> LabelledImages:
    """Read a cache file and check its SHA-256.

    Raises:
        InputError: the file cannot be read, is truncated or altered, or was made from something else.
    """
    advice = f"Delete {path} and start again: it will be rebuilt."
    try:
        path.open("rb").close()  # safe_open always says "no such file"
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except OSError as error:
        raise InputError(f"The cache {path} cannot be read: {error.strerror}.") from error
    except SafetensorError as error:
        raise InputError(
            f"The cache {path} is truncated or damaged: expected a safetensors file ({error}). {advice}"
        ) from error
    expected, found = metadata.get("sha256", "none"), _digest(tensors, metadata)
    if found != expected:
        raise InputError(f"The cache {path} was altered: expected SHA-256 {expected}, got {found}. {advice}")
    if metadata["settings"] != json.dumps(_settings(shape, content)):
        raise InputError(f"The cache {path} was made from other images or settings: {metadata['settings']}. {advice}")
    splits = {
        split: (tensors[f"{split}.images"], tensors[f"{split}.labels"])
        for split in ("train", "test")
        if f"{split}.images" in tensors
    }
    return LabelledImages(splits, tuple(json.loads(metadata["class_names"])))


def _settings(shape: tuple[int, int], content: str) -> dict[str, Any]:
    height, width = shape
    size = height if height == width else shape
    return {"preparation": _PREPARATION, "size": size, "content": content}


def _digest(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    """Return the SHA-256 over all tensors (name, dtype, shape, bytes) and all other metadata."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}\n".encode())
        digest.update(tensors[name].contiguous().numpy().data)
    described = {key: value for key, value in metadata.items() if key != "sha256"}
    digest.update(json.dumps(described, sort_keys=True).encode())
    return digest.hexdigest()


def _write(path: Path, images: LabelledImages, settings: dict[str, Any]) -> None:
    tensors = images.tensors()
    metadata = {"settings": json.dumps(settings), "class_names": json.dumps(images.class_names)}
    metadata["sha256"] = _digest(tensors, metadata)
    replace_atomically(path, safetensors.torch.save(tensors, metadata))
