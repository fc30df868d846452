"""Lightning's Trainer, with everything that a run needs around it."""

import logging
import warnings
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.callbacks import EMAWeightAveraging
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins.environments import SLURMEnvironment
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from qcnn_lightning.errors import InputError
from qcnn_lightning.hints import REFUSED
from qcnn_lightning.training.build import build
from qcnn_lightning.training.checkpoints import AtomicCheckpoints

PRECISIONS = ("32-true", "64-true", "32", "64")
"""Statistics of a batch and products of hundreds of factors need float32; `model.precision` chooses the arithmetic."""


def weight_averaging(config: DictConfig) -> list[pl.Callback]:
    """Return the callback that keeps an exponential moving average of the weights, if `average_decay` asks for one.

    The average is updated once a Lightning step, that is once in `data.batches_per_item` batches. Evaluation, its
    population statistics, entropies and the `state_dict` of checkpoints are those of the averaged network. The callback
    puts the trained weights back as soon as it is told of an evaluation's end, so whoever measures comes before it.

    Raises:
        InputError: `average_decay` is out of range, or evaluation does not measure the averaged network's statistics.
    """
    decay = config.average_decay
    if not isinstance(decay, int | float) or not 0 <= decay < 1:
        raise InputError(f"average_decay={decay}: must be at least 0 (no averaging) and less than 1")
    if decay == 0:
        return []
    if config.evaluation_statistics != "population":
        raise InputError(
            f"average_decay={decay} needs evaluation_statistics=population: the running ones are not those of the "
            "averaged network"
        )
    return [EMAWeightAveraging(use_buffers=False, decay=decay)]


def build_trainer(config: DictConfig, callbacks: list[pl.Callback], loggers: Sequence[Logger]) -> pl.Trainer:
    """Build Lightning's Trainer with everything that a run needs around it.

    Args:
        config: the configuration, which may add further callbacks.
        callbacks: called after those of the configuration.
        loggers: none, one or several.

    Raises:
        InputError: an accelerator that is not there, or another setting of `trainer` that cannot be.
    """
    check_trainer_settings(config.trainer)
    own_callbacks = [
        build(callback, f"callbacks.{name}")
        for name, callback in (config.callbacks or {}).items()
        # callbacks.<name>=null leaves it out.
        if callback is not None
    ]
    # Which prints its table at the end.
    logging.getLogger("pytorch_lightning.profilers").setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            ignore_hints()
            plugins: list[Any] = [AtomicCheckpoints()]
            if SLURMEnvironment.detect():
                # Whoever submitted the job requeues it; Lightning would do so a second time.
                plugins.append(SLURMEnvironment(auto_requeue=False))
            return instantiate(
                config.trainer,
                callbacks=[*own_callbacks, *callbacks],
                plugins=plugins,
                # An empty list would bring Lightning's own.
                logger=list(loggers) or False,
                default_root_dir=config.run_dir,
                num_sanity_val_steps=0,
                enable_progress_bar=False,
                enable_model_summary=False,
                use_distributed_sampler=False,
            )
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, MisconfigurationException | ValueError | TypeError | RuntimeError):
            settings = " ".join(
                f"trainer.{key}={config.trainer[key]}" for key in ("accelerator", "devices", "strategy")
            )
            raise InputError(f"{settings}: {cause}") from error
        raise


def check_trainer_settings(trainer: DictConfig) -> None:
    """Refuse settings of the Trainer that would change nothing, or what an epoch is.

    Raises:
        InputError: there is one.
    """
    for key, (harmless, reason) in REFUSED.items():
        if key in trainer and trainer[key] not in harmless:
            raise InputError(f"trainer.{key}={trainer[key]}: {reason}")
    if str(trainer.get("precision")) not in PRECISIONS:
        raise InputError(
            f"trainer.precision={trainer.get('precision')}: choose 32-true or 64-true; model.precision=high is the "
            "fast arithmetic"
        )


def ignore_hints() -> None:
    """Ignore what Lightning warns of and is meant to be so."""
    # Batches are slices of tensors in memory; worker processes would only slow them down.
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    # Sweeps are started on a cluster's login node.
    warnings.filterwarnings("ignore", "The `srun` command is available on your system but is not used")
    # Entropies are measured by the first process alone.
    warnings.filterwarnings("ignore", "It is recommended to use `self.log.*sync_dist=True")
    # A group takes the optimisers' steps for them (`together.py`).
    warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
    # Lightning's own use of PyTorch.
    warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.*")
