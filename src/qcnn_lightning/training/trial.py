"""Settings tried out before time is spent: what PyTorch would refuse, it refuses before any data are fetched."""

from collections.abc import Callable
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from qcnn_lightning.errors import InputError
from qcnn_lightning.training.build import build

INTERVALS = ("epoch", "step")
# Of a trial: a schedule over the whole training wants to know how many steps there are.
TOTAL_STEPS = 1000
REFUSALS = (TypeError, ValueError, ArithmeticError, RuntimeError, AttributeError, KeyError)


def check_numbers(config: DictConfig) -> None:
    """Check the numbers that nobody else does.

    Raises:
        InputError: one cannot be used.
    """
    for key in ("trainer.max_epochs", "optimizer.lr"):
        value = OmegaConf.select(config, key)
        if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
            raise InputError(f"{key}={value}: must be a positive number")
    if not isinstance(config.trainer.max_epochs, int):
        raise InputError(f"trainer.max_epochs={config.trainer.max_epochs}: must be a whole number")
    if not isinstance(config.seed, int) or not 0 <= config.seed < 2**32:
        raise InputError(f"seed={config.seed}: must be a whole number from 0 to {2**32 - 1}")
    if not isinstance(config.entropy_weight, int | float):
        raise InputError(f"entropy_weight={config.entropy_weight}: must be a number, 0 for no such term")
    if config.scheduler.interval not in INTERVALS:
        raise InputError(f"scheduler.interval={config.scheduler.interval}: choose one of {', '.join(INTERVALS)}")


def try_out(config: DictConfig, build_network: Callable[..., nn.Module]) -> None:
    """Build model, optimiser and schedule for two classes, and let them take a step without a gradient.

    Args:
        config: of the run.
        build_network: takes num_classes, returns the model.

    Raises:
        InputError: a part refuses its settings, or is of a kind that cannot be used.
    """
    network = build_network(num_classes=2)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    make_optimizer = build(config.optimizer, "optimizer")
    optimizer = tried("optimizer", config.optimizer, lambda: make_optimizer(network.parameters()))
    make_schedule = build(config.scheduler.scheduler, "scheduler.scheduler")
    schedule = None
    if make_schedule is not None:
        steps = {"total_steps": TOTAL_STEPS} if config.scheduler.interval == "step" else {}
        schedule = tried("scheduler.scheduler", config.scheduler.scheduler, lambda: make_schedule(optimizer, **steps))
    tried("optimizer", config.optimizer, optimizer.step)
    if schedule is not None:
        tried("scheduler.scheduler", config.scheduler.scheduler, schedule.step)


def tried(key: str, part: DictConfig, call: Callable[[], Any]) -> Any:
    """Return what a call of a part returns.

    Args:
        key: of the part in the configuration.
        part: its configuration.
        call: may fail.

    Raises:
        InputError: it failed.
    """
    try:
        return call()
    except InputError:
        raise
    except REFUSALS as error:
        given: Any = OmegaConf.to_container(part)
        settings = ", ".join(f"{name}={value}" for name, value in given.items() if not name.startswith("_"))
        raise InputError(
            f"{key}._target_={part.get('_target_')} cannot be used with {settings}: {type(error).__name__}: {error}"
        ) from error
