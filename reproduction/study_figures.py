"""Figures that only the studies need: the entropy's weight in the cost, and the error rates of the classes."""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FormatStrFormatter, PercentFormatter

from qcnn_lightning.figure_style import MARKERS, OKABE_ITO, colour_of
from qcnn_lightning.labels import MEAN_ENTROPY, class_label, data_name, value_name
from qcnn_lightning.report.correlation import Estimate
from qcnn_lightning.report.figures import groups_with_panels
from qcnn_lightning.report.groups import Collection, Group, LeftOut, rank
from qcnn_lightning.report.layout import (
    PANEL_WIDTH,
    Choices,
    Planned,
    legend_below,
    panel_grid,
    seeds_of,
    title_above,
    unique,
    use_logarithm,
    which_seeds,
    wrapped,
)
from qcnn_lightning.report.tables import last, mean_and_deviation, possible_interval
from qcnn_lightning.runs.run import Run
from reproduction.density_study import ENTROPY_OF, KINDS, is_classifier, learned
from reproduction.embedding_study import COSTS, EMBEDDINGS, ORDERS, cells_table, scale_label, scales_table
from reproduction.relatives_study import FIRST_EPOCH, RELATIVES, SIZES, relative_of, size_of
from reproduction.studies import classes_at_the_end, entropy_and_error, mean_with_interval

WEIGHT = "entropy_weight"
EMBEDDED_BY = {"model.basis", "data.white"}
# Of names over their points, in inches.
NAME_HEIGHTS = (0.02, -0.12, 0.1, -0.2, 0.19, -0.29)


def planned_study_figures(collection: Collection, choices: Choices, left_out: list[LeftOut]) -> Planned:
    """Yield the title of every figure and the function that draws it."""
    for data in collection.data_sets:
        yield f"entropy_and_error_{data}", partial(entropy_and_error_of_classes, groups_with_panels(collection, data))
    if len({relative_of(run) for run in collection.runs} & set(RELATIVES)) > 2:
        for data in collection.data_sets:
            yield f"entropy_and_cost_{data}", partial(entropy_and_cost, collection, data)
    if len(EMBEDDED_BY & set(collection.varying_settings)) and "data.flatten" in collection.varying_settings:
        yield "accuracy_and_entropy", partial(accuracy_and_entropy, collection)
    if "entropy_of" in collection.varying_settings:
        yield "accuracy_and_scale", partial(accuracy_and_scale, collection)
    if WEIGHT in collection.varying_settings:
        yield f"against_{WEIGHT}", partial(against_weight, collection)
        if any("ee/mixture" in run.metrics for run in collection.runs):
            yield "likelihood_and_accuracy_against_entropy", partial(against_entropy, collection)


def entropy_and_error_of_classes(groups: Sequence[Group]) -> Figure | str:
    """Draw the entropy of every class against its error rate at the end: mean over seeds, bars of one deviation.

    Over each panel the mean of the runs' Spearman correlations over the classes.
    """
    found: dict[Group, list[pd.DataFrame]] = {}
    for group in groups:
        tables = [classes_at_the_end(run) for run in group.complete_runs]
        if tables := [table for table in tables if len(table) and table.notna().to_numpy().all()]:
            found[group] = tables
    if not found:
        return (
            "no run has numbers in the columns recall/class_0, recall/class_1, ... beside ee/class_0, ee/class_1, ..."
        )
    figure, panels = panel_grid(list(found), height=2.5)
    for axes, (group, tables) in zip(panels, found.items(), strict=True):
        points: dict[str, tuple[float, float]] = {}
        for label in tables[0].index:
            rows = pd.DataFrame([table.loc[label] for table in tables])
            (error, error_bar), (entropy, entropy_bar) = (
                mean_and_bar(list(scale * rows[of]), highest)
                for of, scale, highest in (("error", 100, 100.0), ("entropy", 1, np.inf))
            )
            axes.errorbar(
                error,
                entropy,
                xerr=error_bar,
                yerr=entropy_bar,
                color=colour_of(group.data),
                elinewidth=0.6,
                marker="o",
                markersize=3,
            )
            points[wrapped(class_label(label), PANEL_WIDTH)] = (error, entropy)
        axes.margins(x=0.15, y=0.12)
        name_points(axes, points)
        mean = mean_with_interval([entropy_and_error(run) for run in group.complete_runs])
        if np.isfinite(mean.value):
            axes.set_title(f"ρ = {mean.value:.2f}".replace("-", "−"), loc="right")
        axes.set(xlabel="error rate of the class (%)", ylabel="EE of the class (nats)")
    title = f"{data_name(groups[0].data)}: entropy and error rate of every class, last epoch"
    title_above(figure, title, seeds_of(found))
    return figure


