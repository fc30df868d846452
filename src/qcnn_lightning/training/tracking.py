"""Weights & Biases: a run that is never lost, and panels of entanglement against cost that appear by themselves.

A W&B metric has one x-axis. So that the entropies are drawn against the epoch and against every cost without a click,
they are logged once more under `ee_vs_cost_train/`, ..., with that cost as their axis. A line joins its points in the
order of the axis, and a cost also rises, so the points of entropy and cost are a chart as well, like all else that has
an axis of its own (entropy against block size, Schmidt probabilities, confusion). All of it follows from the rows of
`metrics.csv` but the confusion matrix, so a run that goes on in another process draws the same.
"""

import logging
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import wandb
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only
from requests.utils import get_netrc_auth
from wandb.env import DATA_DIR
from wandb.errors import CommError, UsageError
from wandb.sdk.lib import RunDisabled

log = logging.getLogger(__name__)

# W&B's own, which it leaves to the end of the process.
warnings.filterwarnings("ignore", "Implicitly cleaning up <TemporaryDirectory", ResourceWarning)

# `cost/batch` is the train cost that the report shows: the mean over the epoch's batches, which is what was minimised.
COST_AXES = {"ee_vs_cost_train": "cost/train", "ee_vs_cost_batch": "cost/batch", "ee_vs_cost_test": "cost/test"}
ENTROPY_PREFIX = "ee/"
CORRELATIONS: tuple[Literal["spearman", "pearson"], ...] = ("spearman", "pearson")
FEWEST_EPOCHS = 5
"""A correlation of fewer says nothing."""
SECONDS_TO_START = 300
ROWS_LOGGED = "rows"
"""In a run's summary: how many epochs W&B has."""
MOST_CURVES = 6
"""Epochs in one chart; of more than so many, some are left out, evenly."""


@dataclass(frozen=True)
class Chart:
    """A chart that W&B draws from a table, with one of its presets.

    Attributes:
        key: name of the chart; its table is logged as `<key>_table`.
        preset: W&B's name of the preset.
        fields: the column of the table that stands for each field of the preset.
        strings: texts that the preset asks for.
    """

    key: str
    preset: str
    fields: Mapping[str, str]
    strings: Mapping[str, str]

    def of(self, rows: Sequence[Sequence[Any]]) -> Any:
        """Return what to log: the chart of a table with these rows."""
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
    """Return a chart with a curve per epoch."""
    fields = {name: name for name in ("step", "lineKey", "lineVal")}
    return Chart(key, "wandb/lineseries/v0", fields, {"title": title, "xname": axis})


PROFILE = curves("charts/entropy_profile", "Entropy (nats) of a block of 2^l pixels against the rest", "l")
SPECTRUM = curves("charts/schmidt_spectrum", "Schmidt probabilities of the two halves, the largest first", "k")
CONFUSION = Chart(
    "charts/confusion_test",
    "wandb/confusion_matrix/v1",
    {name: name for name in ("Actual", "Predicted", "nPredictions")},
    {"title": "Test images: what they are and what they were taken for"},
)
# The charts and the metrics that they are drawn from; x is the number at the end of a metric's name.
CURVES = {"profile/level_": PROFILE, "spectrum/p_": SPECTRUM}
SCATTERS = tuple(
    Chart(
        f"charts/{section}",
        "wandb/scatter/v0",
        {"x": cost, "y": f"{ENTROPY_PREFIX}mean"},
        {"title": f"Mean entanglement entropy (nats) against {cost}, a point per epoch"},
    )
    for section, cost in COST_AXES.items()
)
CHARTS = (*SCATTERS, PROFILE, SPECTRUM, CONFUSION)


