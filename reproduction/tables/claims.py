"""Tables of the paper's claims: accuracies, correlations, when entropies rise."""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import pandas as pd

from qcnn_lightning.labels import DATA_NAMES, caption, data_name, value_name
from qcnn_lightning.report.correlation import FEWEST_POINTS, Estimate, over_runs
from qcnn_lightning.report.groups import Collection
from qcnn_lightning.report.tables import accuracy_table, correlation_table, last, series
from qcnn_lightning.runs.run import Run
from reproduction.scaling_figure import PAPER
from reproduction.studies import (
    class_table,
    contrast_table,
    mean_with_interval,
    overfitting_and_rise,
    overfitting_table,
    paper_table,
    settling,
    settling_table,
    within_run_table,
)
from reproduction.tables.cells import Row, number, percent, plain, points, records, with_interval

COMPARED = {"accuracy": "accuracy/test", "cost": "cost/test", "EE": "ee/mean"}
SCOPES = ("mean over runs", "all epochs of all runs", "last epochs of all runs")
# Of which runs a claim is told: of all, and of those at least as wide as the paper's figure 2.
WIDTHS = {"": 0, f", d ≥ {PAPER['d']}": PAPER["d"]}


def accuracies(collection: Collection) -> Iterator[Row]:
    """Yield the accuracies per group: mean and standard deviation over seeds."""
    yield "data set", "network", "parameters", "epochs", "seeds", "best test accuracy", "last", "test cost", "EE (nats)"
    for row in records(accuracy_table(collection)):
        network = caption(row["variant"], row["bipartition"])
        counts = (f"{row[name]:.0f}" for name in ("num_parameters", "epochs", "seeds"))
        yield (
            data_name(row["data"]),
            network,
            *counts,
            percent(row["accuracy/test best, mean"], row["accuracy/test best, sd"]),
            percent(row["accuracy/test final, mean"], row["accuracy/test final, sd"]),
            number(row["cost/test final, mean"], row["cost/test final, sd"]),
            number(row["ee/mean final, mean"], row["ee/mean final, sd"]),
        )


def correlations(collection: Collection) -> Iterator[Row]:
    """Yield Spearman's correlations of mean entropy and cost over the runs."""
    yield "data set", "over", "of", "runs", "train cost", "test cost"
    table = spearman_correlations(collection)
    for data in dict.fromkeys(table["data"]):
        for of, scopes in (("values", SCOPES), ("changes", SCOPES[:2])):
            for scope in scopes:
                chosen = (table["data"] == data) & (table["scope"] == scope) & (table["of"] == of)
                rows = table[chosen].set_index("cost")
                if len(rows):
                    of_costs = (
                        with_interval(Estimate(*rows.loc[cost, ["correlation", "low", "high"]]), "+.2f")
                        for cost in ("train", "test")
                    )
                    yield data_name(data), scope, of, f"{rows['runs'].iloc[0]}", *of_costs


# Two tables of the same runs, on two pages, need them.
@lru_cache
def spearman_correlations(collection: Collection) -> pd.DataFrame:
    """Return Spearman's of the report's table of correlations."""
    table, _ = correlation_table(collection)
    return table[table["measure"] == "spearman"]


def claims(collection: Collection) -> Iterator[Row]:
    """Yield what the paper claims and what was measured, a column per data set."""
    correlations = spearman_correlations(collection)
    data_sets = [data for data in DATA_NAMES if data in collection.data_sets]
    of_data = {data: list(measured_claims(collection, data, correlations)) for data in data_sets}
    yield "", "the paper", *(data_name(data) for data in of_data)
    for cells in zip(*of_data.values(), strict=True):
        yield *cells[0][:2], *(measured for *_, measured in cells)


