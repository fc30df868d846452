"""The report: one page that people look at, figures for print, and the numbers as CSV files.

The page holds everything it shows, the plotting library included, and asks no network for anything: its own content
security policy forbids it. What it does is in `page.js`; here its data are put together.
"""

import json
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
from matplotlib.colors import to_hex

from qcnn_lightning.errors import InputError
from qcnn_lightning.files import inside, replace_atomically
from qcnn_lightning.report.comparison_figures import planned_comparisons
from qcnn_lightning.report.figures import (
    FORMATS,
    OKABE_ITO,
    Choices,
    colour_of,
    draw_all,
    ordered_colour,
    planned_figures,
)
from qcnn_lightning.report.groups import Collection, LeftOut, describe_first_epoch, read_collection, setting_label
from qcnn_lightning.report.tables import accuracy_table, correlation_table, last, run_table
from qcnn_lightning.runs.find import describe, find_runs
from qcnn_lightning.runs.run import MARKS_OF_A_RUN, Run

PAGE = "report.html"
FIGURES = "figures"
TABLES = ("accuracies.csv", "correlations.csv", "runs.csv")
MOST_FILTER_VALUES = 12
REFRESH_S = 5.0
SIGNIFICANT_DIGITS = 6
FIRST_FILTERS = ("data.name", "model.d", "seed", "data.flatten")
FILTER_LABELS = {"data.name": "data set", "model.d": "d", "seed": "seed", "data.flatten": "pixel order"}


