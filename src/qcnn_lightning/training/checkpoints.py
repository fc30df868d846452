"""The checkpoints of a run: the last epoch's, the one before it, and the best on held-out images."""

import io
import pickle
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins import TorchCheckpointIO

from qcnn_lightning.errors import InputError
from qcnn_lightning.files import replace_atomically
from qcnn_lightning.runs import BEST, LAST, PREVIOUS
from qcnn_lightning.runs.checkpoint import object_named_by
from qcnn_lightning.training.record import RunRecord


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint so that, whatever happens meanwhile, there is a whole one: the new or the one before.

    The first one is read back, so that a run that could not be resumed is known after its first epoch.
    """

    def __init__(self) -> None:
        super().__init__()
        self._was_read_back = False

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write it beside the old one, then take its place.

        Raises:
            InputError: it cannot be written, or could not be read back; the old one is still there.
        """
        path = Path(path)
        checkpoint = without_surroundings(checkpoint)
        content = io.BytesIO()
        torch.save(checkpoint, content)
        if not self._was_read_back:
            check_readable(checkpoint, content)
            self._was_read_back = True
        previous = path.with_name(PREVIOUS.name) if path.name == LAST.name else None
        replace_atomically(path, content.getvalue(), previous=previous)


def without_surroundings(part: Any) -> Any:
    """Return a part of a checkpoint, pieces of larger tensors copied: PyTorch would save the larger ones."""
    if isinstance(part, torch.Tensor):
        return part.clone() if part.untyped_storage().nbytes() > part.nbytes else part
    if isinstance(part, dict):
        return type(part)((key, without_surroundings(value)) for key, value in part.items())
    return [without_surroundings(item) for item in part] if type(part) is list else part


def check_readable(checkpoint: dict[str, Any], content: io.BytesIO) -> None:
    """Check that a checkpoint can be read back: tensors, numbers and text, no objects.

    Args:
        checkpoint: to be written.
        content: the same, as it will be in its file.

    Raises:
        InputError: it holds an object; the message names the part that does.
    """
    error = error_of_reading(content)
    if error is None:
        return
    groups = ("callbacks", "loops")
    parts = {f"{group} {name}": part for group in groups for name, part in checkpoint.get(group, {}).items()}
    parts |= {key: part for key, part in checkpoint.items() if key not in groups}
    holders = []
    for name, part in parts.items():
        alone = io.BytesIO()
        torch.save(part, alone)
        if error_of_reading(alone) is not None:
            holders.append(name)
    raise InputError(
        f"the checkpoint could not be read back: {', '.join(holders)} holds {object_named_by(error) or 'an object'}; a "
        "callback's state_dict must hold tensors, numbers and text, such as array.tolist() for an array"
    )


def error_of_reading(content: io.BytesIO) -> pickle.UnpicklingError | None:
    """Return why what `torch.save` wrote cannot be read back without executing anything; None if it can."""
    content.seek(0)
    try:
        torch.load(content, weights_only=True)
    except pickle.UnpicklingError as error:
        return error
    return None


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
        self.record.run.lock.check()
        *earlier, latest = (row.get("accuracy/val", 0.0) for row in self.record.rows if row["epoch"] >= 0)
        if "accuracy/val" in self.record.rows[-1] and latest > max(earlier, default=-1.0):
            trainer.save_checkpoint(self.record.run.folder / BEST)
        trainer.save_checkpoint(self.record.run.folder / LAST)
