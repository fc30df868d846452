"""The figures for print: the paper's figures 2 and 3, and ours.

Every figure is a function from runs to a matplotlib figure or, where nothing can be drawn, to the reason why.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from qcnn_lightning.figure_style import MARKERS, OKABE_ITO, colour_of, ordered_colour
from qcnn_lightning.labels import ENTROPY, MEAN_ENTROPY, caption, data_name, setting
from qcnn_lightning.report.groups import Collection, Group, LeftOut, describe_first_epoch, rank
from qcnn_lightning.report.layout import (
    PANEL_WIDTH,
    Choices,
    Planned,
    cut_off_beginnings,
    data_handles,
    ends_of,
    leave_outliers_out,
    legend_below,
    over_epochs,
    panel_grid,
    part_handles,
    seeds_of,
    spread,
    title_above,
    unique,
    which_seeds,
    wrapped,
)
from qcnn_lightning.report.panels import (
    against_cost_panel,
    against_d_panel,
    against_parameters_panel,
    appearance,
    class_entropies,
    class_panel,
    draw_group,
    entropy_and_cost,
    kinds_of,
    largest_learned,
    profile,
    profile_panel,
    training_panel,
    trend_panel,
)
from qcnn_lightning.report.tables import last
from qcnn_lightning.runs.run import Run

MOST_VARIANTS = 6
MOST_PANELS = 12
MOST_CURVES = len(OKABE_ITO)
BIPARTITIONS = ("left/right", "up/down")
COSTS = ("train", "test")
NATS = "nats/test"


def planned_figures(collection: Collection, choices: Choices, left_out: list[LeftOut]) -> Planned:
    """Yield the title of every figure and the function that draws it."""
    variants = unique(group.variant for group in collection.groups)
    if len(variants) > MOST_VARIANTS:
        shown = spread(variants, MOST_VARIANTS)
        why = f"drawn for {MOST_VARIANTS} of {len(variants)} variants; report the others by themselves"
        left_out += [LeftOut(f"figures 2 and 3(a) of {variant}", why) for variant in variants if variant not in shown]
        variants = shown
    for variant in variants:
        chosen = [group for group in collection.groups if group.variant == variant]
        yield "_".join(filter(None, ("figure_2", variant))), partial(figure_2, chosen, choices)
        yield "_".join(filter(None, ("figure_3a", variant))), partial(figure_3a, chosen, choices)
    yield "figure_3b", partial(figure_3b, collection, choices)
    if any(NATS in run.metrics for run in collection.runs):
        yield "entropy_against_likelihood", partial(entropy_against_likelihood, collection)
    for data in collection.data_sets:
        groups = groups_with_panels(collection, data)
        yield f"entropy_per_class_{data}", partial(entropy_per_class, groups)
        yield f"entropy_profile_{data}", partial(entropy_profile, groups)
    left_out += without_panels(collection)
    yield "entropy_against_d", partial(entropy_against_d, collection, choices)
    yield "accuracy_against_parameters", partial(accuracy_against_parameters, collection)
    if any(len(variants_of(collection, data)) > 1 for data in collection.data_sets):
        yield "variants", partial(compare_variants, collection, choices)


def groups_with_panels(collection: Collection, data: str) -> list[Group]:
    """Return the groups of a data set that have a panel each, of classes and of block sizes: twelve at most."""
    return spread([group for group in collection.groups if group.data == data], MOST_PANELS)


def without_panels(collection: Collection) -> Iterator[LeftOut]:
    """Name the groups that have no panel of classes and block sizes, for want of room."""
    shown = {group for data in collection.data_sets for group in groups_with_panels(collection, data)}
    for group in collection.groups:
        if group not in shown:
            what = caption(f"per class and per block size: {group.data}", group.variant, group.bipartition)
            yield LeftOut(what, f"{MOST_PANELS} panels fit; report the others by themselves")


def figure_2(groups: Sequence[Group], choices: Choices) -> Figure | str:
    """Draw figure 2: accuracy (a), cost (b), and the entropy trends left/right (c) and up/down (d), over the epochs.

    Mean over seeds, and a band of one standard deviation. (a) and (b) show the runs of (c), or else those of (d).
    A panel of which no run has numbers is not there.
    """
    training = [
        next(group for group in groups if group.data == data and group.bipartition == bipartition)
        for data in unique(group.data for group in groups)
        for bipartition in sorted({group.bipartition for group in groups if group.data == data})[:1]
    ]
    drawn: list[Callable[[Axes], None]] = [
        partial(training_panel, groups=training, quantity=quantity)
        for quantity in ("accuracy", "cost")
        if have(training, f"{quantity}/train", f"{quantity}/test")
    ]
    for half in BIPARTITIONS:
        of_half = [group for group in groups if group.bipartition == half]
        if have(of_half, "ee/mean"):
            drawn.append(partial(trend_panel, groups=of_half, choices=choices, half=half))
    if not drawn:
        return "no run has accuracies, costs or entropies"
    rows = 2 if len(drawn) == 4 else 1
    columns = len(drawn) // rows
    figure = Figure(figsize=(max(4.2, 7.2 if rows == 2 else 2.4 * columns), 5.2 if rows == 2 else 2.9))
    for axes, draw, letter in zip(figure.subplots(rows, columns, squeeze=False).flat, drawn, "abcd", strict=False):
        draw(axes)
        axes.set_title(f"({letter})", loc="left", fontweight="bold")
    legend_below(figure, [*data_handles(group.data for group in training), *part_handles()])
    title_above(figure, groups[0].variant, seeds_of(groups))
    return figure


def have(groups: Iterable[Group], *columns: str) -> bool:
    """Return whether a run of these groups has a number in one of these columns."""
    return any(len(run.column(name)) for group in groups for run in group.runs for name in columns)


def figure_3a(groups: Sequence[Group], choices: Choices) -> Figure | str:
    """Draw figure 3(a): the entropy trend against train and test cost, for the typical run of every data set.

    Typical is the run with the median test accuracy among its seeds. The points darken with the epochs.
    """
    figure = Figure(figsize=(7.2, 3.3))
    panels = figure.subplots(1, 2, sharey=True)
    shown = [
        min((group for group in groups if group.data == data), key=lambda group: group.bipartition)
        for data in unique(group.data for group in groups)
    ]
    runs = [typical_run(group) for group in shown]
    since = describe_first_epoch(runs, choices.first_epoch)
    for axes, cost in zip(panels, COSTS, strict=True):
        for run in runs:
            points = entropy_and_cost(run, cost, choices)
            colour = colour_of(run.data)
            axes.plot(points["cost"], points["entropy"], color=colour, linewidth=0.7, alpha=0.5)
            if len(points):
                fading = np.linspace(0.25, 1, len(points))
                axes.scatter(points["cost"], points["entropy"], color=colour, alpha=fading, s=10, linewidths=0)
        axes.set_xlabel(f"{cost} cost")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
        leave_outliers_out(axes)
    panels[0].set_ylabel(MEAN_ENTROPY)
    if not any(len(line.get_xdata()) for axes in panels for line in axes.lines):
        return f"no run has entropies and costs {since} (first_epoch)"
    legend_below(figure, data_handles(group.data for group in shown))
    title_above(figure, groups[0].variant, since, seeds_of(shown, "the median run"))
    return figure


def typical_run(group: Group) -> Run:
    """Return the run with the median final test accuracy, the lower of two."""
    runs = sorted(group.complete_runs, key=lambda run: (last(run.column("accuracy/test")), str(run.seed)))
    return runs[(len(runs) - 1) // 2]


def figure_3b(collection: Collection, choices: Choices) -> Figure | str:
    """Draw figure 3(b): the entropy trend against train and test cost of all runs, islands over d and seeds.

    A colour per d and a marker per what else varies; where only one of them does, it has both.
    """
    since = describe_first_epoch(collection.runs, choices.first_epoch)
    runs = [run for run in collection.runs if any(len(entropy_and_cost(run, cost, choices)) for cost in COSTS)]
    if not runs:
        return f"no run has entropies and costs {since} (first_epoch)"
    kind_of = {run: kind for group, kind in kinds_of(collection).items() for run in group.runs}
    kinds, values = unique(kind_of[run] for run in runs), sorted({run.d for run in runs}, key=rank)
    data_sets = unique(run.data for run in runs)

    def look(value: Any, kind: str) -> dict[str, Any]:
        if len(values) == 1 and len(kinds) > 1:
            colour = OKABE_ITO[kinds.index(kind) % len(OKABE_ITO)]
        else:
            colour = ordered_colour(values.index(value), len(values))
        number = kinds.index(kind) if len(kinds) > 1 else values.index(value)
        return {"color": colour, "marker": MARKERS[number % len(MARKERS)]}

    figure = Figure(figsize=(7.2, 0.6 + 2.6 * len(data_sets)))
    grid = figure.subplots(len(data_sets), 2, squeeze=False, sharey="row")
    for row, data in zip(grid, data_sets, strict=True):
        for axes, cost in zip(row, COSTS, strict=True):
            of_data = [run for run in runs if run.data == data]
            against_cost_panel(axes, of_data, cost, choices, lambda run: look(run.d, kind_of[run]))
            axes.set_title(wrapped(data_name(data), PANEL_WIDTH), loc="left")
            if not axes.lines:
                axes.remove()
        row[1].set_ylabel("")
    handles = []
    if len(values) > 1 or len(kinds) == 1:
        named = {value: setting("model.d", value) if value is not None else "d unknown" for value in values}
        handles += [Line2D([], [], **look(value, kinds[0]), linestyle="", label=named[value]) for value in values]
    if len(kinds) > 1:
        several = {"color": "0.3"} if len(values) > 1 else {}
        handles += [
            Line2D([], [], **look(values[0], kind) | several, linestyle="", markersize=4.5, label=kind)
            for kind in kinds
        ]
    legend_below(figure, handles)
    title_above(figure, f"{len(runs)} runs", which_seeds(runs), describe_first_epoch(runs, choices.first_epoch))
    return figure


def entropy_against_likelihood(collection: Collection) -> Figure | str:
    """Draw entropies of densities against -log p(x) of the test images, a line per run and a mark at its last epoch.

    On the left the mean of the classes' states, on the right the mixture p(x). The epoch before training is left out.
    """
    runs = [run for run in collection.runs if run.column(NATS).loc[0:].notna().any()]
    if not runs:
        return f"no run has numbers in the column {NATS}"
    data_sets = unique(run.data for run in runs)
    kind_of = {run: kind for group, kind in kinds_of(collection).items() for run in group.runs}
    kinds = unique(kind_of[run] for run in runs)
    figure = Figure(figsize=(7.2, 0.6 + 2.6 * len(data_sets)))
    grid = figure.subplots(len(data_sets), 2, squeeze=False)
    for row, data in zip(grid, data_sets, strict=True):
        labelled = {"ee/mean": MEAN_ENTROPY, "ee/mixture": "entropy of the mixture (nats)"}
        for axes, (column, label) in zip(row, labelled.items(), strict=True):
            for run in (run for run in runs if run.data == data):
                place = kinds.index(kind_of[run])
                colour, marker = OKABE_ITO[place % len(OKABE_ITO)], MARKERS[place % len(MARKERS)]
                table = pd.DataFrame({"nats": run.column(NATS), "entropy": run.column(column)}).dropna().loc[0:]
                axes.plot(table["nats"], table["entropy"], color=colour, linewidth=0.8)
                last_epoch = table.iloc[-1:]
                axes.plot(last_epoch["nats"], last_epoch["entropy"], color=colour, marker=marker, markersize=4)
            axes.set(xlabel="−log p(x) of a test image (nats)", ylabel=label)
        row[0].set_title(wrapped(data_name(data), PANEL_WIDTH), loc="left")
    if len(kinds) > 1:
        legend_below(
            figure,
            [
                Line2D(
                    [], [], color=OKABE_ITO[place % len(OKABE_ITO)], marker=MARKERS[place % len(MARKERS)], label=kind
                )
                for place, kind in enumerate(kinds)
            ],
        )
    title_above(figure, f"{len(runs)} runs", which_seeds(runs))
    return figure


def entropy_per_class(groups: Sequence[Group]) -> Figure | str:
    """Draw the entropy of every class over the epochs as a heat map per group, mean over seeds."""
    maps = {group: table for group in groups if (table := class_entropies(group)).size}
    if not maps:
        return "no run has numbers in the columns ee/class_0, ee/class_1, ..."
    figure, panels = panel_grid(list(maps), height=2.2)
    scale = largest_learned(maps.values())
    images = [class_panel(axes, group, table, scale) for axes, (group, table) in zip(panels, maps.items(), strict=True)]
    beyond = any(np.nanmax(table.to_numpy()) > scale for table in maps.values())
    figure.colorbar(images[0], ax=panels, label=ENTROPY, extend="max" if beyond else "neither")
    title_above(figure, f"{data_name(groups[0].data)}: entropy of every class", seeds_of(maps, "mean"))
    return figure


def entropy_profile(groups: Sequence[Group]) -> Figure | str:
    """Draw the entropy of blocks of 1, 2, 4, ... pixels against the rest, at several epochs, mean over seeds."""
    profiles = {group: table for group in groups if (table := profile(group)).size}
    if not profiles:
        return "no run has numbers in the columns profile/level_0, ... (entropy of blocks of 2^level pixels)"
    figure, panels = panel_grid(list(profiles), height=2.4, sharey=True)
    labelled: list[str] = []
    highest = max(float(np.nanmax(table.to_numpy())) for table in profiles.values())
    for axes, table in zip(panels, profiles.values(), strict=True):
        if (names := profile_panel(axes, table)) != labelled:
            axes.legend()
            labelled = names
        axes.set_ylabel("")
    # Of all panels at once: they share it.
    panels[0].set_ylim(0, 1.05 * highest if highest > 0 else 1.0)
    panels[0].set_ylabel(ENTROPY)
    title = f"{data_name(groups[0].data)}: entropy of a block of pixels with the rest"
    title_above(figure, title, seeds_of(profiles, "mean"))
    return figure


def entropy_against_d(collection: Collection, choices: Choices) -> Figure | str:
    """Draw the last mean entropy against d: mean over seeds, bars of one standard deviation."""
    figure = Figure(figsize=(4.6, 3.6))
    drawn = against_d_panel(figure.subplots(), collection, choices)
    return with_legend(figure, collection, drawn) if drawn else "no run has both d and the column ee/mean"


def accuracy_against_parameters(collection: Collection) -> Figure | str:
    """Draw the last test accuracy against the number of parameters: mean over seeds, bars of one standard deviation."""
    figure = Figure(figsize=(4.6, 3.6))
    drawn = against_parameters_panel(figure.subplots(), collection)
    if not drawn:
        return "no run has both a parameter count (summary.json) and the column accuracy/test"
    return with_legend(figure, collection, drawn)


def with_legend(figure: Figure, collection: Collection, drawn: Sequence[tuple[str, str]]) -> Figure:
    """Return a figure with error bars with its title, and the legend of its data sets and kinds of groups."""
    kinds = unique(kinds_of(collection).values())
    handles = data_handles(data for data, _ in drawn)
    shown = unique(kind for _, kind in drawn)
    for kind in shown if len(shown) > 1 else ():
        marker, style = appearance(kinds, kind)
        look: dict[str, Any] = {
            "color": "0.3",
            "marker": marker,
            "markersize": 4.5,
            "linestyle": style,
            "linewidth": 0.9,
        }
        handles.append(Line2D([], [], **look, label=kind))
    legend_below(figure, handles)
    title_above(figure, seeds_of(collection.groups))
    return figure


def compare_variants(collection: Collection, choices: Choices) -> Figure | str:
    """Draw cost and entropy trend over the epochs, a column per data set and a colour per variant, mean over seeds.

    Bands of one standard deviation; train cost dashed, test cost solid.
    """
    names = unique(name for data in collection.data_sets for name in variants_of(collection, data))
    if len(names) > MOST_CURVES:
        return f"{len(names)} variants: more than {MOST_CURVES} cannot be told apart; report some by themselves"
    columns = len(collection.data_sets)
    figure = Figure(figsize=(max(4.2, 3.6 * columns), 5.2))
    panels = figure.subplots(2, columns, squeeze=False, sharex="col")
    for (above, below), data in zip(panels.T, collection.data_sets, strict=True):
        for name, group in variants_of(collection, data).items():
            colour = OKABE_ITO[names.index(name)]
            for part, style in (("train", "--"), ("test", "-")):
                draw_group(above, group, group.table(f"cost/{part}"), colour, style)
            draw_group(below, group, group.entropy_trends(choices.window), colour, "-")
        above.set_title(wrapped(data_name(data), PANEL_WIDTH), loc="left")
        for axes, title in ((above, "cost"), (below, MEAN_ENTROPY)):
            over_epochs(axes, title)
        above.set_xlabel("")
        # Where the variants differ, not where all of them begin.
        largest = max(ends_of(above), default=1.0)
        if largest <= 1:
            above.set_ylim(0, min(1.0, 2.5 * largest))
        else:
            above.set_ylim(top=1.5 * largest)
        cut_off_beginnings(above)
        below.set_ylim(bottom=0)
        for axes in (above, below):
            if not axes.lines:
                axes.remove()
    handles = [Line2D([], [], color=OKABE_ITO[number], linewidth=2.5, label=name) for number, name in enumerate(names)]
    legend_below(figure, [*handles, *part_handles()])
    title_above(figure, seeds_of(collection.groups))
    return figure


def variants_of(collection: Collection, data: str) -> dict[str, Group]:
    """Return the groups of a data set by what sets them apart."""
    several = len({group.bipartition for group in collection.groups}) > 1
    return {
        caption(group.variant, group.bipartition if several else "") or "all runs": group
        for group in collection.groups
        if group.data == data
    }
