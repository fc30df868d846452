"""The charts of the page: the panels of `panels`, drawn with marks, in cards."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from html import escape
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from qcnn_lightning.figure_style import OKABE_ITO, styled
from qcnn_lightning.labels import caption, data_name
from qcnn_lightning.report.figures import COSTS, groups_with_panels
from qcnn_lightning.report.groups import Collection, Group, describe_first_epoch
from qcnn_lightning.report.layout import CHARACTER_WIDTH, Choices, panel_title, seeds_of, unique, which_seeds
from qcnn_lightning.report.panels import (
    against_cost_panel,
    against_d_panel,
    against_parameters_panel,
    class_entropies,
    class_panel,
    largest_learned,
    profile,
    profile_panel,
    training_panel,
    trend_panel,
)
from qcnn_lightning.report.svg import PAGE_STYLE, Chart, chart_of
from qcnn_lightning.runs.run import Run

# In inches.
WIDE, SMALL = (4.2, 2.7), (3.3, 2.3)
ISLAND = {"color": OKABE_ITO[0], "marker": "o"}
NO_NUMBERS = "No run that is shown has these numbers."


@dataclass(frozen=True)
class Card:
    """A part of the page with charts.

    Attributes:
        title: its heading.
        note: what the charts show.
        kind: of style: "curves" where runs or means over seeds are shown, "islands", "size", "small".
        charts: drawn, each with the mark of the only group that it shows, or "".
        without: what is said if there is no chart at all.
    """

    title: str
    note: str
    kind: str
    charts: list[tuple[str, Chart]]
    without: str = NO_NUMBERS


def cards_of(collection: Collection, choices: Choices) -> Iterator[Card]:
    """Yield the charts of the page, drawn, part by part."""
    groups = collection.groups
    marks: dict[Run | Group, str] = {run: f"r{index}" for index, run in enumerate(collection.runs)}
    marks |= {group: f"e{index}" for index, group in enumerate(groups)}
    over_seeds = f"{seeds_of(groups)}, within what is possible"
    yield Card(
        "Accuracy and cost",
        f"Solid: test. Dashed: train. Each run, or {over_seeds}. A click on a curve opens its run's folder.",
        "curves",
        charts(partial(training_panel, groups=groups, quantity=each, marks=marks) for each in ("accuracy", "cost")),
    )

    def trend(axes: Axes, half: str) -> None:
        trend_panel(axes, [group for group in groups if group.bipartition == half], choices, half, marks)

    def islands(axes: Axes, cost: str) -> None:
        against_cost_panel(axes, collection.runs, cost, choices, lambda run: ISLAND, marks)

    yield Card(
        "Entanglement entropy over the epochs",
        f"Mean over classes, averaged over {choices.window} epochs; each run, or "
        f"{over_seeds}. Epoch −1 is the network before training.",
        "curves",
        charts(partial(trend, half=half) for half in unique(group.bipartition for group in groups)),
    )
    yield Card(
        "Entanglement entropy against cost",
        f"{describe_first_epoch(collection.runs, choices.first_epoch).capitalize()}: every run is an island, "
        f"{which_seeds(collection.runs)}.",
        "islands",
        charts(partial(islands, cost=cost) for cost in COSTS),
    )
    yield Card(
        "Entropy of every class",
        f"For every group of seeds; {seeds_of(groups, 'mean')}.",
        "small",
        list(class_charts(collection, marks)),
        "No run has the columns ee/class_0, ee/class_1, ...",
    )
    shown = [group for data in collection.data_sets for group in groups_with_panels(collection, data)]
    profiles = {group: table for group in shown if (table := profile(group)).size}
    yield Card(
        "Entropy profile",
        f"A block of pixels against the rest, from one pixel to half the image; {seeds_of(groups, 'mean')}, mean over "
        "classes.",
        "small",
        [
            (marks[group], small_chart(partial(profile_with_legend, table=table), group))
            for group, table in profiles.items()
        ],
        "No run has the columns profile/level_0, profile/level_1, ...",
    )
    yield Card(
        "Size",
        f"Every run at its last epoch; bars: {over_seeds}.",
        "size",
        charts(
            (
                partial(against_d_panel, collection=collection, choices=choices, marks=marks),
                partial(against_parameters_panel, collection=collection, marks=marks),
            )
        ),
    )


def charts(panels: Iterable[Callable[[Axes], Any]]) -> list[tuple[str, Chart]]:
    """Return the charts of panels of all runs; without those in which nothing is drawn."""
    drawn = [("", chart(draw, WIDE)) for draw in panels]
    return [(mark, one) for mark, one in drawn if one.marks]


def class_charts(collection: Collection, marks: Mapping[Run | Group, str]) -> Iterator[tuple[str, Chart]]:
    """Yield the heat maps of the classes' entropies, with a scale of colours for every data set."""
    for data in collection.data_sets:
        groups = groups_with_panels(collection, data)
        maps = {group: table for group in groups if (table := class_entropies(group)).size}
        scale = largest_learned(maps.values()) if maps else 0.0
        for group, table in maps.items():

            def draw(axes: Axes, group: Group = group, table: pd.DataFrame = table, scale: float = scale) -> None:
                image = class_panel(axes, group, table, scale)
                longest = max(len(label.get_text()) for label in axes.get_yticklabels())
                set_margins(axes, left=0.42 + 0.85 * CHARACTER_WIDTH * longest, right=0.8, top=0.3)
                axes.figure.colorbar(image, ax=axes, label="EE (nats)", pad=0.04, fraction=0.06)

            yield marks[group], small_chart(draw, group)


