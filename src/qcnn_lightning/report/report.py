"""The report: one page that people look at, figures for print, and the numbers as CSV files."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from qcnn_lightning.errors import InputError
from qcnn_lightning.figure_style import checked_formats
from qcnn_lightning.files import as_csv, inside, replace_atomically
from qcnn_lightning.report.figures import planned_figures, without_panels
from qcnn_lightning.report.groups import Collection, LeftOut, read_collection
from qcnn_lightning.report.layout import Choices, draw_all
from qcnn_lightning.report.page import Tables, page
from qcnn_lightning.report.tables import accuracy_table, correlation_table, run_table
from qcnn_lightning.runs.find import describe, find_runs
from qcnn_lightning.runs.run import MARKS_OF_A_RUN

PAGE = "report.html"
FIGURES = "figures"
TABLES = ("accuracies.csv", "correlations.csv", "runs.csv")
REFRESH_S = 5.0


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
        Choices(self.window, self.first_epoch)
        if not isinstance(self.resamples, int) or self.resamples < 1:
            raise InputError(f"resamples={self.resamples}: must be a positive whole number")
        if not isinstance(self.confidence, int | float) or not 0 < self.confidence < 1:
            raise InputError(f"confidence={self.confidence}: must be between 0 and 1")
        checked_formats(self.formats)


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
        replace_atomically(out / name, as_csv(table))
    figures: list[str] = []
    left_out = [*collection.left_out, *unequal_lengths(collection), *uncorrelated]
    choices = Choices(settings.window, settings.first_epoch)
    if settings.formats:
        plans = (planned_figures,)
        figures, undrawn = draw_all(collection, out / FIGURES, choices, plans, settings.formats, settings.only)
        left_out += undrawn
    else:
        left_out += without_panels(collection)
    text = page(
        collection,
        Tables(accuracies, correlations, runs),
        choices,
        settings.confidence,
        f"q-CNN report: {describe([path.resolve().name for path in paths])}",
        out,
        left_out,
        file_links(figures, settings.formats),
        reload_every_s,
    )
    replace_atomically(out / PAGE, text)
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
            settings = replace(settings, formats=())
        time.sleep(every_s)


def state_of_files(paths: Sequence[Path]) -> list[tuple[str, int, int]]:
    """Return the name, the time of the last change (ns) and the size (bytes) of every file that runs are read from."""
    found = [run.folder / mark for run in find_runs(paths) for mark in MARKS_OF_A_RUN]
    states = [(str(path), path.stat()) for path in found if path.is_file()]
    return sorted((name, state.st_mtime_ns, state.st_size) for name, state in states)


def unequal_lengths(collection: Collection) -> list[LeftOut]:
    """Name the runs that ended before others of their group: means over seeds at the last epoch leave them out."""
    return [
        LeftOut(
            run.name,
            f"{run.last_epoch + 1} epochs, others of its group have more: "
            "not in the means over seeds at the last epoch",
        )
        for group in collection.groups
        for run in group.runs
        if run not in group.complete_runs
    ]


def file_links(figures: Sequence[str], formats: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the links to the tables and figures, relative to the page, by name and format."""
    tables = {name.removesuffix(".csv"): {"csv": name} for name in TABLES}
    return tables | {name: {form: quote(f"{FIGURES}/{name}.{form}") for form in formats} for name in figures}
