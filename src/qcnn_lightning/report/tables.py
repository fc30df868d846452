"""The numbers behind the figures: accuracies over seeds, correlations of entropy and cost, and a row per run."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from qcnn_lightning.report.correlation import (
    FEWEST_POINTS,
    MEASURES,
    Estimate,
    mean_over_runs,
    over_runs,
    within_run,
)
from qcnn_lightning.report.groups import Collection, LeftOut
from qcnn_lightning.runs.run import Run

COSTS = ("train", "test")
# Names in the tables: the correlation of the values themselves, and of their changes from epoch to epoch.
SERIES = ("values", "changes")


def accuracy_table(collection: Collection, window: int = 2) -> pd.DataFrame:
    """Return a row per group: mean and standard deviation over seeds of accuracies, test cost and entropy.

    The best test accuracy is the paper's measure: chosen on the test images themselves, so slightly optimistic. Where
    images were held out, `selected` is the test accuracy at the epoch that was best on those. Runs that ended earlier
    than others of their group are not counted; the standard deviation needs two seeds.

    Args:
        collection: the runs.
        window: epochs over which the last entropy is averaged.
    """
    rows = []
    for group in collection.groups:
        runs = group.complete_runs
        row: dict[str, Any] = {
            "data": group.data,
            "bipartition": group.bipartition,
            "variant": group.variant,
            "size": runs[0].settings.get("data.size"),
            "num_parameters": runs[0].num_parameters,
            "epochs": runs[0].last_epoch + 1,
            "seeds": len(runs),
        }
        measured = {
            "accuracy/test best": [run.column("accuracy/test").max() for run in runs],
            "accuracy/test final": [last(run.column("accuracy/test")) for run in runs],
            "accuracy/test selected": [selected_accuracy(run) for run in runs],
            "accuracy/train final": [last(run.column("accuracy/train")) for run in runs],
            "cost/train final": [last(run.column("cost/train")) for run in runs],
            "cost/test final": [last(run.column("cost/test")) for run in runs],
            "ee/mean final": [last(run.entropy_trend(window)) for run in runs],
            "seconds": [run.seconds for run in runs],
        }
        for name, values in measured.items():
            row[f"{name}, mean"], row[f"{name}, sd"] = mean_and_deviation(values)
        rows.append(row)
    return pd.DataFrame(rows)


def correlation_table(
    collection: Collection, first_epoch: int | None = None, resamples: int = 1000, confidence: float = 0.95
) -> tuple[pd.DataFrame, list[LeftOut]]:
    """Return the correlations of mean entropy and cost: per run, over the runs of a data set, and between runs.

    Column `scope` says which: "run"; "mean over runs" of the runs' own correlations; "all epochs of all runs", the
    landscape of figure 3(b); "last epochs of all runs", one point per run.

    Args:
        collection: the runs.
        first_epoch: earlier epochs are left out, as in the paper; by each run's length if None.
        resamples: number of bootstrap samples.
        confidence: of the intervals.

    Returns:
        The table, and the runs that are not in it and why.
    """
    left_out = [
        LeftOut(
            run.name,
            f"no correlations: {epochs} epochs from epoch {run.first_epoch(first_epoch)} (first_epoch) on, "
            f"{FEWEST_POINTS} are needed",
        )
        for run in collection.runs
        if (epochs := len(series(run, "train", first_epoch, "values")[0])) < FEWEST_POINTS
    ]
    rows: list[dict[str, Any]] = []
    for data in collection.data_sets:
        runs = [run for run in collection.runs if run.data == data]
        for cost in COSTS:
            for kind in SERIES:
                points = {run.name: series(run, cost, first_epoch, kind) for run in runs}
                points = {name: pair for name, pair in points.items() if len(pair[0]) >= FEWEST_POINTS}
                for measure in MEASURES:
                    labels = {"data": data, "cost": cost, "of": kind, "measure": measure}
                    rows += [labels | row for row in correlate(points, measure, resamples, confidence)]
                    if points and kind == "values":
                        rows.append(labels | correlate_last(points, measure, resamples, confidence))
    columns = ["scope", "data", "run", "cost", "of", "measure", "correlation", "low", "high", "runs", "epochs"]
    return pd.DataFrame(rows, columns=columns), left_out


def correlate(
    points: Mapping[str, tuple[np.ndarray, np.ndarray]], measure: str, resamples: int, confidence: float
) -> Iterator[dict[str, Any]]:
    """Yield the rows of `correlation_table` for the entropies and costs of some runs, by name."""
    if not points:
        return
    own = {name: within_run(*pair, measure, resamples, confidence) for name, pair in points.items()}
    for name, estimate in own.items():
        yield {"scope": "run", "run": name, "runs": 1, "epochs": len(points[name][0])} | described(estimate)
    entropies, costs = (list(column) for column in zip(*points.values(), strict=True))
    everything = sum(map(len, entropies))
    mean = mean_over_runs(np.array([estimate.value for estimate in own.values()]), resamples, confidence)
    pooled = over_runs(entropies, costs, measure, resamples, confidence)
    yield {"scope": "mean over runs", "run": "", "runs": len(points), "epochs": everything} | described(mean)
    yield {"scope": "all epochs of all runs", "run": "", "runs": len(points), "epochs": everything} | described(pooled)


def correlate_last(
    points: Mapping[str, tuple[np.ndarray, np.ndarray]], measure: str, resamples: int, confidence: float
) -> dict[str, Any]:
    """Return the row of `correlation_table` for one point per run: its last epoch."""
    entropies, costs = ([column[-1:] for column in columns] for columns in zip(*points.values(), strict=True))
    between = over_runs(entropies, costs, measure, resamples, confidence)
    scope = "last epochs of all runs"
    return {"scope": scope, "run": "", "runs": len(points), "epochs": len(points)} | described(between)


def described(estimate: Estimate) -> dict[str, float]:
    """Return an estimate as columns of a table."""
    return {"correlation": estimate.value, "low": estimate.low, "high": estimate.high}


def run_table(collection: Collection, window: int = 2) -> pd.DataFrame:
    """Return a row per run: its settings, status, accuracies, costs, last entropy and the command that repeats it."""
    rows = []
    for run in collection.runs:
        row: dict[str, Any] = {"run": run.name, "data": run.data, "d": run.d, "seed": run.seed, "flatten": run.flatten}
        row |= {
            setting: run.settings.get(setting)
            for setting in collection.varying_settings
            if setting not in ("model.d", "data.flatten")
        }
        row |= {
            "status": run.status,
            "epochs": run.last_epoch + 1,
            "num_parameters": run.num_parameters,
            "accuracy/test best": run.column("accuracy/test").max(),
            "accuracy/test final": last(run.column("accuracy/test")),
            "accuracy/train final": last(run.column("accuracy/train")),
            "cost/train final": last(run.column("cost/train")),
            "cost/test final": last(run.column("cost/test")),
            "ee/mean first": first(run.column("ee/mean")),
            "ee/mean final": last(run.entropy_trend(window)),
            "seconds": run.seconds,
            "command": run.command,
        }
        rows.append(row)
    return pd.DataFrame(rows)


def series(run: Run, cost: str, first_epoch: int | None, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean entropies and costs of a run from its first epoch, or their changes from each epoch to the next.

    Args:
        run: the run.
        cost: which cost.
        first_epoch: the first epoch; by the run's length if None.
        kind: of `SERIES`.
    """
    first = run.first_epoch(first_epoch)
    entropy, costs = run.column("ee/mean").loc[first:], run.column(f"cost/{cost}").loc[first:]
    epochs, of_entropy, of_costs = np.intersect1d(entropy.index, costs.index, return_indices=True)
    pair = entropy.to_numpy()[of_entropy], costs.to_numpy()[of_costs]
    if kind == "values":
        return pair
    # A gap in the epochs is no change from one epoch to the next.
    consecutive = np.diff(epochs) == 1
    return np.diff(pair[0])[consecutive], np.diff(pair[1])[consecutive]


