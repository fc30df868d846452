"""What Weights & Biases draws: which metrics get a panel, against which axis, and the charts made of tables."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import wandb

from qcnn_lightning.labels import ENTROPY, MEAN_ENTROPY

ENTROPY_PREFIX = "ee/"
MEAN = f"{ENTROPY_PREFIX}mean"
# A page shows sections in the order of their names: the 1 brings entropy against cost to its top.
AGAINST_COST = "1_ee_against_cost"
# What training minimised, the mean over the epoch's batches, is `cost/batch`; where there is none, `cost/train`.
COSTS = {"cost/train": "train cost", "cost/test": "test cost"}
LINES = {f"{AGAINST_COST}/{cost.removeprefix('cost/')}": cost for cost in COSTS}
"""Mean entropy, logged once more for a panel whose x-axis is a cost: metric -> its axis."""
LIKELIHOODS = {f"{AGAINST_COST}/nats": "nats/test", f"{AGAINST_COST}/mixture_nats": "nats/test"}
"""Of a density the mean entropy and the mixture's, once more, against -log p(x): its cost may be another."""
OF_LIKELIHOODS = dict(zip(LIKELIHOODS, (MEAN, f"{ENTROPY_PREFIX}mixture"), strict=True))
SHOWN = (*LINES, *LIKELIHOODS, MEAN, *COSTS, "accuracy/test", "accuracy/val")
"""The metrics that get a panel by themselves."""
OURS = ("ee", "renyi_2", "cost", "accuracy", "recall", "profile", "spectrum", "time", "learning_rate")
"""Sections of `metrics.csv`; their other metrics are logged, but get no panel until somebody asks for one."""
CORRELATIONS: tuple[Literal["spearman", "pearson"], ...] = ("spearman", "pearson")
FEWEST_EPOCHS = 5
"""Of a correlation."""
MOST_CURVES = 6
"""Epochs in one chart; of more, an even choice is drawn."""


