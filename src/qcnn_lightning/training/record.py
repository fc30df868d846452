"""The record of a run: one complete row per epoch.

It goes to `metrics.csv`, `summary.json`, the loggers and the checkpoint. The checkpoint's counts: the files are written
from it when a run resumes.
"""

import logging
import platform
import subprocess
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn

import qcnn_lightning
from qcnn_lightning.errors import InputError
from qcnn_lightning.runs.metrics import lines_of, read_lines
from qcnn_lightning.runs.run import METRICS, SUMMARY, Run
from qcnn_lightning.training.module import Classifier
from qcnn_lightning.training.tracking import EntanglementTracker

log = logging.getLogger(__name__)


class RunRecord(pl.Callback):
    """Keeps the table of a run: a row per epoch, epoch -1 being the network before training.

    Every row goes to `metrics.csv`, to all loggers and, with the checkpoint, to whoever resumes the run. The file's
    rows and those in the checkpoint are therefore the same; `summary.json` is brought up to date with every row. W&B
    also gets the confusion matrix of the test images, with the last row.

    Args:
        run: the run's folder.
        max_epochs: after how many the run has finished.

    Attributes:
        rows: the rows so far.
        facts: what else `summary.json` shall hold.
        was_finished: whether there was nothing to train.
    """

    def __init__(self, run: Run, max_epochs: int | float):
        self.run = run
        self.max_epochs = max_epochs
        self.facts: dict[str, Any] = {}
        self.was_finished = False
        self.rows: list[dict[str, float | int]] = []
        self._lines_found: list[str] = []
        self._learning_rate: float | None = None
        self._row_began = time.perf_counter()

    @property
    def is_finished(self) -> bool:
        """Whether there is a row for the last epoch."""
        return bool(self.rows) and self.rows[-1]["epoch"] + 1 >= self.max_epochs

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Start the clock of the first row."""
        self._row_began = time.perf_counter()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell W&B which epoch begins."""
        for tracker in trackers(trainer):
            tracker.epoch = trainer.current_epoch

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell W&B which epoch is next, when the configuration's callbacks have logged this one."""
        for tracker in trackers(trainer):
            tracker.epoch = trainer.current_epoch + 1

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the learning rate: the schedule may have moved on when the epoch has been evaluated."""
        self._learning_rate = trainer.optimizers[0].param_groups[0]["lr"]

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget the epoch before: Lightning goes on to give the last value of what is not measured in every epoch."""
        trainer.callback_metrics.clear()

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the last epoch's confusion matrix, which all processes of the run have counted together."""
        if (
            not trackers(trainer)
            or trainer.state.fn == TrainerFn.VALIDATING
            or trainer.current_epoch + 1 != trainer.max_epochs
        ):
            return
        assert isinstance(pl_module, Classifier)
        test = pl_module.evaluations[list(pl_module.datamodule.evaluation_splits).index("test")]
        counts = test["confusion"].compute().tolist()
        for tracker in trackers(trainer):
            tracker.log_confusion_matrix(counts)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Complete the epoch's row and write it."""
        before_training = trainer.state.fn == TrainerFn.VALIDATING
        row: dict[str, float | int] = {"epoch": -1 if before_training else trainer.current_epoch}
        row |= {name: value.item() for name, value in trainer.callback_metrics.items()}
        if not before_training and self._learning_rate is not None:
            row["learning_rate"] = self._learning_rate
        now = time.perf_counter()
        row["time/epoch_s"], self._row_began = now - self._row_began, now
        self.rows.append(row)
        if trainer.is_global_zero:
            self.write(status="interrupted")
            # What a callback logs through Lightning, the loggers have from Lightning, by Lightning's step.
            given = trainer.logged_metrics
            own = {name: value for name, value in row.items() if name == "epoch" or name not in given}
            for logger in trainer.loggers:
                if isinstance(logger, EntanglementTracker):
                    logger.log_epoch(own)
                else:
                    logger.log_metrics(own, step=int(row["epoch"]) + 1)

    def write(self, status: str, **more: Any) -> None:
        """Replace `metrics.csv` and `summary.json`, as `Run.write` does."""
        later = [] if status == "finished" else self._later_lines()
        self.run.write(self.rows, status, self.facts, later, **more)

    def _later_lines(self) -> list[str]:
        """Return the lines found of epochs that are trained once more; none if they have other columns."""
        # Most runs have none, and this is asked after every epoch.
        if not self.rows or not self._lines_found:
            return []
        header, *rest = lines_of(self.rows)
        return self._lines_found[len(rest) + 1 :] if self._lines_found[:1] == [header] else []

    def write_failure(self, error: Exception) -> None:
        """Replace `metrics.csv` and `summary.json`, and write the traceback beside them, if they can be written."""
        self.run.write_traceback(error)
        try:
            self.write(status="failed", error=f"{type(error).__name__}: {error}")
        except InputError as further:
            if str(further) != str(error):
                log.warning("%s", further)

    def repair(self, status: str) -> None:
        """Write `metrics.csv` and `summary.json` from the checkpoint; say so if they were missing or cut off.

        Later epochs that `metrics.csv` holds stay there until they have been trained once more.
        """
        try:
            found = read_lines(self.run.folder / METRICS)
        except InputError:
            found = []
        if len(found) < len(self.rows) + 1 or not found[-1].endswith("\n"):
            log.warning("%s was missing or cut off; it is written again from the checkpoint", self.run.folder / METRICS)
        else:
            self._lines_found = found
        if not self.run.summary:
            log.warning("%s was missing or cut off; it is written again from the checkpoint", self.run.folder / SUMMARY)
        self.write(status)

    def state_dict(self) -> dict[str, Any]:
        """Return what the checkpoint shall hold."""
        return {"rows": self.rows, "facts": self.facts}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what a checkpoint holds; later epochs are trained again."""
        self.rows = list(state_dict["rows"])
        self.facts = {**state_dict.get("facts", {}), **self.facts}


def trackers(trainer: pl.Trainer) -> list[EntanglementTracker]:
    """Return the W&B loggers of a trainer."""
    return [logger for logger in trainer.loggers if isinstance(logger, EntanglementTracker)]


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on."""
    packages = ("qcnn-lightning", "torch", "pytorch-lightning", "tensornetwork", "wandb")
    return {"python": platform.python_version()} | {package: version(package) for package in packages}


def git_revision() -> str | None:
    """Return the revision of the checkout this package runs from, "-dirty" if changed; None if it is installed."""
    package = Path(qcnn_lightning.__file__).parent
    git = ["git", "-C", str(package)]
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", "__init__.py"], check=True, capture_output=True)
        described = subprocess.run(
            [*git, "describe", "--always", "--dirty"], check=True, capture_output=True, text=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()