class EntanglementTracker(WandbLogger):
    """Lightning's W&B logger, with one record per epoch and the entropies against epoch and cost.

    Online where the user is logged in (or `WANDB_MODE` says so), offline otherwise; never asks.

    Others may log as well. What they log through Lightning (`module.log`, `LearningRateMonitor`) is drawn against the
    epoch; what they log on `experiment` itself has W&B's step as its axis. No record names a step: W&B counts them, and
    drops whatever comes with a smaller step than the last.

    Args:
        save_dir: the run's folder; W&B's files go to `wandb/` in it.
        project: W&B project.
        run_id: W&B's identity of the run, the same whenever the run is resumed.
        first_epoch: first epoch of the scatter charts and of the correlations in the summary.
        entity: W&B user or team; the user's default if None.
        name: what the run is called.
        group: what the runs of a sweep have in common.
        job_type: what W&B calls the kind of run.
        tags: labels.
        config: settings that W&B shall show besides the hyperparameters.
        online_timeout_s: seconds to wait for the server before the run is kept offline.

    Attributes:
        epoch: the epoch of what is logged without saying; -1 before training.
    """

    def __init__(
        self,
        save_dir: str | Path,
        project: str,
        run_id: str,
        first_epoch: int,
        entity: str | None = None,
        name: str | None = None,
        group: str | None = None,
        job_type: str | None = "train",
        tags: list[str] | None = None,
        config: dict[str, Any] | None = None,
        online_timeout_s: float = 20,
    ):
        super().__init__(save_dir=str(save_dir), project=project, id=run_id)
        self._wandb_init |= {"entity": entity, "name": name, "group": group, "job_type": job_type}
        self._wandb_init |= {"tags": tags, "config": config}
        self._first_epoch = first_epoch
        self._online_timeout_s = online_timeout_s
        self.epoch = -1
        self._rows: list[Mapping[str, float | int]] = []
        self._rows_there = 0
        self._with_axis: set[str] = set()

    @property
    def experiment(self) -> Any:
        """The W&B run, begun when first asked for, by the first of several processes only."""
        if rank_zero_only.rank != 0:  # type: ignore[attr-defined]
            return RunDisabled()
        if self._experiment is None:
            self._experiment = self._begin()
            self._experiment.define_metric("epoch", hidden=True)
            # A run that goes on has the summary that the server has; offline it has none.
            self._rows_there = int(self._experiment.summary.get(ROWS_LOGGED, 0))
        return self._experiment

    def _begin(self) -> Any:
        mode: Any = os.environ.get("WANDB_MODE") or ("online" if logged_in() else "offline")
        arguments = {key: value for key, value in self._wandb_init.items() if value is not None and key != "resume"}
        quiet: dict[str, Any] = {"silent": True, "console": "off"}
        if mode == "online":
            settings = wandb.Settings(init_timeout=self._online_timeout_s, **quiet)
            try:
                run = begin_run(**arguments, mode="online", resume="allow", settings=settings)
            except (CommError, UsageError) as error:
                log.warning("W&B cannot be reached (%s); the run is kept offline", str(error).splitlines()[0])
                wandb.teardown()
                mode = "offline"
            else:
                log.info("W&B shows the run at %s", run.url)
                return run
        run = begin_run(**arguments, mode=mode, settings=wandb.Settings(**quiet))
        if mode == "offline":
            log.info("W&B is offline; to upload the run later: wandb sync %s", Path(run.dir).parent)
        return run

    @rank_zero_only
    def log_epoch(self, row: Mapping[str, float | int], is_last: bool = False) -> None:
        """Log an epoch, unless W&B has it: its row, the entropies also against the costs, charts, the summary so far.

        Args:
            row: the epoch's row.
            is_last: whether it is the run's last: the points of entropy and cost are drawn then, and with the curves.
        """
        run = self.experiment
        self._rows.append(row)
        if len(self._rows) <= self._rows_there:
            return
        against_cost = {
            f"{section}/{name.removeprefix(ENTROPY_PREFIX)}": value
            for name, value in row.items()
            for section, cost in COST_AXES.items()
            if name.startswith(ENTROPY_PREFIX) and cost in row
        }
        charts = {
            chart.key: chart.of(curve_rows(self._rows, prefix))
            for prefix, chart in CURVES.items()
            if any(name.startswith(prefix) for name in row)
        }
        if charts or is_last:
            for chart in SCATTERS:
                if points := points_of(self._rows, chart, self._first_epoch):
                    charts[chart.key] = chart.of(points)
        self._log({**row, **against_cost, **charts})
        run.summary.update({ROWS_LOGGED: len(self._rows), **summarise(self._rows, self._first_epoch)})

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log what is no epoch of ours: from Lightning, or from a callback.

        Args:
            metrics: the values. Before training their epoch is -1, where Lightning says 0.
            step: Lightning's, logged as `trainer/global_step`, as its own W&B logger does.
        """
        epoch = metrics.get("epoch", self.epoch) if self.epoch >= 0 else self.epoch
        steps = {} if step is None else {"trainer/global_step": step}
        self._log({**metrics, **steps, "epoch": epoch})

    @rank_zero_only
    def log_confusion_matrix(self, counts: Sequence[Sequence[int]], class_names: Sequence[str]) -> None:
        """Log how many test images of every class (row) were taken for which class (column), with the next row."""
        rows = [
            (actual, predicted, int(counts[row][column]))
            for row, actual in enumerate(class_names)
            for column, predicted in enumerate(class_names)
        ]
        self._log({CONFUSION.key: CONFUSION.of(rows)}, commit=False)

    def _log(self, values: Mapping[str, Any], commit: bool = True) -> None:
        run = self.experiment
        for pattern, axis in axes_of(values).items():
            if pattern not in self._with_axis:
                run.define_metric(pattern, step_metric=axis)
                self._with_axis.add(pattern)
        with staging_folder(Path(run.dir).with_name("staging")):
            run.log(values, commit=commit)

    @rank_zero_only
    def catch_up(self, rows: Sequence[Mapping[str, float | int]]) -> None:
        """Log the epochs of a resumed run that W&B does not have yet.

        Those are the ones lost on their way when the process was killed; all of them where W&B is offline, so that the
        last process's files alone hold every epoch. What others logged before is in the earlier process's files.
        """
        for row in rows:
            self.log_epoch(row)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Leave the run open: Lightning calls this after each of its loops. `close` ends it."""

    @rank_zero_only
    def close(self, exit_code: int) -> None:
        """End the run and write what is left.

        Args:
            exit_code: 0 if the run finished; W&B shows it as failed otherwise.
        """
        if self._experiment is not None:
            self._experiment.finish(exit_code=exit_code)
            self._experiment = None


