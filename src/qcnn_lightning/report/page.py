"""The page that people look at: the charts of `panels`, tables, and filters over both. One file that asks no network.

Everything it shows is drawn here. `page.js` chooses what is shown: charts and rows of tables carry the mark of their
run ("r3"), group of seeds ("e1") or data set ("d0"), and one style sheet hides and colours marks. What comes from runs
(names, settings, commands) is escaped text wherever it stands.
"""

import base64
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd

from qcnn_lightning.figure_style import OKABE_ITO, colour_of, ordered_colour
from qcnn_lightning.labels import caption, data_name, setting, setting_name, value_name
from qcnn_lightning.report.groups import Collection, Group, LeftOut, describe_first_epoch
from qcnn_lightning.report.layout import Choices
from qcnn_lightning.report.page_charts import cards_of, lay_out
from qcnn_lightning.report.page_tables import accuracies_html, correlations_html, finite, link_to, runs_html
from qcnn_lightning.runs.run import Run

MOST_FILTER_VALUES = 12
FIRST_FILTERS = ("data.name", "model.d", "seed", "data.flatten")


@dataclass(frozen=True)
class Filter:
    """A setting by which runs are chosen and coloured.

    Attributes:
        key: of the configuration.
        label: for people.
        values: all there are, in order.
        names: of the values, for people, beside the label.
        phrases: of the values, for people, by themselves: "d = 18".
        colours: of the values, those of the figures for print.
    """

    key: str
    label: str
    values: list[str]
    names: list[str]
    phrases: list[str]
    colours: list[str]


def filters_of(collection: Collection) -> list[Filter]:
    """Return what runs can be chosen by: data set, d, seed, pixel order, and whatever else varies."""
    keys = [*FIRST_FILTERS, *(key for key in collection.varying_settings if key not in FIRST_FILTERS)]
    filters = []
    for key in keys:
        values = sorted({setting_of(run, key) for run in collection.runs}, key=natural_order)
        if key in FIRST_FILTERS or len(values) <= MOST_FILTER_VALUES:
            # As they were before they became text.
            given = {setting_of(run, key): raw_setting(run, key) for run in collection.runs}
            names = ["unknown" if given[value] is None else value_name(key, given[value]) for value in values]
            phrases = [setting(key, given[value]) for value in values]
            filters.append(Filter(key, setting_name(key), values, names, phrases, colours_of(key, values)))
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
    value = raw_setting(run, key)
    return "unknown" if value is None else str(value)


def raw_setting(run: Run, key: str) -> Any:
    """Return a setting as the run has it; None if it has none."""
    special = {"data.name": run.data, "seed": run.seed, "data.flatten": run.flatten}
    return special.get(key, run.settings.get(key))


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


@dataclass(frozen=True)
class Tables:
    """The numbers of the page, as the CSV files have them: over seeds, correlations, and a row per run."""

    accuracies: pd.DataFrame
    correlations: pd.DataFrame
    runs: pd.DataFrame


