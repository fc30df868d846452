"""`python scripts/draw_results.py`: draw every figure of docs/results.md and write its tables, from what is stored.

Runs are read from `docs/runs/<study>`, measurements from `benchmarks/results`; nothing is trained. Figures and tables
of numbers go to `docs/<report>/`. In `docs/results.md` a table stands between two comments,

    <!-- table: accuracies reproduction -->
    <!-- end of table -->

and is written anew there: `accuracies <report>`, `correlations <report>`, `choices <study>`, `baselines` or
`time_to_accuracy`.
"""

import json
import math
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
from hydra import compose, initialize_config_module

from qcnn_lightning.command_line import one_message
from qcnn_lightning.errors import InputError
from qcnn_lightning.files import replace_atomically
from qcnn_lightning.results.report import ReportSettings, write_report
from qcnn_lightning.results.runs import Run, read_collection
from qcnn_lightning.results.tables import last, mean_and_deviation

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
RUNS = DOCS / "runs"
MEASUREMENTS = ROOT / "benchmarks" / "results"
# Studies that are one report; every other is a report of its own.
REPORTS = {"reproduction": ("reproduction", "reproduction_d40", "up_down")}
TABLE = re.compile(r"(<!-- table: (?P<kind>\w+)(?: (?P<of>\w+))? -->\n).*?(<!-- end of table -->)", re.DOTALL)
DATA_SETS = {"mnist": "MNIST", "fmnist": "Fashion-MNIST"}
SCOPES = ("mean over runs", "all epochs of all runs", "last epochs of all runs")

Row = Sequence[str]


def reports() -> dict[str, list[Path]]:
    """Return the reports, and the folders of the runs that each is about."""
    studies = sorted(folder.name for folder in RUNS.iterdir() if folder.is_dir())
    joined = {study: report for report, together in REPORTS.items() for study in together}
    found: dict[str, list[Path]] = {}
    for study in studies:
        found.setdefault(joined.get(study, study), []).append(RUNS / study)
    return found


def accuracies(report: str) -> Iterator[Row]:
    """Yield the rows of `accuracies.csv`: a row per experiment, mean and standard deviation over seeds."""
    yield "data set", "network", "parameters", "epochs", "seeds", "best test accuracy", "last", "test cost", "EE (nats)"
    table = pd.read_csv(DOCS / report / "accuracies.csv")
    for row in table.to_dict("records"):
        network = ", ".join(part for part in (row["variant"], row["bipartition"]) if isinstance(part, str))
        counts = (f"{row[name]:.0f}" for name in ("num_parameters", "epochs", "seeds"))
        yield (
            DATA_SETS.get(row["data"], row["data"]),
            network,
            *counts,
            percent(row["accuracy/test best, mean"], row["accuracy/test best, sd"]),
            percent(row["accuracy/test final, mean"], row["accuracy/test final, sd"]),
            number(row["cost/test final, mean"], row["cost/test final, sd"]),
            number(row["ee/mean final, mean"], row["ee/mean final, sd"]),
        )


def correlations(report: str) -> Iterator[Row]:
    """Yield Spearman's correlations of mean entropy and cost over the runs, from `correlations.csv`."""
    yield "data set", "over", "runs", "train cost", "test cost"
    table = pd.read_csv(DOCS / report / "correlations.csv")
    table = table[(table["measure"] == "spearman") & (table["of"] == "values")]
    for data in dict.fromkeys(table["data"]):
        for scope in SCOPES:
            rows = table[(table["data"] == data) & (table["scope"] == scope)].set_index("cost")
            if len(rows):
                of_costs = (correlation(rows.loc[cost]) for cost in ("train", "test"))
                yield DATA_SETS.get(data, data), scope, f"{rows['runs'].iloc[0]}", *of_costs


def correlation(row: pd.Series) -> str:
    """Return "-0.70 [-0.80, -0.55]"; without the interval where there are too few runs, empty where there is none."""
    if math.isnan(row["correlation"]):
        return ""
    interval = "" if math.isnan(row["low"]) else f" [{row['low']:+.2f}, {row['high']:+.2f}]"
    return f"{row['correlation']:+.2f}{interval}"


