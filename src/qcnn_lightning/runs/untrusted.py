"""Files that somebody else may have made, read as plain values: limited in size and depth, nothing executed."""

import json
import stat
from pathlib import Path
from typing import Any

import yaml

from qcnn_lightning.errors import InputError

MOST_BYTES = 256 * 2**20
"""Of `metrics.csv`: more than a hundred thousand epochs."""
MOST_BYTES_OF_SETTINGS = 4 * 2**20
DEEPEST = 40
"""Levels of lists and mappings within one another."""
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def check_regular(path: Path, most_bytes: int) -> None:
    """Check that a file is a regular one of at most this size, before it is opened.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it is a folder, a pipe or a device; it is larger; or it cannot be looked at.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"{path} is not a regular file")
    if found.st_size > most_bytes:
        raise InputError(f"{path} has {found.st_size} bytes: at most {most_bytes} are read")


def read_text(path: Path, most_bytes: int = MOST_BYTES) -> str:
    """Read a text file in UTF-8.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it is not a regular file, too large, no text, or cannot be read.
    """
    check_regular(path, most_bytes)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def read_yaml(path: Path) -> Any:
    """Read a YAML file as plain values, as `parse_yaml` does.

    Raises:
        InputError: there is no such file, it cannot be read, is not YAML, or nests too deeply.
    """
    try:
        return parse_yaml(read_text(path, MOST_BYTES_OF_SETTINGS), path)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error


def parse_yaml(text: str, path: Path) -> Any:
    """Return the values of a YAML text: no tags, no aliases; interpolations stay text.

    Args:
        text: the content.
        path: where it was read, for messages.

    Raises:
        InputError: it is not YAML, or nests too deeply.
    """
    try:
        depth = 0
        for event in yaml.parse(text, Loader=LOADER):
            if isinstance(event, yaml.AliasEvent):
                raise InputError(f"{path} cannot be read: it refers to itself (a YAML alias)")
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if depth > DEEPEST:
                raise InputError(f"{path} cannot be read: lists and mappings nest more than {DEEPEST} deep")
        return yaml.load(text, Loader=LOADER)
    # A number of too many digits, a date of no calendar, and a list as a key are no YAML errors.
    except (yaml.YAMLError, ValueError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read: {(str(error).splitlines() or ['?'])[0]}") from error


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: there is no such file, it cannot be read, or is not JSON.
    """
    try:
        return json.loads(read_text(path, MOST_BYTES_OF_SETTINGS))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read: {error}") from error