def mean_and_bar(values: Sequence[float], highest: float = np.inf) -> tuple[float, np.ndarray]:
    """Return the mean, and a bar of one standard deviation that ends at what is possible, as matplotlib takes it."""
    mean, deviation = mean_and_deviation(values)
    low, high = possible_interval(mean, deviation, float(np.nanmin(values)), highest)
    return mean, np.array([[mean - low], [high - mean]])


def name_points(axes: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    """Write a name beside each point, where it covers least of other names and points.

    Args:
        axes: the panel, whose limits hold the points already.
        points: by name.
    """
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    # In inches, as far as they are known before the figure is laid out.
    size = np.array([PANEL_WIDTH - 0.6, 1.6])
    places = {
        name: size * (at - np.array([left, bottom])) / (right - left, top - bottom) for name, at in points.items()
    }
    taken = [(place - 0.03, place + 0.03) for place in places.values()]
    for name in sorted(places, key=lambda name: -places[name][1]):
        extent = np.array([0.055 * len(name), 0.1])

        def corner(
            move: tuple[str, float], place: np.ndarray = places[name], extent: np.ndarray = extent
        ) -> np.ndarray:
            side, up = move
            return place + np.array([0.045 if side == "left" else -0.045 - extent[0], up])

        def covered(move: tuple[str, float], extent: np.ndarray = extent) -> tuple[float, float]:
            low, high = corner(move), corner(move) + extent
            shared = (np.clip(np.minimum(high, other[1]) - np.maximum(low, other[0]), 0, None) for other in taken)
            beyond = np.clip(-low, 0, None) + np.clip(high - size, 0, None)
            return round(sum(float(each.prod()) for each in shared) + float(beyond.sum()), 4), abs(move[1])

        side, up = move = min(product(("left", "right"), NAME_HEIGHTS), key=covered)
        taken.append((corner(move), corner(move) + extent))
        offset = (3.2 if side == "left" else -3.2, 72 * up)
        axes.annotate(name, points[name], offset, textcoords="offset points", ha=side, fontsize=6.5)


def against_weight(collection: Collection) -> Figure | str:
    """Draw last test accuracy and entropy against the entropy's weight in the cost: mean over seeds, bars of one sd.

    A column per data set, a line per what else varies. The weights are at equal distances: they span decades, and zero.
    """
    weights = sorted({run.settings.get(WEIGHT) for run in collection.runs}, key=rank)
    kinds = unique(collection.describe_variant(run, without=WEIGHT) for run in collection.runs)
    columns = len(collection.data_sets)
    figure = Figure(figsize=(max(3.6, PANEL_WIDTH * 1.2 * columns), 4.4))
    panels = figure.subplots(2, columns, squeeze=False, sharex=True)
    for (above, below), data in zip(panels.T, collection.data_sets, strict=True):
        for number, kind in enumerate(kinds):
            of_kind = [
                group
                for group in collection.groups
                if group.data == data and collection.describe_variant(group.runs[0], without=WEIGHT) == kind
            ]
            of_kind.sort(key=lambda group: rank(group.runs[0].settings.get(WEIGHT)))
            places = [weights.index(group.runs[0].settings.get(WEIGHT)) for group in of_kind]
            for axes, metric, highest in ((above, "accuracy/test", 1.0), (below, "ee/mean", np.inf)):
                ends = [
                    mean_and_bar([last(run.column(metric)) for run in group.complete_runs], highest)
                    for group in of_kind
                ]
                axes.errorbar(
                    # Side by side where they would hide one another.
                    np.array(places) + 0.08 * (number - (len(kinds) - 1) / 2),
                    [mean for mean, _ in ends],
                    np.hstack([bar for _, bar in ends]),
                    color=OKABE_ITO[number % len(OKABE_ITO)],
                    marker=MARKERS[number % len(MARKERS)],
                    markersize=4,
                    linewidth=0.9,
                    capsize=2.5,
                )
        above.set_title(wrapped(data_name(data), PANEL_WIDTH), loc="left")
        above.set_ylabel("test accuracy")
        above.yaxis.set_major_formatter(PercentFormatter(1))
        below.set_ylabel(MEAN_ENTROPY)
        below.set_ylim(bottom=0)
        below.set_xlabel("weight of the entropy in the cost")
        below.set_xticks(range(len(weights)), [f"{weight:g}" for weight in weights])
    if len(kinds) > 1:
        legend_below(
            figure,
            [
                Line2D(
                    [], [], color=OKABE_ITO[number % len(OKABE_ITO)], marker=MARKERS[number % len(MARKERS)], label=kind
                )
                for number, kind in enumerate(kinds)
            ],
        )
    title_above(figure, seeds_of(collection.groups))
    return figure


def accuracy_and_entropy(collection: Collection) -> Figure | str:
    """Draw last test accuracy against mean entropy: a point per embedding (colour) and order (marker).

    Bars are 95% intervals over seeds.
    """
    cells = cells_table(collection)
    figure = Figure(figsize=(max(3.6, PANEL_WIDTH * 1.4 * len(collection.data_sets)), 3.0))
    panels = figure.subplots(1, len(collection.data_sets), squeeze=False)[0]
    colours = dict(zip(EMBEDDINGS, OKABE_ITO, strict=False))
    markers = dict(zip(ORDERS, MARKERS, strict=False))
    for axes, data in zip(panels, collection.data_sets, strict=True):
        for row in cells[cells["data"] == data].to_dict("records"):
            accuracy, entropy = row["accuracy"], row["ee"]
            axes.errorbar(
                entropy.value,
                accuracy.value,
                xerr=bar_of(entropy),
                yerr=bar_of(accuracy),
                color=colours[row["embedding"]],
                marker=markers[row["order"]],
                markersize=4,
                elinewidth=0.6,
            )
        axes.set_title(wrapped(data_name(data), PANEL_WIDTH), loc="left")
        axes.set(xlabel=MEAN_ENTROPY, ylabel="test accuracy")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    handles = [Line2D([], [], color=colours[name], marker="s", ls="", label=EMBEDDINGS[name]) for name in EMBEDDINGS]
    handles += [
        Line2D([], [], color="0.4", marker=markers[name], ls="", label=value_name("data.flatten", name))
        for name in ORDERS
    ]
    legend_below(figure, handles)
    title_above(figure, f"mean and 95% interval over {cells['seeds'].max()} seeds")
    return figure


def accuracy_and_scale(collection: Collection) -> Figure | str:
    """Draw what the entropy of each scale in the cost changes, against the scale: test accuracy above, that EE below.

    A column per data set, a marker per weight; differences to the same seeds without the term, bars are 95% intervals.
    """
    table = scales_table(collection)
    data_sets = list(dict.fromkeys(table["data"]))
    scales = list(dict.fromkeys(table["scale"]))
    weights = sorted(set(table["weight"]))
    figure = Figure(figsize=(max(3.6, PANEL_WIDTH * 1.4 * len(data_sets)), 4.4))
    panels = figure.subplots(2, len(data_sets), squeeze=False, sharex=True, sharey="row")
    for (above, below), data in zip(panels.T, data_sets, strict=True):
        for number, weight in enumerate(weights):
            rows = table[(table["data"] == data) & (table["weight"] == weight)]
            # Side by side where they would hide one another.
            places = rows["scale"].map(scales.index) + 0.16 * (number - (len(weights) - 1) / 2)
            for axes, name, unit in ((above, "accuracy difference", 100), (below, "ee difference", 1)):
                estimates = list(rows[name])
                axes.errorbar(
                    places,
                    [unit * estimate.value for estimate in estimates],
                    unit * np.hstack([bar_of(estimate) for estimate in estimates]),
                    color=OKABE_ITO[number],
                    marker=MARKERS[number],
                    markersize=4,
                    linewidth=0,
                    elinewidth=0.9,
                )
        for axes in (above, below):
            axes.axhline(0, color="0.7", linewidth=0.6, zorder=0)
        above.set_title(wrapped(data_name(data), PANEL_WIDTH), loc="left")
        above.set_ylabel("test accuracy (points)")
        below.set_ylabel("that EE (nats)")
        below.set_xlabel("the term's blocks (pixels)")
        below.set_xticks(range(len(scales)), [scale_label(scale) for scale in scales])
    handles = [
        Line2D(
            [], [], color=OKABE_ITO[number], marker=MARKERS[number], ls="", label=f"weight {weight:g}".replace("-", "−")
        )
        for number, weight in enumerate(weights)
    ]
    legend_below(figure, handles)
    title_above(
        figure,
        "Differences to the same seeds without the term",
        f"mean and 95% interval over {table['seeds'].max()} seeds",
    )
    return figure


def entropy_and_cost(collection: Collection, data: str) -> Figure | str:
    """Draw mean entropy against evaluated train cost over training: a panel per relative, a line per run.

    Colours are sizes; the last epoch has a marker.
    """
    runs: dict[str, list[Run]] = {name: [] for name in RELATIVES}
    for run in collection.runs:
        if run.data == data and (name := relative_of(run)):
            runs[name].append(run)
    runs = {name: own for name, own in runs.items() if own}
    columns = min(4, len(runs))
    rows = -(-len(runs) // columns)
    figure = Figure(figsize=(2.1 * columns, 0.8 + 1.9 * rows))
    panels = list(figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat)
    for axes in panels[len(runs) :]:
        axes.remove()
    colours = dict(zip(SIZES, OKABE_ITO, strict=False))
    for axes, (name, own) in zip(panels, runs.items(), strict=False):
        for run in own:
            path = run.metrics.loc[FIRST_EPOCH:, [COSTS["train"], "ee/mean"]].dropna()
            costs, entropies = path.to_numpy(dtype=float).T
            axes.plot(costs, entropies, color=colours[size_of(run)], linewidth=0.9)
            axes.plot(costs[-1:], entropies[-1:], color=colours[size_of(run)], marker="o", markersize=3)
        axes.set_title(wrapped(RELATIVES[name], 1.7), loc="left")
    for axes in panels[: len(runs)]:
        use_logarithm(axes, "x", FormatStrFormatter("%g"))
        axes.set(xlabel="train cost, evaluated", ylabel=MEAN_ENTROPY)
        axes.label_outer()
    drawn = {size_of(run) for own in runs.values() for run in own}
    sizes = [size for size in SIZES if size in drawn]
    legend_below(figure, [Line2D([], [], color=colours[size], label=f"{size} parameters") for size in sizes])
    title_above(figure, data_name(data), "a line per run, its last epoch marked", which_seeds(collection.runs))
    return figure


def bar_of(estimate: Estimate) -> np.ndarray:
    """Return the two lengths of an interval's bar, as matplotlib takes them; none without an interval."""
    return np.nan_to_num([[estimate.value - estimate.low], [estimate.high - estimate.value]])


def against_entropy(collection: Collection) -> Figure | str:
    """Draw last test accuracy and -log p(x) against the entropy that a weight in the cost has forced on the states.

    A row per data set, a series for densities and one for classifiers: mean over seeds, bars of one standard deviation,
    each point with its weight. Only what was learned is drawn: no likelihood of a classifier, no accuracy of a density
    without labels.
    """
    figure = Figure(figsize=(2.4 * PANEL_WIDTH, 2.6 * len(collection.data_sets)))
    panels = figure.subplots(len(collection.data_sets), 2, squeeze=False)
    for (left, right), data in zip(panels, collection.data_sets, strict=True):
        for number, classifies in enumerate(KINDS.values()):
            groups = [
                group
                for group in collection.groups
                if group.data == data and is_classifier(group.runs[0]) == classifies
            ]
            groups.sort(key=lambda group: rank(group.runs[0].settings.get(WEIGHT)))
            for axes, metric, highest in ((left, "accuracy/test", 1.0), (right, "nats/test", np.inf)):
                for group in learned(groups, metric):
                    runs = group.complete_runs
                    entropy, entropy_bar = mean_and_bar([last(run.column(ENTROPY_OF[metric])) for run in runs])
                    value, bar = mean_and_bar([last(run.column(metric)) for run in runs], highest)
                    axes.errorbar(
                        entropy,
                        value,
                        xerr=entropy_bar,
                        yerr=bar,
                        color=OKABE_ITO[number],
                        marker=MARKERS[number],
                        markersize=4,
                        elinewidth=0.7,
                    )
                    axes.annotate(
                        f"{float(group.runs[0].settings.get(WEIGHT, 0)):g}".replace("-", "−"),
                        (entropy, value),
                        (3, 3),
                        textcoords="offset points",
                        fontsize=6,
                        color=OKABE_ITO[number],
                    )
        left.set_title(wrapped(data_name(data), PANEL_WIDTH), loc="left")
        left.set_ylabel("test accuracy")
        left.yaxis.set_major_formatter(PercentFormatter(1))
        right.set_ylabel("−log p(x), test (nats)")
        left.set_xlabel("mean EE of the classes (nats)")
        right.set_xlabel("EE of the mixture (nats)")
        for axes in (left, right):
            axes.margins(0.1)
    legend_below(
        figure,
        [
            Line2D([], [], color=OKABE_ITO[number], marker=MARKERS[number], linestyle="", label=kind)
            for number, kind in enumerate(KINDS)
        ],
    )
    title_above(figure, "Beside each point: the weight of the entropy in the cost", seeds_of(collection.groups))
    return figure
