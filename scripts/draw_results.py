"""`python scripts/draw_results.py`: draw every figure of docs/results.md and write its tables, from what is stored.

Runs are read from `docs/runs/<study>`, measurements from `benchmarks/results`; nothing is trained. Figures and tables
of numbers go to `docs/<report>/`. In `docs/results.md` a table stands between two comments,

    <!-- table: accuracies reproduction -->
    <!-- end of table -->

and is written anew there, of the reports named in it, which are read together: of those that have runs already. Only
figures that the page, or the README, shows are kept in `docs/<report>/figures`. What tables there are: `page_tables`.
"""

import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra import compose, initialize_config_module
from page_tables import DOCS, KINDS, MEASUREMENTS, OF_A_REPORT, OF_MEASUREMENTS, OF_RUNS, ROOT, Row, markdown

from qcnn_lightning.command_line import one_message
from qcnn_lightning.errors import InputError
from qcnn_lightning.files import replace_atomically
from qcnn_lightning.results.report import FIGURES, ReportSettings, write_report
from qcnn_lightning.results.runs import read_collection
from qcnn_lightning.results.scaling_figure import scaling_figure

RUNS = DOCS / "runs"
# Studies that are one report; every other is a report of its own.
REPORTS = {"reproduction": ("reproduction", "reproduction_d40", "up_down")}
TABLE = re.compile(r"(<!-- table: (?P<kind>\w+)(?P<of>(?: \w+)*) -->\n).*?(<!-- end of table -->)", re.DOTALL)
SHOWN = re.compile(r"docs/(?P<report>\w+)/figures/(?P<name>[^)\s]+)\.png")


def reports() -> dict[str, list[Path]]:
    """Return the reports, and the folders of the runs that each is about."""
    studies = sorted(folder.name for folder in RUNS.iterdir() if folder.is_dir())
    joined = {study: report for report, together in REPORTS.items() for study in together}
    found: dict[str, list[Path]] = {}
    for study in studies:
        found.setdefault(joined.get(study, study), []).append(RUNS / study)
    return found


def rows_of(kind: str, reports_named: Sequence[str], first_epoch: int | None) -> Iterator[Row]:
    """Return the rows of a table.

    Raises:
        InputError: there is no such table, or nothing stored that it is of.
    """
    if kind in OF_MEASUREMENTS:
        return OF_MEASUREMENTS[kind]()
    stored = reports()
    there = [name for name in reports_named if name in stored]
    if not there:
        raise InputError(f"table {kind}: no runs of {', '.join(reports_named) or 'any report'} in {RUNS}")
    if kind in OF_A_REPORT:
        return OF_A_REPORT[kind](there[0])
    collection = read_collection([folder for name in there for folder in stored[name]])
    needed = {"within_runs": (first_epoch,), "claims": (there[0],)}
    return OF_RUNS[kind](collection, *needed.get(kind, ()))


def with_tables(text: str, first_epoch: int | None) -> str:
    """Return a page with its tables written anew.

    Args:
        text: the page.
        first_epoch: of correlations; by each run's length if None.

    Raises:
        InputError: it asks for a table that there is not, or of what is not stored.
    """

    def table(found: re.Match[str]) -> str:
        kind, of = found["kind"], found["of"].split()
        if kind not in KINDS:
            raise InputError(f"docs/results.md: table {kind} is none of {', '.join(KINDS)}")
        try:
            return found[1] + markdown(rows_of(kind, of, first_epoch)) + found[4]
        except FileNotFoundError as error:
            raise InputError(f"docs/results.md: for table {kind} {' '.join(of)} {error}") from error

    return TABLE.sub(table, text)


def figures_shown() -> dict[str, set[str]]:
    """Return the names of the figures that the pages show, by report."""
    shown: dict[str, set[str]] = {}
    for page in (ROOT / "README.md", *DOCS.glob("*.md")):
        # Pages in docs/ leave that out of their links.
        text = page.read_text().replace("](docs/", "](").replace("](", "](docs/") if page.is_file() else ""
        for found in SHOWN.finditer(text):
            shown.setdefault(found["report"], set()).add(found["name"])
    return shown


def main() -> None:
    """Draw and write all, or the reports named on the command line."""
    with initialize_config_module("qcnn_lightning.conf", version_base="1.3"):
        config = compose("report")
    shown = figures_shown()
    for name, folders in reports().items():
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        only = frozenset(shown.get(name, ()))
        settings = ReportSettings(
            config.first_epoch, config.window, config.confidence, config.resamples, ("png",), only
        )
        written = write_report(folders, DOCS / name, settings)
        print(f"docs/{name}: {written.num_runs} runs, {len(written.figures)} figures")
        for missing in sorted(only.difference(written.figures)):
            print(f"  not drawn, for want of runs: {missing}")
        for figure in (DOCS / name / FIGURES).glob("*.png"):
            if figure.stem not in written.figures:
                figure.unlink()
    if (measured := MEASUREMENTS / "scaling.json").is_file():
        scaling_figure(json.loads(measured.read_text())["rows"]).savefig(DOCS / "scaling.png", dpi=120)
    page = DOCS / "results.md"
    replace_atomically(page, with_tables(page.read_text(), config.first_epoch))


if __name__ == "__main__":
    with one_message():
        main()
