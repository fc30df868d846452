"""Run folders read back as data: nothing in them is executed, and no path in them leads out of them.

A run folder may be somebody else's. Its checkpoint is loaded without unpickling objects, its configuration may name
only classes on an allow-list, and paths that the configuration holds are left out: they are of another machine.
"""

import json
import logging
import pickle
import re
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from qcnn_lightning.errors import InputError
from qcnn_lightning.files import inside
from qcnn_lightning.models import QCNN

log = logging.getLogger(__name__)

LOCK = ".lock"
"""Held, in a run folder, by the process that trains."""
LAST = Path("checkpoints", "last.ckpt")
PREVIOUS = Path("checkpoints", "previous.ckpt")
"""The checkpoint of the epoch before the last, should the last be damaged."""
BEST = Path("checkpoints", "best.ckpt")
COMPOSED = ".hydra/config.yaml"
HYDRA_FILES = (COMPOSED, ".hydra/hydra.yaml", ".hydra/overrides.yaml")
METRICS = "metrics.csv"
SUMMARY = "summary.json"
LOG = "train.log"
TRACEBACK = "traceback.txt"
"""Why the last attempt failed: the message, an empty line, the traceback."""
PATHS_IN_A_CONFIG = {"": ("run_dir",), "data": ("root", "path", "cache", "system_folders")}
ADDED_SINCE = {
    "average_decay": 0.0,
    "cost._target_": "qcnn_lightning.costs.SquaredDistance",
    "data.augment.contrast": 0.0,
    "data.augment.erase": 0,
    "data.augment.erase_fraction": 0.5,
    "data.augment.flip": False,
    "data.augment.shift": 0,
    "data.augment.shift_fraction": 0.5,
    "entropy_weight": 0.0,
    "model.precision": "high",
}
"""Settings that runs from before they were there do not name, and the values by which those runs went."""
# Classes of these modules alone, not what they import from elsewhere by a longer path, and not their functions.
TRUSTED_TARGETS = re.compile(
    r"(qcnn_lightning|qcnn_lightning\.(network|costs)|qcnn_lightning\.training\.(entanglement|tracking)|torch\.optim(\.lr_scheduler)?|"
    r"pytorch_lightning(\.callbacks|\.loggers|\.profilers|\.strategies)?)\.[A-Z]\w*"
)


class DamagedFileError(InputError):
    """A file of a run folder is not what was written: cut off, or altered."""


@dataclass(frozen=True)
class RunFolder:
    """What a run left behind.

    Attributes:
        folder: the run's folder.
        config: the resolved configuration that the checkpoint was trained with, without the paths it held
            (`PATHS_IN_A_CONFIG`).
        checkpoint_path: the last checkpoint that can be read.
        summary: `summary.json`; empty if that is missing or damaged.
    """

    folder: Path
    config: dict[str, Any]
    checkpoint_path: Path
    summary: dict[str, Any]


