"""Figures of training, drawn from what runs left on disk: the paper's figures 2 and 3, and ours.

Every figure is a function from runs to a matplotlib figure or, where nothing can be drawn, to the reason why. Colours
are Okabe and Ito's, and viridis where there is an order: both are told apart with any colour vision and survive a grey
printer. The same runs always give the same files, to the byte.
"""

import io
import math
import re
import textwrap
import zlib
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    EngFormatter,
    FormatStrFormatter,
    Formatter,
    LogLocator,
    MaxNLocator,
    NullLocator,
    PercentFormatter,
)

from qcnn_lightning.files import replace_atomically
from qcnn_lightning.report.groups import Collection, Group, LeftOut, caption, describe_first_epoch, rank
from qcnn_lightning.report.tables import last, mean_and_deviation
from qcnn_lightning.runs.run import Run, as_number

FORMATS = ("png", "svg", "pdf")
MOST_VARIANTS = 6
MOST_PANELS = 12
MOST_TICKS = 12
FEW_DECADES = 300
PROFILE_EPOCHS = 5
LONGEST_FILE_NAME = 140
# In inches; of the letters and lines of legends and titles.
CHARACTER_WIDTH = 0.066
LINE_HEIGHT = 0.16
PANEL_WIDTH = 2.6
LONGEST_CLASS_NAME = 30
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DATA_COLOURS = {"mnist": OKABE_ITO[0], "fmnist": OKABE_ITO[1], "digits": OKABE_ITO[2]}
MARKERS = "osD^vP*X"
ORDERED = mpl.colormaps["viridis"]
STYLE: dict[Any, Any] = {
    "axes.grid": True,
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9,
    "figure.constrained_layout.use": True,
    "font.size": 8.5,
    "grid.alpha": 0.35,
    "grid.linewidth": 0.5,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.3,
    "pdf.fonttype": 42,
    # Otherwise the SVG's internal names are drawn at random.
    "svg.hashsalt": "qcnn_lightning",
}
# Without a date, and without the version of the program that wrote it.
METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
ENTROPY = "entanglement entropy (nats)"
MEAN_ENTROPY = "mean EE (nats)"


@dataclass(frozen=True)
class Choices:
    """What the figures leave to choose.

    Attributes:
        window: epochs over which entropy trends are averaged.
        first_epoch: first epoch of figure 3; by each run's length if None.
    """

    window: int = 2
    first_epoch: int | None = None


Plan = Callable[[Collection, Choices, list[LeftOut]], Iterator[tuple[str, Callable[[], Figure | str]]]]
"""Yields the titles of figures, which name their files, and the functions that draw them.

Adds to the list what is not to be drawn.
"""


