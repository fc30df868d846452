"""Files that are either the old or the new ones, whatever happens while they are written."""

import os
from pathlib import Path

from qcnn_lightning.errors import InputError


def replace_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file by new content: a reader, or a process killed half-way, sees the old one or the new one.

    Raises:
        InputError: the file cannot be written (no space, no permission); the old one is still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(f"cannot write {path}: {error.strerror}; what it held before is still there") from error
