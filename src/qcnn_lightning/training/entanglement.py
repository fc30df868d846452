"""The entanglement of every class's state, measured before training and after every epoch (eq. 37-45)."""

import time

import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from qcnn_lightning.errors import InputError, checked_settings
from qcnn_lightning.states import State
from qcnn_lightning.states.entropy import renyi_entropy, von_neumann_entropy
from qcnn_lightning.training.module import Classifier

LOGGED_SCHMIDT_VALUES = 8


class EntanglementMonitor(pl.Callback):
    """Logs the entanglement between the two halves of the image for every class, in nats.

    The state has the evaluated model's weights and statistics. A model without a state has no entropies. Every epoch
    logs the von Neumann entropy (eq. 44) as `ee/class_0`, ..., `ee/mean`, and the Rényi entropy of order 2 as
    `renyi_2/class_0`, ..., `renyi_2/mean`. A density has `ee/mixture` too, the left half's entropy in p(x).

    Args:
        profile_every_n_epochs: n: log, before training, after every n-th epoch and after the last, means over the
            classes of the entropy of blocks of 2^l pixels, `profile/level_l`, and of the largest Schmidt probabilities,
            `spectrum/p_1`, ... 0 for never.

    Raises:
        InputError: `profile_every_n_epochs` is negative.
    """

    @checked_settings
    def __init__(self, profile_every_n_epochs: int = 10):
        if profile_every_n_epochs < 0:
            raise InputError(
                f"callbacks.entanglement.profile_every_n_epochs={profile_every_n_epochs}: must be 0 (never) or more"
            )
        self.profile_every_n_epochs = profile_every_n_epochs

    @torch.no_grad()
    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure and log, with the seconds that it took; only in the first of several processes."""
        if not trainer.is_global_zero:
            return
        assert isinstance(pl_module, Classifier)
        start = time.perf_counter()
        # Before training there are no running averages; these are the statistics that were evaluated.
        state = pl_module.network.state(pl_module.network.fixed_statistics)
        if state is None:
            return
        measured = self._measure(state, pl_module.schmidt_spectrum(state), self._profile_is_due(trainer))
        measured["time/entanglement_s"] = torch.tensor(time.perf_counter() - start)
        # float32, since some devices have no float64.
        measured = {name: value.float() for name, value in measured.items()}
        pl_module.log_dict(measured, logger=False, rank_zero_only=True)

    def _measure(self, state: State, spectrum: Tensor, with_profile: bool) -> dict[str, Tensor]:
        measured = {}
        for name, entropies in {"ee": von_neumann_entropy(spectrum), "renyi_2": renyi_entropy(spectrum, 2)}.items():
            measured[f"{name}/mean"] = entropies.mean()
            measured |= {f"{name}/class_{label}": entropy for label, entropy in enumerate(entropies)}
        if hasattr(state, "mixture_entropy"):
            measured["ee/mixture"] = state.mixture_entropy()
        if with_profile:
            if hasattr(state, "entropy_profile"):
                profile = state.entropy_profile().mean(0)
                measured |= {f"profile/level_{level}": entropy for level, entropy in enumerate(profile)}
            largest = spectrum.mean(0)[:LOGGED_SCHMIDT_VALUES]
            measured |= {f"spectrum/p_{place}": probability for place, probability in enumerate(largest, start=1)}
        return measured

    def _profile_is_due(self, trainer: pl.Trainer) -> bool:
        if self.profile_every_n_epochs == 0:
            return False
        before_training = trainer.state.fn == TrainerFn.VALIDATING
        epoch = trainer.current_epoch
        return before_training or (epoch + 1) % self.profile_every_n_epochs == 0 or epoch + 1 == trainer.max_epochs
