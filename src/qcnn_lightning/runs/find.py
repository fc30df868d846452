"""Many runs: where their folders are."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from qcnn_lightning.errors import InputError
from qcnn_lightning.runs.run import MARKS_OF_A_RUN, Run


def find_runs(paths: str | Path | Iterable[str | Path]) -> Iterator[Run]:
    """Find the runs at or below these folders, each once, with short names: paths, where those would be the same.

    Raises:
        InputError: a path is no folder, or no run was found.
    """
    given = [Path(paths)] if isinstance(paths, str | Path) else [Path(path) for path in paths]
    found: dict[Path, tuple[str, str]] = {}
    for path in given:
        if not path.is_dir():
            raise InputError(f"{path}: no such folder; give a run, a sweep, or a folder of sweeps")
        for folder, subfolders, _ in os.walk(path):
            if any((Path(folder) / mark).is_file() for mark in MARKS_OF_A_RUN):
                inner = Path(folder).relative_to(path)
                name = path.resolve().name if inner == Path() else str(inner if len(given) == 1 else path.name / inner)
                found.setdefault(Path(folder).resolve(), (name, folder))
                subfolders.clear()
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
    if not found:
        raise InputError(f"{describe(paths)}: no run found (no metrics.csv there or in any folder below)")
    alike = Counter(name for name, _ in found.values())
    yield from (Run(folder, name if alike[name] == 1 else path) for folder, (name, path) in found.items())


def describe(paths: str | Path | Iterable[str | Path]) -> str:
    """Name the folders that were searched."""
    return str(paths) if isinstance(paths, str | Path) else ", ".join(str(path) for path in paths)
