"""Weights & Biases: one record per epoch, and panels of entanglement against cost that need no click.

What is drawn is said in `wandb_charts`. Everything but the confusion matrix follows from the rows of `metrics.csv`, so
a resumed run draws the same.
"""

import functools
import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import wandb
from pydantic import ValidationError
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only
from requests.utils import get_netrc_auth
from wandb.env import DATA_DIR
from wandb.errors import CommError, UsageError
from wandb.sdk.lib import RunDisabled

from qcnn_lightning.errors import InputError, checked_settings
from qcnn_lightning.training.wandb_charts import (
    CONFUSION,
    against_cost,
    axis_of,
    charts_of,
    confusion_rows,
    is_hidden,
    summarise,
)

log = logging.getLogger(__name__)

# W&B leaves its own temporary folder to the end of the process.
warnings.filterwarnings("ignore", "Implicitly cleaning up <TemporaryDirectory", ResourceWarning)

SECONDS_TO_START = 300
LONGEST_NAME = 128
LONGEST_TAG = 64
"""Characters that W&B takes."""
Text = str | int | float
"""A name may look like a number to whoever read it."""
ROWS_LOGGED = "rows"
"""Key in a run's summary: epochs that W&B has."""


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
            self._run = RunDisabled()
            log.warning("W&B's process has died (%s): the run goes on without W&B; metrics.csv has every epoch", error)
            # Or W&B tries once more when this process ends, and prints a traceback.
            with suppress(ConnectionError):
                wandb.teardown()

    return log_if_possible


