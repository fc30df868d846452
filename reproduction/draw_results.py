"""`python -m reproduction.draw_results`: draw every figure of the pages and write their tables, from what is stored.

Runs are read from `reproduction/metrics`, measurements from `benchmarks/results`; nothing is trained. In a page a table
stands between two comments,

    <!-- table: accuracies reproduction -->
    <!-- end of table -->

and is written anew there, of the reports named in it, which are read together: of those that have runs already. Only
figures that a page shows, as `figures/<report>/<name>.png`, are drawn and kept. The kinds of tables: `tables/kinds.py`.
"""

import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from PIL import Image

from qcnn_lightning.command_line import one_message
from qcnn_lightning.errors import InputError
from qcnn_lightning.figure_style import save, styled
from qcnn_lightning.files import replace_atomically
from qcnn_lightning.report.figures import planned_figures
from qcnn_lightning.report.groups import Collection, read_collection
from qcnn_lightning.report.layout import Choices, draw_all
from qcnn_lightning.runs.settings import CLASSES
from reproduction.archives import SUFFIX, study_of, unpack
from reproduction.scaling_figure import scaling_figure
from reproduction.study_figures import planned_study_figures
from reproduction.tables.cells import Row, markdown
from reproduction.tables.kinds import KINDS, OF_MEASUREMENTS, OF_RUNS
from reproduction.tables.measurements import MEASUREMENTS

FOLDER = Path(__file__).parent
METRICS = FOLDER / "metrics"
FIGURES = FOLDER / "figures"
PAGES = (FOLDER / "README.md", FOLDER.parent / "docs" / "results.md")
PAGES_WITH_FIGURES = (*PAGES, FOLDER.parent / "README.md")
# Reports of several studies, and of a study that another report has too; every other study is a report of its own.
REPORTS = {
    "embedding": ("embedding",),
    "intervention_scales": ("intervention_scales", "embedding"),
    "reproduction": ("reproduction", "reproduction_d40", "up_down"),
    "density_intervention": ("density_intervention", "classifier_intervention"),
    "relatives": ("relatives", "relatives_160k"),
    "density_classes": ("density_classes", "density_classes_8bit"),
}
# Settings by which runs of a report are not told apart. The runs in float32 are older than the setting, in part.
# A density for every class has as many runs as classes.
NOT_TOLD_APART = {"float32": ("model.precision",), "density_classes": (CLASSES,)}
TABLE = re.compile(r"(<!-- table: (?P<kind>\w+)(?P<of>(?: \w+)*) -->\n).*?(<!-- end of table -->)", re.DOTALL)
SHOWN = re.compile(r"figures/(?P<report>\w+)/(?P<name>[^)\s]+)\.png")
COLOURS = 256


class StoredRuns:
    """The stored runs, by reports; those of a report are read once.

    Args:
        archives: of the studies.
        folder: where to unpack them.
    """

    def __init__(self, archives: Sequence[Path], folder: Path):
        self.read: dict[tuple[str, ...], Collection] = {}
        self.folders: dict[str, list[Path]] = {}
        for archive in archives:
            study, runs = study_of(archive), unpack(archive, folder)
            for report in [report for report, studies in REPORTS.items() if study in studies] or [study]:
                self.folders.setdefault(report, []).append(runs)

    def of(self, *reports: str) -> Collection:
        """Return the runs of these reports together.

        Raises:
            InputError: none of them has any.
        """
        if reports not in self.read:
            folders = [folder for report in reports for folder in self.folders.get(report, ())]
            if not folders:
                raise InputError(f"no runs of {', '.join(reports) or 'any report'} in {METRICS}")
            collection = read_collection(folders)
            dropped = {key for report in reports for key in NOT_TOLD_APART.get(report, ())}
            for run in collection.runs:
                for key in dropped:
                    run.settings.pop(key, None)
            self.read[reports] = collection
        return self.read[reports]


def with_tables(page: Path, stored: StoredRuns) -> str:
    """Return a page with its tables written anew.

    Raises:
        InputError: it asks for a table that there is not, or of what is not stored.
    """

    def table(found: re.Match[str]) -> str:
        kind, of = found["kind"], found["of"].split()
        if kind not in KINDS:
            raise InputError(f"{page}: table {kind} is none of {', '.join(KINDS)}")
        try:
            return found[1] + markdown(rows_of(kind, of, stored)) + found[4]
        except (FileNotFoundError, InputError) as error:
            raise InputError(f"{page}: for table {kind} {' '.join(of)} {error}") from error

    return TABLE.sub(table, page.read_text())


def rows_of(kind: str, reports: Sequence[str], stored: StoredRuns) -> Iterator[Row]:
    """Return the rows of a table.

    Raises:
        InputError: there is nothing stored that it is of.
        FileNotFoundError: there is no such measurement.
    """
    return OF_MEASUREMENTS[kind]() if kind in OF_MEASUREMENTS else OF_RUNS[kind](stored.of(*reports))


def figures_shown() -> dict[str, set[str]]:
    """Return the names of the figures that the pages show, by report."""
    shown: dict[str, set[str]] = {}
    for page in PAGES_WITH_FIGURES:
        for found in SHOWN.finditer(page.read_text()):
            shown.setdefault(found["report"], set()).add(found["name"])
    return shown


def draw_figures(shown: Mapping[str, set[str]], stored: StoredRuns) -> None:
    """Draw the figures shown, by report, and remove all others."""
    for report, names in sorted(shown.items()):
        plans = (planned_figures, planned_study_figures)
        with tempfile.TemporaryDirectory() as drawn:
            found, _ = draw_all(stored.of(report), Path(drawn), Choices(), plans, ("png",), names)
            for name in found:
                (FIGURES / report).mkdir(parents=True, exist_ok=True)
                with Image.open(Path(drawn, f"{name}.png")) as image:
                    # A third of the size, and the same to the eye.
                    image.convert("RGB").quantize(COLOURS).save(FIGURES / report / f"{name}.png", optimize=True)
        print(f"figures of {report}: {', '.join(found)}")
        for missing in sorted(names.difference(found)):
            print(f"  not drawn, for want of runs: {missing}")
    for path in FIGURES.glob("*/*.png"):
        if path.stem not in shown.get(path.parent.name, ()):
            path.unlink()


def main() -> None:
    """Draw all figures, write all tables."""
    with tempfile.TemporaryDirectory() as folder:
        stored = StoredRuns(sorted(METRICS.glob(f"*{SUFFIX}")), Path(folder))
        draw_figures(figures_shown(), stored)
        for page in PAGES:
            replace_atomically(page, with_tables(page, stored))
    if (measured := MEASUREMENTS / "scaling.json").is_file():
        with styled():
            save(scaling_figure(json.loads(measured.read_text())["rows"]), FIGURES / "scaling", ("png",))


if __name__ == "__main__":
    with one_message():
        main()