def measured_claims(collection: Collection, data: str, correlations: pd.DataFrame) -> Iterator[tuple[str, str, str]]:
    """Yield, for a data set, titles of claims, what the paper says, and what was measured.

    Networks at least as wide as that of figure 2 are also told by themselves.
    """
    runs = [run for group in collection.groups if group.data == data for run in group.complete_runs]
    of_values = correlations[(correlations["data"] == data) & (correlations["of"] == "values")]

    rows = [row for row in records(paper_table(collection)) if row["data"] == data]
    best = max(rows, key=lambda row: row["best"].value)
    yield "best test accuracy", "97%, 89%", f"{with_interval(best['best'], '.2%')} ({best['network']})"
    found = {run.name: settling(run) for run in runs}
    yield "EE before training", "near zero", f"at most {max(item.before for item in found.values()):.1g} nats"
    sizes = [item.final / math.log(2) for item in found.values()]
    size = f"{with_interval(mean_with_interval(sizes), '.2f')} log 2, from {min(sizes):.2f} to {max(sizes):.2f}"
    yield "EE at the end", "of order log 2", size
    rises = {name: item.rise for name, item in found.items()}
    yield from all_and_wide("EE since the accuracy settled", "rises", rises, runs, " nats, rises", 1, math.inf)
    of_data = [run for run in collection.runs if run.data == data]
    for cost, says in (("train", "negative"), ("test", "negative, less evident")):
        for kind, width in WIDTHS.items():
            together = all_epochs([run for run in of_data if run.d >= width], cost)
            yield f"EE ~ {cost} cost, {SCOPES[1]}{kind}", says, with_interval(together, "+.2f")
        of_cost = of_values[of_values["cost"] == cost].set_index("scope")
        own = dict(of_cost.loc[["run"], ["run", "correlation"]].to_numpy())
        yield from all_and_wide(f"EE ~ {cost} cost, within a run", says, own, runs, ", negative", -1, 1.0)
    metrics = {"EE": lambda run: last(run.column("ee/mean"))}
    for row in records(contrast_table(collection, "data.flatten", "left_right", metrics)):
        if row["data"] == data and row["value"] == "up_down":
            difference = f"{with_interval(row['EE difference'], '+.2f')} nats"
            yield "EE, up/down − left/right", "similar", caption(difference, row["network"])


def all_epochs(runs: Sequence[Run], cost: str) -> Estimate:
    """Return Spearman's correlation of mean entropy and a cost over all epochs of these runs; resampled are runs."""
    pairs = [pair for run in runs if len((pair := series(run, cost, None, "values"))[0]) >= FEWEST_POINTS]
    entropies, costs = ([pair[column] for pair in pairs] for column in (0, 1))
    return over_runs(entropies, costs, "spearman") if pairs else Estimate(math.nan)


def all_and_wide(
    title: str,
    says: str,
    of_runs: Mapping[str, float],
    runs: Sequence[Run],
    sign_told: str,
    sign: int,
    largest: float,
) -> Iterator[tuple[str, str, str]]:
    """Yield two rows of `claims`, of all runs and of the wide ones: a mean, and in how many runs it has the sign told.

    Args:
        title: of the claim.
        says: what the paper says.
        of_runs: the number, by a run's name.
        runs: those to count.
        sign_told: the sign in words, and the unit before it.
        sign: the same, as 1 or -1.
        largest: that the number's magnitude can be.
    """
    for kind, width in WIDTHS.items():
        values = [of_runs[run.name] for run in runs if run.name in of_runs and run.d >= width]
        count = f"{sum(sign * value > 0 for value in values)} of {len(values)} runs"
        mean = mean_with_interval(values, bounds=(-largest, largest))
        yield title + kind, says, f"{with_interval(mean, '+.2f')}{sign_told} in {count}"


def paper(collection: Collection) -> Iterator[Row]:
    """Yield the accuracies beside the paper's, with intervals over the seeds."""
    yield "data set", "network", "seeds", "best test accuracy", "last", "the paper's", "best − the paper's (points)"
    for row in records(paper_table(collection)):
        of_paper, best = row["paper"], row["best"]
        yield (
            data_name(row["data"]),
            row["network"],
            f"{row['runs']}",
            with_interval(row["best"], ".2%"),
            with_interval(row["final"], ".2%"),
            "" if math.isnan(of_paper) else f"{of_paper:.0%}",
            points(Estimate(best.value - of_paper, best.low - of_paper, best.high - of_paper)),
        )


