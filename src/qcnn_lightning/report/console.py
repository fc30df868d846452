"""Reports and tables of runs on the terminal."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qcnn_lightning.errors import message_of
from qcnn_lightning.job_table import STYLES, add_job, empty_job_table, job_console, plain_console
from qcnn_lightning.report.correlation import FEWEST_POINTS, correlation
from qcnn_lightning.report.groups import LeftOut, describe_first_epoch
from qcnn_lightning.report.tables import last, series
from qcnn_lightning.runs.find import find_runs
from qcnn_lightning.runs.run import Run

if TYPE_CHECKING:
    # Which needs matplotlib.
    from qcnn_lightning.report.report import WrittenReport

MOST_LEFT_OUT = 20


def show_report(report: "WrittenReport") -> None:
    """Say where the report is and what is not in it."""
    console = plain_console()
    if report.left_out:
        console.print("left out:")
        for item in report.left_out[:MOST_LEFT_OUT]:
            console.print(f"  {item}", soft_wrap=True)
        if len(report.left_out) > MOST_LEFT_OUT:
            console.print(f"  and {len(report.left_out) - MOST_LEFT_OUT} more, all named in the page")
    figures = f", {len(report.figures)} figures in {report.page.parent / 'figures'}" if report.figures else ""
    console.print(f"report of {report.num_runs} runs: {report.page}{figures}", soft_wrap=True)


def show_runs(paths: Sequence[Path], first_epoch: int | None = None) -> None:
    """Print a row per job: status, epoch, best test accuracy, entropy, its correlation with the train cost, time.

    Args:
        paths: runs, sweeps, or folders of sweeps.
        first_epoch: first epoch of the correlation; by each run's length if None.

    Raises:
        InputError: no run was found.
    """
    console = job_console()
    table = empty_job_table(("epochs", "best test accuracy", "EE (nats)", "EE ~ train cost", "seconds"))
    statuses, runs, unread = [], [], []
    for run in find_runs(paths):
        numbers: tuple[str, ...] = ("",) * 5
        try:
            numbers = cells(run, first_epoch)
            runs.append(run)
        # Whatever is wrong with one run must not hide the others.
        except Exception as error:
            unread.append(LeftOut(run.name, message_of(error)))
        unread += [LeftOut(run.name, note) for note in run.altered]
        statuses.append(run.status)
        add_job(table, run.name, run.status, numbers)
    console.print(table)
    for item in unread:
        console.print(str(item), soft_wrap=True)
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in STYLES if status in statuses)
    console.print(f"{len(statuses)} jobs: {counts}")
    if runs:
        since = describe_first_epoch(runs, first_epoch)
        console.print(f"EE ~ train cost: Spearman correlation {since}", soft_wrap=True)


def cells(run: Run, first_epoch: int | None) -> tuple[str, ...]:
    """Return the numbers of a job's row."""
    entropies, costs = series(run, "train", first_epoch, "values")
    enough = len(entropies) >= FEWEST_POINTS
    rank_correlation = correlation(entropies, costs, "spearman") if enough else math.nan
    of_planned = "" if math.isnan(run.planned_epochs) else f"/{run.planned_epochs:.0f}"
    return (
        f"{run.last_epoch + 1}{of_planned}",
        number(run.column("accuracy/test").max(), ".2%"),
        number(last(run.column("ee/mean")), ".4f"),
        number(rank_correlation, "+.2f"),
        number(run.seconds, ".0f"),
    )


def number(value: float, form: str) -> str:
    """Return a number as text, a dash if there is none."""
    return format(value, form) if math.isfinite(value) else "–"
