"""Does entropy rise as the cost falls in the q-CNN alone, or in its relatives too? At equal numbers of parameters.

Every number is first taken of each seed; intervals are Student's over seeds. The runs are short, so correlations count
all their epochs but the one before training.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from qcnn_lightning.report.correlation import Estimate
from qcnn_lightning.report.groups import Collection
from qcnn_lightning.runs.run import Run
from reproduction.embedding_study import COSTS, correlation_of_seed, estimates, runs_table
from reproduction.studies import mean_with_interval

RELATIVES = {
    "qcnn_full": "q-CNN, full sharing",
    "qcnn_sibling": "q-CNN, sibling sharing",
    "convac": "arithmetic circuit",
    "convac_complex": "arithmetic circuit, complex",
    "mps": "matrix product state",
    "mps_complex": "matrix product state, complex",
    "ttn": "tree of dense tensors",
    "ttn_complex": "tree of dense tensors, complex",
}
SIZES = {"10k": 10_000, "40k": 40_000, "160k": 160_000}
"""Numbers of parameters that the networks of a size come near."""
FIRST_EPOCH = 0
SCOPES = ("within", "pooled")
ANSWERS = {-1: "yes", 0: "not confirmed", 1: "no"}


def relative_of(run: Run) -> str | None:
    """Return which of `RELATIVES` a run is of; None if of none."""
    settings = run.settings
    name = str(settings.get("model._target_")).rpartition(".")[2].lower()
    if name == "qcnn":
        name = f"qcnn_{settings.get('model.sharing')}"
    if settings.get("model.dtype") == "complex":
        name = f"{name}_complex"
    return name if name in RELATIVES else None


def size_of(run: Run) -> str:
    """Return the one of `SIZES` whose number of parameters a run has, or comes nearest to."""
    return min(SIZES, key=lambda size: abs(math.log(SIZES[size] / run.num_parameters)))


def relatives_table(collection: Collection) -> pd.DataFrame:
    """Return a row per run, as `runs_table` has it, with `relative` and `size`; in the order of `RELATIVES` and sizes.

    `within` is the run's own correlation (Spearman's) of mean entropy and evaluated train cost.
    """
    runs = runs_table(collection, lambda run: {"relative": relative_of(run), "size": size_of(run)})
    runs = runs[runs["relative"].notna()].copy()
    runs["within"] = [correlation_of_seed([run], COSTS["train"], "within", FIRST_EPOCH) for run in runs["run"]]
    places = {"r": list(RELATIVES).index, "s": list(SIZES).index}
    runs = runs.assign(r=runs["relative"].map(places["r"]), s=runs["size"].map(places["s"]))
    return runs.sort_values(["data", "r", "s", "seed"], ascending=[False, True, True, True]).drop(columns=["r", "s"])


def networks_table(collection: Collection) -> pd.DataFrame:
    """Return a row per data set, relative and size: `parameters`, `seeds`, estimates of all metrics and of `within`.

    `negative` says in how many runs the correlation within the run is negative.
    """
    rows: list[dict[str, Any]] = []
    for labels, cell in relatives_table(collection).groupby(["data", "relative", "size"], sort=False):
        rows.append(
            dict(zip(("data", "relative", "size"), labels, strict=True))
            | {"parameters": cell["run"].iloc[0].num_parameters, "seeds": len(cell)}
            | estimates(cell)
            | {"within": mean_with_interval(list(cell["within"]), bounds=(-1.0, 1.0))}
            | {"negative": int((cell["within"] < 0).sum())}
        )
    return pd.DataFrame(rows)


def entropy_and_cost_table(collection: Collection) -> pd.DataFrame:
    """Return a row per data set and relative: how entropy goes with the train cost, over all its sizes.

    Estimates over seeds `within` (mean of the seed's runs), `pooled` (all epochs of the seed's runs) and `rise` (of the
    entropy since the test accuracy settled); `runs`, and how many are `negative` or `rising`.
    """
    rows: list[dict[str, Any]] = []
    for (data, relative), own in relatives_table(collection).groupby(["data", "relative"], sort=False):
        by_seed = [list(table["run"]) for _, table in own.groupby("seed")]
        row: dict[str, Any] = {"data": data, "relative": relative, "seeds": len(by_seed), "runs": len(own)}
        for scope in SCOPES:
            row[scope] = over_seeds(by_seed, scope)
        row["rise"] = mean_with_interval(list(own.groupby("seed")["rise"].mean()))
        row |= {"negative": int((own["within"] < 0).sum()), "rising": int((own["rise"] > 0).sum())}
        rows.append(row)
    return pd.DataFrame(rows)


def over_seeds(by_seed: Sequence[Sequence[Run]], scope: str) -> Estimate:
    """Return the correlation of mean entropy and evaluated train cost, an estimate over seeds."""
    values = [correlation_of_seed(runs, COSTS["train"], scope, FIRST_EPOCH) for runs in by_seed]
    return mean_with_interval(values, bounds=(-1.0, 1.0))


def answer(estimate: Estimate) -> str:
    """Say whether entropy rises as the cost falls: "yes" if the whole interval is negative, "no" if it is positive."""
    if np.isnan(estimate.low):
        return ANSWERS[0]
    return ANSWERS[int(np.sign(estimate.low)) if estimate.low * estimate.high > 0 else 0]
