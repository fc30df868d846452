"""The charts, each a function that draws runs into one panel. The figures for print and the page consist of them.

On a page every run and every group of seeds has a *mark*, a name such as "r3" that the artist carries (`gid`), and by
which the page hides and colours it. In print nothing has a mark, and only means over seeds are drawn over the epochs.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator, PercentFormatter
from matplotlib.transforms import ScaledTranslation, Transform

from qcnn_lightning.figure_style import MARKERS, ORDERED, colour_of, ordered_colour
from qcnn_lightning.labels import MEAN_ENTROPY, caption, class_label
from qcnn_lightning.report.groups import Collection, Group
from qcnn_lightning.report.layout import (
    PANEL_WIDTH,
    Choices,
    cut_off_beginnings,
    leave_outliers_out,
    over_epochs,
    spread,
    unique,
    use_logarithm,
    use_logarithm_if_wide,
    wrapped,
)
from qcnn_lightning.report.tables import last, mean_and_deviation, possible_interval
from qcnn_lightning.runs.run import Run, as_number

MOST_TICKS = 12
MOST_CLASS_NAMES = 12
PROFILE_EPOCHS = 5
BAR_DISTANCE = 0.05
ALL = 1.01
"""Where axes of accuracies end: a curve at 100% is whole, and no number above it stands beside the axis."""

Marks = Mapping[Run | Group, str]
UNMARKED: Marks = {}


def training_panel(axes: Axes, groups: Iterable[Group], quantity: str, marks: Marks = UNMARKED) -> None:
    """Draw accuracy or cost over the epochs; test solid, train dashed."""
    for group in groups:
        for part, style in (("train", "--"), ("test", "-")):
            table, highest = group.table(f"{quantity}/{part}"), 1.0 if quantity == "accuracy" else math.inf
            draw_group(axes, group, table, colour_of(group.data), style, marks, highest)
    over_epochs(axes, quantity)
    if quantity == "accuracy":
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        low, high = axes.get_ylim()
        axes.set_ylim(max(0.0, low), min(ALL, high))
    else:
        cut_off_beginnings(axes)


def trend_panel(axes: Axes, groups: Sequence[Group], choices: Choices, half: str, marks: Marks = UNMARKED) -> None:
    """Draw the entropy trends of one bipartition, `half`, over the epochs."""
    for group in groups:
        draw_group(axes, group, group.entropy_trends(choices.window), colour_of(group.data), "-", marks)
    over_epochs(axes, f"mean EE, {half} (nats)")
    axes.set_ylim(bottom=0)


def draw_group(
    axes: Axes,
    group: Group,
    table: pd.DataFrame,
    colour: str,
    style: str,
    marks: Marks = UNMARKED,
    highest: float = math.inf,
) -> None:
    """Draw a group's mean over seeds, and a band of one standard deviation where several have a value.

    The band ends at what is possible: see `tables.possible_interval`.

    Args:
        axes: the panel.
        group: whose runs are the columns of the table.
        table: a row per epoch, a column per run.
        colour: of the group.
        style: of the lines.
        marks: with a mark for the group, its runs are drawn besides.
        highest: that a value can be.
    """
    mean = table.mean(axis=1).dropna()
    if mean.empty:
        return
    look: dict[str, Any] = {"color": colour, "linestyle": style, "markersize": 3}
    if group in marks:
        for run in group.runs:
            values = table[run.name].dropna()
            dots = "o" if len(values) < 3 else ""
            axes.plot(values.index, values, **look, marker=dots, gid=marks[run], in_layout=False)
    axes.plot(mean.index, mean, **look, marker="o" if len(mean) < 3 else "", gid=marks.get(group))
    if table.shape[1] > 1:
        deviation = table.std(axis=1).reindex(mean.index)
        band = possible_interval(mean, deviation, float(np.nanmin(table.to_numpy())), highest)
        axes.fill_between(mean.index, *band, color=colour, alpha=0.18, linewidth=0, gid=marks.get(group))


def against_cost_panel(
    axes: Axes,
    runs: Iterable[Run],
    cost: str,
    choices: Choices,
    look: Callable[[Run], Mapping[str, Any]],
    marks: Marks = UNMARKED,
) -> None:
    """Draw the entropy trend against a cost: every run is an island of epochs, in the look that it is given."""
    for run in runs:
        points = entropy_and_cost(run, cost, choices)
        if len(points):
            # Thousands of points: as a picture inside the vector formats.
            axes.plot(
                points["cost"],
                points["entropy"],
                **look(run),
                linewidth=0.4,
                markersize=2.6,
                markeredgewidth=0,
                alpha=0.6,
                rasterized=True,
                gid=marks.get(run),
                in_layout=False,
            )
    axes.set(xlabel=f"{cost} cost", ylabel=MEAN_ENTROPY)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
    if not use_logarithm_if_wide(axes, "x"):
        leave_outliers_out(axes)


def entropy_and_cost(run: Run, cost: str, choices: Choices) -> pd.DataFrame:
    """Return the entropy trend and a cost at every epoch of figure 3."""
    table = pd.DataFrame({"cost": run.column(f"cost/{cost}"), "entropy": run.entropy_trend(choices.window)}).dropna()
    return table[table.index >= run.first_epoch(choices.first_epoch)]


def class_entropies(group: Group) -> pd.DataFrame:
    """Return the entropies of the classes, mean over seeds: a row per class, a column per epoch; empty without any."""
    columns = max((run.class_columns for run in group.runs), key=len)
    return means_over_seeds(group, columns).dropna(how="all").T


def largest_learned(tables: Iterable[pd.DataFrame]) -> float:
    """Return the largest entropy after the first epoch, of all where none has ended.

    Networks before training may be far more entangled than any that have learned.
    """
    tables = list(tables)
    learned = [table.to_numpy()[:, table.columns.to_numpy(dtype=float) >= 0] for table in tables]
    known = [values for values in learned if np.isfinite(values).any()] or [table.to_numpy() for table in tables]
    return max(float(np.nanmax(values)) for values in known)


def class_panel(axes: Axes, group: Group, table: pd.DataFrame, scale: float) -> QuadMesh:
    """Draw the entropy of every class over the epochs as a heat map, up to `scale` nats; return it for a colour bar."""
    epochs = table.columns.to_numpy(dtype=float)
    edges = np.append(epochs - 0.5, epochs[-1] + 0.5)
    rows = np.arange(len(table) + 1) - 0.5
    image = axes.pcolormesh(edges, rows, table, cmap=ORDERED, vmin=0, vmax=scale, rasterized=True)
    names = max((run.class_names for run in group.runs), key=len)
    # Of many classes every second, third, ... has its name, so that names do not cover one another.
    named = range(0, len(names), 1 + (len(names) - 1) // MOST_CLASS_NAMES)
    axes.set_yticks(named, [wrapped(class_label(names[label]), PANEL_WIDTH) for label in named])
    axes.invert_yaxis()
    axes.grid(visible=False)
    over_epochs(axes, "class")
    return image


def profile(group: Group) -> pd.DataFrame:
    """Return the entropy profile, mean over seeds: a row per measured epoch, a column per level; empty without any."""
    levels = max((run.profile_columns for run in group.runs), key=len)
    return means_over_seeds(group, levels).dropna()


def profile_panel(axes: Axes, table: pd.DataFrame) -> list[str]:
    """Draw the entropy of blocks of 1, 2, 4, ... pixels against the rest at several epochs; return their names."""
    epochs = spread(list(table.index), PROFILE_EPOCHS)
    names = ["before training" if epoch < 0 else f"epoch {epoch}" for epoch in epochs]
    sizes = 2 ** np.arange(table.shape[1])
    for index, (epoch, name) in enumerate(zip(epochs, names, strict=True)):
        colour = ordered_colour(index, len(epochs))
        axes.plot(sizes, table.loc[epoch], color=colour, marker=MARKERS[index], markersize=3.5, label=name)
    axes.set_xscale("log", base=2)
    blocks = sizes[:: 1 + len(sizes) // 9].tolist()
    axes.set_xticks(blocks, [str(block) for block in blocks])
    axes.set_xticks([], minor=True)
    axes.set(xlabel="pixels in the block", ylabel="EE (nats)")
    axes.set_ylim(bottom=0)
    return names


def means_over_seeds(group: Group, names: Sequence[str]) -> pd.DataFrame:
    """Return the mean over a group's runs of several metrics: a row per epoch, a column per metric."""
    return pd.DataFrame({name: group.table(name).mean(axis=1) for name in names})


