"""The checkpoints of a run: the last epoch's, the one before it, and the best on held-out images."""

import io
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins import TorchCheckpointIO

from qcnn_lightning.files import replace_atomically
from qcnn_lightning.runs.checkpoint import BEST, LAST, PREVIOUS
from qcnn_lightning.training.record import RunRecord


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint so that, whatever happens meanwhile, there is a whole one: the new or the one before."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write it beside the old one, then take its place.

        Raises:
            InputError: it cannot be written; the old one is still there.
        """
        path = Path(path)
        content = io.BytesIO()
        torch.save(checkpoint, content)
        previous = path.with_name(PREVIOUS.name) if path.name == LAST.name else None
        replace_atomically(path, content.getvalue(), previous=previous)


class Checkpoints(Checkpoint):
    """Saves the last checkpoint after every epoch, and the best one if images are held out for validation.

    Which is best is read off the record's rows, so nothing about it needs to be restored.

    Args:
        record: the run's rows; it must be called before this callback.
    """

    def __init__(self, record: RunRecord):
        self.record = record

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save; the best one first, so that killing the process in between repeats both."""
        *earlier, latest = (row.get("accuracy/val", 0.0) for row in self.record.rows if row["epoch"] >= 0)
        if "accuracy/val" in self.record.rows[-1] and latest > max(earlier, default=-1.0):
            trainer.save_checkpoint(self.record.run.folder / BEST)
        trainer.save_checkpoint(self.record.run.folder / LAST)
