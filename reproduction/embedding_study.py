"""What accuracy and entropy owe to the embedding of grey levels and to the order of the pixels: a balanced design.

Every seed trains every combination, so runs of one seed share their random numbers. All numbers are taken seed by seed
(over the seed's combinations, where there are several), and intervals are Student's over seeds.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from qcnn_lightning.report.correlation import Estimate, correlation
from qcnn_lightning.report.groups import Collection
from qcnn_lightning.report.tables import last
from qcnn_lightning.runs.run import Run
from reproduction.studies import mean_with_interval, settling

EMBEDDINGS = {
    "circle": "Fourier, whole circle",
    "three_quarters": "Fourier, 3/4 of the circle",
    "legendre": "Legendre",
}
ORDERS = ("left_right", "up_down", "z_left_right", "z_up_down")
FACTORS = {"embedding": tuple(EMBEDDINGS), "order": ORDERS}
COSTS = {
    "batches": "cost/batch",  # what was minimised
    "train": "cost/train evaluated",
    "test": "cost/test",
}
METRICS: dict[str, Callable[[Run], float]] = {
    "accuracy": lambda run: last(run.column("accuracy/test")),
    "best": lambda run: float(run.column("accuracy/test").max()),
    **{f"cost/{name}": partial(lambda column, run: last(run.column(column)), column) for name, column in COSTS.items()},
    "ee": lambda run: last(run.entropy_trend(2)),
    "rise": lambda run: settling(run).rise,
}
SCOPES = ("within", "changes", "pooled", "between")
BOUNDS = {"accuracy": (0.0, 1.0), "best": (0.0, 1.0), "ee": (0.0, np.inf)}
ANY = (-np.inf, np.inf)


def runs_table(collection: Collection, labels: Callable[[Run], Mapping[str, Any]] | None = None) -> pd.DataFrame:
    """Return a row per complete run: `data`, `seed`, `run`, `METRICS` at the last epoch, and what else tells it apart.

    Args:
        collection: the runs.
        labels: of a run; `embedding` and `order` if None.
    """
    rows = []
    for group in collection.groups:
        for run in group.complete_runs:
            own = {"embedding": embedding_of(run), "order": run.flatten} if labels is None else labels(run)
            measured = {name: metric(run) for name, metric in METRICS.items()}
            rows.append({"data": run.data, **own, "seed": run.seed, "run": run, **measured})
    return pd.DataFrame(rows)


def estimates(cell: pd.DataFrame) -> dict[str, Estimate]:
    """Return the estimates of `METRICS` over runs that differ in their seeds alone."""
    return {name: mean_with_interval(list(cell[name]), bounds=BOUNDS.get(name, ANY)) for name in METRICS}


def embedding_of(run: Run) -> str:
    """Return which of `EMBEDDINGS` a run has."""
    if str(run.settings["model.basis"]) == "legendre":
        return "legendre"
    return "circle" if run.settings["data.white"] == 1 else "three_quarters"


def cells_table(collection: Collection) -> pd.DataFrame:
    """Return estimates of `METRICS`, and the number of seeds, of every data set, embedding and order."""
    rows: list[dict[str, Any]] = []
    for labels, cell in runs_table(collection).groupby(["data", "embedding", "order"], sort=False):
        row = dict(zip(("data", "embedding", "order"), labels, strict=True)) | {"seeds": len(cell)}
        rows.append(row | estimates(cell))
    table = pd.DataFrame(rows)
    places = [table["embedding"].map(list(EMBEDDINGS).index), table["order"].map(ORDERS.index)]
    return table.assign(e=places[0], o=places[1]).sort_values(["data", "e", "o"], ascending=[False, True, True])


def effects_table(collection: Collection) -> pd.DataFrame:
    """Return what each embedding changes against the whole circle, and each order against left/right.

    Pairs of runs that differ in nothing else are averaged within a seed. Estimates of `accuracy`, `ee`, and how many
    `seeds` and `pairs` there are.
    """
    runs, rows = runs_table(collection), []
    for data, of_data in runs.groupby("data", sort=False):
        for factor, (reference, *others) in FACTORS.items():
            rest = next(name for name in FACTORS if name != factor)
            by_level = {level: table.set_index(["seed", rest]) for level, table in of_data.groupby(factor)}
            for level in others:
                if level not in by_level or reference not in by_level:
                    continue
                pairs = by_level[level][["accuracy", "ee"]] - by_level[reference][["accuracy", "ee"]]
                by_seed = pairs.dropna().groupby("seed").mean()
                row = {
                    "data": data,
                    "factor": factor,
                    "level": level,
                    "seeds": len(by_seed),
                    "pairs": len(pairs.dropna()),
                }
                rows.append(row | {name: mean_with_interval(list(by_seed[name])) for name in by_seed})
    return pd.DataFrame(rows)


def correlations_table(collection: Collection) -> pd.DataFrame:
    """Return Spearman's correlations of mean entropy and the three costs, with intervals over seeds.

    Scopes: `within` a run, averaged over the seed's runs; `changes`, the same of the changes from epoch to epoch;
    `pooled`, all epochs of the seed's runs together; `between`, the last epochs of the seed's runs. Epochs before a
    third of the training are left out. `embedding` "all" pools the embeddings too.
    """
    runs, rows = runs_table(collection), []
    for data, of_data in runs.groupby("data", sort=False):
        for embedding in (*EMBEDDINGS, "all"):
            chosen = of_data if embedding == "all" else of_data[of_data["embedding"] == embedding]
            by_seed = [list(table["run"]) for _, table in chosen.groupby("seed")]
            for scope in SCOPES:
                # Four orders are too few points.
                if not by_seed or (scope in ("between", "changes") and embedding != "all"):
                    continue
                row: dict[str, Any] = {"data": data, "embedding": embedding, "scope": scope, "seeds": len(by_seed)}
                for name, column in COSTS.items():
                    values = [correlation_of_seed(runs_of_seed, column, scope) for runs_of_seed in by_seed]
                    row[name] = mean_with_interval(values, bounds=(-1.0, 1.0))
                rows.append(row)
    return pd.DataFrame(rows)


def correlation_of_seed(runs: Sequence[Run], column: str, scope: str, first_epoch: int | None = None) -> float:
    """Return Spearman's correlation of mean entropy and a cost over the runs of one seed.

    Args:
        runs: of one seed.
        column: the cost's.
        scope: as `correlations_table` has it.
        first_epoch: earlier epochs are left out; by the runs' lengths if None.
    """
    tables = [run.metrics.loc[run.first_epoch(first_epoch) :, ["ee/mean", column]].dropna() for run in runs]
    if scope == "changes":
        tables = [table.diff().iloc[1:] for table in tables]
    if scope in ("within", "changes"):
        return float(np.nanmean([spearman(table) for table in tables]))
    return spearman(pd.concat(tables if scope == "pooled" else [table.tail(1) for table in tables]))


def spearman(table: pd.DataFrame) -> float:
    """Return Spearman's correlation of two columns."""
    entropies, costs = table.to_numpy(dtype=float).T
    return correlation(entropies, costs, "spearman")


