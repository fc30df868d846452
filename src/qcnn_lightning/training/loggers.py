"""From `logger` in the configuration to Lightning's loggers: none, one, or several; W&B's are told what a run is."""

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from pytorch_lightning.loggers import Logger

from qcnn_lightning.errors import InputError
from qcnn_lightning.hints import names_of
from qcnn_lightning.labels import data_name, setting, shortened
from qcnn_lightning.own_parts import own_code_of
from qcnn_lightning.runs.metrics import first_epoch_of
from qcnn_lightning.runs.rebuild import network_of
from qcnn_lightning.runs.run import Run
from qcnn_lightning.training.build import build
from qcnn_lightning.training.record import RunRecord
from qcnn_lightning.training.tracking import LONGEST_NAME, LONGEST_TAG, EntanglementTracker

STATE = "wandb/state.safetensors"
"""In a run's folder: what goes to W&B with the checkpoint."""


def build_loggers(config: DictConfig, record: RunRecord) -> list[Logger]:
    """Build the loggers, which get folders of their own inside the run's unless their settings name others.

    `logger` is one logger, or holds several by name. A run that has begun keeps its identity in W&B.

    Raises:
        InputError: one refuses its settings, or needs a package that is not installed.
    """
    described: Any = config.logger or {}
    given = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    if mixed := [override for override in given if override.startswith("logger=[")]:
        raise InputError(
            f"{mixed[0]}: their settings would be mixed up; choose logger=many_loggers, or a file of your own that "
            "names several (docs/wandb.md)"
        )
    several = {f"logger.{name}": described[name] for name in described}
    parts = {"logger": described} if "_target_" in described else several
    return [build_logger(part, key, config, record) for key, part in parts.items() if part is not None]


def build_logger(part: DictConfig, key: str, config: DictConfig, record: RunRecord) -> Logger:
    """Build one logger.

    Args:
        part: its configuration.
        key: where that stands.
        config: the run's.
        record: of the run.
    """
    if not isinstance(part, DictConfig) or "_target_" not in part:
        raise InputError(f"{key}={part}: a logger has a class, {key}._target_=<class>; or choose one: logger=wandb")
    make = build(part, key, _partial_=True)
    taken = names_of(make.func)
    try:
        if make.func is EntanglementTracker:
            return make(**told_to_wandb(part, config, record))
        has_folder = "save_dir" in part or (taken and "save_dir" not in taken)
        return make() if has_folder else make(save_dir=record.run.folder)
    except ModuleNotFoundError as error:
        name = make.func.__name__.removesuffix("Logger").lower()
        raise InputError(
            f"{key}._target_={part._target_} needs a package that is not installed: pip install "
            f"'qcnn-lightning[{name}]' ({error})"
        ) from error


def told_to_wandb(part: DictConfig, config: DictConfig, record: RunRecord) -> dict[str, Any]:
    """Return what W&B is told of a run; what its configuration says itself comes first."""
    begun = record.facts.get("wandb_run_id") or record.run.summary.get("wandb_run_id")
    told = {
        "name": shortened(record.run.folder.name, LONGEST_NAME),
        "group": shortened(str(config.sweep.name), LONGEST_NAME),
        "run_id": str(begun or uuid.uuid4().hex[:8]),
        "save_dir": record.run.folder,
    }
    return {
        **{key: value for key, value in told.items() if part.get(key) is None},
        "tags": [*(part.get("tags") or ()), *tags_of(config)],
        "config": grouping_of(config),
        "first_epoch": first_epoch_of(config.trainer.max_epochs, part.get("first_epoch")),
    }


def grouping_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that `workspace` shows beside every run, flat: W&B cannot sort by nested ones."""
    return {"data_set": data_name(str(config["data"]["name"])), "d": config["model"].get("d")}


def tags_of(config: Mapping[str, Any]) -> list[str]:
    """Return a run's labels: data set, d, sharing, start and pixel order."""
    model, data = config["model"], config["data"]
    settings = {f"model.{name}": model[name] for name in ("d", "sharing", "start") if name in model}
    settings |= {"data.flatten": data["flatten"]}
    labels = (data_name(str(data["name"])), *(setting(key, value) for key, value in settings.items()))
    return [shortened(label, LONGEST_TAG) for label in labels]


def keep_network(run: Run, config: DictConfig, trackers: list[EntanglementTracker]) -> None:
    """Give W&B a finished run's checkpoint, and the state of its network if it has one, where that was asked for."""
    if not any(tracker.keeps_network for tracker in trackers):
        return
    checkpoint = run.checkpoint()
    assert checkpoint is not None
    # The run has executed this code already.
    network: Any = network_of(checkpoint, own_code_of(config))
    state = network.state()
    files: list[Path] = [checkpoint.path]
    if hasattr(state, "save"):
        state.save(run.folder / STATE)
        files.append(run.folder / STATE)
    for tracker in trackers:
        tracker.log_network(files)
