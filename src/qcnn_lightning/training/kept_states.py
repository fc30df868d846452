"""The states of many epochs in one file, to see how training moves them (theory.md, eq. E1)."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn

from qcnn_lightning.errors import InputError, checked_settings
from qcnn_lightning.runs.run import STATES
from qcnn_lightning.states.state_file import write_epochs
from qcnn_lightning.training.module import Classifier


class KeptStates(pl.Callback):
    """Keeps the evaluated states, before training, after every n-th epoch and after the last, in `states.safetensors`.

    The file is complete after every epoch. A resumed run goes on with it. An epoch takes 8 bytes for every entry of
    the site tensors: 1.3 MB for sibling weights and d = 18, 3.5 MB for
    a density with 432 448 parameters.

    Args:
        every_n_epochs: n; 0 for never.

    Raises:
        InputError: `every_n_epochs` is negative.
    """

    @checked_settings
    def __init__(self, every_n_epochs: int = 0):
        if every_n_epochs < 0:
            raise InputError(f"callbacks.states.every_n_epochs={every_n_epochs}: must be 0 (never) or more")
        self.every_n_epochs = every_n_epochs

    @torch.no_grad()
    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the epoch's states to the file; only in the first of several processes.

        Raises:
            InputError: the file cannot be read or written.
        """
        before_training = trainer.state.fn == TrainerFn.VALIDATING
        epoch = -1 if before_training else trainer.current_epoch
        due = before_training or (epoch + 1) % max(1, self.every_n_epochs) == 0 or epoch + 1 == trainer.max_epochs
        if not self.every_n_epochs or not due or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, Classifier)
        state = pl_module.network.state(pl_module.network.fixed_statistics)
        load: Any = getattr(type(state), "load_epochs", None)
        if load is None:
            return
        path = Path(trainer.default_root_dir, STATES)
        kept: dict[int, Any] = load(path) if path.exists() and not before_training else {}
        kept = {earlier: other for earlier, other in kept.items() if earlier < epoch}
        write_epochs(path, kept | {epoch: state})
