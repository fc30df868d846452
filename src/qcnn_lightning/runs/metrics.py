"""`metrics.csv`: a row per epoch, written by training, read as a table in which every value is finite or missing."""

import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from qcnn_lightning.errors import InputError
from qcnn_lightning.runs.untrusted import read_text

MEASURED = ("accuracy/train", "accuracy/test", "cost/train", "cost/test", "ee/mean")
# The train cost of results, where it was recorded: the mean over the epoch's batches, what was minimised and, in all
# likelihood, what the paper shows. With fixed statistics, one image in 60000 can outweigh all others.
BATCH_COST = "cost/batch"
# What the evaluated network costs on the training images, beside it.
EVALUATED_COST = "cost/train evaluated"
NOT_IN_EVERY_EPOCH = ("profile/level_", "spectrum/p_")


def lines_of(rows: Iterable[Mapping[str, float | int]]) -> list[str]:
    """Return the lines of `metrics.csv`; the first has the names of the columns."""
    return pd.DataFrame(list(rows)).to_csv(index=False).splitlines(keepends=True)


def summary_of(rows: list[dict[str, float | int]]) -> dict[str, Any]:
    """Return the last row, the best cost and accuracy of every part of the data, and all seconds.

    Only finite numbers: JSON has no others, and a class without test images has a recall of NaN.
    """
    if not rows:
        return {"final": {}, "best": {}}
    table = pd.DataFrame(rows)
    best = {name: table[name].max() for name in table.filter(regex="^accuracy/")}
    best |= {name: table[name].min() for name in table.filter(regex="^cost/")}
    final, best = ({name: value for name, value in part.items() if math.isfinite(value)} for part in (rows[-1], best))
    return {"final": final, "best": best, "seconds": table["time/epoch_s"].sum()}


def read_lines(path: Path) -> list[str]:
    """Return the lines of `metrics.csv`; the last may be cut off.

    Raises:
        InputError: it is missing or cannot be read.
    """
    try:
        return io.StringIO(read_text(path)).readlines()
    except FileNotFoundError as error:
        raise InputError("no metrics.csv: no epoch has been completed") from error


def read_table(lines: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """Read the lines of `metrics.csv`: a row per epoch, every value finite or NaN.

    `cost/train` becomes the mean cost of the epoch's batches, where that was recorded, and the evaluated network's cost
    becomes `cost/train evaluated`.

    Returns:
        The table, indexed by the epoch, and what was left out of it and why.

    Raises:
        InputError: there is no complete row, or no column `epoch`.
    """
    reasons = []
    if lines and not lines[-1].endswith("\n"):
        lines = lines[:-1]
        reasons.append("metrics.csv ends in the middle of a row: that row is left out")
    try:
        table = pd.read_csv(io.StringIO("".join(lines)), on_bad_lines="skip", index_col=False, low_memory=False)
    except (pd.errors.EmptyDataError, pd.errors.ParserError) as error:
        raise InputError("metrics.csv holds no epoch") from error
    if "epoch" not in table:
        raise InputError("metrics.csv has no column epoch")
    if not all(dtype.kind == "f" or dtype.kind == "i" for dtype in table.dtypes):
        table = table.astype(str).apply(pd.to_numeric, errors="coerce")
    table = table.astype(float)
    values = table.to_numpy()
    if np.isinf(values).any():
        table = table.mask(np.isinf(values))
    table = table[table["epoch"].between(-1, 2**53) & (table["epoch"] == table["epoch"].round())]
    if table.empty:
        raise InputError("metrics.csv holds no epoch")
    if len(table) < len(lines) - 1:
        reasons.append(f"{len(lines) - 1 - len(table)} rows of metrics.csv cannot be read")
    if not table["epoch"].is_unique:
        repeated = sorted(int(epoch) for epoch in table["epoch"][table["epoch"].duplicated()].unique())
        reasons.append(f"metrics.csv repeats the epochs {repeated}: the last row of each is used")
        table = table.drop_duplicates("epoch", keep="last")
    table = table.astype({"epoch": int}).set_index("epoch").sort_index()
    for prefix in NOT_IN_EVERY_EPOCH:
        if columns := numbered_columns(table, prefix):
            # The first runs repeat them until they were measured again.
            table.loc[(table[columns] == table[columns].shift()).all(axis=1), columns] = np.nan
    if BATCH_COST in table:
        if "cost/train" in table:
            table[EVALUATED_COST] = table["cost/train"]
        table["cost/train"] = table[BATCH_COST]
    reasons += describe_gaps(table)
    return table, reasons


def describe_gaps(table: pd.DataFrame) -> Iterator[str]:
    """Say which of the measured columns are missing, or have values that are no finite numbers."""
    for column in MEASURED:
        if column not in table:
            yield f"no column {column}: not in the figures that show it"
    trained = table[table.index >= 0]
    looked_at = [*(column for column in MEASURED if column in table), *numbered_columns(table, "ee/class_")]
    for column, missing in zip(looked_at, trained[looked_at].isna().to_numpy().sum(axis=0), strict=True):
        if missing:
            yield f"{column} is not a finite number in {missing} of {len(trained)} epochs: those are left out"
    if len(trained) == 0:
        yield "no epoch of training has been completed"
    elif len(trained) == 1:
        yield "only one epoch of training: points, no curves"


def as_number(value: Any) -> float:
    """Return a number as it is, NaN for everything else."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf:
        try:
            return float(value)
        except OverflowError:
            pass
    return math.nan


def numbered_columns(table: pd.DataFrame, prefix: str) -> list[str]:
    """Return the columns `<prefix>0`, `<prefix>1`, ... that are there, in numerical order."""
    numbers = (str(column).removeprefix(prefix) for column in table if str(column).startswith(prefix))
    decimal = (number for number in numbers if re.fullmatch("0|[1-9][0-9]{0,8}", number))
    return [f"{prefix}{number}" for number in sorted(decimal, key=int)]


LATEST_FIRST_EPOCH = 30
"""Of comparisons, the paper's for 90 epochs: figure 3 and correlations of entropy with cost leave out the beginning."""


def first_epoch_of(num_epochs: int, chosen: int | None = None) -> int:
    """Return the first epoch of a run's comparisons: min(30, num_epochs // 3), unless another is chosen.

    Args:
        num_epochs: length of the whole run, also while it trains.
        chosen: another first epoch, or None.
    """
    return min(LATEST_FIRST_EPOCH, num_epochs // 3) if chosen is None else chosen
