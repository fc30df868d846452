"""What the studies ask of their runs, beyond accuracies and correlations, with intervals over runs.

Runs are independent, their epochs are not: every number is first taken of each run, and the interval is Student's of
the runs' mean. With the three or five seeds of a study that is wide, and honest.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import friedmanchisquare, t

from qcnn_lightning.labels import caption
from qcnn_lightning.report.correlation import FEWEST_POINTS, FEWEST_RUNS, Estimate, correlation, over_runs
from qcnn_lightning.report.groups import NOT_A_SETTING, Collection, rank
from qcnn_lightning.report.tables import COSTS, first, last, series
from qcnn_lightning.runs.run import Run
from qcnn_lightning.runs.settings import is_free

SETTLED_WITHIN = 0.005
FEWEST_CLASSES = 3
# What the paper reports as the best of all its experiments.
PAPER_ACCURACY = {"mnist": 0.97, "fmnist": 0.89}


@dataclass(frozen=True)
class Settling:
    """A run's mean entropy, in nats, when its test accuracy has all but reached its last value, and at the end.

    Attributes:
        before: before training.
        epoch: the first one whose test accuracy is at most `SETTLED_WITHIN` below the last epoch's.
        settled: at that epoch, of the trend.
        final: at the last epoch, of the trend.
    """

    before: float
    epoch: float
    settled: float
    final: float

    @property
    def rise(self) -> float:
        """What the entropy gained after the accuracy had settled; negative if it fell."""
        return self.final - self.settled

    @property
    def share(self) -> float:
        """The same as a part of the larger entropy of the two: from -1, all was lost, to 1, all was gained."""
        larger = max(self.settled, self.final)
        return self.rise / larger if larger > 0 else np.nan


def mean_with_interval(
    values: Sequence[float], confidence: float = 0.95, bounds: tuple[float, float] = (-np.inf, np.inf)
) -> Estimate:
    """Return the mean of the finite values with Student's interval.

    Args:
        values: one of each run.
        confidence: of the interval.
        bounds: what the values cannot exceed, and so their mean cannot either.

    Returns:
        Without an interval if there are fewer than `FEWEST_RUNS` values.
    """
    known = np.array([value for value in values if np.isfinite(value)], dtype=float)
    if len(known) == 0:
        return Estimate(np.nan)
    mean = float(known.mean())
    if len(known) < FEWEST_RUNS:
        return Estimate(mean)
    half = float(t.ppf((1 + confidence) / 2, len(known) - 1) * known.std(ddof=1) / np.sqrt(len(known)))
    low, high = np.clip([mean - half, mean + half], *bounds)
    return Estimate(mean, float(low), float(high))


def settling(run: Run, window: int = 2) -> Settling:
    """Return when a run's test accuracy settled and what its entropy trend did since; NaN where it has no such number.

    Args:
        run: the run.
        window: epochs over which the trend is averaged.
    """
    accuracy, trend = run.column("accuracy/test"), run.entropy_trend(window)
    accuracy = accuracy[accuracy.index >= 0]
    if accuracy.empty:
        return Settling(first(run.column("ee/mean")), np.nan, np.nan, last(trend))
    epoch = float(accuracy.index[accuracy >= last(accuracy) - SETTLED_WITHIN][0])
    before = run.column("ee/mean").get(-1, np.nan)
    return Settling(float(before), epoch, float(trend.get(epoch, np.nan)), last(trend))


def settling_table(collection: Collection, window: int = 2) -> pd.DataFrame:
    """Return `settling` per experiment, and of all runs of a data set where there are several experiments.

    Columns `before` (the largest of the runs), `epoch`, `settled`, `final` (means), and estimates `rise`, `share`.
    """
    rows = []
    for labels, runs in groups(collection):
        found = [settling(run, window) for run in runs]
        rows.append(
            labels
            | {"before": max((item.before for item in found if np.isfinite(item.before)), default=np.nan)}
            | {name: mean_of(getattr(item, name) for item in found) for name in ("epoch", "settled", "final")}
            | {"rise": mean_with_interval([item.rise for item in found])}
            | {"share": mean_with_interval([item.share for item in found], bounds=(-1.0, 1.0))}
        )
    return pd.DataFrame(rows)


def paper_table(collection: Collection) -> pd.DataFrame:
    """Return the test accuracies per experiment: estimates `best` and `final`, and the paper's accuracy, `paper`.

    The paper's is the best epoch's as far as can be told, and so is to be compared with `best`, which is chosen on the
    test images themselves.
    """
    rows = []
    for labels, runs in groups(collection, together=False):
        accuracies = [run.column("accuracy/test") for run in runs]
        rows.append(
            labels
            | {"best": mean_with_interval([accuracy.max() for accuracy in accuracies], bounds=(0.0, 1.0))}
            | {"final": mean_with_interval([last(accuracy) for accuracy in accuracies], bounds=(0.0, 1.0))}
            | {"paper": PAPER_ACCURACY.get(labels["data"], np.nan)}
        )
    return pd.DataFrame(rows)


def within_run_table(collection: Collection, first_epoch: int | None = None) -> pd.DataFrame:
    """Return, per experiment, the mean of the runs' own Spearman correlations of mean entropy and cost.

    Estimates `train` and `test`, and in how many runs each is negative: `train negative`, `test negative`. Runs with
    fewer than `FEWEST_POINTS` epochs from `first_epoch` on, by their length if None, are not counted.
    """
    rows = []
    for labels, runs in groups(collection):
        row: dict[str, Any] = dict(labels)
        for cost in COSTS:
            pairs = [series(run, cost, first_epoch, "values") for run in runs]
            own = [correlation(*pair, "spearman") for pair in pairs if len(pair[0]) >= FEWEST_POINTS]
            own = [value for value in own if np.isfinite(value)]
            row |= {
                cost: mean_with_interval(own, bounds=(-1.0, 1.0)),
                f"{cost} negative": sum(value < 0 for value in own),
            }
            row["runs"] = len(own)
        rows.append(row)
    return pd.DataFrame(rows)


def overfitting_table(collection: Collection, window: int = 2) -> pd.DataFrame:
    """Return, per experiment, how much it overfits and what its entropy does meanwhile.

    Columns `accuracy`, `cost/train`, `cost/test`, `ee` (means of the last epoch) and estimates `cost rise`, of the test
    cost over its lowest value; `ee rise`, of the entropy trend after the test accuracy has settled; and
    `ee rise since`, after the epoch with the lowest test cost.
    """
    rows = []
    for labels, runs in groups(collection, together=False):
        overfits = [overfitting(run, window) for run in runs]
        names = {"accuracy": "accuracy/test", "cost/train": "cost/train", "cost/test": "cost/test"}
        rows.append(
            labels
            | {title: mean_of(last(run.column(name)) for run in runs) for title, name in names.items()}
            | {"ee": mean_of(last(run.entropy_trend(window)) for run in runs)}
            | {"cost rise": mean_with_interval([cost for cost, _ in overfits], bounds=(0.0, np.inf))}
            | {"ee rise": mean_with_interval([settling(run, window).rise for run in runs])}
            | {"ee rise since": mean_with_interval([entropy for _, entropy in overfits])}
        )
    return pd.DataFrame(rows)


def overfitting_and_rise(collection: Collection, window: int = 2) -> pd.DataFrame:
    """Return, per data set, whether runs that overfit more are those whose entropy rises more.

    Column `correlation` is Spearman's, over runs, of the rise of the test cost over its lowest value and that of the
    entropy trend after the test accuracy has settled; not after the epoch of that lowest cost, from which there is the
    less to rise the later it comes.
    """
    rows = []
    for data in collection.data_sets:
        runs = [run for run in collection.runs if run.data == data]
        pairs = np.array([(settling(run, window).rise, overfitting(run, window)[0]) for run in runs])
        entropies, costs = (list(column[:, None]) for column in pairs[np.isfinite(pairs).all(1)].T)
        if entropies:
            estimate = over_runs(entropies, costs, "spearman")
            rows.append({"data": data, "runs": len(entropies), "correlation": estimate})
    return pd.DataFrame(rows)


def overfitting(run: Run, window: int = 2) -> tuple[float, float]:
    """Return how much test cost and entropy trend of a run rose after the epoch with the lowest test cost."""
    cost, trend = run.column("cost/test"), run.entropy_trend(window)
    cost = cost[cost.index >= 0]
    if cost.empty:
        return np.nan, np.nan
    return last(cost) - float(cost.min()), last(trend) - float(trend.get(cost.idxmin(), np.nan))


def contrast_table(
    collection: Collection, key: str, reference: Any, metrics: Mapping[str, Callable[[Run], float]]
) -> pd.DataFrame:
    """Compare runs that differ in one setting with those that have its reference value, seed by seed.

    Args:
        collection: the runs; those that no other differs from in this setting alone are left out.
        key: the setting, such as "entropy_weight".
        reference: its value in the runs to compare with.
        metrics: what is compared, by title.

    Returns:
        A row per data set, rest of the settings (`network`) and value of the setting, in this order: `runs`, and per
        metric an estimate of its mean and, titled "<metric> difference", of the paired difference to the reference.
    """
    families: dict[tuple[str, str], dict[Any, dict[tuple, Run]]] = {}
    for run in collection.runs:
        halves = "" if key == "data.flatten" else run.bipartition
        network = caption(collection.describe_variant(run, without=key), halves)
        family = families.setdefault((run.data, network), {})
        family.setdefault(run.settings.get(key), {})[rest_of_settings(run, key)] = run
    rows = []
    for (data, network), family in families.items():
        if len(family) < 2:
            continue
        for value in sorted(family, key=lambda value: (value != reference, rank(value), str(value))):
            runs, others = family[value], family.get(reference, {})
            row: dict[str, Any] = {"data": data, "network": network, "value": value, "runs": len(runs)}
            for title, metric in metrics.items():
                row[title] = mean_with_interval([metric(run) for run in runs.values()])
                pairs = [(run, others[rest]) for rest, run in runs.items() if rest in others and value != reference]
                row[f"{title} difference"] = mean_with_interval([metric(run) - metric(other) for run, other in pairs])
            rows.append(row)
    return pd.DataFrame(rows)


def rest_of_settings(run: Run, key: str) -> tuple:
    """Return what has to be the same in a pair of runs: all settings that matter but one, and the seed."""
    rest = {name: value for name, value in run.settings.items() if name != key and not is_free(name, NOT_A_SETTING)}
    return (run.seed, *sorted((name, str(value)) for name, value in rest.items()))


def classes_at_the_end(run: Run) -> pd.DataFrame:
    """Return the entropy (nats) and the error rate of every class at the last epoch that has both.

    A row per class; NaN where nothing was measured, as was `error` in early runs.
    """
    columns = {name: name.replace("ee/class_", "recall/class_") for name in run.class_columns}
    table = run.metrics.reindex(columns=[*columns, *columns.values()])
    complete, measured = table.dropna(), table[list(columns)].dropna()
    if len(complete):
        chosen = complete.iloc[-1]
    elif len(measured):
        chosen = table.loc[measured.index[-1]]
    else:
        chosen = pd.Series(np.nan, index=table.columns)
    return pd.DataFrame(
        {
            "entropy": chosen[list(columns)].to_numpy(dtype=float),
            "error": 1 - chosen[list(columns.values())].to_numpy(dtype=float),
        },
        index=run.class_names,
    )


def entropy_and_error(run: Run) -> float:
    """Return Spearman's correlation, over the classes, of entropy and error rate at the end; NaN if undefined."""
    classes = classes_at_the_end(run).dropna()
    if len(classes) < FEWEST_CLASSES:
        return np.nan
    entropy, error = (classes[name].to_numpy() for name in ("entropy", "error"))
    return correlation(entropy, error, "spearman")