def begin_run(**arguments: Any) -> Any:
    """Begin a W&B run; W&B's own process has a while to start in, on nodes where many jobs begin at once."""
    wandb.setup(wandb.Settings(x_service_wait=SECONDS_TO_START))
    return wandb.init(**arguments)


def axes_of(names: Iterable[str]) -> dict[str, str]:
    """Return the x-axis of every metric: patterns for W&B, and their axes.

    A pattern is a section, `ee/*`, or a name without one. No metric matches two: W&B would choose between them at
    random, and anew whenever it reads the run.
    """
    sections = {name: name.partition("/")[0] for name in names if name != "epoch"}
    return {
        f"{section}/*" if section != name else name: COST_AXES.get(section, "epoch")
        for name, section in sections.items()
    }


def grouping_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that runs are grouped by (`workspace`), which W&B groups by only if they are not nested."""
    return {"data_set": config["data"]["name"], "d": config["model"].get("d")}


def tags_of(config: Mapping[str, Any]) -> list[str]:
    """Return the labels that a run gets from its configuration: data set, d, sharing, start and pixel order."""
    model, data = config["model"], config["data"]
    settings = {name: model[name] for name in ("d", "sharing", "start") if name in model} | {"flatten": data["flatten"]}
    return [data["name"], *(f"{name}={value}" for name, value in settings.items())]


def curve_rows(rows: Sequence[Mapping[str, float | int]], prefix: str) -> list[tuple[int, str, float]]:
    """Return the rows (x, curve, y) of a chart: a curve for every epoch that has the metrics `<prefix><x>`.

    Args:
        rows: an epoch each.
        prefix: of the metrics' names.
    """
    having = [row for row in rows if any(name.startswith(prefix) for name in row)]
    if len(having) > MOST_CURVES:
        having = [having[round(place)] for place in np.linspace(0, len(having) - 1, MOST_CURVES)]
    # W&B sorts the curves by their names.
    digits = len(str(having[-1]["epoch"]))
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
    """Return the rows of a scatter chart: the epochs, from the first one on, that have all of its columns."""
    return [
        tuple(row[column] for column in chart.columns)
        for row in rows
        if row["epoch"] >= first_epoch and all(np.isfinite(row.get(column, np.nan)) for column in chart.columns)
    ]


def summarise(rows: Sequence[Mapping[str, float | int]], first_epoch: int) -> dict[str, float]:
    """Return what a run's summary holds besides its last row: best values, and correlations of entropy and cost.

    Args:
        rows: an epoch each.
        first_epoch: first epoch of the correlations.

    Returns:
        `best/accuracy/test`, ..., and `correlation/spearman_test`, ... of the mean entropy with `cost/test`; no
        correlation of fewer than five epochs, or of what is constant.
    """
    entropy = f"{ENTROPY_PREFIX}mean"
    costs, accuracies = ([name for name in rows[-1] if name.startswith(kind)] for kind in ("cost/", "accuracy/"))
    names = [*costs, *accuracies, *([entropy] if entropy in rows[-1] else [])]
    table = pd.DataFrame([[row.get(name, np.nan) for name in names] for row in rows], columns=names)
    best = {**table[accuracies].max(), **table[costs].min()}
    summary = {f"best/{name}": value for name, value in best.items()}
    if entropy in names:
        late = table[[row["epoch"] >= first_epoch for row in rows]].drop(columns=accuracies)
        for method in CORRELATIONS:
            correlations = late.corr(method, min_periods=FEWEST_EPOCHS)[entropy]
            summary |= {f"correlation/{method}_{cost.removeprefix('cost/')}": correlations[cost] for cost in costs}
    return {name: float(value) for name, value in summary.items() if np.isfinite(value)}


@contextmanager
def staging_folder(folder: Path) -> Iterator[None]:
    """Let W&B keep the tables that it has still to upload in this folder.

    It would put them in the user's home, which a cluster's nodes may not have, and where nobody would look for them.
    """
    if DATA_DIR in os.environ:
        yield
        return
    os.environ[DATA_DIR] = str(folder)
    try:
        yield
    finally:
        del os.environ[DATA_DIR]


def logged_in() -> bool:
    """Return whether W&B knows an API key for its server, from the environment, its settings or a netrc file."""
    settings = wandb.setup().settings
    return bool(settings.api_key or get_netrc_auth(settings.base_url))