def profile_with_legend(axes: Axes, table: pd.DataFrame) -> None:
    """Draw an entropy profile with its legend."""
    profile_panel(axes, table)
    axes.legend(fontsize=7)
    set_margins(axes, left=0.62, top=0.3)


def small_chart(draw: Callable[[Axes], Any], group: Group) -> Chart:
    """Return a chart of one group, with its name above."""
    return chart(draw, SMALL, caption(data_name(group.data) if group.variant else "", panel_title(group)))


def chart(draw: Callable[[Axes], Any], size: tuple[float, float], title: str = "") -> Chart:
    """Return a chart of one panel, of a size in inches."""
    with styled(PAGE_STYLE):
        # Margins that fit are known, and laying out would take as long as all else.
        figure = Figure(figsize=size)
        axes = figure.subplots()
        set_margins(axes)
        draw(axes)
        if title:
            axes.set_title(title, loc="left")
        return chart_of(figure)


def set_margins(axes: Axes, left: float = 0.72, right: float = 0.1, top: float = 0.1, bottom: float = 0.45) -> None:
    """Set the margins around the only panel of a figure, in inches."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    width, height = figure.get_size_inches()
    figure.subplots_adjust(left / width, bottom / height, 1 - right / width, 1 - top / height)


def lay_out(cards: Iterator[Card], collection: Collection) -> tuple[str, dict[str, str], dict[str, list[int]]]:
    """Put the cards together.

    Returns:
        Their HTML, with an empty place for every chart; the charts, by the marks of their places; and of every group
        and every place the runs that it shows.
    """
    place_of = {run: index for index, run in enumerate(collection.runs)}
    sets = {f"e{i}": [place_of[run] for run in group.runs] for i, group in enumerate(collection.groups)}
    texts: dict[str, str] = {}
    parts = []
    for card in cards:
        places = []
        for group, one in card.charts:
            name = f"c{len(texts)}"
            texts[name] = one.svg
            place = f'<div class="plot {group or name}" data-chart="{name}"></div>'
            if not group:
                sets[name] = sorted(int(mark[1:]) for mark in one.marks if mark.startswith("r"))
                place = f'<div class="cell">{place}<p class="reason">{NO_NUMBERS}</p></div>'
            places.append(place)
        legend = "" if card.kind == "small" else '<p class="legend"></p>'
        inside = f'{legend}<div class="plots">{"".join(places)}</div>'
        if not places:
            inside = f'<p class="empty">{escape(card.without)}</p>'
        head = f'<h2>{escape(card.title)}</h2><p class="note">{escape(card.note)}</p>'
        parts.append(f'<section class="card {card.kind}">{head}{inside}</section>')
    return "\n".join(parts), texts, sets