def against_d_panel(
    axes: Axes, collection: Collection, choices: Choices, marks: Marks = UNMARKED
) -> list[tuple[str, str]]:
    """Draw the last mean entropy against d; return what is drawn, as `draw_with_error_bars` does."""

    def entropy(run: Run) -> float:
        return last(run.entropy_trend(choices.window))

    drawn = draw_with_error_bars(axes, collection, lambda group: group.d, entropy, marks)
    axes.axhline(math.log(2), color="0.5", linewidth=0.8, linestyle=":", zorder=0)
    axes.annotate("log 2", (0.01, math.log(2)), xycoords=("axes fraction", "data"), va="bottom", color="0.5")
    axes.set(xlabel="channel multiplier d", ylabel="mean EE at the last epoch (nats)")
    axes.set_ylim(bottom=0)
    values = sorted({group.d for group in collection.groups if math.isfinite(as_number(group.d))})
    if len(values) <= MOST_TICKS:
        axes.set_xticks(values)
    return drawn


def against_parameters_panel(axes: Axes, collection: Collection, marks: Marks = UNMARKED) -> list[tuple[str, str]]:
    """Draw the last test accuracy against the number of parameters; return what is drawn."""

    def accuracy(run: Run) -> float:
        return last(run.column("accuracy/test"))

    drawn = draw_with_error_bars(axes, collection, lambda group: group.runs[0].num_parameters, accuracy, marks, 1.0)
    axes.set(xlabel="trained parameters", ylabel="test accuracy, last epoch")
    if drawn:
        plain = EngFormatter(sep="")
        use_logarithm(axes, "x", FuncFormatter(lambda number, _: plain.format_eng(number)))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    axes.set_ylim(top=min(ALL, axes.get_ylim()[1]))
    return drawn


