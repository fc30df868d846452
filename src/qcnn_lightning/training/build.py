"""From parts of the configuration to objects, tried out before time is spent: one message if a part cannot be built."""

import math
import os
import pkgutil
from collections.abc import Callable
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from qcnn_lightning.errors import InputError
from qcnn_lightning.hints import names_of
from qcnn_lightning.training.muon import Muon

INTERVALS = ("epoch", "step")
# Of a trial: a schedule over the whole training wants to know how many steps there are.
TOTAL_STEPS = 1000
REFUSALS = (TypeError, ValueError, ArithmeticError, RuntimeError, AttributeError, KeyError)


def build(config: DictConfig | None, key: str, **arguments: Any) -> Any:
    """Build the object that a part of the configuration describes: ours, a library's or the user's own.

    Args:
        config: `_target_` and its settings; None builds nothing.
        key: config key of this part, for messages.
        arguments: further arguments.

    Raises:
        InputError: there is no such class or function, or it does not take these settings.
    """
    if config is None:
        return None
    target = config.get("_target_")
    try:
        return instantiate(config, _convert_="all", **arguments)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, InputError):
            raise cause from error
        if "locating target" in str(error):
            raise InputError(
                f"{key}._target_={target}: there is no such class or function ({innermost(error)}); your own module "
                "must lie in the current folder or be installed"
            ) from error
        # Errors inside its code keep their traceback, for its author.
        if isinstance(cause, TypeError) and (cause.__traceback__ is None or cause.__traceback__.tb_next is None):
            settings = ", ".join(f"{key}.{name}" for name in map(str, config) if not name.startswith("_"))
            raise InputError(f"{key}._target_={target} does not take its settings ({settings}): {cause}") from error
        raise


def innermost(error: BaseException) -> BaseException:
    """Return the first error of a chain of causes."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


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
    weight = config.entropy_weight
    if not isinstance(weight, int | float) or isinstance(weight, bool) or not math.isfinite(weight):
        raise InputError(f"entropy_weight={weight}: must be a number, 0 for no such term")
    for name, callback in (config.callbacks or {}).items():
        if callback is not None and str(callback.get("monitor", "")).endswith("/val") and not config.data.val_size:
            raise InputError(
                f"callbacks.{name}.monitor={callback.monitor}: no training images are held out; say data.val_size=5000"
            )
    if config.scheduler.interval not in INTERVALS:
        raise InputError(f"scheduler.interval={config.scheduler.interval}: choose one of {', '.join(INTERVALS)}")


def white_for(config: DictConfig, white: float) -> dict[str, float]:
    """Return the model's argument `white`; none for 1, which every model means without it.

    Args:
        config: of the run.
        white: `data.white`.

    Raises:
        InputError: the model takes no such argument, or the configuration gives it one of its own.
    """
    if "white" in config.model:
        raise InputError(f"model.white={config.model.white}: say data.white={config.model.white}")
    target = config.model.get("_target_")
    try:
        names = names_of(pkgutil.resolve_name(target))
    # `build` says what is wrong with it.
    except Exception:
        names = ()
    if white != 1 and names and "white" not in names:
        raise InputError(f"data.white={white}: {target} takes no argument white, so it lays grey levels on [0, 1]")
    return {} if white == 1 else {"white": white}


def try_out(config: DictConfig, build_network: Callable[..., nn.Module]) -> None:
    """Build model, optimiser and schedule for two classes, and let them take a step without a gradient.

    Args:
        config: of the run.
        build_network: takes num_classes, returns the model.

    Raises:
        InputError: a part refuses its settings, or is of a kind that cannot be used.
    """
    check_memory(config, build_network)
    network = build_network(num_classes=2)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    make_optimizer = build(config.optimizer, "optimizer")
    if getattr(make_optimizer, "func", None) is Muon and getattr(network, "is_complex", False):
        raise InputError(
            "optimizer=muon takes the orthogonal factors of real matrices, and model.dtype=complex has pairs of real "
            "numbers: choose adam or adamw, or model.dtype=real"
        )
    optimizer = tried("optimizer", config.optimizer, lambda: make_optimizer(network.parameters()))
    make_schedule = build(config.scheduler.scheduler, "scheduler.scheduler")
    schedule = None
    if make_schedule is not None:
        steps = {"total_steps": TOTAL_STEPS} if config.scheduler.interval == "step" else {}
        schedule = tried("scheduler.scheduler", config.scheduler.scheduler, lambda: make_schedule(optimizer, **steps))
    tried("optimizer", config.optimizer, optimizer.step)
    if schedule is not None:
        tried("scheduler.scheduler", config.scheduler.scheduler, schedule.step)


def check_memory(config: DictConfig, build_network: Callable[..., nn.Module]) -> None:
    """Check, before any memory is taken, that a q-CNN can be trained in that of this machine.

    Raises:
        InputError: it cannot.
    """
    # Windows does not tell.
    if config.model.get("_target_") != "qcnn_lightning.QCNN" or not hasattr(os, "sysconf"):
        return
    with torch.device("meta"):
        weights = sum(parameter.numel() for parameter in build_network(num_classes=2).parameters())
    # A weight, its gradient, and two numbers of the optimiser.
    needed, there = 4 * 4 * weights / 2**30, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    if needed > there:
        raise InputError(
            f"model.d={config.model.d}: training {weights:,} parameters takes at least {needed:,.0f} GiB of memory, "
            f"and there are {there:,.0f}; choose a smaller model.d"
        )


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