def draw_all(
    collection: Collection,
    folder: Path,
    choices: Choices,
    formats: Iterable[str] = FORMATS,
    plans: Sequence[Plan] | None = None,
    only: Container[str] | None = None,
) -> tuple[list[str], list[LeftOut]]:
    """Draw every figure that the runs have data for.

    Args:
        collection: the runs.
        folder: where the files go; made if need be.
        choices: windows and first epochs.
        formats: of `FORMATS`.
        plans: which figures there are; those of this module if None.
        only: the names of those to draw; all if None.

    Returns:
        The names of the figures, files without their suffix, and what was not drawn and why.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names: list[str] = []
    taken: set[str] = set()
    left_out: list[LeftOut] = []
    with mpl.rc_context(STYLE):
        planned = chain.from_iterable(plan(collection, choices, left_out) for plan in plans or (planned_figures,))
        for title, draw in planned:
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


def save(figure: Figure, stem: Path, formats: Iterable[str]) -> None:
    """Write a figure to `<stem>.<format>`; the same figure always gives the same bytes."""
    # The layout is the same in all formats, and takes longer than drawing.
    if layout := figure.get_layout_engine():
        layout.execute(figure)
    figure.set_layout_engine("none")
    for suffix in formats:
        drawn = io.BytesIO()
        figure.savefig(drawn, format=suffix, dpi=200, metadata=METADATA[suffix])
        replace_atomically(stem.with_name(f"{stem.name}.{suffix}"), drawn.getvalue())


def planned_figures(
    collection: Collection, choices: Choices, left_out: list[LeftOut]
) -> Iterator[tuple[str, Callable[[], Figure | str]]]:
    """Yield the title of every figure and the function that draws it."""
    variants = unique(experiment.variant for experiment in collection.groups)
    if len(variants) > MOST_VARIANTS:
        shown = spread(variants, MOST_VARIANTS)
        why = f"drawn for {MOST_VARIANTS} of {len(variants)} variants; report the others by themselves"
        left_out += [LeftOut(f"figures 2 and 3(a) of {variant}", why) for variant in variants if variant not in shown]
        variants = shown
    for variant in variants:
        chosen = [experiment for experiment in collection.groups if experiment.variant == variant]
        yield "_".join(filter(None, ("figure_2", variant))), partial(figure_2, chosen, choices)
        yield "_".join(filter(None, ("figure_3a", variant))), partial(figure_3a, chosen, choices)
    yield "figure_3b", partial(figure_3b, collection, choices)
    for data in collection.data_sets:
        chosen = [experiment for experiment in collection.groups if experiment.data == data]
        if len(chosen) > MOST_PANELS:
            why = f"{MOST_PANELS} panels fit; report the others by themselves"
            shown = spread(chosen, MOST_PANELS)
            names = [f"{item.variant}, {item.bipartition}" for item in chosen if item not in shown]
            left_out += [LeftOut(f"per class and per block size: {data}, {name}", why) for name in names]
            chosen = shown
        yield f"entropy_per_class_{data}", partial(entropy_per_class, chosen)
        yield f"entropy_profile_{data}", partial(entropy_profile, chosen)
    yield "entropy_against_d", partial(entropy_against_d, collection, choices)
    yield "accuracy_against_parameters", partial(accuracy_against_parameters, collection)


def figure_2(experiments: Sequence[Group], choices: Choices) -> Figure | str:
    """Draw figure 2: accuracy (a), cost (b), and the entropy trends left/right (c) and up/down (d), over the epochs.

    Mean over seeds, and a band of one standard deviation. (a) and (b) show the runs of (c), or else those of (d).
    """
    figure = Figure(figsize=(7.2, 5.2))
    panels = figure.subplots(2, 2)
    training = [
        next(item for item in experiments if item.data == data and item.bipartition == bipartition)
        for data in unique(experiment.data for experiment in experiments)
        for bipartition in sorted({item.bipartition for item in experiments if item.data == data})[:1]
    ]
    for axes, quantity in ((panels[0, 0], "accuracy"), (panels[0, 1], "cost")):
        for experiment in training:
            for part, style in (("train", "--"), ("test", "-")):
                draw_band(axes, experiment.table(f"{quantity}/{part}"), colour_of(experiment.data), style)
        axes.set_ylabel(quantity)
    panels[0, 0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    cut_off_at_ignorance(panels[0, 1])
    for axes, bipartition in ((panels[1, 0], "left/right"), (panels[1, 1], "up/down")):
        chosen = [experiment for experiment in experiments if experiment.bipartition == bipartition]
        for experiment in chosen:
            draw_band(axes, experiment.entropy_trends(choices.window), colour_of(experiment.data), "-")
        axes.set_ylabel(f"mean EE, {bipartition} (nats)")
        axes.set_ylim(bottom=0)
    for axes, letter in zip(panels.flat, "abcd", strict=True):
        axes.set_title(f"({letter})", loc="left", fontweight="bold")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes, bipartition in ((panels[1, 0], "left/right"), (panels[1, 1], "up/down")):
        if not axes.lines:
            say_empty(axes, f"no {bipartition} run")
    if not any(axes.lines for axes in panels.flat):
        return "no run has accuracies, costs or entropies"
    counts = sorted({len(experiment.runs) for experiment in experiments})
    seeds = " or ".join(map(str, counts))
    label_data_sets(
        figure,
        training,
        [Line2D([], [], color="0.3", label="test"), Line2D([], [], color="0.3", linestyle="--", label="train")],
    )
    title_above(figure, experiments[0].variant, f"mean ± sd of {seeds} seeds" if counts[-1] > 1 else "")
    return figure


def figure_3a(experiments: Sequence[Group], choices: Choices) -> Figure | str:
    """Draw figure 3(a): the entropy trend against train and test cost, for the typical run of every data set.

    Typical is the run with the median test accuracy among its seeds. The points darken with the epochs.
    """
    figure = Figure(figsize=(7.2, 3.3))
    panels = figure.subplots(1, 2, sharey=True)
    shown = [
        min((item for item in experiments if item.data == data), key=lambda item: item.bipartition)
        for data in unique(experiment.data for experiment in experiments)
    ]
    runs = [typical_run(experiment) for experiment in shown]
    since = describe_first_epoch(runs, choices.first_epoch)
    for axes, cost in zip(panels, ("train", "test"), strict=True):
        for run in runs:
            points = entropy_and_cost(run, cost, choices)
            colour = colour_of(run.data)
            axes.plot(points["cost"], points["entropy"], color=colour, linewidth=0.7, alpha=0.5)
            if len(points):
                fading = np.linspace(0.25, 1, len(points))
                axes.scatter(points["cost"], points["entropy"], color=colour, alpha=fading, s=10, linewidths=0)
        axes.set_xlabel(f"{cost} cost")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
    panels[0].set_ylabel(MEAN_ENTROPY)
    if not any(len(line.get_xdata()) for axes in panels for line in axes.lines):
        return f"no run has entropies and costs {since} (first_epoch)"
    label_data_sets(figure, shown)
    title_above(figure, experiments[0].variant, since)
    return figure


def figure_3b(collection: Collection, choices: Choices) -> Figure | str:
    """Draw figure 3(b): the entropy trend against train and test cost of all runs, islands over d and seeds.

    A colour per d and a marker per what else varies; where only one of them does, it has both.
    """
    since = describe_first_epoch(collection.runs, choices.first_epoch)
    islands = {
        (run, cost): points
        for run in collection.runs
        for cost in ("train", "test")
        if len(points := entropy_and_cost(run, cost, choices))
    }
    if not islands:
        return f"no run has entropies and costs {since} (first_epoch)"
    runs = unique(run for run, _ in islands)
    kind_of = {run: kind for experiment, kind in kinds_of(collection).items() for run in experiment.runs}
    kinds, values = unique(kind_of[run] for run in runs), sorted({run.d for run in runs}, key=rank)

    def look(value: Any, kind: str) -> dict[str, Any]:
        if len(values) == 1 and len(kinds) > 1:
            colour = OKABE_ITO[kinds.index(kind) % len(OKABE_ITO)]
        else:
            colour = ordered_colour(values.index(value), len(values))
        number = kinds.index(kind) if len(kinds) > 1 else values.index(value)
        return {"color": colour, "marker": MARKERS[number % len(MARKERS)]}

    figure = Figure(figsize=(7.2, 0.6 + 2.6 * len(collection.data_sets)))
    grid = figure.subplots(len(collection.data_sets), 2, squeeze=False)
    for row, data in zip(grid, collection.data_sets, strict=True):
        for axes, cost in zip(row, ("train", "test"), strict=True):
            for (run, of), points in islands.items():
                if run.data == data and of == cost:
                    # Thousands of points: as a picture inside the vector formats.
                    axes.plot(
                        points["cost"],
                        points["entropy"],
                        **look(run.d, kind_of[run]),
                        linewidth=0.4,
                        markersize=2.6,
                        markeredgewidth=0,
                        alpha=0.6,
                        rasterized=True,
                    )
            axes.set_xlabel(f"{cost} cost")
            axes.set_title(wrapped(data, PANEL_WIDTH), loc="left")
            use_logarithm_if_wide(axes, "x")
            if not axes.lines:
                say_empty(axes, f"no epochs {since}")
        row[0].set_ylabel(MEAN_ENTROPY)
    handles = []
    if len(values) > 1 or len(kinds) == 1:
        named = {value: f"d = {value}" if value is not None else "d unknown" for value in values}
        handles += [Line2D([], [], **look(value, kinds[0]), linestyle="", label=named[value]) for value in values]
    if len(kinds) > 1:
        several = {"color": "0.3"} if len(values) > 1 else {}
        handles += [
            Line2D([], [], **look(values[0], kind) | several, linestyle="", markersize=4.5, label=kind)
            for kind in kinds
        ]
    legend_below(figure, handles)
    title_above(figure, f"{len(runs)} runs", describe_first_epoch(runs, choices.first_epoch))
    return figure


def entropy_per_class(experiments: Sequence[Group]) -> Figure | str:
    """Draw the entropy of every class over the epochs as a heat map per experiment, mean over seeds."""
    maps = {}
    for experiment in experiments:
        classes = max((run.class_columns for run in experiment.runs), key=len)
        table = means_over_seeds(experiment, classes).dropna(how="all")
        if len(table):
            maps[experiment] = table.T
    if not maps:
        return "no run has numbers in the columns ee/class_0, ee/class_1, ..."
    figure, panels = panel_grid(list(maps), height=2.2)
    largest = max(float(np.nanmax(table.to_numpy())) for table in maps.values())
    # Networks before training may be far more entangled than any that have learned.
    learned = [table.to_numpy()[:, table.columns.to_numpy(dtype=float) >= 0] for table in maps.values()]
    scale = max((float(np.nanmax(values)) for values in learned if np.isfinite(values).any()), default=largest)
    for axes, (experiment, table) in zip(panels, maps.items(), strict=True):
        epochs = table.columns.to_numpy(dtype=float)
        edges = np.append(epochs - 0.5, epochs[-1] + 0.5)
        image = axes.pcolormesh(
            edges, np.arange(len(table) + 1) - 0.5, table, cmap=ORDERED, vmin=0, vmax=scale, rasterized=True
        )
        names = max((run.class_names for run in experiment.runs), key=len)
        axes.set_yticks(range(len(names)), [wrapped(name[:LONGEST_CLASS_NAME], PANEL_WIDTH) for name in names])
        axes.invert_yaxis()
        axes.grid(visible=False)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    figure.colorbar(image, ax=list(panels), label=ENTROPY, extend="max" if largest > scale else "neither")
    title_above(figure, f"{experiments[0].data}: entropy of every class")
    return figure


def entropy_profile(experiments: Sequence[Group]) -> Figure | str:
    """Draw the entropy of blocks of 1, 2, 4, ... pixels against the rest, at several epochs, mean over seeds."""
    profiles = {}
    for experiment in experiments:
        levels = max((run.profile_columns for run in experiment.runs), key=len)
        table = means_over_seeds(experiment, levels).dropna()
        if len(table):
            profiles[experiment] = table
    if not profiles:
        return "no run has numbers in the columns profile/level_0, ... (entropy of blocks of 2^level pixels)"
    figure, panels = panel_grid(list(profiles), height=2.4, sharey=True)
    labelled: list[int] = []
    for axes, table in zip(panels, profiles.values(), strict=True):
        epochs = spread(list(table.index), PROFILE_EPOCHS)
        for index, epoch in enumerate(epochs):
            label = "before training" if epoch < 0 else f"epoch {epoch}"
            axes.plot(
                2 ** np.arange(table.shape[1]),
                table.loc[epoch],
                color=ordered_colour(index, len(epochs)),
                marker=MARKERS[index],
                markersize=3.5,
                label=label,
            )
        axes.set_xscale("log", base=2)
        blocks = [2**level for level in range(table.shape[1])][:: 1 + table.shape[1] // 9]
        axes.set_xticks(blocks, [str(block) for block in blocks])
        axes.set_xlabel("pixels in the block")
        if epochs != labelled:
            axes.legend()
            labelled = epochs
    # Of all panels at once: they share it.
    panels[0].set_ylim(bottom=0)
    panels[0].set_ylabel(ENTROPY)
    title_above(figure, f"{experiments[0].data}: entropy of a block against the rest")
    return figure


def entropy_against_d(collection: Collection, choices: Choices) -> Figure | str:
    """Draw the last mean entropy against d: mean over seeds, bars of one standard deviation."""
    figure = Figure(figsize=(4.6, 3.6))
    axes = figure.subplots()
    handles = draw_with_error_bars(
        axes,
        collection,
        across=lambda experiment: experiment.d,
        up=lambda run: last(run.entropy_trend(choices.window)),
    )
    if not handles:
        return "no run has both d and the column ee/mean"
    axes.axhline(math.log(2), color="0.4", linewidth=0.8, linestyle=":", zorder=0)
    axes.annotate("log 2", (0.01, math.log(2)), xycoords=("axes fraction", "data"), va="bottom", color="0.35")
    axes.set(xlabel="channel multiplier d", ylabel="mean EE at the last epoch (nats)")
    axes.set_ylim(bottom=0)
    values = sorted({experiment.d for experiment in collection.groups if math.isfinite(as_number(experiment.d))})
    if len(values) <= MOST_TICKS:
        axes.set_xticks(values)
    legend_below(figure, handles)
    return figure


def accuracy_against_parameters(collection: Collection) -> Figure | str:
    """Draw the last test accuracy against the number of parameters: mean over seeds, bars of one standard deviation."""
    figure = Figure(figsize=(4.6, 3.6))
    axes = figure.subplots()
    handles = draw_with_error_bars(
        axes,
        collection,
        across=lambda experiment: experiment.runs[0].num_parameters,
        up=lambda run: last(run.column("accuracy/test")),
    )
    if not handles:
        return "no run has both a parameter count (summary.json) and the column accuracy/test"
    use_logarithm(axes, "x", EngFormatter(sep=""))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    axes.set(xlabel="trained parameters", ylabel="test accuracy, last epoch")
    legend_below(figure, handles)
    return figure


def draw_with_error_bars(
    axes: Axes, collection: Collection, across: Callable[[Group], Any], up: Callable[[Run], float]
) -> list[Line2D]:
    """Draw one point per experiment: a colour per data set, a marker per what else varies. Return the legend."""
    lines: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for experiment, kind in kinds_of(collection).items():
        x = across(experiment)
        mean, deviation = mean_and_deviation([up(run) for run in experiment.complete_runs])
        if isinstance(x, int | float) and math.isfinite(x) and math.isfinite(mean):
            lines.setdefault((experiment.data, kind), []).append((x, mean, deviation))
    kinds = unique(kind for _, kind in lines)
    for (data, kind), points in lines.items():
        x, mean, deviation = np.array(sorted(points)).T
        marker, style = appearance(kinds, kind)
        axes.errorbar(
            x,
            mean,
            np.nan_to_num(deviation),
            color=colour_of(data),
            marker=marker,
            markersize=4.5,
            linestyle=style,
            linewidth=0.9,
            capsize=2.5,
        )
    colours = [
        Line2D([], [], color=colour_of(data), linewidth=2.5, label=data) for data in unique(data for data, _ in lines)
    ]
    return [*colours, *kind_handles(kinds)]


def kinds_of(collection: Collection) -> dict[Group, str]:
    """Return what every experiment is besides its data set and its d, as far as there are others."""
    several = len({experiment.bipartition for experiment in collection.groups}) > 1
    return {
        experiment: caption(experiment.bipartition if several else "", without_d(experiment))
        for experiment in collection.groups
    }


def appearance(kinds: Sequence[str], kind: str) -> tuple[str, Any]:
    """Return the marker and the line style of a kind of experiment."""
    number = kinds.index(kind)
    return MARKERS[number % len(MARKERS)], "--" if number else "-"


def kind_handles(kinds: Sequence[str]) -> list[Line2D]:
    """Return what tells the kinds of experiments apart, for a legend; nothing if there is but one."""
    handles = []
    for kind in kinds if len(kinds) > 1 else ():
        marker, style = appearance(kinds, kind)
        handles.append(
            Line2D([], [], color="0.3", marker=marker, markersize=4.5, linestyle=style, linewidth=0.9, label=kind)
        )
    return handles


def title_above(figure: Figure, *parts: str) -> None:
    """Put a title over a figure."""
    figure.suptitle(wrapped(caption(*parts), figure.get_figwidth()), fontsize=9)


def wrapped(text: str, width: float) -> str:
    """Break a text into lines of at most this many inches, between words where possible; "$" stays a dollar sign."""
    return textwrap.fill(text, int(width / CHARACTER_WIDTH), break_on_hyphens=False).replace("$", r"\$")


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


def draw_band(axes: Axes, table: pd.DataFrame, colour: str, style: str) -> None:
    """Draw the mean of a table's columns, and a band of one standard deviation where several have a value."""
    mean = table.mean(axis=1).dropna()
    if mean.empty:
        return
    axes.plot(mean.index, mean, color=colour, linestyle=style, marker="o" if len(mean) < 3 else "", markersize=3)
    deviation = table.std(axis=1).reindex(mean.index)
    axes.fill_between(mean.index, mean - deviation, mean + deviation, color=colour, alpha=0.18, linewidth=0)


