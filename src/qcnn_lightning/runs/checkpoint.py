"""Checkpoints read as data: tensors, numbers and text; nothing in them is executed."""

import logging
import pickle
import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from qcnn_lightning.errors import InputError
from qcnn_lightning.files import inside
from qcnn_lightning.runs import LAST, PREVIOUS
from qcnn_lightning.runs.untrusted import check_regular

log = logging.getLogger(__name__)

RECORD = "RunRecord"
"""The callback whose state in the checkpoint is the run's rows and facts."""
MOST_BYTES = 16 * 2**30
MOST_BYTES_OF_OBJECTS = 32 * 2**20
"""Of what is not a tensor: settings, and the rows of ten thousand epochs and more."""


class DamagedFileError(InputError):
    """A file of a run folder is not what was written: cut off, or altered."""


@dataclass(frozen=True)
class StoredCheckpoint:
    """A checkpoint as its file holds it.

    Attributes:
        path: the file.
        content: what Lightning stored.
    """

    path: Path
    content: dict[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration that it was trained with."""
        return self.content["hyper_parameters"]

    @property
    def record(self) -> dict[str, Any]:
        """The run's rows and facts; without either in the checkpoint of something that was no run."""
        found = self.content.get("callbacks", {}).get(RECORD, {})
        return {"rows": found.get("rows", []), "facts": found.get("facts", {})}


def read_last(folder: Path) -> StoredCheckpoint | None:
    """Read the last checkpoint of a run; if that is damaged the one before it, with a warning.

    Args:
        folder: the run's folder.

    Returns:
        None if there is no checkpoint.

    Raises:
        InputError: as `read_checkpoint`; or a link leads out of the folder.
        DamagedFileError: both are damaged.
    """
    last, previous = (inside(folder, name) for name in (LAST, PREVIOUS))
    if not last.exists() and not previous.exists():
        return None
    try:
        return read_checkpoint(last)
    except DamagedFileError as damage:
        try:
            checkpoint = read_checkpoint(previous)
        except DamagedFileError as further:
            raise DamagedFileError(
                f"{damage}; {further}. Delete {folder} to begin again, or restore a copy of one of them"
            ) from damage
        log.warning("%s; the one of the epoch before is used: %s", damage, previous)
        return checkpoint


def read_checkpoint(path: Path) -> StoredCheckpoint:
    """Read a checkpoint.

    Raises:
        DamagedFileError: it is missing, cut off or altered.
        InputError: it is no regular file or too large, holds pickled objects, or is not a checkpoint of this program.
    """
    try:
        check_regular(path, MOST_BYTES)
        with zipfile.ZipFile(path) as archive:
            check_sizes(path, archive.infolist())
            damaged = archive.testzip()
    except (OSError, zipfile.BadZipFile, ValueError, RuntimeError, zlib.error) as error:
        if isinstance(error, InputError):
            raise
        raise DamagedFileError(f"{path} cannot be read: {error}") from error
    if damaged is not None:
        raise DamagedFileError(f"{path} is damaged: wrong checksum of {damaged}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise refusal_of_objects(path, error) from None
    # PyTorch's reader of damaged content raises whatever its parts do.
    except Exception as error:
        raise DamagedFileError(f"{path} cannot be read: {(str(error).splitlines() or ['?'])[0]}") from error
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), Mapping) for key in ("state_dict", "hyper_parameters")
    ):
        raise InputError(f"{path} is not a checkpoint of qcnn_lightning.train")
    checkpoint = StoredCheckpoint(path, content)
    if not holds_a_record(checkpoint):
        raise InputError(f"{path} is not a checkpoint of qcnn_lightning.train: {RECORD} holds no rows of numbers")
    return checkpoint


def holds_a_record(checkpoint: StoredCheckpoint) -> bool:
    """Return whether a checkpoint's rows and facts, if it has any, are rows of numbers and named facts."""
    try:
        rows, facts = checkpoint.record["rows"], checkpoint.record["facts"]
    except (AttributeError, TypeError):
        return False
    return (
        isinstance(facts, Mapping)
        and isinstance(rows, list)
        and all(isinstance(row, Mapping) and isinstance(row.get("epoch"), int) for row in rows)
        and all(isinstance(value, int | float) for row in rows for value in row.values())
    )


def check_sizes(path: Path, members: list[zipfile.ZipInfo]) -> None:
    """Check that the parts of a checkpoint are no larger than they look.

    Raises:
        InputError: a part is compressed, which PyTorch never does, or what is not a tensor is too large.
    """
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED:
            raise InputError(f"{path} holds {member.filename} compressed: refused, PyTorch writes no such checkpoint")
        if member.filename.endswith(".pkl") and member.file_size > MOST_BYTES_OF_OBJECTS:
            raise InputError(
                f"{path} holds {member.file_size} bytes of {member.filename}: at most {MOST_BYTES_OF_OBJECTS} are read"
            )


def refusal_of_objects(path: Path, error: pickle.UnpicklingError) -> InputError:
    """Return the error that names what a checkpoint holds instead of tensors, numbers and text."""
    name = object_named_by(error)
    named = f" ({name})" if name else ""
    return InputError(
        f"{path} holds pickled objects{named}, which could execute anything: refused, nothing was executed"
    )


def object_named_by(error: pickle.UnpicklingError) -> str | None:
    """Return the class or function that PyTorch refused to unpickle; None where its error names none."""
    found = re.search(r"GLOBAL (\S+)", str(error))
    return found[1] if found else None
