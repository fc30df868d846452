"""From planned figures to files.

A plan names figures and says how each is drawn; a figure that cannot be drawn gives the reason instead. Your own
figures are one more plan (`reproduction/study_figures.py`).
"""

import re
import zlib
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from qcnn_lightning.figure_style import FORMATS, STYLE, save
from qcnn_lightning.report.groups import Collection, LeftOut

LONGEST_FILE_NAME = 140


@dataclass(frozen=True)
class Choices:
    """What the figures leave to choose.

    Attributes:
        window: epochs over which entropy trends are averaged.
        first_epoch: first epoch of figure 3; by each run's length if None.
    """

    window: int = 2
    first_epoch: int | None = None


Planned = Iterator[tuple[str, Callable[[], Figure | str]]]
"""The titles of figures, which name their files, and the functions that draw them or say why not."""

Plan = Callable[[Collection, Choices, list[LeftOut]], Planned]
"""Plans the figures of a collection; adds to the list what is not to be drawn."""


def draw_all(
    collection: Collection,
    folder: Path,
    choices: Choices,
    plans: Sequence[Plan],
    formats: Iterable[str] = FORMATS,
    only: Container[str] | None = None,
) -> tuple[list[str], list[LeftOut]]:
    """Draw every figure that the runs have data for.

    Args:
        collection: the runs.
        folder: where the files go; made if need be.
        choices: windows and first epochs.
        plans: which figures there are.
        formats: of `FORMATS`.
        only: the names of those to draw; all if None.

    Returns:
        The names of the figures, files without their suffix, and what was not drawn and why.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names: list[str] = []
    taken: set[str] = set()
    left_out: list[LeftOut] = []
    with mpl.rc_context(STYLE):
        for title, draw in chain.from_iterable(plan(collection, choices, left_out) for plan in plans):
            name = file_name(title, taken)
            taken.add(name)
            if only is not None and name not in only:
                continue
            drawn = draw()
            if isinstance(drawn, str):
                left_out.append(LeftOut(f"figure {name}", drawn))
                continue
            save(drawn, folder / name, formats)
            names.append(name)
    return names, left_out


def file_name(title: str, taken: Container[str]) -> str:
    """Return a title as the name of a file: letters, digits and "_=.-"; it may hold what somebody else's run says.

    Args:
        title: a name and settings, of any length.
        taken: names of others. What is cut, or would have one of these names, ends in a hash of the title.
    """
    name = re.sub(r"[^\w=.-]+", "_", title, flags=re.ASCII)
    shortened = name[:LONGEST_FILE_NAME]
    if shortened != name or shortened in taken:
        shortened += f"_{zlib.crc32(title.encode()):08x}"
    while shortened in taken:
        shortened += "_"
    return shortened
