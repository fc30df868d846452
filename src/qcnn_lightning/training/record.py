"""What a run leaves on disk: one complete row per epoch in `metrics.csv`, and `summary.json`.

The rows and facts are also in the checkpoint, and that one counts: the files are written from it when a run resumes.
"""

import json
import logging
import platform
import subprocess
import time
import traceback
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn

import qcnn_lightning
from qcnn_lightning.errors import InputError
from qcnn_lightning.files import replace_atomically
from qcnn_lightning.runs.run_folder import METRICS, SUMMARY, TRACEBACK
from qcnn_lightning.training.module import Classifier
from qcnn_lightning.training.tracking import EntanglementTracker

log = logging.getLogger(__name__)


class RunRecord(pl.Callback):
    """Keeps the table of a run: a row per epoch, epoch -1 being the network before training.

    Every row goes to `metrics.csv`, to all loggers and, with the checkpoint, to whoever resumes the run. The file's
    rows and those in the checkpoint are therefore the same; `summary.json` is brought up to date with every row. W&B
    also gets the confusion matrix of the test images, with the last row.

    Args:
        folder: the run's folder.
        max_epochs: after how many the run has finished.

    Attributes:
        rows: the rows so far.
        facts: what else `summary.json` shall hold.
        was_finished: whether there was nothing to train.
    """

    def __init__(self, folder: Path, max_epochs: int):
        self.folder = folder
        self.max_epochs = max_epochs
        self.facts: dict[str, Any] = {}
        self.was_finished = False
        self.rows: list[dict[str, float | int]] = []
        self._lines_found: list[str] = []
        self._learning_rate: float | None = None
        self._row_began = time.perf_counter()

    @property
    def table(self) -> pd.DataFrame:
        """All rows so far."""
        return pd.DataFrame(self.rows)

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
            tracker.log_confusion_matrix(counts, pl_module.datamodule.class_names)

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
                    logger.log_epoch(own, is_last=self.is_finished)
                else:
                    logger.log_metrics(own, step=int(row["epoch"]) + 1)

    def write(self, status: str, **more: Any) -> None:
        """Replace `metrics.csv` and `summary.json`.

        Until a run has ended its status is "interrupted": the truth, should the process be killed now.

        Args:
            status: "finished", "failed" or "interrupted".
            more: further entries of `summary.json`.
        """
        if self.rows:
            lines = self.lines()
            if status != "finished" and self._lines_found[:1] == lines[:1]:
                # Epochs that are trained once more stay until they have been.
                lines += self._lines_found[len(lines) :]
            replace_atomically(self.folder / METRICS, "".join(lines))
        summary = {"status": status, **self.facts, **self.summarise(), **more}
        replace_atomically(self.folder / SUMMARY, json.dumps(summary, indent=2) + "\n")

    def write_failure(self, error: Exception) -> None:
        """Replace `metrics.csv` and `summary.json`, and write the traceback beside them, if they can be written."""
        write_traceback(self.folder, error)
        try:
            self.write(status="failed", error=f"{type(error).__name__}: {error}")
        except InputError as further:
            log.warning("%s", further)

    def repair(self, status: str) -> None:
        """Write `metrics.csv` and `summary.json` from the checkpoint; say so if they were missing or cut off.

        Later epochs that `metrics.csv` holds stay there until they have been trained once more.
        """
        for name, least in ((METRICS, len(self.lines())), (SUMMARY, 1)):
            path = self.folder / name
            try:
                text = path.read_text()
                whole = text.endswith("\n") and text.count("\n") >= least
            except (OSError, UnicodeDecodeError):
                whole = False
            if not whole:
                log.warning("%s was missing or cut off; it is written again from the checkpoint", path)
            elif name == METRICS:
                self._lines_found = text.splitlines(keepends=True)
        self.write(status)

    def lines(self) -> list[str]:
        """Return the lines of `metrics.csv`, the first with the names of the columns."""
        return self.table.to_csv(index=False).splitlines(keepends=True)

    def summarise(self) -> dict[str, Any]:
        """Return the last row, and the best cost and accuracy of every part of the data."""
        if not self.rows:
            return {"final": {}, "best": {}}
        table = self.table
        best = {name: table[name].max() for name in table.filter(regex="^accuracy/")}
        best |= {name: table[name].min() for name in table.filter(regex="^cost/")}
        return {"final": self.rows[-1], "best": best, "seconds": table["time/epoch_s"].sum()}

    def state_dict(self) -> dict[str, Any]:
        """Return what the checkpoint shall hold."""
        return {"rows": self.rows, "facts": self.facts}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what a checkpoint holds; later epochs are trained again."""
        self.rows = list(state_dict["rows"])
        self.facts = {**state_dict.get("facts", {}), **self.facts}


def message_of(error: Exception) -> str:
    """Return what an error says, and what it is unless its message alone tells the user what to do."""
    # Of others it says little, or nothing: KeyError, MemoryError.
    return str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"


def trackers(trainer: pl.Trainer) -> list[EntanglementTracker]:
    """Return the W&B loggers of a trainer."""
    return [logger for logger in trainer.loggers if isinstance(logger, EntanglementTracker)]


def write_traceback(folder: Path, error: Exception) -> None:
    """Write an error's message and, below it, its traceback to a file in the run's folder, if it can be written."""
    try:
        replace_atomically(folder / TRACEBACK, f"{message_of(error)}\n\n{''.join(traceback.format_exception(error))}")
    except InputError as further:
        log.warning("%s", further)


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