def page(
    collection: Collection,
    tables: Tables,
    choices: Choices,
    confidence: float,
    title: str,
    out: Path,
    left_out: Sequence[LeftOut],
    links: Mapping[str, Mapping[str, str]],
    reload_every_s: float | None = None,
) -> str:
    """Return the page as HTML.

    Args:
        collection: the runs.
        tables: their numbers.
        choices: windows and first epochs.
        confidence: of the tables' intervals.
        title: of the page.
        out: the folder that it is written to.
        left_out: what is not in it, and why.
        links: to files, by what they show and their format.
        reload_every_s: the page reloads itself this often; never if None.
    """
    filters = filters_of(collection)
    own = tables.correlations[(tables.correlations["scope"] == "run") & (tables.correlations["of"] == "values")]
    own = own[own["measure"] == "spearman"]
    spearman = {(str(row["run"]), str(row["cost"])): dict(row) for row in own.to_dict("records")}
    cards, charts, sets = lay_out(cards_of(collection, choices), collection)
    colours = [index for index, entry in enumerate(filters) if len(entry.values) > 1]
    data_marks = {data: f"d{index}" for index, data in enumerate(collection.data_sets)}
    for data, mark in data_marks.items():
        sets[mark] = [index for index, run in enumerate(collection.runs) if run.data == data]
    report = {
        "runs": [described(run, name, filters, spearman, out) for run, name in collection.run_names.items()],
        "filters": [asdict(entry) for entry in filters],
        "colour": colours[0] if colours else 0,
        "groups": {f"e{index}": group_label(group) for index, group in enumerate(collection.groups)},
        "sets": sets,
        "charts": charts,
    }
    source = files("qcnn_lightning.report")
    script = source.joinpath("page.js").read_text(encoding="utf-8")
    since = describe_first_epoch(collection.runs, choices.first_epoch)
    varying = {
        entry.label: [entry.names[entry.values.index(setting_of(run, entry.key))] for run in collection.runs]
        for entry in filters
        if len(entry.values) > 1
    }
    statuses = tables.runs["status"].value_counts()
    parts = {
        "title": escape(title),
        "subtitle": escape(
            ", ".join(
                [
                    f"{len(collection.runs)} runs",
                    *(f"{count} {status}" for status, count in statuses.items()),
                    f"data: {', '.join(map(data_name, collection.data_sets))}",
                ]
            )
        ),
        "refresh": f'<meta http-equiv="refresh" content="{reload_every_s:g}">' if reload_every_s else "",
        "style": source.joinpath("page.css").read_text(encoding="utf-8"),
        "filters": filters_html(filters, several_seeds=len(collection.runs) > len(collection.groups)),
        "cards": cards,
        "accuracies": accuracies_html(tables.accuracies, [f"e{i}" for i in range(len(collection.groups))]),
        "correlations": correlations_html(tables.correlations, data_marks),
        "correlations_note": f"{since.capitalize()}, with {confidence:.0%} intervals from resampling whole runs. Two "
        "unrelated series that both drift are correlated: “changes” correlates their changes from epoch to epoch.",
        "runs": runs_html(collection, tables.runs, spearman, varying, out),
        "runs_note": f"ρ: Spearman correlation of EE and cost {since}, with its {confidence:.0%} interval from "
        "resampling blocks of epochs.",
        "lists": lists_html(left_out, links),
        # "<" is the one character by which data could end the script they stand in.
        "report": json.dumps(report, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
        "script": script,
        "script_hash": f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
    }
    template = source.joinpath("page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{ (\w+) \}\}", lambda match: parts[match[1]], template)


def described(
    run: Run,
    name: str,
    filters: Sequence[Filter],
    spearman: Mapping[tuple[str, str], Mapping[Any, Any]],
    out: Path,
) -> dict[str, Any]:
    """Return what the page's script knows of a run, which has a name for people."""
    return {
        "name": run.name,
        "label": caption(name, run.status),
        "command": run.command,
        "link": link_to(run.folder, out),
        "data": data_name(run.data),
        "settings": [entry.values.index(setting_of(run, entry.key)) for entry in filters],
        "best": finite(run.column("accuracy/test").max()),
        "correlation": finite(spearman.get((run.name, "train"), {}).get("correlation")),
    }


def group_label(group: Group) -> str:
    """Name a group and its seeds."""
    seeds = ", ".join(str(run.seed) for run in group.runs)
    return caption(data_name(group.data), group.variant, group.bipartition, f"mean of seeds {seeds}")


def lists_html(left_out: Sequence[LeftOut], links: Mapping[str, Mapping[str, str]]) -> str:
    """Return what is not in the page and why, and the links to files."""
    parts = []
    if left_out:
        items = "".join(f"<li><b>{escape(item.what)}</b>: {escape(item.why)}</li>" for item in left_out)
        parts.append(f'<section class="card" id="left-out"><h2>Left out</h2><ul>{items}</ul></section>')
    items = ""
    for name, forms in links.items():
        anchors = "".join(f'<a href="{escape(link)}">{form}</a>' for form, link in forms.items())
        items += f"<li>{escape(name)}{anchors}</li>"
    note = '<p class="note">The tables, and the figures for print.</p>'
    parts.append(f'<section class="card" id="files"><h2>Files</h2>{note}<ul>{items}</ul></section>')
    return "\n".join(parts)