def means_over_seeds(experiment: Group, names: Sequence[str]) -> pd.DataFrame:
    """Return the mean over an experiment's runs of several metrics: a row per epoch, a column per metric."""
    return pd.DataFrame({name: experiment.table(name).mean(axis=1) for name in names})


def entropy_and_cost(run: Run, cost: str, choices: Choices) -> pd.DataFrame:
    """Return the entropy trend and a cost at every epoch of figure 3."""
    table = pd.DataFrame({"cost": run.column(f"cost/{cost}"), "entropy": run.entropy_trend(choices.window)}).dropna()
    return table[table.index >= run.first_epoch(choices.first_epoch)]


def typical_run(experiment: Group) -> Run:
    """Return the run with the median final test accuracy, the lower of two."""
    runs = sorted(experiment.complete_runs, key=lambda run: (last(run.column("accuracy/test")), str(run.seed)))
    return runs[(len(runs) - 1) // 2]


def panel_grid(experiments: Sequence[Group], height: float, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    """Return a figure with a panel per experiment, three in a row at most, and over each what sets it apart."""
    number = len(experiments)
    columns = min(3, number)
    rows = -(-number // columns)
    titles = [
        wrapped(caption(experiment.variant or experiment.data, experiment.bipartition), PANEL_WIDTH - 0.4)
        for experiment in experiments
    ]
    height += LINE_HEIGHT * max(title.count("\n") for title in titles)
    figure = Figure(figsize=(max(4.2, PANEL_WIDTH * columns), 0.5 + height * rows))
    panels = list(figure.subplots(rows, columns, squeeze=False, sharey=sharey).flat)
    for axes in panels[number:]:
        axes.remove()
    for axes, title in zip(panels[:number], titles, strict=True):
        axes.set_title(title, loc="left")
    return figure, panels[:number]


def label_data_sets(figure: Figure, experiments: Sequence[Group], more: Sequence[Line2D] = ()) -> None:
    """Put the data sets' colours, and what else there is to tell apart, under the figure."""
    handles = [Line2D([], [], color=colour_of(item.data), linewidth=2.5, label=item.data) for item in experiments]
    legend_below(figure, [*handles, *more])


def cut_off_at_ignorance(axes: Axes) -> None:
    """Show costs up to 1, what answering 0 for every class costs: before learning, some are astronomical."""
    if axes.get_ylim()[1] > 1:
        axes.set_ylim(0, 1)
        axes.annotate(
            "costs above 1 not shown", (0.98, 0.95), xycoords="axes fraction", ha="right", va="top", fontsize=7
        )


def use_logarithm_if_wide(axes: Axes, axis: str = "y") -> None:
    """Use a logarithmic axis if its values span more than a factor of twenty."""
    values = [np.asarray(getattr(line, f"get_{axis}data")(), dtype=float) for line in axes.lines]
    positive = np.concatenate([*values, np.ones(0)])
    positive = positive[positive > 0]
    if len(positive) and positive.max() > 20 * positive.min():
        use_logarithm(axes, axis, FormatStrFormatter("%g"))


def use_logarithm(axes: Axes, axis: str, numbers: Formatter) -> None:
    """Use a logarithmic axis, with numbers at 1, 2 and 5 of every decade unless there are many."""
    getattr(axes, f"set_{axis}scale")("log")
    low, high = getattr(axes, f"get_{axis}lim")()
    if high < FEW_DECADES * low:
        one = getattr(axes, f"{axis}axis")
        one.set_major_locator(LogLocator(subs=(1, 2, 5)))
        one.set_major_formatter(numbers)
        one.set_minor_locator(NullLocator())


def say_empty(axes: Axes, reason: str) -> None:
    """Write into an empty panel why it is empty."""
    axes.text(0.5, 0.5, reason, transform=axes.transAxes, ha="center", va="center", color="0.45")
    axes.set_xticks([])
    axes.set_yticks([])


def colour_of(data: str) -> str:
    """Return a data set's colour, the same in all figures."""
    return DATA_COLOURS.get(data) or OKABE_ITO[3 + sum(data.encode()) % 4]


def ordered_colour(index: int, number: int) -> Any:
    """Return a colour of an ordered scale, without its lightest end, which paper swallows."""
    return ORDERED(Normalize(0, max(1, number - 1))(index) * 0.88)


def without_d(experiment: Group) -> str:
    """Return an experiment's variant without d."""
    return ", ".join(part for part in experiment.variant.split(", ") if not part.startswith("d="))


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


def unique(items: Iterable[Any]) -> list[Any]:
    """Return the items in order, each once."""
    return list(dict.fromkeys(items))


def spread(items: Sequence[Any], number: int) -> list[Any]:
    """Return at most `number` items, evenly spread from the first to the last."""
    if len(items) <= number:
        return list(items)
    return [items[round(index)] for index in np.linspace(0, len(items) - 1, number)]
