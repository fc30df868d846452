"""Users' own classes and functions, named by dotted path: in the current folder, or installed."""

import importlib
import sys
from pathlib import Path
from typing import Any

from qcnn_lightning.errors import InputError


def find_modules_here() -> None:
    """Let modules of the current folder be imported: `python -m` puts it on the path, a script does not."""
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))


def own_code_of(config: Any) -> list[str]:
    """Return the dotted paths of a model that a configuration names: whoever has given it now lets them run."""
    return [str(config.model.get(key)) for key in ("_target_", "basis")]


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
    find_modules_here()
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
