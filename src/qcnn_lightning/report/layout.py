"""What figures share beside their colours: titles, legends, grids of panels, axes; and how they become files."""

import math
import re
import textwrap
import zlib
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FormatStrFormatter, Formatter, LogLocator, MaxNLocator, NullLocator

from qcnn_lightning.errors import InputError
from qcnn_lightning.figure_style import FORMATS, colour_of, save, styled
from qcnn_lightning.labels import caption, data_name
from qcnn_lightning.report.groups import Collection, Group, LeftOut, rank
from qcnn_lightning.runs.run import Run

# In inches; of the letters and lines of legends and titles.
CHARACTER_WIDTH = 0.066
LINE_HEIGHT = 0.16
PANEL_WIDTH = 2.6
FEW_DECADES = 300
MOST_SEEDS = 6
LONGEST_FILE_NAME = 140


def wrapped(text: str, width: float) -> str:
    """Break a text into lines of at most this many inches, between words where possible."""
    return textwrap.fill(text, int(width / CHARACTER_WIDTH), break_on_hyphens=False)


def title_above(figure: Figure, *parts: str) -> None:
    """Put a title over a figure."""
    figure.suptitle(wrapped(caption(*parts), figure.get_figwidth()), fontsize=9)


def seeds_of(groups: Iterable[Group], mean: str = "mean ± sd") -> str:
    """Say what is drawn of groups of seeds: "mean ± sd of 3 seeds (0, 1, 2)", or "1 seed (0)"."""
    seeds = [tuple(str(run.seed) for run in group.runs) for group in groups]
    counts = sorted(set(map(len, seeds)))
    which = f" ({', '.join(seeds[0])})" if len(set(seeds)) == 1 and counts[-1] <= MOST_SEEDS else ""
    if counts[-1] == 1:
        return f"1 seed{which}"
    numbers = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{mean} of {numbers} seeds{which}"


def which_seeds(runs: Iterable[Run]) -> str:
    """Say which seeds runs have: "seeds 0, 1, 2", or how many if they are many."""
    seeds = [str(seed) for seed in sorted({run.seed for run in runs}, key=rank)]
    if len(seeds) > MOST_SEEDS:
        return f"{len(seeds)} seeds"
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}"


def legend_below(figure: Figure, handles: Sequence[Line2D]) -> None:
    """Put a legend under a figure, in as many columns as its width has room for."""
    for handle in handles:
        handle.set_label(wrapped(str(handle.get_label()), figure.get_figwidth() - 0.5))
    longest = max(len(line) for handle in handles for line in str(handle.get_label()).splitlines())
    columns = int(figure.get_figwidth() / (0.5 + CHARACTER_WIDTH * longest))
    columns = max(1, min(columns, len(handles)))
    # Of a figure that leaves room for one line.
    lines = sum(str(handle.get_label()).count("\n") + 1 for handle in handles) / columns
    figure.set_figheight(figure.get_figheight() + LINE_HEIGHT * (math.ceil(lines) - 1))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)


def data_handles(data_sets: Iterable[str]) -> list[Line2D]:
    """Return the data sets' colours, for a legend."""
    return [Line2D([], [], color=colour_of(data), linewidth=2.5, label=data_name(data)) for data in unique(data_sets)]


def part_handles() -> list[Line2D]:
    """Return the line styles of test and train, for a legend."""
    return [Line2D([], [], color="0.3", label="test"), Line2D([], [], color="0.3", linestyle="--", label="train")]


def panel_title(group: Group) -> str:
    """Return what sets a group apart from others of its data set, as the title of its panel."""
    return wrapped(caption(group.variant or data_name(group.data), group.bipartition), PANEL_WIDTH - 0.4)