def settled(collection: Collection) -> Iterator[Row]:
    """Yield when accuracies settle, and what the entropies do before and after."""
    yield (
        "data set",
        "network",
        "runs",
        "EE before training, at most",
        "accuracy settles in epoch",
        "EE then",
        "EE at the end",
        "in units of log 2",
        "rise since (nats)",
        "as part of the larger",
    )
    for row in records(settling_table(collection)):
        yield (
            data_name(row["data"]),
            row["network"],
            f"{row['runs']}",
            plain(row["before"], ".1g"),
            plain(row["epoch"], ".0f"),
            plain(row["settled"], ".2f"),
            plain(row["final"], ".2f"),
            plain(row["final"] / math.log(2), ".2f"),
            with_interval(row["rise"], "+.2f"),
            with_interval(row["share"], ".0%"),
        )


def within_runs(collection: Collection) -> Iterator[Row]:
    """Yield the mean of the runs' own correlations, per group, and how many of them are negative."""
    yield "data set", "network", "runs", "EE ~ train cost", "negative", "EE ~ test cost", "negative"
    for row in records(within_run_table(collection)):
        of_costs = (
            (with_interval(row[cost], "+.2f"), f"{row[f'{cost} negative']} of {row['runs']}")
            for cost in ("train", "test")
        )
        if row["runs"]:
            cells = (cell for pair in of_costs for cell in pair)
            yield data_name(row["data"]), row["network"], f"{row['runs']}", *cells


def overfitting(collection: Collection) -> Iterator[Row]:
    """Yield how much groups overfit, and how much their entropies rise."""
    yield (
        "data set",
        "network",
        "runs",
        "test accuracy",
        "train cost",
        "test cost",
        "test cost over its lowest",
        "EE (nats)",
        "EE rise since the accuracy settled",
        "EE rise since the lowest test cost",
    )
    for row in records(overfitting_table(collection)):
        yield (
            data_name(row["data"]),
            row["network"],
            f"{row['runs']}",
            plain(row["accuracy"], ".2%"),
            plain(row["cost/train"], ".4f"),
            plain(row["cost/test"], ".4f"),
            with_interval(row["cost rise"], ".4f"),
            plain(row["ee"], ".2f"),
            with_interval(row["ee rise"], "+.2f"),
            with_interval(row["ee rise since"], "+.2f"),
        )


def overfitting_correlation(collection: Collection) -> Iterator[Row]:
    """Yield whether runs that overfit more are those whose entropy rises more."""
    yield "data set", "runs", "rise of the test cost ~ rise of the EE"
    for row in records(overfitting_and_rise(collection)):
        yield data_name(row["data"]), f"{row['runs']}", with_interval(row["correlation"], "+.2f")


def contrast(collection: Collection, title: str, key: str, reference: Any) -> Iterator[Row]:
    """Yield what a setting changes, seed by seed."""
    metrics = {name: (lambda run, column=column: last(run.column(column))) for name, column in COMPARED.items()}
    yield (
        "data set",
        "network",
        title,
        "runs",
        "test accuracy",
        "difference (points)",
        "test cost",
        "EE (nats)",
        "difference (nats)",
    )
    for row in records(contrast_table(collection, key, reference, metrics)):
        yield (
            data_name(row["data"]),
            row["network"],
            plain(row["value"], "g") if isinstance(row["value"], int | float) else value_name(key, row["value"]),
            f"{row['runs']}",
            plain(row["accuracy"].value, ".2%"),
            points(row["accuracy difference"]),
            plain(row["cost"].value, ".4f"),
            plain(row["EE"].value, ".3f"),
            with_interval(row["EE difference"], "+.3f"),
        )


def classes(collection: Collection) -> Iterator[Row]:
    """Yield what the classes' entropies have in common between runs, and whether they go with the error rates."""
    yield (
        "data set",
        "network",
        "runs",
        "lowest class, EE (nats)",
        "highest class, EE (nats)",
        "concordance of the runs",
        "p",
        "EE ~ error rate",
        "runs",
    )
    for row in records(class_table(collection)):
        yield (
            data_name(row["data"]),
            row["network"],
            f"{row['runs']}",
            f"{row['lowest']}, {row['lowest entropy']:.2f}",
            f"{row['highest']}, {row['highest entropy']:.2f}",
            plain(row["concordance"], ".2f"),
            plain(row["p"], ".1g"),
            with_interval(row["correlation"], "+.2f"),
            f"{row['runs with errors'] or ''}",
        )