def scales_table(collection: Collection) -> pd.DataFrame:
    """Return what a term of the cost for the entropy of one scale, or of all, changes at d = 18, seed by seed.

    A row per data set, scale (`entropy_of`) and `weight`: the number of `seeds`, and estimates of `accuracy`, `ee`
    (that scale's mean entropy; of "profile", the mean over the scales), and their paired differences to the same seed
    without the term, `accuracy difference` and `ee difference`.
    """
    runs = [run for group in collection.groups for run in group.complete_runs if embedding_of(run) == "circle"]
    without = {(run.data, run.seed): run for run in runs if not weight_of(run) and run.flatten == "left_right"}
    rows = []
    for (data, scale, weight), of_seed in grouped(run for run in runs if weight_of(run)).items():
        row: dict[str, Any] = {"data": data, "scale": scale, "weight": weight, "seeds": len(of_seed)}
        for name, metric in (("accuracy", METRICS["accuracy"]), ("ee", partial(entropy_of_scale, scale))):
            pairs = [(metric(run), metric(without[data, run.seed])) for run in of_seed if (data, run.seed) in without]
            row[name] = mean_with_interval([metric(run) for run in of_seed])
            row[f"{name} difference"] = mean_with_interval([own - other for own, other in pairs])
        rows.append(row)
    return pd.DataFrame(rows)


def weight_of(run: Run) -> float:
    """Return the entropy's weight in the cost."""
    return float(run.settings["entropy_weight"])


def grouped(runs: Iterable[Run]) -> dict[tuple[str, str, float], list[Run]]:
    """Return runs by data set, scale and weight, in this order; levels come from the pixels up, all scales last."""
    groups: dict[tuple[str, str, float], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.data, str(run.settings["entropy_of"]), weight_of(run)), []).append(run)
    return dict(sorted(groups.items(), key=lambda item: (item[0][0] != "mnist", len(item[0][1]), *item[0])))


def scale_label(scale: str) -> str:
    """Return the number of pixels of a level's blocks, as text; "all" for "profile"."""
    return "all" if scale == "profile" else str(1 << int(scale))


def entropy_of_scale(scale: str, run: Run) -> float:
    """Return a run's last mean entropy of the blocks of a level, nats; of all levels for "profile"."""
    levels = [str(name) for name in run.metrics if str(name).startswith("profile/level_")]
    return float(np.mean([last(run.column(name)) for name in levels if scale in ("profile", name.rpartition("_")[2])]))
