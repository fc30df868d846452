"""Parts that users bring along: classes and functions by their dotted path, in the current folder or installed."""

import importlib
import sys
from pathlib import Path
from typing import Any

from qcnn_lightning.errors import InputError


def own_part(path: str, setting: str) -> Any:
    """Import a class or a function of the user's own.

    Args:
        path: dotted, such as "mine.MyBasis".
        setting: the key that names it, for messages.

    Raises:
        InputError: there is no such module, importing it failed, or it has no such name.
    """
    module, _, name = path.rpartition(".")
    if not module or not all(part.isidentifier() for part in path.split(".")):
        raise InputError(f"{setting}={path}: expected a dotted path such as mine.MyPart")
    # `python -m` has the current folder there already; an installed command has not.
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
