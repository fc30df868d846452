"""What the page's runs can be chosen and coloured by."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from qcnn_lightning.figure_style import OKABE_ITO, colour_of, data_name, ordered_colour
from qcnn_lightning.report.groups import Collection, setting_label
from qcnn_lightning.runs.run import Run

MOST_FILTER_VALUES = 12
FIRST_FILTERS = ("data.name", "model.d", "seed", "data.flatten")
FILTER_LABELS = {"data.name": "data set", "model.d": "d", "seed": "seed", "data.flatten": "pixel order"}


@dataclass(frozen=True)
class Filter:
    """A setting by which runs are chosen and coloured.

    Attributes:
        key: of the configuration.
        label: for people.
        values: all there are, in order.
        names: of the values, for people.
        colours: of the values, those of the figures for print.
    """

    key: str
    label: str
    values: list[str]
    names: list[str]
    colours: list[str]


def filters_of(collection: Collection) -> list[Filter]:
    """Return what runs can be chosen by: data set, d, seed, pixel order, and whatever else varies."""
    keys = [*FIRST_FILTERS, *(key for key in collection.varying_settings if key not in FIRST_FILTERS)]
    filters = []
    for key in keys:
        values = sorted({setting_of(run, key) for run in collection.runs}, key=natural_order)
        if key in FIRST_FILTERS or len(values) <= MOST_FILTER_VALUES:
            names = [data_name(value) if key == "data.name" else value for value in values]
            label = FILTER_LABELS.get(key) or setting_label(key)
            filters.append(Filter(key, label, values, names, colours_of(key, values)))
    return filters


def colours_of(key: str, values: Sequence[str]) -> list[str]:
    """Return the colours of a setting's values, those of the figures for print."""
    if key == "data.name":
        return [colour_of(value) for value in values]
    if key == "model.d":
        return [ordered_colour(index, len(values)) for index in range(len(values))]
    return [OKABE_ITO[index % len(OKABE_ITO)] for index in range(len(values))]


def setting_of(run: Run, key: str) -> str:
    """Return a setting as the filters name it."""
    special = {"data.name": run.data, "seed": run.seed, "data.flatten": run.flatten}
    value = special.get(key, run.settings.get(key))
    return "unknown" if value is None else str(value)


def natural_order(text: str) -> tuple[float, str]:
    """Sort numbers by value and before words."""
    try:
        return float(text), ""
    except ValueError:
        return math.inf, text


def filters_html(filters: Sequence[Filter], several_seeds: bool) -> str:
    """Return the buttons by which runs are chosen, the settings that can colour them, and runs or means over seeds."""
    varying = {index: entry for index, entry in enumerate(filters) if len(entry.values) > 1}
    parts = [
        buttons(entry.label, str(index), {"all": "all"} | {str(i): name for i, name in enumerate(entry.names)})
        for index, entry in varying.items()
    ]
    if len(varying) > 1:
        parts.append(buttons("colour", "colour", {str(index): entry.label for index, entry in varying.items()}))
    if several_seeds:
        parts.append(buttons("curves", "curves", {"runs": "each run", "means": "mean ± sd"}))
    return "".join(parts)


def buttons(label: str, name: str, values: Mapping[str, str]) -> str:
    """Return buttons with one label."""
    inside = "".join(
        f'<button type="button" data-filter="{name}" data-value="{value}">{escape(text)}</button>'
        for value, text in values.items()
    )
    return f"<fieldset><legend>{escape(label)}</legend>{inside}</fieldset>"