def class_table(collection: Collection) -> pd.DataFrame:
    """Return what the classes' entropies have in common over runs, and whether they go with the error rates.

    Per experiment, and of all runs of a data set where there are several: the classes with the lowest and the highest
    mean entropy, `lowest`, `highest`, and those entropies; Kendall's `concordance` of the order of the classes between
    runs, from 0 (none) to 1 (the same), with the `p` of Friedman's test that there is none; `correlation`, the estimate
    of Spearman's over the classes of entropy and error rate, and of how many runs: `runs with errors`.
    """
    rows = []
    for labels, runs in groups(collection):
        tables = [classes_at_the_end(run) for run in runs]
        entropies = pd.DataFrame([table["entropy"] for table in tables if table["entropy"].notna().all()])
        if entropies.empty or entropies.shape[1] < FEWEST_CLASSES or entropies.isna().to_numpy().any():
            continue
        means = entropies.mean()
        concordance, p = concordance_of(entropies.to_numpy())
        own = [value for run in runs if np.isfinite(value := entropy_and_error(run))]
        rows.append(
            labels
            | {"lowest": means.idxmin(), "lowest entropy": means.min()}
            | {"highest": means.idxmax(), "highest entropy": means.max()}
            | {"concordance": concordance, "p": p}
            | {"correlation": mean_with_interval(own, bounds=(-1.0, 1.0)), "runs with errors": len(own)}
        )
    return pd.DataFrame(rows)