def choices(study: str) -> Iterator[Row]:
    """Yield a row per choice, `ablation=<choice>` among the overrides: what undoing it costs, over the same seeds.

    Choices are judged on held-out training images, where there are any.
    """
    runs = read_collection(RUNS / study).runs
    split, title = ("val", "held-out") if all("accuracy/val" in run.metrics for run in runs) else ("test", "test")
    accuracy = f"accuracy/{split}"
    yield "data set", "undone", "parameters", "seeds", f"{title} accuracy", "difference", "EE (nats)"
    for data in dict.fromkeys(run.data for run in runs):
        of_choice: dict[str, dict[int, Run]] = {}
        for run in runs:
            if run.data == data:
                of_choice.setdefault(override(run, study), {})[run.seed] = run
        reference = of_choice.get("none", {})
        for choice in sorted(of_choice, key=lambda name: (name != "none", name)):
            of_seed = of_choice[choice]
            measured = {seed: last(run.column(accuracy)) for seed, run in of_seed.items()}
            changes = [
                value - last(reference[seed].column(accuracy)) for seed, value in measured.items() if seed in reference
            ]
            yield (
                DATA_SETS.get(data, data),
                "nothing" if choice == "none" else choice,
                f"{next(iter(of_seed.values())).num_parameters:.0f}",
                f"{len(of_seed)}",
                percent(*mean_and_deviation(list(measured.values()))),
                "" if choice == "none" or not changes else f"{sum(changes) / len(changes):+.2%}",
                number(*mean_and_deviation([last(run.column("ee/mean")) for run in of_seed.values()])),
            )


def override(run: Run, key: str) -> str:
    """Return the value of an override; "none" if it was not given."""
    return next((given.partition("=")[2] for given in run.overrides if given.startswith(f"{key}=")), "none")


def baselines(_: str | None) -> Iterator[Row]:
    """Yield the accuracies of ordinary networks on the same images."""
    yield "data set", "network", "parameters", "epochs", "seeds", "test accuracy", "seconds"
    table = pd.DataFrame(json.loads((MEASUREMENTS / "baselines.json").read_text())["rows"])
    for (data, network), rows in table.groupby(["data", "network"], sort=False):
        counts = (f"{rows[name].iloc[0]}" for name in ("parameters", "epochs"))
        accuracy = percent(*mean_and_deviation(list(rows["accuracy/test"])))
        yield DATA_SETS.get(data, data), network, *counts, f"{len(rows)}", accuracy, f"{rows['seconds'].mean():.0f}"


def time_to_accuracy(_: str | None) -> Iterator[Row]:
    """Yield the seconds to each accuracy."""
    yield "data set", "test accuracy", "ours (s)", "textbook (s)"
    rows = json.loads((MEASUREMENTS / "time_to_accuracy.json").read_text())["rows"]
    for data in dict.fromkeys(row["data"] for row in rows):
        reached = {row["who"]: row["seconds_to"] for row in rows if row["data"] == data}
        best = {row["who"]: max(accuracy for _, accuracy in row["curve"]) for row in rows if row["data"] == data}
        for target in next(iter(reached.values())):
            cells = (
                "" if who not in reached else seconds_or_best(reached[who][target], best[who])
                for who in ("ours", "textbook")
            )
            yield DATA_SETS.get(data, data), target, *cells


def seconds_or_best(seconds: float | None, best: float) -> str:
    """Return the seconds, or how far it got if there are none."""
    return f"{seconds:.0f}" if seconds is not None else f"not reached, {best:.2%} at best"


KINDS = {
    "accuracies": accuracies,
    "correlations": correlations,
    "choices": choices,
    "baselines": baselines,
    "time_to_accuracy": time_to_accuracy,
}


def percent(mean: float, deviation: float) -> str:
    """Return "96.47 ± 0.10%", or without the deviation if there is none."""
    return f"{100 * mean:.2f}%" if math.isnan(deviation) else f"{100 * mean:.2f} ± {100 * deviation:.2f}%"


def number(mean: float, deviation: float) -> str:
    """Return "0.123 ± 0.004", or without the deviation if there is none."""
    return f"{mean:.3f}" if math.isnan(deviation) else f"{mean:.3f} ± {deviation:.3f}"


def markdown(rows: Iterator[Row]) -> str:
    """Lay out rows, the titles first."""
    titles, *body = rows
    lines = [titles, ["---"] * len(titles), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def with_tables(text: str) -> str:
    """Return a page with its tables written anew.

    Raises:
        InputError: it asks for a table that there is not, or of what is not stored.
    """

    def table(found: re.Match[str]) -> str:
        if found["kind"] not in KINDS:
            raise InputError(f"docs/results.md: table {found['kind']} is none of {', '.join(KINDS)}")
        try:
            return found[1] + markdown(KINDS[found["kind"]](found["of"])) + found[4]
        except FileNotFoundError as error:
            raise InputError(f"docs/results.md: for table {found['kind']} {found['of'] or ''} {error}") from error

    return TABLE.sub(table, text)


def main() -> None:
    """Draw and write all, or the reports named on the command line."""
    with initialize_config_module("qcnn_lightning.conf", version_base="1.3"):
        config = compose("report")
    settings = ReportSettings(config.first_epoch, config.window, config.confidence, config.resamples, ("png",))
    for name, folders in reports().items():
        if not sys.argv[1:] or name in sys.argv[1:]:
            written = write_report(folders, DOCS / name, settings)
            print(f"docs/{name}: {written.num_runs} runs, {len(written.figures)} figures")
    page = DOCS / "results.md"
    replace_atomically(page, with_tables(page.read_text()))


if __name__ == "__main__":
    with one_message():
        main()
