"""The entanglement of every class's state, before training and after every epoch, beside the cost (eq. 37-45)."""

import time

import pytorch_lightning as pl
import torch

from qcnn_lightning.state import NetworkState
from qcnn_lightning.training.module import Classifier


class EntanglementMonitor(pl.Callback):
    """Logs the half-image entanglement entropy of every class and their mean, in nats.

    The state is that of the network which is being evaluated: same weights, same statistics.
    """

    @torch.no_grad()
    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure and log `ee/mean`, `ee/class_0` ..., and the seconds it took."""
        assert isinstance(pl_module, Classifier)
        start = time.perf_counter()
        state = NetworkState.from_network(pl_module.network)
        entropies = state.entanglement_entropy()
        measured = {"ee/mean": entropies.mean()}
        measured |= {f"ee/class_{label}": entropy for label, entropy in enumerate(entropies)}
        measured["time/entanglement_s"] = torch.tensor(time.perf_counter() - start)
        pl_module.log_dict({name: value.float() for name, value in measured.items()}, logger=False)
