"""Imports run one way: from the entry points down to what knows nothing of the others."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import qcnn_lightning

ROOM = Path(qcnn_lightning.__file__).parent
# Whatever is named later may import what is named before it, and not the other way round.
FLOORS = ("errors", "files", "basis", "states", "kernels", "models", "data", "runs", "report", "evaluation", "training")
ENTRY_POINTS = {
    "__main__",
    "train",
    "evaluate",
    "predict",
    "sample",
    "compress",
    "dashboard",
    "report.__main__",
    "runs.__main__",
}


def modules():
    for path in sorted(ROOM.rglob("*.py")):
        parts = path.relative_to(ROOM).with_suffix("").parts
        yield ".".join(parts).removesuffix(".__init__").removesuffix("__init__"), path


def imported(path):
    """Every module of ours that a file imports, also within its functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        yield from (
            name.removeprefix("qcnn_lightning.") for name in names if name and name.startswith("qcnn_lightning.")
        )


def test_there_is_no_circle_of_imports():
    names = dict(modules())
    graph = {name: {other for other in imported(path) if other in names} for name, path in names.items() if name}
    assert len(list(TopologicalSorter(graph).static_order())) >= len(graph)


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=lambda value: value if isinstance(value, str) else "")
def test_no_import_runs_up(name, path):
    floor = name.split(".")[0]
    for other in imported(path):
        assert other not in ENTRY_POINTS, other
        if name not in ENTRY_POINTS and floor in FLOORS and other.split(".")[0] in FLOORS:
            assert FLOORS.index(other.split(".")[0]) <= FLOORS.index(floor), other


@pytest.mark.parametrize("reader", ["runs", "report"])
def test_a_reader_of_runs_never_imports_what_trains(reader):
    names = dict(modules())
    reached, waiting = set(), [name for name in names if name.split(".")[0] == reader]
    while waiting:
        name = waiting.pop()
        if name in names and name not in reached:
            reached.add(name)
            waiting += imported(names[name])
    assert not {name for name in reached if name.startswith("training")}
