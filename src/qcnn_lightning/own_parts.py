"""Users' own classes and functions, named by dotted path: in the current folder, or installed."""

import importlib
import sys
from pathlib import Path
from typing import Any

from qcnn_lightning.errors import InputError


def own_part(path: str, setting: str) -> Any:
    """Import a user's own class or function.

    Args:
        path: dotted path, like "mine.MyBasis".
        setting: config key that named it, for messages.

    Raises:
        InputError: there is no such module, importing it failed, or it has no such name.
    """
    module, _, name = path.rpartition(".")
    if not module or not all(part.isidentifier() for part in path.split(".")):
        raise InputError(f"{setting}={path}: expected a dotted path like mine.MyPart")
    # `python -m` puts the current folder there; an installed command does not.
    if str(Path.cwd()) not in sys.path and "" not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise InputError(
            f"{setting}={path}: no module named {error.name}, neither in {Path.cwd()} nor installed"
        ) from error
    except Exception as error:
        raise InputError(f"{setting}={path}: importing {module} failed: {type(error).__name__}: {error}") from error
    if not hasattr(found, name):
        raise InputError(f"{setting}={path}: {module} ({found.__file__}) has no {name}")
    return getattr(found, name)