class EntanglementTracker(WandbLogger):
    """Lightning's W&B logger, with one record per epoch, and the mean entropy against every cost.

    Where the run goes is decided by the first of these that says something: `offline`, `WANDB_MODE`, what `wandb
    offline`, `wandb disabled`, `wandb online` have chosen for the folder or the user, and whether there is a login. It
    never prompts.

    Others may log too. What they log through Lightning (`module.log`, `LearningRateMonitor`) is drawn against the
    epoch; what they log on `experiment` has W&B's step as its axis. Our records name no step: W&B counts them, and
    drops any record with a smaller step than the last.

    Args:
        save_dir: the run's folder; W&B's files go to its `wandb/`.
        project: W&B project.
        run_id: W&B's identity of the run, kept when the run is resumed. An agent of a W&B sweep chooses another.
        first_epoch: first epoch of the scatter charts and of the summary's correlations.
        entity: W&B user or team; None for the user's default.
        name: the run's name.
        notes: of the run.
        group: the sweep's name.
        job_type: W&B's name for the kind of run.
        tags: labels, at most 64 characters each.
        config: settings to show besides the hyperparameters.
        offline: keep the run on this machine.
        log_model: keep the network of a finished run, its checkpoint and its state, as an artifact.
        online_timeout_s: seconds to wait for the server at the start, before the run stays offline.
        finish_timeout_s: seconds to wait for the server at the end; what is not there by then, `wandb sync` uploads.

    Attributes:
        epoch: epoch of values that are logged without one; -1 before training.
        mode: W&B's word for where the run goes: "online", "offline", "disabled", ...
        is_lost: whether W&B's own process has died.
        keeps_network: whether the network of a finished run becomes an artifact.

    Raises:
        InputError: W&B does not take one of the settings, in the arguments or in the environment.
    """

    @checked_settings
    def __init__(
        self,
        save_dir: str | Path,
        project: Text,
        run_id: Text,
        first_epoch: int,
        entity: Text | None = None,
        name: Text | None = None,
        notes: Text | None = None,
        group: Text | None = None,
        job_type: Text | None = "train",
        tags: Sequence[Text] = (),
        config: dict[str, Any] | None = None,
        offline: bool = False,
        log_model: bool = False,
        online_timeout_s: int | float = 20,
        finish_timeout_s: int | float = 60,
    ):
        texts = {"project": project, "entity": entity, "name": name, "notes": notes}
        texts |= {"group": group, "job_type": job_type, "id": run_id}
        self._arguments: dict[str, Any] = {key: str(text) for key, text in texts.items() if text is not None}
        self._arguments |= {"tags": [str(tag) for tag in tags], "config": config, "dir": str(save_dir)}
        super().__init__(save_dir=str(save_dir), project=self._arguments["project"], id=self._arguments["id"])
        self.mode = "offline" if offline else mode_of_user()
        self._timeouts: dict[str, Any] = {"init_timeout": online_timeout_s, "finish_timeout": finish_timeout_s}
        with refused_in_one_line("logger."):
            settings: dict[str, Any] = {
                f"run_{key}": self._arguments.get(key) for key in ("name", "notes", "group", "job_type")
            }
            settings |= {key: self._arguments.get(key) for key in ("project", "entity")}
            wandb.Settings(**settings, run_tags=self._arguments["tags"], **self._timeouts)
        self._first_epoch = first_epoch
        self.keeps_network = log_model
        self._run: Any = None
        self._rows: list[Mapping[str, float | int]] = []
        self._rows_there = 0
        self._defined: set[str] = set()
        self._confusion: Sequence[Sequence[int]] = ()
        self.epoch = -1
        self.is_lost = False
        self._class_names: Sequence[str] = ()

    @property
    def experiment(self) -> Any:
        """The W&B run, begun at the first call, only in the first of several processes."""
        if rank_zero_only.rank != 0:  # type: ignore[attr-defined]
            return RunDisabled()
        if self._run is None:
            self._run = self._begin()
            # A resumed run has the server's summary; offline it has none.
            self._rows_there = int(self._run.summary.get(ROWS_LOGGED, 0))
        return self._run

    @property
    def version(self) -> str | None:
        """W&B's identity of the run; before it has begun, the one that will be asked for."""
        return str(self._run.id) if self._run is not None else self._arguments["id"]

    @rank_zero_only
    @dispensable
    def begin(self, class_names: Sequence[str]) -> None:
        """Begin the run.

        Args:
            class_names: of the classes, for the charts.
        """
        self._class_names = class_names
        self.experiment  # noqa: B018  the first use begins it

    def _begin(self) -> Any:
        quiet = {"silent": True, "console": "off"} | self._timeouts
        if threading.current_thread() is not threading.main_thread():
            # Other runs of this process are in other threads, and have W&B runs of their own.
            quiet["reinit"] = "create_new"
        if self.mode == "online":
            try:
                run = self._init("online", quiet | {"resume": "allow"})
            except (CommError, UsageError) as error:
                log.warning("W&B cannot be reached (%s); the run stays offline", str(error).splitlines()[0])
                wandb.teardown()
            else:
                log.info("W&B shows the run at %s", run.url)
                return run
        run = self._init("offline" if self.mode == "online" else self.mode, quiet)
        if run.offline:
            log.info("W&B is offline; to upload the run later: wandb sync %s", Path(run.dir).parent)
        return run

    def _init(self, mode: Any, settings: Mapping[str, Any]) -> Any:
        # Many jobs may begin at once on a node, so W&B's own process gets time to start.
        wandb.setup(wandb.Settings(x_service_wait=SECONDS_TO_START))
        return wandb.init(**self._arguments, mode=mode, settings=wandb.Settings(**settings))

    @rank_zero_only
    @dispensable
    def log_epoch(self, row: Mapping[str, float | int]) -> None:
        """Log an epoch unless W&B has it: its row, the mean entropy against the costs, and the summary.

        Args:
            row: the epoch's row.
        """
        run = self.experiment
        self._rows.append(row)
        if len(self._rows) <= self._rows_there:
            return
        self._log({**row, **against_cost(row)})
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
    def log_confusion_matrix(self, counts: Sequence[Sequence[int]]) -> None:
        """Draw in the end how many test images of every class (row) were taken for each class (column)."""
        self._confusion = counts

    def _log(self, values: Mapping[str, Any]) -> None:
        run = self.experiment
        for metric in values:
            if metric not in self._defined:
                axis = axis_of(metric)
                run.define_metric(metric, step_metric=axis if axis != metric else None, hidden=is_hidden(metric))
                self._defined.add(metric)
        with staging_folder(Path(run.dir).with_name("staging")):
            run.log(values)

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
    @dispensable
    def log_network(self, files: Sequence[Path]) -> None:
        """Keep the files of a finished run's network as an artifact, if that was asked for."""
        if not self.keeps_network:
            return
        artifact = wandb.Artifact(f"network-{self.version}", type="model")
        for file in files:
            artifact.add_file(str(file))
        with staging_folder(Path(self.experiment.dir).with_name("staging")):
            self.experiment.log_artifact(artifact)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Leave the run open: Lightning calls this after every loop. `close` ends the run."""

    @rank_zero_only
    @dispensable
    def close(self, exit_code: int) -> None:
        """Draw the charts, end the run and write what is left.

        Args:
            exit_code: 0 if the run finished; else W&B shows it as failed.
        """
        if self._run is None:
            return
        try:
            self._draw()
        except ConnectionError:
            raise
        # W&B asks its server before it takes a table; whatever comes of that, the numbers are there.
        except Exception as error:
            log.warning("W&B did not take the charts (%s)", str(error).partition("\n")[0])
        self._run.finish(exit_code=exit_code)
        self._run = None

    def _draw(self) -> None:
        charts = charts_of(self._rows, self._first_epoch, self._class_names)
        if self._confusion:
            charts[CONFUSION.key] = CONFUSION.of(confusion_rows(self._confusion, self._class_names))
        if charts:
            self._log({**charts, "epoch": self._rows[-1]["epoch"]})


def mode_of_user() -> str:
    """Return W&B's mode: what the environment or W&B's settings files say, else by whether there is a login.

    Raises:
        InputError: `WANDB_MODE`, or another variable of W&B, has a value that W&B does not know.
    """
    with refused_in_one_line("in the environment, or in W&B's settings: "):
        settings = wandb.setup().settings
        chosen: Any = os.environ.get("WANDB_MODE") or ("mode" in settings.model_fields_set and settings.mode)
        if chosen:
            return wandb.Settings(mode=chosen).mode
    return "online" if logged_in() else "offline"


def logged_in() -> bool:
    """Return whether W&B has an API key for its server: in the environment, its settings or a netrc file."""
    settings = wandb.setup().settings
    return bool(settings.api_key or get_netrc_auth(settings.base_url))


@contextmanager
def refused_in_one_line(where: str) -> Iterator[None]:
    """Say in one line which setting W&B does not take, its value and why.

    Args:
        where: what stands before the setting's name.

    Raises:
        InputError: W&B does not take it.
    """
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])).removeprefix("run_")
        raise InputError(f"{where}{name}={first['input']!r}: {first['msg']}") from None
    except UsageError as error:
        raise InputError(f"{where.rstrip('.')}: {error}") from None


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
