"""A figure that compares the variants of an experiment."""

from collections.abc import Callable, Iterator
from functools import partial

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from qcnn_lightning.report.figures import (
    MEAN_ENTROPY,
    OKABE_ITO,
    PANEL_WIDTH,
    Choices,
    cut_off_at_ignorance,
    draw_band,
    legend_below,
    say_empty,
    unique,
    wrapped,
)
from qcnn_lightning.report.groups import Collection, Group, LeftOut, caption

MOST_CURVES = len(OKABE_ITO)


def planned_comparisons(
    collection: Collection, choices: Choices, left_out: list[LeftOut]
) -> Iterator[tuple[str, Callable[[], Figure | str]]]:
    """Yield the title of every figure and the function that draws it."""
    if any(len(variants_of(collection, data)) > 1 for data in collection.data_sets):
        yield "variants", partial(compare_variants, collection, choices)


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
        for name, experiment in variants_of(collection, data).items():
            colour = OKABE_ITO[names.index(name)]
            for part, style in (("train", "--"), ("test", "-")):
                draw_band(above, experiment.table(f"cost/{part}"), colour, style)
            draw_band(below, experiment.entropy_trends(choices.window), colour, "-")
        above.set_title(wrapped(data, PANEL_WIDTH), loc="left")
        for axes, title in ((above, "cost"), (below, MEAN_ENTROPY)):
            axes.set_ylabel(title)
            if not axes.lines:
                say_empty(axes, f"no {title}")
        # Where the variants differ, not where all of them begin.
        ends = [line.get_ydata()[-1] for line in above.lines]
        above.set_ylim(0, min(1.0, 2.5 * max(ends, default=1.0)))
        cut_off_at_ignorance(above)
        below.set_ylim(bottom=0)
        below.set_xlabel("epoch")
        below.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles = [Line2D([], [], color=OKABE_ITO[number], linewidth=2.5, label=name) for number, name in enumerate(names)]
    styles = [Line2D([], [], color="0.3", label="test"), Line2D([], [], color="0.3", linestyle="--", label="train")]
    legend_below(figure, [*handles, *styles])
    return figure


def variants_of(collection: Collection, data: str) -> dict[str, Group]:
    """Return the experiments of a data set by what sets them apart."""
    experiments = [experiment for experiment in collection.groups if experiment.data == data]
    several = len({experiment.bipartition for experiment in collection.groups}) > 1
    return {
        caption(experiment.variant, experiment.bipartition if several else "") or "all runs": experiment
        for experiment in experiments
    }