def concordance_of(entropies: Float[np.ndarray, "runs classes"]) -> tuple[float, float]:
    """Return Kendall's concordance of the order of the classes between runs, and Friedman's p; NaN if undefined."""
    runs, classes = entropies.shape
    if runs < 2 or bool((entropies.max(1) == entropies.min(1)).any()):
        return np.nan, np.nan
    found = friedmanchisquare(*entropies.T)
    return float(found.statistic) / (runs * (classes - 1)), float(found.pvalue)


def groups(collection: Collection, together: bool = True) -> Iterator[tuple[dict[str, Any], Sequence[Run]]]:
    """Yield the experiments of every data set, as columns that name them and their complete runs.

    With `together`, all complete runs of a data set follow as a group of its own if there are several experiments.
    """
    for data in collection.data_sets:
        experiments = [experiment for experiment in collection.groups if experiment.data == data]
        for experiment in experiments:
            runs = experiment.complete_runs
            network = caption(experiment.variant, experiment.bipartition)
            yield {"data": data, "network": network, "runs": len(runs)}, runs
        if together and len(experiments) > 1:
            every = [run for experiment in experiments for run in experiment.complete_runs]
            yield {"data": data, "network": "all", "runs": len(every)}, every


def mean_of(values: Iterator[float]) -> float:
    """Return the mean of the finite values; NaN if there is none."""
    return mean_with_interval(list(values)).value
