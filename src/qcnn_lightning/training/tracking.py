"""Weights & Biases: one record per epoch, and panels of entanglement against cost that need no click.

A W&B metric has one x-axis. The entropies are therefore logged twice: against the epoch, and under `ee_vs_cost_train/`,
... against every cost. W&B joins points in the order of the axis, but a cost does not only fall, so entropy against
cost is also a scatter chart. Other charts with their own axis: entropy against block size, Schmidt probabilities,
confusion. Everything but the confusion matrix follows from the rows of `metrics.csv`, so a resumed run draws the same.
"""

import functools
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
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

# W&B leaves its own temporary folder to the end of the process.
warnings.filterwarnings("ignore", "Implicitly cleaning up <TemporaryDirectory", ResourceWarning)

# `cost/batch`, the mean over the epoch's batches, is what training minimised, and the report's train cost.
COST_AXES = {"ee_vs_cost_train": "cost/train", "ee_vs_cost_batch": "cost/batch", "ee_vs_cost_test": "cost/test"}
ENTROPY_PREFIX = "ee/"
CORRELATIONS: tuple[Literal["spearman", "pearson"], ...] = ("spearman", "pearson")
FEWEST_EPOCHS = 5
"""Of a correlation."""
SECONDS_TO_START = 300
ROWS_LOGGED = "rows"
"""Key in a run's summary: epochs that W&B has."""
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
# Metric prefix -> chart; the number at the end of a metric's name is x.
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


def dispensable(log_something: Callable[..., None]) -> Callable[..., None]:
    """Let training go on if W&B's own process dies: a method that logs warns once, and then does nothing."""

    @functools.wraps(log_something)
    def log_if_possible(self: "EntanglementTracker", *arguments: Any, **named: Any) -> None:
        if self.is_lost:
            return
        try:
            log_something(self, *arguments, **named)
        except ConnectionError as error:
            self.is_lost = True
            self._experiment = RunDisabled()
            log.warning("W&B's process has died (%s): the run goes on without W&B; metrics.csv has every epoch", error)
            # Or W&B tries once more when this process ends, and prints a traceback.
            with suppress(ConnectionError):
                wandb.teardown()

    return log_if_possible


class EntanglementTracker(WandbLogger):
    """Lightning's W&B logger, with one record per epoch and the entropies against epoch and cost.

    `WANDB_MODE` decides if set. Else W&B runs online with a login and offline without one; it never prompts.

    Others may log too. What they log through Lightning (`module.log`, `LearningRateMonitor`) is drawn against the
    epoch; what they log on `experiment` has W&B's step as its axis. Our records name no step: W&B counts them, and
    drops any record with a smaller step than the last.

    Args:
        save_dir: the run's folder; W&B's files go to its `wandb/`.
        project: W&B project.
        run_id: W&B's identity of the run, kept when the run is resumed.
        first_epoch: first epoch of the scatter charts and of the summary's correlations.
        entity: W&B user or team; None for the user's default.
        name: the run's name.
        group: the sweep's name.
        job_type: W&B's name for the kind of run.
        tags: labels.
        config: settings to show besides the hyperparameters.
        online_timeout_s: seconds to wait for the server before the run stays offline.

    Attributes:
        epoch: epoch of values that are logged without one; -1 before training.
        is_lost: whether W&B's own process has died.
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
        self.is_lost = False
        self._with_axis: set[str] = set()

    @property
    def experiment(self) -> Any:
        """The W&B run, begun at the first call, only in the first of several processes."""
        if rank_zero_only.rank != 0:  # type: ignore[attr-defined]
            return RunDisabled()
        if self._experiment is None:
            self._experiment = self._begin()
            self._experiment.define_metric("epoch", hidden=True)
            # A resumed run has the server's summary; offline it has none.
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
                log.warning("W&B cannot be reached (%s); the run stays offline", str(error).splitlines()[0])
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
    @dispensable
    def log_epoch(self, row: Mapping[str, float | int], is_last: bool = False) -> None:
        """Log an epoch unless W&B has it: its row, the entropies against the costs, charts and summary.

        Args:
            row: the epoch's row.
            is_last: whether it is the run's last. Scatter charts are drawn then, and whenever curves are.
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
    @dispensable
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log the values of Lightning or of a callback.

        Args:
            metrics: the values. Before training their epoch is -1, not Lightning's 0.
            step: Lightning's step, logged as `trainer/global_step`, as in its own W&B logger.
        """
        epoch = metrics.get("epoch", self.epoch) if self.epoch >= 0 else self.epoch
        steps = {} if step is None else {"trainer/global_step": step}
        self._log({**metrics, **steps, "epoch": epoch})

    @rank_zero_only
    @dispensable
    def log_confusion_matrix(self, counts: Sequence[Sequence[int]], class_names: Sequence[str]) -> None:
        """Log, with the next row, how many test images of every class (row) were taken for each class (column)."""
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
    @dispensable
    def catch_up(self, rows: Sequence[Mapping[str, float | int]]) -> None:
        """Log the epochs of a resumed run that W&B lacks.

        Online, those are lost uploads of the killed process. Offline, those are all epochs: the last process's files
        hold the whole run then, except what others logged before.
        """
        for row in rows:
            self.log_epoch(row)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Leave the run open: Lightning calls this after every loop. `close` ends the run."""

    @rank_zero_only
    @dispensable
    def close(self, exit_code: int) -> None:
        """End the run and write what is left.

        Args:
            exit_code: 0 if the run finished; else W&B shows it as failed.
        """
        if self._experiment is not None:
            self._experiment.finish(exit_code=exit_code)
            self._experiment = None


def begin_run(**arguments: Any) -> Any:
    """Begin a W&B run. Many jobs may begin at once on a node, so W&B's own process gets time to start."""
    wandb.setup(wandb.Settings(x_service_wait=SECONDS_TO_START))
    return wandb.init(**arguments)


def axes_of(names: Iterable[str]) -> dict[str, str]:
    """Return the x-axis of every metric: W&B pattern -> axis.

    A pattern is a section, `ee/*`, or a name without a section. No metric matches two: W&B would choose at random, each
    time it reads the run.
    """
    sections = {name: name.partition("/")[0] for name in names if name != "epoch"}
    return {
        f"{section}/*" if section != name else name: COST_AXES.get(section, "epoch")
        for name, section in sections.items()
    }


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
    """Return the rows of a scatter chart: the epochs from `first_epoch` on that have all its columns."""
    return [
        tuple(row[column] for column in chart.columns)
        for row in rows
        if row["epoch"] >= first_epoch and all(np.isfinite(row.get(column, np.nan)) for column in chart.columns)
    ]


def summarise(rows: Sequence[Mapping[str, float | int]], first_epoch: int) -> dict[str, float]:
    """Return a run's best values, and its correlations of mean entropy with cost, for W&B's summary.

    Args:
        rows: one per epoch.
        first_epoch: first epoch of the correlations.

    Returns:
        `best/accuracy/test`, ..., and `correlation/spearman_test`, ... with `cost/test`, if there are at least
        `FEWEST_EPOCHS` epochs and neither number is constant.
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
    """Let W&B keep tables that wait for their upload in this folder, not in the user's home.

    A cluster's nodes may have no home, and nobody would look for the tables there.
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
    """Return whether W&B has an API key for its server: in the environment, its settings or a netrc file."""
    settings = wandb.setup().settings
    return bool(settings.api_key or get_netrc_auth(settings.base_url))