@dataclass(frozen=True)
class Chart:
    """A chart that W&B draws from a table by one of its presets.

    Attributes:
        key: name of the chart; its table is logged as `<key>_table`.
        preset: W&B's name of the preset.
        fields: field of the preset -> column of the table.
        strings: texts of the preset.
    """

    key: str
    preset: str
    fields: Mapping[str, str]
    strings: Mapping[str, str]

    def of(self, rows: Sequence[Sequence[Any]]) -> Any:
        """Return the chart of a table with these rows, to be logged."""
        table = wandb.Table(columns=list(self.columns), data=[list(row) for row in rows])
        return wandb.plot_table(self.preset, table, dict(self.fields), dict(self.strings))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the table."""
        return tuple(self.fields.values())

    @property
    def table(self) -> str:
        """The key of the table."""
        return f"{self.key}_table"


def curves(key: str, title: str, axis: str) -> Chart:
    """Return a chart with several curves."""
    fields = {name: name for name in ("step", "lineKey", "lineVal")}
    return Chart(key, "wandb/lineseries/v0", fields, {"title": title, "xname": axis})


CLASSES = curves("charts/entropy_of_classes", f"{ENTROPY.capitalize()} of every class", "epoch")
PROFILE = curves("charts/entropy_profile", "Entropy (nats) of a block of 2^l pixels against the rest", "l")
SPECTRUM = curves("charts/schmidt_spectrum", "Schmidt probabilities of the two halves, the largest first", "k")
CONFUSION = Chart(
    "charts/confusion_test",
    "wandb/confusion_matrix/v1",
    {name: name for name in ("Actual", "Predicted", "nPredictions")},
    {"title": "Test images: what they are and what they were taken for"},
)
# Metric prefix -> chart with a curve per epoch; the number at the end of a metric's name is x.
CURVES = {"profile/level_": PROFILE, "spectrum/p_": SPECTRUM}
SCATTERS = tuple(
    Chart(
        f"{metric}_points",
        "wandb/scatter/v0",
        {"x": cost, "y": MEAN},
        {"title": f"{MEAN_ENTROPY} against {COSTS[cost]}, a point per epoch"},
    )
    for metric, cost in LINES.items()
)
CHARTS = (*SCATTERS, CLASSES, PROFILE, SPECTRUM, CONFUSION)


def axis_of(metric: str) -> str:
    """Return the x-axis of a metric."""
    return (LINES | LIKELIHOODS).get(metric, "epoch")


def is_hidden(metric: str) -> bool:
    """Return whether a metric gets no panel by itself."""
    section = metric.partition("/")[0]
    return metric not in SHOWN and (section in OURS or metric in {chart.table for chart in CHARTS})


def against_cost(row: Mapping[str, float | int]) -> dict[str, float | int]:
    """Return the entropy of an epoch under the names whose axis is a cost, or a likelihood."""
    entropies = dict.fromkeys(LINES, MEAN) | OF_LIKELIHOODS
    axes = LINES | LIKELIHOODS
    return {metric: row[name] for metric, name in entropies.items() if name in row and axes[metric] in row}


def charts_of(rows: Sequence[Mapping[str, float | int]], first_epoch: int, classes: Sequence[str]) -> dict[str, Any]:
    """Return the charts that have points, by their keys; the confusion matrix is not made of rows.

    Args:
        rows: one per epoch.
        first_epoch: first epoch of the scatter charts.
        classes: their names; "class 0", ... where there are none.
    """
    tables: list[tuple[Chart, Sequence[Sequence[Any]]]] = [
        *((chart, points_of(rows, chart, first_epoch)) for chart in SCATTERS),
        (CLASSES, class_rows(rows, classes)),
        *((chart, curve_rows(rows, prefix)) for prefix, chart in CURVES.items()),
    ]
    return {chart.key: chart.of(table) for chart, table in tables if table}


def class_rows(rows: Sequence[Mapping[str, float | int]], classes: Sequence[str]) -> list[tuple[int, str, float]]:
    """Return the rows (epoch, class, entropy) of `CLASSES`."""
    prefix = f"{ENTROPY_PREFIX}class_"
    names = dict(enumerate(classes))
    return [
        (int(row["epoch"]), names.get(label := int(name.removeprefix(prefix)), f"class {label}"), value)
        for row in rows
        for name, value in row.items()
        if name.startswith(prefix)
    ]


def curve_rows(rows: Sequence[Mapping[str, float | int]], prefix: str) -> list[tuple[int, str, float]]:
    """Return the rows (x, curve, y) of a chart: a curve for every epoch that has metrics `<prefix><x>`.

    Args:
        rows: one per epoch.
        prefix: prefix of the metrics' names.
    """
    having = [row for row in rows if any(name.startswith(prefix) for name in row)]
    if len(having) > MOST_CURVES:
        having = [having[round(place)] for place in np.linspace(0, len(having) - 1, MOST_CURVES)]
    # W&B sorts curves by name.
    digits = len(str(having[-1]["epoch"])) if having else 0
    return [
        (
            int(name.removeprefix(prefix)),
            f"epoch {row['epoch']:0{digits}}" if row["epoch"] >= 0 else "before training",
            y,
        )
        for row in having
        for name, y in row.items()
        if name.startswith(prefix)
    ]


def points_of(rows: Sequence[Mapping[str, float | int]], chart: Chart, first_epoch: int) -> list[tuple[float, ...]]:
    """Return the rows of a scatter chart: the epochs from `first_epoch` on that have all its columns."""
    return [
        tuple(row[column] for column in chart.columns)
        for row in rows
        if row["epoch"] >= first_epoch and all(np.isfinite(row.get(column, np.nan)) for column in chart.columns)
    ]


def confusion_rows(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> list[tuple[str, str, int]]:
    """Return the rows of `CONFUSION`: how many test images of every class (row) were taken for each class (column)."""
    return [
        (actual, predicted, int(counts[row][column]))
        for row, actual in enumerate(classes)
        for column, predicted in enumerate(classes)
    ]


def summarise(rows: Iterable[Mapping[str, float | int]], first_epoch: int) -> dict[str, float]:
    """Return a run's best values, and its correlations of mean entropy with cost, for W&B's summary.

    Args:
        rows: one per epoch.
        first_epoch: first epoch of the correlations.

    Returns:
        `best/accuracy/test`, ..., and `correlation/spearman_test`, ... with `cost/test`, if there are at least
        `FEWEST_EPOCHS` epochs and neither number is constant.
    """
    rows = list(rows)
    costs, accuracies = ([name for name in rows[-1] if name.startswith(kind)] for kind in ("cost/", "accuracy/"))
    names = [*costs, *accuracies, *([MEAN] if MEAN in rows[-1] else [])]
    table = pd.DataFrame([[row.get(name, np.nan) for name in names] for row in rows], columns=names)
    best = {**table[accuracies].max(), **table[costs].min()}
    summary = {f"best/{name}": value for name, value in best.items()}
    if MEAN in names:
        late = table[[row["epoch"] >= first_epoch for row in rows]].drop(columns=accuracies)
        for method in CORRELATIONS:
            correlations = late.corr(method, min_periods=FEWEST_EPOCHS)[MEAN]
            summary |= {f"correlation/{method}_{cost.removeprefix('cost/')}": correlations[cost] for cost in costs}
    return {name: float(value) for name, value in summary.items() if np.isfinite(value)}