@dataclass(frozen=True)
class ReportSettings:
    """What the report leaves to choose; the defaults are in `conf/report.yaml`.

    Attributes:
        first_epoch: first epoch of figure 3 and of the correlations; by each run's length if None.
        window: epochs over which entropy trends are averaged.
        confidence: of the intervals.
        resamples: bootstrap samples behind an interval.
        formats: of the figures for print; none are drawn if empty.
        only: names of the figures to draw; all if None.

    Raises:
        InputError: a value that cannot be used.
    """

    first_epoch: int | None
    window: int
    confidence: float
    resamples: int
    formats: tuple[str, ...]
    only: frozenset[str] | None = None

    def __post_init__(self) -> None:
        for name in ("window", "resamples"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise InputError(f"{name}={value}: must be a positive whole number")
        if not isinstance(self.first_epoch, int | None):
            raise InputError(
                f"first_epoch={self.first_epoch}: must be a whole number, or null to go by the run's length"
            )
        if not 0 < self.confidence < 1:
            raise InputError(f"confidence={self.confidence}: must be between 0 and 1")
        if unknown := sorted(set(self.formats) - set(FORMATS)):
            raise InputError(f"figures={unknown}: choose from {', '.join(FORMATS)}")


@dataclass(frozen=True)
class WrittenReport:
    """What a report consists of.

    Attributes:
        page: the page.
        num_runs: how many runs are in it.
        figures: names of the figures for print.
        left_out: what is not in it and why.
    """

    page: Path
    num_runs: int
    figures: tuple[str, ...]
    left_out: tuple[LeftOut, ...]


def default_folder(paths: Sequence[Path]) -> Path:
    """Return where the report goes if nobody says: `report/` in the folder that holds all the runs.

    Raises:
        InputError: that is a link out of the folder.
    """
    return inside(Path(os.path.commonpath([path.absolute() for path in paths])), "report")


def write_report(
    paths: Sequence[Path], out: Path, settings: ReportSettings, reload_every_s: float | None = None
) -> WrittenReport:
    """Read runs and write the page, the tables and the figures.

    Args:
        paths: runs, sweeps, or folders of sweeps.
        out: folder of the report; made if need be.
        settings: windows, intervals, formats.
        reload_every_s: the page reloads itself this often; never if None.

    Raises:
        InputError: no runs were found; or a file cannot be written, or is a link out of the folder.
    """
    for name in (PAGE, *TABLES, FIGURES, *(f"{FIGURES}/{path.name}" for path in (out / FIGURES).glob("*"))):
        inside(out, name)
    collection = read_collection(paths)
    accuracies = accuracy_table(collection, settings.window)
    correlations, uncorrelated = correlation_table(
        collection, settings.first_epoch, settings.resamples, settings.confidence
    )
    runs = run_table(collection, settings.window)
    out.mkdir(parents=True, exist_ok=True)
    for name, table in zip(TABLES, (accuracies, correlations, runs), strict=True):
        replace_atomically(out / name, table.to_csv(index=False, float_format=f"%.{SIGNIFICANT_DIGITS}g"))
    figures: list[str] = []
    left_out = [*collection.left_out, *unequal_lengths(collection), *uncorrelated]
    if settings.formats:
        choices = Choices(settings.window, settings.first_epoch)
        plans = (planned_figures, planned_comparisons)
        figures, undrawn = draw_all(collection, out / FIGURES, choices, settings.formats, plans, settings.only)
        left_out += undrawn
    contents = page_contents(collection, accuracies, correlations, runs, settings, out) | {
        "title": f"q-CNN report: {describe([path.resolve().name for path in paths])}",
        "left_out": [{"what": item.what, "why": item.why} for item in left_out],
        "files": file_links(figures, settings.formats),
    }
    replace_atomically(out / PAGE, render_page(contents, reload_every_s))
    return WrittenReport(out / PAGE, len(collection.runs), tuple(figures), tuple(left_out))


def watch(
    paths: Sequence[Path],
    out: Path,
    settings: ReportSettings,
    tell: Callable[[WrittenReport], None],
    every_s: float = REFRESH_S,
) -> None:
    """Write the report again whenever a run has written something, until interrupted.

    Figures for print are drawn once, at the start: the training processes need the time more.

    Args:
        paths: runs, sweeps, or folders of sweeps.
        out: folder of the report.
        settings: windows, intervals, formats.
        tell: called with every report that was written.
        every_s: seconds between two looks at the runs' files.
    """
    seen = None
    while True:
        if (state := state_of_files(paths)) != seen:
            seen = state
            tell(write_report(paths, out, settings, reload_every_s=every_s))
            settings = ReportSettings(**{**vars(settings), "formats": ()})
        time.sleep(every_s)


def state_of_files(paths: Sequence[Path]) -> list[tuple[str, int, int]]:
    """Return the name, the time of the last change (ns) and the size (bytes) of every file that runs are read from."""
    found = [run.folder / mark for run in find_runs(paths) for mark in MARKS_OF_A_RUN]
    states = [(str(path), path.stat()) for path in found if path.is_file()]
    return sorted((name, state.st_mtime_ns, state.st_size) for name, state in states)


def unequal_lengths(collection: Collection) -> list[LeftOut]:
    """Name the runs that ended before others of their experiment: means over seeds at the last epoch leave them out."""
    return [
        LeftOut(
            run.name,
            f"{run.last_epoch + 1} epochs, others of its experiment have more: "
            "not in the means over seeds at the last epoch",
        )
        for experiment in collection.groups
        for run in experiment.runs
        if run not in experiment.complete_runs
    ]


def page_contents(
    collection: Collection,
    accuracies: pd.DataFrame,
    correlations: pd.DataFrame,
    runs: pd.DataFrame,
    settings: ReportSettings,
    out: Path,
) -> dict[str, Any]:
    """Put together what `page.js` draws."""
    experiment_of = {run: index for index, item in enumerate(collection.groups) for run in item.runs}
    filters = filters_of(collection)
    own = correlations[(correlations["scope"] == "run") & (correlations["of"] == "values")]
    spearman = own[own["measure"] == "spearman"].set_index(["run", "cost"])
    colours = [entry["key"] for entry in filters if len(entry["values"]) > 1]
    described = [
        {
            "name": run.name,
            "label": f"{run.data}, d = {run.d}, seed {run.seed}, {run.flatten}, {run.status}",
            "command": run.command,
            "link": link_to(run.folder, out) + "/",
            "data": run.data,
            "bipartition": run.bipartition,
            "experiment": experiment_of[run],
            "filters": {entry["key"]: setting_of(run, entry["key"]) for entry in filters},
            "epoch": run.metrics.index.tolist(),
            "columns": page_columns(run, settings.window),
            "against": {
                cost: comparable_epochs(run, cost, settings.first_epoch).tolist() for cost in ("train", "test")
            },
            "classes": run.class_names,
            "levels": len(run.profile_columns),
            "d": finite(run.d),
            "parameters": finite(run.num_parameters),
            "accuracy": finite(last(run.column("accuracy/test"))),
            "best": finite(run.column("accuracy/test").max()),
            "entropy": finite(last(run.entropy_trend(settings.window))),
            "correlation": finite(spearman["correlation"].get((run.name, "train"))),
        }
        for run in collection.runs
    ]
    statuses = runs["status"].value_counts()
    since = describe_first_epoch(collection.runs, settings.first_epoch)
    level = f"{settings.confidence:.0%}"
    return {
        "subtitle": ", ".join(
            [
                f"{len(runs)} runs",
                *(f"{number} {status}" for status, number in statuses.items()),
                f"data: {', '.join(collection.data_sets)}",
            ]
        ),
        "notes": {
            "trend-note": f"Mean over classes, averaged over {settings.window} epochs, in nats. "
            "Epoch -1 is the network before training.",
            "cost-note": f"{since.capitalize()}: every run is an island.",
            "accuracies-note": "Mean ± standard deviation over seeds. The best accuracy is chosen on the test images, "
            "as in the paper, and so is slightly optimistic.",
            "correlations-note": f"{since.capitalize()}, with {level} intervals from resampling whole "
            "runs. Two series that both drift are correlated even if neither knows of the other: "
            "“changes” correlates their changes from epoch to epoch.",
            "runs-note": f"ρ: Spearman correlation of EE and cost {since}, with its "
            f"{level} interval from resampling blocks of epochs. Point at a run for its command.",
        },
        "since": since,
        "filters": filters,
        "colour": colours[0] if colours else "data.name",
        "runs": described,
        "accuracies": accuracy_rows(accuracies),
        "correlations": correlation_rows(correlations[correlations["scope"] != "run"]),
        "table": run_rows(collection, runs, spearman, filters, out),
    }


def filters_of(collection: Collection) -> list[dict[str, Any]]:
    """Return what runs can be chosen by: data set, d, seed, pixel order, and whatever else varies."""
    keys = [*FIRST_FILTERS, *(key for key in collection.varying_settings if key not in FIRST_FILTERS)]
    filters = []
    for key in keys:
        values = {setting_of(run, key) for run in collection.runs}
        if key in FIRST_FILTERS or len(values) <= MOST_FILTER_VALUES:
            label = FILTER_LABELS.get(key) or setting_label(key)
            ordered = sorted(values, key=natural_order)
            filters.append({"key": key, "label": label, "values": ordered, "colours": colours_of(key, ordered)})
    return filters


def colours_of(key: str, values: Sequence[str]) -> list[str]:
    """Return the colours of a setting's values, those of the figures for print."""
    if key == "data.name":
        return [colour_of(value) for value in values]
    if key == "model.d":
        return [to_hex(ordered_colour(index, len(values))) for index in range(len(values))]
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


def page_columns(run: Run, window: int) -> dict[str, list[float | None]]:
    """Return the metrics the page draws, a value or None per epoch."""
    names = ["accuracy/train", "accuracy/test", "cost/train", "cost/test", *run.class_columns, *run.profile_columns]
    columns = {name: values_of(run.metrics[name]) for name in names if name in run.metrics}
    if len(trend := run.entropy_trend(window)):
        columns["trend"] = values_of(trend.reindex(run.metrics.index))
    return columns


def comparable_epochs(run: Run, cost: str, first_epoch: int | None) -> np.ndarray:
    """Return the rows, from the run's first epoch on, that have both the entropy and the cost."""
    both = run.metrics.reindex(columns=["ee/mean", f"cost/{cost}"]).notna().all(axis=1)
    return np.flatnonzero(both & (run.metrics.index >= run.first_epoch(first_epoch)))


def accuracy_rows(accuracies: pd.DataFrame) -> dict[str, Any]:
    """Return the table of accuracies over seeds."""
    measured = {
        "accuracy/test best": ("best test accuracy", 100.0, 2, "%"),
        "accuracy/test final": ("last test accuracy", 100.0, 2, "%"),
        "accuracy/test selected": ("at the best held-out accuracy", 100.0, 2, "%"),
        "accuracy/train final": ("last train accuracy", 100.0, 2, "%"),
        "cost/test final": ("last test cost", 1.0, 4, ""),
        "ee/mean final": ("last mean EE (nats)", 1.0, 3, ""),
    }
    measured = {name: shown for name, shown in measured.items() if accuracies[f"{name}, mean"].notna().any()}
    columns = [
        *text_columns(data="data set", variant="variant", bipartition="bipartition"),
        *number_columns(num_parameters="parameters", epochs="epochs", seeds="seeds"),
        *({"key": name, "label": label, "format": "text"} for name, (label, *_) in measured.items()),
    ]
    rows = []
    for index, row in enumerate(accuracies.to_dict("records")):
        shown: dict[str, Any] = {name: row[name] for name in ("data", "variant", "bipartition")}
        shown |= {name: finite(row[name]) for name in ("num_parameters", "epochs", "seeds")}
        shown |= {
            name: {
                "value": finite(row[f"{name}, mean"]),
                "text": with_deviation(row[f"{name}, mean"], row[f"{name}, sd"], scale, digits) + unit,
            }
            for name, (_, scale, digits, unit) in measured.items()
        }
        rows.append(shown | {"experiment": index})
    return {"columns": columns, "rows": rows}


def correlation_rows(correlations: pd.DataFrame) -> dict[str, Any]:
    """Return the table of correlations over runs, Spearman's and Pearson's side by side."""
    columns = [
        *text_columns(data="data set", scope="correlation", cost="cost", of="of"),
        *({"key": measure, "label": measure.capitalize(), "format": "text"} for measure in ("spearman", "pearson")),
        *number_columns(runs="runs", epochs="points"),
    ]
    rows: dict[tuple, dict[str, Any]] = {}
    for row in correlations.to_dict("records"):
        key = tuple(row[name] for name in ("data", "scope", "cost", "of"))
        shown = rows.setdefault(key, {name: row[name] for name in ("data", "scope", "cost", "of", "runs", "epochs")})
        shown[row["measure"]] = interval_cell(row)
    order = ["mean over runs", "all epochs of all runs", "last epochs of all runs"]
    return {"columns": columns, "rows": sorted(rows.values(), key=lambda row: (row["data"], order.index(row["scope"])))}


def run_rows(
    collection: Collection,
    runs: pd.DataFrame,
    spearman: pd.DataFrame,
    filters: Iterable[Mapping[str, Any]],
    out: Path,
) -> dict[str, Any]:
    """Return the table of runs, whose names lead to their folders."""
    shown = {
        "accuracy/test best": ("best test accuracy", "percent"),
        "accuracy/test final": ("last", "percent"),
        "cost/train final": ("train cost", "fixed4"),
        "cost/test final": ("test cost", "fixed4"),
        "ee/mean final": ("mean EE (nats)", "fixed4"),
    }
    varying = [entry for entry in filters if len(entry["values"]) > 1]
    columns = [
        {"key": "run", "label": "run", "format": "text", "long": True},
        {"key": "status", "label": "status", "format": "text"},
        *({"key": entry["key"], "label": entry["label"], "format": "text"} for entry in varying),
        *number_columns(epochs="epochs"),
        *({"key": key, "label": label, "format": form} for key, (label, form) in shown.items()),
        *({"key": f"rho {cost}", "label": f"ρ, {cost} cost", "format": "text"} for cost in ("train", "test")),
        {"key": "seconds", "label": "seconds", "format": "seconds"},
        {"key": "command", "label": "command", "format": "text", "long": "code"},
    ]
    correlations = spearman.to_dict("index")
    rows = []
    for index, (run, row) in enumerate(zip(collection.runs, runs.to_dict("records"), strict=True)):
        cells: dict[str, Any] = {"index": index}
        cells["run"] = {"value": run.name, "link": link_to(run.folder, out) + "/", "title": run.command}
        cells["command"] = {"value": run.command, "title": run.command}
        cells |= {entry["key"]: setting_of(run, entry["key"]) for entry in varying}
        cells |= {f"rho {cost}": interval_cell(correlations.get((run.name, cost), {})) for cost in ("train", "test")}
        cells |= {key: finite(row[key]) for key in (*shown, "epochs", "seconds")} | {"status": row["status"]}
        rows.append(cells)
    return {"columns": columns, "rows": rows}


def text_columns(**labels: str) -> list[dict[str, str]]:
    """Return columns of text by key and label."""
    return [{"key": key, "label": label, "format": "text"} for key, label in labels.items()]


def number_columns(**labels: str) -> list[dict[str, str]]:
    """Return columns of whole numbers by key and label."""
    return [{"key": key, "label": label, "format": "integer"} for key, label in labels.items()]


def interval_cell(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Return a correlation with its interval as a cell of a table."""
    value, low, high = (finite(row.get(key)) for key in ("correlation", "low", "high"))
    text = "–" if value is None else f"{value:+.2f}"
    if low is not None and high is not None:
        text += f" [{low:+.2f}, {high:+.2f}]"
    return {"value": value, "text": text.replace("-", "−")}


def with_deviation(mean: float, deviation: float, scale: float, digits: int) -> str:
    """Return "mean ± deviation", or the mean alone if there is but one value."""
    if not math.isfinite(mean):
        return "–"
    spread = f" ± {scale * deviation:.{digits}f}" if math.isfinite(deviation) else ""
    return f"{scale * mean:.{digits}f}{spread}"


def file_links(figures: Sequence[str], formats: Sequence[str]) -> list[dict[str, Any]]:
    """Return the links to the tables and figures, relative to the page."""
    links = [{"name": name.removesuffix(".csv"), "links": [{"text": "csv", "link": name}]} for name in TABLES]
    return links + [
        {"name": name, "links": [{"text": form, "link": quote(f"{FIGURES}/{name}.{form}")} for form in formats]}
        for name in figures
    ]


def link_to(folder: Path, out: Path) -> str:
    """Return the link from the page to a folder."""
    return quote(os.path.relpath(folder, out.resolve()))


def finite(value: Any) -> float | None:
    """Return a finite number, None for everything else."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None


def values_of(column: pd.Series) -> list[float | None]:
    """Return a column as JSON can hold it, with no more digits than anybody can see."""
    return [float(f"{value:.{SIGNIFICANT_DIGITS}g}") if math.isfinite(value) else None for value in column]


def render_page(contents: Mapping[str, Any], reload_every_s: float | None = None) -> str:
    """Fill the page's template with its data, style and scripts."""
    from plotly.offline import get_plotlyjs

    source = files("qcnn_lightning.report")
    # "<" is the one character by which data could end the script they stand in.
    data = json.dumps(contents, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    parts = {
        "title": re.sub(r"[<>&]", "", contents["title"]),
        "refresh": f'<meta http-equiv="refresh" content="{reload_every_s:g}">' if reload_every_s else "",
        "style": source.joinpath("page.css").read_text(),
        "plotly": get_plotlyjs(),
        "report": data,
        "script": source.joinpath("page.js").read_text(),
    }
    template = source.joinpath("page.html").read_text()
    return re.sub(r"\{\{ (\w+) \}\}", lambda match: parts[match[1]], template)
