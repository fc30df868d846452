"""The tables of the page, as HTML. Every text goes through `escape`: it may be somebody else's."""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from qcnn_lightning.labels import data_name
from qcnn_lightning.report.groups import Collection

SCOPES = ("mean over runs", "all epochs of all runs", "last epochs of all runs")
PERCENT = (100.0, 2, "%")


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: what it shows.
        sort: what its column sorts by; the text if None.
        link: where it leads.
        kind: of style: "text", "long", "code", or a run's status.
        more: what is said when one points at it; the text where that may be cut.
    """

    text: str
    sort: float | None = None
    link: str = ""
    kind: str = ""
    more: str = ""

    def html(self) -> str:
        """Return the cell as HTML."""
        shown = escape(self.text)
        if self.link:
            shown = f'<a href="{escape(self.link)}">{shown}</a>'
        sort = "" if self.sort is None else f' data-sort="{self.sort:.9g}"'
        told = self.more or (self.text if "long" in self.kind else "")
        title = f' title="{escape(told)}"' if told else ""
        return f'<td class="{escape(self.kind)}"{sort}{title}>{shown}</td>'


Row = tuple[str, list[Cell]]
"""The mark by which the page shows or hides a row, and its cells."""


def table(identifier: str, titles: Sequence[str], rows: Iterable[Row]) -> str:
    """Return a table as HTML; the page's script sorts it by the column whose title is clicked."""
    rows = list(rows)
    kinds = [cell.kind.split(" ")[0] for cell in rows[0][1]] if rows else [""] * len(titles)
    head = "".join(
        f'<th class="{kind}"><button type="button">{escape(title)}</button></th>'
        for title, kind in zip(titles, kinds, strict=True)
    )
    body = "".join(f'<tr class="{mark}">{"".join(cell.html() for cell in cells)}</tr>\n' for mark, cells in rows)
    return f'<table id="{identifier}"><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table>'


def accuracies_html(accuracies: pd.DataFrame, marks: Sequence[str]) -> str:
    """Return the table of accuracies over seeds: a row per group, with these marks."""
    measured = {
        "accuracy/test best": ("best test accuracy", *PERCENT),
        "accuracy/test final": ("last test accuracy", *PERCENT),
        "accuracy/test selected": ("at the best held-out accuracy", *PERCENT),
        "accuracy/train final": ("last train accuracy", *PERCENT),
        "cost/test final": ("last test cost", 1.0, 4, ""),
        "ee/mean final": ("last mean EE (nats)", 1.0, 3, ""),
    }
    measured = {name: shown for name, shown in measured.items() if accuracies[f"{name}, mean"].notna().any()}
    titles = ["data set", "variant", "bipartition", "parameters", "epochs", "seeds"]
    rows = []
    for mark, row in zip(marks, accuracies.to_dict("records"), strict=True):
        cells = [text(data_name(row["data"])), text(row["variant"]), text(row["bipartition"])]
        cells += [number(row[name], ",.0f") for name in ("num_parameters", "epochs", "seeds")]
        for name, (_, scale, digits, unit) in measured.items():
            mean, deviation = row[f"{name}, mean"], row[f"{name}, sd"]
            cells.append(Cell(with_deviation(mean, deviation, scale, digits) + unit, finite(mean)))
        rows.append((mark, cells))
    return table("accuracies", [*titles, *(title for title, *_ in measured.values())], rows)


def correlations_html(correlations: pd.DataFrame, marks: Mapping[str, str]) -> str:
    """Return the table of correlations over runs, Spearman's and Pearson's side by side.

    Args:
        correlations: of all scopes; those of single runs are not shown.
        marks: of the data sets.
    """
    found: dict[tuple, dict[Any, Any]] = {}
    for row in correlations.to_dict("records"):
        if row["scope"] in SCOPES:
            key = tuple(row[name] for name in ("data", "scope", "cost", "of"))
            found.setdefault(key, dict(row))[row["measure"]] = interval(row)
    rows = [
        (
            marks[data],
            [
                *map(text, (data_name(data), scope, cost, of)),
                *(row.get(measure, text("–")) for measure in ("spearman", "pearson")),
                *(number(row[name], ",.0f") for name in ("runs", "epochs")),
            ],
        )
        for (data, scope, cost, of), row in sorted(
            found.items(), key=lambda item: (item[0][0], SCOPES.index(item[0][1]))
        )
    ]
    titles = ["data set", "correlation", "cost", "of", "Spearman", "Pearson", "runs", "points"]
    return table("correlations", titles, rows)


def runs_html(
    collection: Collection,
    runs: pd.DataFrame,
    spearman: Mapping[tuple[str, str], Mapping[Any, Any]],
    settings: Mapping[str, Sequence[str]],
    out: Path,
) -> str:
    """Return the table of runs, whose names lead to their folders.

    Args:
        collection: the runs.
        runs: as `run_table` returns them.
        spearman: correlations by run and cost.
        settings: a column each: its title, and what every run has.
        out: folder of the page.
    """
    titles = [
        *("run", "status", *settings, "epochs", "best test accuracy", "last", "train cost", "test cost"),
        *("mean EE (nats)", "ρ, train cost", "ρ, test cost", "seconds", "command"),
    ]
    rows = []
    for index, (run, row) in enumerate(zip(collection.runs, runs.to_dict("records"), strict=True)):
        cells = [
            Cell(collection.run_names[run], link=link_to(run.folder, out), kind="text long", more=run.name),
            Cell(run.status, kind=f"text {run.status}"),
        ]
        cells += [text(values[index]) for values in settings.values()]
        cells.append(number(row["epochs"], ".0f"))
        cells += [number(row[name], ".2%") for name in ("accuracy/test best", "accuracy/test final")]
        cells += [number(row[f"{name} final"], ".4f") for name in ("cost/train", "cost/test", "ee/mean")]
        cells += [interval(spearman.get((run.name, cost), {})) for cost in ("train", "test")]
        cells += [number(row["seconds"], ",.0f"), Cell(run.command, kind="text long code")]
        rows.append((f"r{index}", cells))
    return table("runs", titles, rows)


def text(shown: Any) -> Cell:
    """Return a cell of words."""
    return Cell(str(shown), kind="text")


def number(value: Any, form: str) -> Cell:
    """Return a cell with a number, a dash if there is none."""
    known = finite(value)
    return Cell("–" if known is None else format(known, form).replace("-", "−"), known)


def interval(row: Mapping[Any, Any]) -> Cell:
    """Return a correlation with its interval."""
    value, low, high = (finite(row.get(key)) for key in ("correlation", "low", "high"))
    shown = "–" if value is None else f"{value:+.2f}"
    if low is not None and high is not None:
        shown += f" [{low:+.2f}, {high:+.2f}]"
    return Cell(shown.replace("-", "−"), value)


def with_deviation(mean: float, deviation: float, scale: float, digits: int) -> str:
    """Return "mean ± deviation", or the mean alone if there is but one value."""
    if not math.isfinite(mean):
        return "–"
    around = f" ± {scale * deviation:.{digits}f}" if math.isfinite(deviation) else ""
    return f"{scale * mean:.{digits}f}{around}"


def link_to(folder: Path, out: Path) -> str:
    """Return the link from the page to a folder."""
    return quote(os.fsencode(os.path.relpath(folder, out.resolve()))) + "/"


def finite(value: Any) -> float | None:
    """Return a finite number, None for everything else."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None