def selected_accuracy(run: Run) -> float:
    """Return the test accuracy at the epoch with the best accuracy on held-out images; NaN if there were none."""
    held_out = run.column("accuracy/val")
    return float(run.column("accuracy/test").get(held_out.idxmax(), np.nan)) if len(held_out) else np.nan


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the sample standard deviation of the finite values; NaN where there are too few."""
    known = np.array([value for value in values if np.isfinite(value)])
    return (
        float(known.mean()) if len(known) else np.nan,
        float(known.std(ddof=1)) if len(known) > 1 else np.nan,
    )


def possible_interval(
    mean: pd.Series | float, deviation: pd.Series | float, smallest: float, highest: float = np.inf
) -> tuple[Any, Any]:
    """Return mean ± deviation, cut off at what is possible: at `highest`, and at 0 where no value is negative.

    Args:
        mean: of the values.
        deviation: their standard deviation; NaN counts as 0.
        smallest: of the values.
        highest: that a value can be: 1 for accuracies.
    """
    middle, around = np.asarray(mean), np.nan_to_num(np.asarray(deviation))
    return np.maximum(0.0 if smallest >= 0 else -np.inf, middle - around), np.minimum(highest, middle + around)


def first(values: pd.Series) -> float:
    """Return the first value; NaN if there is none."""
    return float(values.iloc[0]) if len(values) else np.nan


def last(values: pd.Series) -> float:
    """Return the last value; NaN if there is none."""
    return float(values.iloc[-1]) if len(values) else np.nan
