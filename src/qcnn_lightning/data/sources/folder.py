"""Users' own images: one folder per class below `train/` and, optionally, `test/`."""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image

from qcnn_lightning.data.images import LabelledImages, grey, resized
from qcnn_lightning.data.sources.source import Source
from qcnn_lightning.errors import InputError, checked_settings

logger = logging.getLogger(__name__)

KNOWN_BY_NAME_ONLY = ("BUFR", "GRIB", "HDF5", "MPEG", "WMF")
"""Formats that PIL recognises and cannot read by itself."""
BESIDE_IMAGES = (".txt", ".csv", ".json", ".md", ".xml", ".ini", ".db")
"""Suffixes of files that nobody takes for images."""

_LAYOUT = "expected <data.root>/train/<class>/<image files>, two classes or more, and optionally the same below test/"


class ImageFolder(Source):
    """The image files below a folder, and their classes, numbered in alphabetical order.

    Hidden files are left out, and those without an image format's suffix.

    Attributes:
        root: the folder.
        class_names: names of the folders below `train/`.
        files: "train", and perhaps "test" -> (path, label) of each image.
    """

    @checked_settings
    def __init__(self, root: str | Path | None = None):
        """List the files; nothing is read yet.

        Raises:
            InputError: a folder is not given, missing or empty, there are fewer than two classes, or `test/` has a
                class that `train/` does not have.
            OSError: a folder cannot be read.
        """
        if root is None:
            raise InputError("data=folder needs data.root=DIR.")
        root = Path(root).expanduser()
        if not (root / "train").is_dir():
            raise InputError(f"data.root={root} has no folder train/: {_LAYOUT}.")
        self.root = root
        self.class_names = tuple(_class_folders(root / "train"))
        if len(self.class_names) < 2:
            held = f"holds one class, {self.class_names[0]}" if self.class_names else "is empty"
            raise InputError(f"{root / 'train'} (data.root={root}) {held}: {_LAYOUT}.")
        self.files = {"train": self._labelled("train")}
        for name, label in zip(self.class_names, range(len(self.class_names)), strict=True):
            if not any(each == label for _, each in self.files["train"]):
                raise InputError(f"{root / 'train' / name} holds no image: {_LAYOUT}.")
        held_out = self._held_out()
        if held_out is not None:
            unknown = sorted(set(_class_folders(held_out)) - set(self.class_names))
            if unknown:
                raise InputError(
                    f"{held_out} holds the class {unknown[0]}, which {root / 'train'} does not; "
                    f"the classes there are {', '.join(self.class_names)}."
                )
            self.files["test"] = self._labelled(held_out.name)
            if not self.files["test"]:
                raise InputError(f"{held_out} holds no image. Remove it to hold out part of train/ for testing.")

    def _held_out(self) -> Path | None:
        """Return the folder of the test images: `test/`, else `val/`; None without either."""
        test, val = self.root / "test", self.root / "val"
        if test.is_dir():
            if val.is_dir():
                logger.warning("%s is left out: data.val_size holds validation images out of train/", val)
            return test
        if val.is_dir():
            logger.warning("there is no %s: the images below %s are the test images", test, val)
            return val
        return None

    def _labelled(self, split: str) -> list[tuple[Path, int]]:
        left_out: Counter[str] = Counter()
        files = [
            (path, label)
            for label, name in enumerate(self.class_names)
            for path in image_files(self.root / split / name, left_out)
        ]
        if left_out:
            counts = ", ".join(f"{count} {kind}" for kind, count in sorted(left_out.items()))
            logger.warning("left out below %s: %s", self.root / split, counts)
        return files

    def content(self) -> str:
        """Return the SHA-256 over every file's name and bytes.

        Raises:
            OSError: a file cannot be read.
        """
        digest = hashlib.sha256()
        for files in self.files.values():
            for path, _ in files:
                with path.open("rb") as file:
                    sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                digest.update(f"{path.relative_to(self.root)} {sha256}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()

    def load(self, shape: tuple[int, int]) -> LabelledImages:
        """Read every image, grey and resized (stretched if it is not square).

        Raises:
            InputError: PIL cannot read an image.
        """
        splits = {}
        for split, files in self.files.items():
            logger.info("Reading %d images below %s", len(files), self.root / split)
            images = resized((read_image(path) for path, _ in files), shape)
            splits[split] = images, torch.tensor([label for _, label in files])
        return LabelledImages(splits, self.class_names)


def _class_folders(split: Path) -> list[str]:
    return sorted(path.name for path in split.iterdir() if path.is_dir() and not _is_hidden(path))


def _is_hidden(path: Path) -> bool:
    # What notebooks, network drives and other systems leave beside the images.
    return path.name.startswith((".", "@", "__"))


def image_files(folder: Path, left_out: Counter[str]) -> Iterator[Path]:
    """Yield the image files below a folder in order; count what else there is by kind."""
    readable = {
        suffix
        for suffix, name in Image.registered_extensions().items()
        if name in Image.OPEN and name not in KNOWN_BY_NAME_ONLY
    }
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if _is_hidden(path):
            continue
        if path.is_dir():
            if path.is_symlink():
                left_out["links to folders"] += 1
            else:
                yield from image_files(path, left_out)
        elif path.suffix.lower() in readable and path.is_file():
            yield path
        elif path.suffix.lower() not in BESIDE_IMAGES:
            left_out[f"files with suffix {path.suffix or '(none)'}, which PIL cannot read"] += 1


def read_image(path: Path) -> Image.Image:
    """Return an image file upright and in grey.

    Raises:
        InputError: PIL cannot read it.
    """
    try:
        with Image.open(path) as image:
            return grey(image)
    except Exception as error:  # a broken file may make PIL raise anything
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"The image {path} cannot be read ({reason}); repair or remove it.") from error


SOURCES = {"folder": ImageFolder}