def panel_grid(groups: Sequence[Group], height: float, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    """Return a figure with a panel per group, three in a row at most, and over each what sets it apart."""
    number = len(groups)
    columns = min(3, number)
    rows = -(-number // columns)
    titles = [panel_title(group) for group in groups]
    height += LINE_HEIGHT * max(title.count("\n") for title in titles)
    figure = Figure(figsize=(max(4.2, PANEL_WIDTH * columns), 0.5 + height * rows))
    panels = list(figure.subplots(rows, columns, squeeze=False, sharey=sharey).flat)
    for axes in panels[number:]:
        axes.remove()
    for axes, title in zip(panels[:number], titles, strict=True):
        axes.set_title(title, loc="left")
    return figure, panels[:number]


def over_epochs(axes: Axes, label: str) -> None:
    """Name the axes of what is drawn over the epochs."""
    axes.set(xlabel="epoch", ylabel=label)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def cut_off_beginnings(axes: Axes) -> None:
    """Show costs up to 1, what answering 0 for every class costs: before learning, some are astronomical.

    Up to 2, the most that normalised scores cost, where a run ends above 1. Costs that all end beyond, such as nats
    of a density, stay as they are.
    """
    ends = ends_of(axes)
    limit = 2 if any(1 < end <= 2 for end in ends) else 1
    if axes.get_ylim()[1] > limit and any(0 <= end <= 1 for end in ends):
        axes.set(ylim=(0, limit), ylabel=f"{axes.get_ylabel()} (above {limit} not shown)")


def ends_of(axes: Axes) -> list[float]:
    """Return the last value of every line."""
    return [float(np.asarray(line.get_ydata())[-1]) for line in axes.lines if len(np.asarray(line.get_ydata()))]


def leave_outliers_out(axes: Axes) -> None:
    """End the x-axis before a few far outliers that would squeeze all other points, and say how many are beyond.

    Far is more than the width of the middle 96% of the points above these.
    """
    values = np.concatenate([*(np.asarray(line.get_xdata(), dtype=float) for line in axes.lines), np.ones(0)])
    if len(values) == 0:
        return
    low, high = np.quantile(values, [0.02, 0.98])
    if values.max() <= 2 * high - low:
        return
    end = high + 0.25 * (high - low)
    axes.set_xlim(right=end)
    beyond = int((values > end).sum())
    axes.set_xlabel(f"{axes.get_xlabel()} ({beyond} of {len(values)} points, up to {values.max():.2g}, not shown)")


def use_logarithm_if_wide(axes: Axes, axis: str = "y") -> bool:
    """Use a logarithmic axis if its values span more than a factor of twenty; return whether they do."""
    values = [np.asarray(getattr(line, f"get_{axis}data")(), dtype=float) for line in axes.lines]
    positive = np.concatenate([*values, np.ones(0)])
    positive = positive[positive > 0]
    if len(positive) and positive.max() > 20 * positive.min():
        use_logarithm(axes, axis, FormatStrFormatter("%g"))
        return True
    return False


def use_logarithm(axes: Axes, axis: str, numbers: Formatter | Callable[[float, Any], str]) -> None:
    """Use a logarithmic axis, with numbers at 1, 2 and 5 of every decade unless there are many."""
    getattr(axes, f"set_{axis}scale")("log")
    low, high = getattr(axes, f"get_{axis}lim")()
    if high < FEW_DECADES * low:
        one = getattr(axes, f"{axis}axis")
        one.set_major_locator(LogLocator(subs=(1, 2, 5)))
        one.set_major_formatter(numbers)
        one.set_minor_locator(NullLocator())


def unique(items: Iterable[Any]) -> list[Any]:
    """Return the items in order, each once."""
    return list(dict.fromkeys(items))


def spread(items: Sequence[Any], number: int) -> list[Any]:
    """Return at most `number` items, evenly spread from the first to the last."""
    if len(items) <= number:
        return list(items)
    return [items[round(index)] for index in np.linspace(0, len(items) - 1, number)]


@dataclass(frozen=True)
class Choices:
    """What the figures leave to choose.

    Attributes:
        window: epochs over which entropy trends are averaged.
        first_epoch: first epoch of figure 3; by each run's length if None.

    Raises:
        InputError: a value that cannot be used.
    """

    window: int = 2
    first_epoch: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.window, int) or self.window < 1:
            raise InputError(f"window={self.window}: must be a positive whole number")
        if not isinstance(self.first_epoch, int | None):
            raise InputError(
                f"first_epoch={self.first_epoch}: must be a whole number, or null to go by the run's length"
            )


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
    with styled():
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
    name = re.sub(r"[^\w=.-]+", "_", title.replace(" = ", "="), flags=re.ASCII)
    shortened = name[:LONGEST_FILE_NAME]
    if shortened != name or shortened in taken:
        shortened += f"_{zlib.crc32(title.encode()):08x}"
    while shortened in taken:
        shortened += "_"
    return shortened
