"""Atomic file replacement, paths that stay inside a folder, and tables that spreadsheets may open."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from qcnn_lightning.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

SIGNIFICANT_DIGITS = 6
FORMULAS = ("=", "+", "-", "@", "\t", "\r")
TEMPORARY = re.compile(r"\.(?P<file>.+)\.\d+")

SMALL_FILE = 8192
"""Bytes: more than any of Hydra's files about a run."""


def inside(folder: Path, name: str | Path) -> Path:
    """Return the path of a file in a folder. The folder itself may be a link.

    Raises:
        InputError: the path leads out of the folder, by a link or by its name.
    """
    path = folder / name
    # Not Path.resolve, which raises RuntimeError at a circle of links.
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise InputError(f"{path} leads out of {folder}, by a link or by its name: refused")
    return path


def replace_atomically(path: Path, content: str | bytes, previous: Path | None = None) -> None:
    """Replace a file atomically: whatever happens, readers see the old content or the new one.

    Args:
        path: the file; its folder is made if it is missing.
        content: the new content.
        previous: where to move the old file once the new one is complete; None drops it.

    Raises:
        InputError: the file cannot be written (no space, no permission); the old one is still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(as_bytes(content) if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            path.replace(previous)
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; the old content is still there") from error
    finally:
        # If its folder is a file, the error above has said so.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def as_bytes(text: str) -> bytes:
    """Return a text in UTF-8; a name of a file that the system could not decode as the bytes that it is."""
    try:
        return text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        # Half of a letter, as JSON can spell it.
        return text.encode(errors="backslashreplace")


def check_writable(folder: Path) -> None:
    """Check that small files can be written to a folder; make it if it is missing.

    Raises:
        InputError: they cannot be (no space, no permission).
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(SMALL_FILE))
            file.flush()
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}") from error


@contextmanager
def folder_while_we_live(parent: Path, prefix: str) -> Iterator[Path]:
    """Make a temporary folder, removed at the end; remove those with this prefix whose processes were killed.

    A process holds the lock of its folder, `<folder>/.lock`, as long as it lives.

    Args:
        parent: where.
        prefix: of the folder's name.
    """
    for left in parent.glob(f"{prefix}*"):
        with suppress(OSError), FileLock(left / ".lock", timeout=0):
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    with FileLock(folder / ".lock"):
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def remove_temporaries(folder: Path) -> None:
    """Remove the temporary files of killed processes from this folder and those below it."""
    for subfolder, _, _ in os.walk(folder):
        for path in temporaries_in(Path(subfolder)):
            path.unlink(missing_ok=True)


def temporaries_in(folder: Path) -> list[Path]:
    """Return the temporary files in a folder, of processes that were killed or are writing."""
    return [path for path in folder.glob(".*") if TEMPORARY.fullmatch(path.name) and path.is_file()]


def as_csv(table: "pd.DataFrame") -> str:
    """Return a table as CSV; text that a spreadsheet would take for a formula begins with an apostrophe."""

    def as_text(cell: Any) -> Any:
        return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULAS) else cell

    return table.map(as_text).to_csv(index=False, float_format=f"%.{SIGNIFICANT_DIGITS}g")
