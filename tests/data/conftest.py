import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest

from qcnn_lightning.data.sources import idx

PROJECT_DATA = Path(__file__).parents[2] / "data"


def idx_bytes(values: np.ndarray) -> bytes:
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


class TinySource:
    """A stand-in for a data set's origin: ten 4x4 training and five test images, three classes."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self.arrays = {}
        for split, count in (("train", 10), ("test", 5)):
            images, labels = idx.IDX_FILES[split]
            self.arrays[images] = random.integers(0, 256, (count, 4, 4), dtype=np.uint8)
            self.arrays[labels] = (np.arange(count) % 3).astype(np.uint8)
        self.files = {name: idx_bytes(values) for name, values in self.arrays.items()}
        self.fetched = 0

    def write(self, folder: Path, compressed: bool = False) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            if compressed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (folder / name).write_bytes(content)
        return folder

    def fetch(self, folder: Path) -> None:
        self.fetched += 1
        self.write(folder / "package" / "files", compressed=True)


@pytest.fixture
def tiny() -> TinySource:
    return TinySource()


@pytest.fixture
def tiny_set(tiny, monkeypatch) -> idx.IdxDataSet:
    """The tiny data set, known by the name `mnist`, so that everything that names a data set can use it."""
    data_set = idx.IdxDataSet(
        title="Tiny",
        folder="Tiny",
        class_names=("a", "b", "c"),
        sha256={name: hashlib.sha256(content).hexdigest() for name, content in tiny.files.items()},
        fetch={"the tiny source": tiny.fetch},
    )
    monkeypatch.setitem(idx.DATA_SETS, "mnist", data_set)
    return data_set


@pytest.fixture(scope="session")
def project_data() -> Path:
    """The folder that holds the real data sets, fetched once by the package's own code."""
    return PROJECT_DATA