def read_run(folder: str | Path) -> RunFolder:
    """Read a run folder.

    Raises:
        InputError: no run folder; no checkpoint that can be read; one that holds pickled objects; a configuration, in
            `.hydra/config.yaml` or in the checkpoint, that names a class which is not on the allow-list; or a link that
            leads out of the folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; a run folder is what training leaves behind")
    composed = inside(folder, COMPOSED)
    if composed.is_file():
        refuse_foreign_targets(read_yaml(composed), composed)
    found = read_last_checkpoint(folder)
    if found is None:
        raise InputError(f"{folder / LAST}: no such file; is {folder} a run folder, and its first epoch completed?")
    path, checkpoint = found
    return RunFolder(folder, without_paths(checkpoint["hyper_parameters"]), path, read_summary(folder))


def read_last_checkpoint(folder: Path, trusted: Collection[str] = ()) -> tuple[Path, dict[str, Any]] | None:
    """Read the last checkpoint of a run; if that is damaged the one before it, with a warning.

    Args:
        folder: the run's folder.
        trusted: further targets that the configuration in it may name.

    Returns:
        The file and its content; None if there is no checkpoint.

    Raises:
        InputError: as `read_checkpoint`.
        DamagedFileError: both are damaged.
    """
    last, previous = (inside(folder, name) for name in (LAST, PREVIOUS))
    if not last.exists() and not previous.exists():
        return None
    try:
        return last, read_checkpoint(last, trusted)
    except DamagedFileError as damage:
        try:
            checkpoint = read_checkpoint(previous, trusted)
        except DamagedFileError as further:
            raise DamagedFileError(
                f"{damage}; {further}. Delete {folder} to begin again, or restore a copy of one of them"
            ) from damage
        log.warning("%s; the one of the epoch before is used: %s", damage, previous)
        return previous, checkpoint


def read_checkpoint(path: Path, trusted: Collection[str] = ()) -> dict[str, Any]:
    """Read a checkpoint: tensors, numbers and text, no objects.

    Args:
        path: the file.
        trusted: further targets that the configuration in it may name.

    Raises:
        DamagedFileError: it is missing, cut off or altered.
        InputError: it holds pickled objects, is not a checkpoint of this program, or names a class that is not on the
            allow-list.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (OSError, zipfile.BadZipFile, ValueError, RuntimeError, zlib.error) as error:
        raise DamagedFileError(f"{path} cannot be read: {error}") from error
    if damaged is not None:
        raise DamagedFileError(f"{path} is damaged: wrong checksum of {damaged}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise refusal_of_objects(path, error) from None
    except (RuntimeError, ValueError, KeyError) as error:
        raise DamagedFileError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(checkpoint, dict) or not {"state_dict", "hyper_parameters"} <= checkpoint.keys():
        raise InputError(f"{path} is not a checkpoint of qcnn_lightning.train")
    refuse_foreign_targets(checkpoint["hyper_parameters"], path, trusted)
    return checkpoint


def refuse_pickled_objects(path: Path) -> None:
    """Refuse a checkpoint that holds pickled objects, without reading its tensors.

    One that is damaged or missing is nothing to refuse.

    Raises:
        InputError: it holds pickled objects.
    """
    try:
        torch.load(path, map_location="meta", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise refusal_of_objects(path, error) from None
    except (OSError, RuntimeError, ValueError, KeyError):
        return


def refusal_of_objects(path: Path, error: pickle.UnpicklingError) -> InputError:
    """Return the error that names what a checkpoint holds instead of tensors, numbers and text."""
    objects = re.search(r"GLOBAL (\S+)", str(error))
    named = f" ({objects[1]})" if objects else ""
    return InputError(
        f"{path} holds pickled objects{named}, which could execute anything: refused, nothing was executed"
    )


def load_network(path: Path) -> tuple[QCNN, dict[str, Any]]:
    """Rebuild the network of a checkpoint, in evaluation mode, on the CPU.

    Returns:
        The network, and the configuration it was trained with, without the paths that it held.

    Raises:
        InputError: as `read_checkpoint`; there are no weights, only the record of a run that was restored from its
            metrics; or the weights are not those of a q-CNN with these settings.
    """
    checkpoint = read_checkpoint(path)
    config = checkpoint["hyper_parameters"]
    if not checkpoint["state_dict"]:
        raise InputError(
            f"{path} has no weights: the run was restored from its kept metrics; delete its folder, and train it again"
        )
    weights = {
        name.removeprefix("network."): tensor
        for name, tensor in checkpoint["state_dict"].items()
        if name.startswith("network.")
    }
    try:
        num_levels = len({name.split(".")[1] for name in weights if name.startswith("levels.")})
        num_classes = len(weights["classification.weight"][0])
        # By which kernel it was trained is no property of the network.
        settings = {key: value for key, value in config["model"].items() if key != "kernel" and not key.startswith("_")}
        if "." in str(settings.get("basis")):
            raise InputError(
                f"{path} names {settings['basis']}, a local basis that is not ours: refused, nothing was executed"
            )
        network = QCNN(num_sites=2**num_levels, num_classes=num_classes, **settings)
        network.to(weights["classification.weight"].dtype).load_state_dict(weights)
    except (KeyError, TypeError, RuntimeError, AttributeError) as error:
        raise InputError(f"{path} does not hold the network that its settings describe: {error}") from error
    return network.eval(), without_paths(config)


def read_summary(folder: Path) -> dict[str, Any]:
    """Read `summary.json`; what is missing or damaged is empty."""
    try:
        summary = json.loads(inside(folder, SUMMARY).read_text())
    except (OSError, ValueError):
        return {}
    return summary if isinstance(summary, dict) else {}


def is_running(folder: Path) -> bool:
    """Return whether a training process holds the lock of this run folder."""
    lock = folder / LOCK
    if not lock.is_file() or lock.is_symlink():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        return False


def read_yaml(path: Path) -> Any:
    """Read a YAML file as plain values; interpolations stay text.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise InputError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error


def refuse_foreign_targets(config: Any, path: Path, trusted: Collection[str] = ()) -> None:
    """Refuse a configuration that names anything but our own, torch's and Lightning's classes.

    Args:
        config: nested dicts and lists.
        path: where it was read from.
        trusted: further names that are allowed.

    Raises:
        InputError: it names another.
    """
    foreign = [target for target in targets(config) if target not in trusted and not TRUSTED_TARGETS.fullmatch(target)]
    if foreign:
        raise InputError(
            f"{path} names {', '.join(foreign)}, which is no class of the q-CNN's, torch.optim's or Lightning's: "
            "refused, nothing was executed"
        )


def targets(config: Any) -> Iterator[str]:
    """Yield every `_target_` of a nested configuration."""
    if isinstance(config, dict):
        if "_target_" in config:
            yield str(config["_target_"])
        config = list(config.values())
    if isinstance(config, list):
        for item in config:
            yield from targets(item)


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a run as {"model.d": 18, ...}, those included that came after it."""
    settings = ADDED_SINCE | dict(flattened(config))
    if settings.get("model._target_") == "qcnn_lightning.network.QCNN":
        settings["model._target_"] = "qcnn_lightning.QCNN"
    if settings.get("model.kernel") == "fused_float32":  # the name of both settings in one
        settings |= {"model.kernel": "fused", "model.precision": "highest"}
    return settings


def flattened(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the settings of a nested configuration as ("model.d", 18), ...; a list is one setting."""
    if isinstance(config, Mapping):
        for key, value in config.items():
            yield from flattened(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, config


def without_paths(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration without the paths that it holds."""
    own = {key: value for key, value in config.items() if key not in PATHS_IN_A_CONFIG[""]}
    if isinstance(own.get("data"), dict):
        own["data"] = {key: value for key, value in own["data"].items() if key not in PATHS_IN_A_CONFIG["data"]}
    return own
