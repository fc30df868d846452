"""What a run leaves on disk: one complete row per epoch in `metrics.csv`, and `summary.json`."""

import json
import platform
import subprocess
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn

import qcnn_lightning
from qcnn_lightning.files import replace_atomically

STATUSES = ("finished", "failed", "interrupted")


class RunRecord(pl.Callback):
    """Keeps the table of a run: a row per epoch, epoch -1 being the network before training.

    Every row goes to `metrics.csv`, to all loggers and, with the checkpoint, to whoever resumes the run. The file's
    rows and those in the checkpoint are therefore the same; `summary.json` is brought up to date with every row.

    Args:
        folder: the run's folder.

    Attributes:
        rows: the rows so far.
        facts: what else `summary.json` shall hold.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.facts: dict[str, Any] = {}
        self.rows: list[dict[str, float | int]] = []
        self._row_began = time.perf_counter()

    @property
    def table(self) -> pd.DataFrame:
        """All rows so far."""
        return pd.DataFrame(self.rows)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Start the clock of the first row."""
        self._row_began = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Complete the epoch's row and write it."""
        before_training = trainer.state.fn == TrainerFn.VALIDATING
        row: dict[str, float | int] = {"epoch": -1 if before_training else trainer.current_epoch}
        row |= {name: value.item() for name, value in trainer.callback_metrics.items()}
        if not before_training:
            row["learning_rate"] = trainer.optimizers[0].param_groups[0]["lr"]
        now = time.perf_counter()
        row["time/epoch_s"], self._row_began = now - self._row_began, now
        self.rows.append(row)
        if trainer.is_global_zero:
            self.write(status="interrupted")
            for logger in trainer.loggers:
                logger.log_metrics(row, step=int(row["epoch"]) + 1)

    def write(self, status: str, **more: Any) -> None:
        """Replace `metrics.csv` and `summary.json`.

        Until a run has ended its status is "interrupted": the truth, should the process be killed now.

        Args:
            status: one of `STATUSES`.
            more: further entries of `summary.json`.
        """
        replace_atomically(self.folder / "metrics.csv", self.table.to_csv(index=False))
        summary = {"status": status, **self.facts, **self.summarise(), **more}
        replace_atomically(self.folder / "summary.json", json.dumps(summary, indent=2) + "\n")

    def summarise(self) -> dict[str, Any]:
        """Return the last row, and the best cost and accuracy of every part of the data."""
        if not self.rows:
            return {"final": {}, "best": {}}
        table = self.table
        best = {name: table[name].max() for name in table.filter(regex="^accuracy/")}
        best |= {name: table[name].min() for name in table.filter(regex="^cost/")}
        return {"final": self.rows[-1], "best": best, "seconds": table["time/epoch_s"].sum()}

    def state_dict(self) -> dict[str, Any]:
        """Return the rows, for the checkpoint."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the rows up to a checkpoint back; later ones are trained again."""
        self.rows = list(state_dict["rows"])


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
