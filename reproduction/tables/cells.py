"""The cells of the pages' tables: numbers and intervals as text."""

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from qcnn_lightning.report.correlation import Estimate

Row = Sequence[str]


def markdown(rows: Iterator[Row]) -> str:
    """Lay out rows, the titles first."""
    titles, *body = rows
    lines = [titles, ["---"] * len(titles), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table of numbers."""
    rows: Any = table.to_dict("records")
    return rows


def plain(value: float, form: str) -> str:
    """Return a number as text; nothing if there is none."""
    return "" if math.isnan(value) else signed(format(value, form))


def with_interval(estimate: Estimate, form: str) -> str:
    """Return "-0.70 [-0.80, -0.55]"; without the interval where there are too few runs, empty where there is none."""
    if math.isnan(estimate.value):
        return ""
    interval = "" if math.isnan(estimate.low) else f" [{estimate.low:{form}}, {estimate.high:{form}}]"
    return signed(f"{estimate.value:{form}}{interval}")


def points(estimate: Estimate) -> str:
    """Return a difference of accuracies in percentage points."""
    return with_interval(Estimate(*(100 * value for value in (estimate.value, estimate.low, estimate.high))), "+.2f")


def signed(text: str) -> str:
    """Return numbers with a minus sign instead of a hyphen."""
    return re.sub(r"-(?=\d)", "−", text)


def percent(mean: float, deviation: float) -> str:
    """Return "96.47 ± 0.10%", or without the deviation if there is none."""
    return f"{100 * mean:.2f}%" if math.isnan(deviation) else f"{100 * mean:.2f} ± {100 * deviation:.2f}%"


def spread(of_runs: tuple[float, float], digits: int) -> str:
    """Return "100.75 ± 0.12"; without the deviation if there is none, empty without a number."""
    mean, deviation = of_runs
    if math.isnan(mean):
        return ""
    return f"{mean:.{digits}f}" if math.isnan(deviation) else f"{mean:.{digits}f} ± {deviation:.{digits}f}"


def number(mean: float, deviation: float) -> str:
    """Return "0.123 ± 0.004", or without the deviation if there is none."""
    return f"{mean:.3f}" if math.isnan(deviation) else f"{mean:.3f} ± {deviation:.3f}"


def squared(size: int) -> str:
    """Return the shape of square images as people write it."""
    return f"{size}x{size}"