def draw_with_error_bars(
    axes: Axes,
    collection: Collection,
    across: Callable[[Group], Any],
    up: Callable[[Run], float],
    marks: Marks = UNMARKED,
    highest: float = math.inf,
) -> list[tuple[str, str]]:
    """Draw a point per group, mean over seeds with a bar of one standard deviation; on a page every run as well.

    The bar ends at what is possible: see `tables.possible_interval`.

    Returns:
        The data sets and the kinds (`kinds_of`) that are drawn: the data set is the colour, the kind the marker.
    """
    drawn: dict[tuple[str, str], list[tuple[float, float]]] = {}
    kinds = unique(kinds_of(collection).values())
    series = unique((group.data, kind) for group, kind in kinds_of(collection).items())

    def beside(data: str, kind: str) -> Transform:
        # In print, bars at the same place would hide one another; on a page numbers are read off.
        inches = 0 if marks else BAR_DISTANCE * (series.index((data, kind)) - (len(series) - 1) / 2)
        return axes.transData + ScaledTranslation(inches, 0, axes.get_figure(root=True).dpi_scale_trans)  # type: ignore[union-attr]

    for group, kind in kinds_of(collection).items():
        x = as_number(across(group))
        values = {run: up(run) for run in group.complete_runs}
        mean, deviation = mean_and_deviation(list(values.values()))
        if not (math.isfinite(x) and math.isfinite(mean)):
            continue
        drawn.setdefault((group.data, kind), []).append((x, mean))
        colour = colour_of(group.data)
        if group in marks:
            for run, value in values.items():
                axes.plot(x, value, color=colour, marker="o", linestyle="", gid=marks[run], in_layout=False)
        marker, _ = appearance(kinds, kind)
        look: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 4.5, "elinewidth": 0.9, "capsize": 2.5}
        look |= {"linestyle": "", "transform": beside(group.data, kind)}
        low, high = map(float, possible_interval(mean, deviation, float(np.nanmin(list(values.values()))), highest))
        point, _, bars = axes.errorbar(x, mean, [[mean - low], [high - mean]], **look)
        # matplotlib sees no limits in what has another transform.
        axes.update_datalim([(x, low), (x, high)])
        for artist in (point, *bars):
            artist.set_gid(marks.get(group))
    if not marks:
        for (data, kind), points in drawn.items():
            _, style = appearance(kinds, kind)
            line: dict[str, Any] = {"color": colour_of(data), "linestyle": style, "linewidth": 0.9}
            axes.plot(*np.array(sorted(points)).T, **line, transform=beside(data, kind))
    axes.autoscale_view()
    return list(drawn)


def kinds_of(collection: Collection) -> dict[Group, str]:
    """Return what every group is besides its data set and its d, as far as there are others."""
    several = len({group.bipartition for group in collection.groups}) > 1
    return {
        group: caption(
            group.bipartition if several else "", collection.describe_variant(group.runs[0], without="model.d")
        )
        for group in collection.groups
    }


def appearance(kinds: Sequence[str], kind: str) -> tuple[str, str]:
    """Return the marker and the line style of a kind of group."""
    number = kinds.index(kind)
    return MARKERS[number % len(MARKERS)], "--" if number else "-"
