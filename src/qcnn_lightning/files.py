"""Files that are written whole or not at all, and stay in the folder that they are written to."""

import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path

from qcnn_lightning.errors import InputError

TEMPORARY = re.compile(r"\.(?P<file>.+)\.\d+")

SMALL_FILE = 8192
"""Bytes; more than Hydra writes about a run."""


def inside(folder: Path, name: str | Path) -> Path:
    """Return the path of a file in a folder. The folder itself may be a link.

    Raises:
        InputError: the path leads out of the folder, by a link or by its name.
    """
    path = folder / name
    # Of links that lead in circles, pathlib makes an error of its own.
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise InputError(f"{path} is a link, or a name, that leads out of {folder}: refused")
    return path


def replace_atomically(path: Path, content: str | bytes, previous: Path | None = None) -> None:
    """Replace a file by new content: a reader, or a process killed half-way, sees the old one or the new one.

    Args:
        path: the file; its folder is made if there is none.
        content: what it shall hold.
        previous: where the old file is moved once the new one is complete; it is lost if None.

    Raises:
        InputError: the file cannot be written (no space, no permission); the old one is still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            path.replace(previous)
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; what it held before is still there") from error
    finally:
        # Should its folder be no folder, that has been told above.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def check_writable(folder: Path) -> None:
    """Check that small files can be written to a folder, which is made if there is none.

    Raises:
        InputError: they cannot (no space, no permission).
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(SMALL_FILE))
            file.flush()
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}") from error


def remove_temporaries(folder: Path) -> None:
    """Remove what a process left that was killed while it replaced a file in this folder, or in one below it."""
    for path in folder.rglob(".*"):
        if TEMPORARY.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)
