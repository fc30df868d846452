"""Run folders read back as data: nothing in them is executed, and no path in them leads out of them.

A run folder may be somebody else's. Its checkpoint is loaded without unpickling objects. A class that its configuration
names is text: code of somebody's own runs only where the user names it again. Paths that the configuration holds are
left out, for they are of another machine.
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
from torch import nn
from yaml import YAMLError  # type: ignore[import-untyped]

from qcnn_lightning.basis import BASES
from qcnn_lightning.costs import COSTS, Cost
from qcnn_lightning.errors import InputError
from qcnn_lightning.files import inside
from qcnn_lightning.models import MODELS, QCNN
from qcnn_lightning.models.model import completed
from qcnn_lightning.own_parts import own_part

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
FREE_TO_CHANGE = (
    "callbacks",
    "data.batches_per_item",
    "data.cache",
    "data.evaluation_batch_size",
    "data.root",
    "data.system_folders",
    "hydra",
    "logger",
    "model.kernel",
    "run_dir",
    "sweep",
    "trainer.accelerator",
    "trainer.default_root_dir",
    "trainer.devices",
    "trainer.log_every_n_steps",
    "trainer.num_nodes",
    "trainer.strategy",
)
"""Settings, and whole groups of them, that do not change what is learned; all others must stay as they were."""
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
RENAMED = {"data.batches_at_a_time": "data.batches_per_item"}
"""Old name of a setting, which stored runs have -> its name now."""


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
        InputError: no run folder; no checkpoint that can be read; one that holds pickled objects; or a link that leads
            out of the folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; a run folder is what training leaves behind")
    found = read_last_checkpoint(folder)
    if found is None:
        raise InputError(f"{folder / LAST}: no such file; is {folder} a run folder, and its first epoch completed?")
    path, checkpoint = found
    return RunFolder(folder, without_paths(checkpoint["hyper_parameters"]), path, read_summary(folder))


def read_last_checkpoint(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """Read the last checkpoint of a run; if that is damaged the one before it, with a warning.

    Args:
        folder: the run's folder.

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
        return last, read_checkpoint(last)
    except DamagedFileError as damage:
        try:
            checkpoint = read_checkpoint(previous)
        except DamagedFileError as further:
            raise DamagedFileError(
                f"{damage}; {further}. Delete {folder} to begin again, or restore a copy of one of them"
            ) from damage
        log.warning("%s; the one of the epoch before is used: %s", damage, previous)
        return previous, checkpoint


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint: tensors, numbers and text, no objects.

    Raises:
        DamagedFileError: it is missing, cut off or altered.
        InputError: it holds pickled objects, or is not a checkpoint of this program.
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


def load_network(path: Path, own: Collection[str] = ()) -> tuple[nn.Module, dict[str, Any]]:
    """Rebuild the model of a checkpoint, in evaluation mode, on the CPU.

    Args:
        path: the checkpoint.
        own: dotted paths of the user's own code that may be run.

    Returns:
        The model, and the configuration it was trained with, without the paths that it held.

    Raises:
        InputError: as `read_checkpoint`; there are no weights, only the record of a run that was restored from its
            metrics; the configuration names code that is neither ours nor in `own`; or the weights are not those of the
            model that it describes.
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
        model_class = named_part(str(settings_of(config)["model._target_"]), MODELS, own, path)
        settings = {key: value for key, value in config["model"].items() if not key.startswith("_")}
        if model_class is QCNN:
            named_part(str(settings.get("basis", "fourier")), BASES, own, path)
            # Nobody should need a compiler to look at a network.
            settings["kernel"] = "plain"
        sizes = sizes_of(checkpoint, weights)
        model = model_class(**sizes, **settings)
        dtypes = {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()}
        model.to(torch.float64 if torch.float64 in dtypes else torch.float32).load_state_dict(weights)
    except (KeyError, TypeError, RuntimeError, AttributeError, IndexError) as error:
        raise InputError(f"{path} does not hold the network that its settings describe: {error}") from error
    model = completed(model.eval())
    for name, size in sizes.items():
        if not hasattr(model, name):
            setattr(model, name, size)
    return model, without_paths(config)


def sizes_of(checkpoint: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Return num_sites and num_classes: those that the run recorded, or those of a q-CNN's weights."""
    facts = checkpoint.get("callbacks", {}).get("RunRecord", {}).get("facts", {})
    if "num_sites" in facts and "class_names" in facts:
        return {"num_sites": int(facts["num_sites"]), "num_classes": len(facts["class_names"])}
    num_levels = len({name.split(".")[1] for name in weights if name.startswith("levels.")})
    return {"num_sites": 2**num_levels, "num_classes": len(weights["classification.weight"][0])}


def load_cost(config: Mapping[str, Any], own: Collection[str], path: Path) -> Cost:
    """Rebuild the cost that a run minimised.

    Args:
        config: the run's configuration.
        own: dotted paths of the user's own code that may be run.
        path: where the configuration was read from.

    Raises:
        InputError: it is neither ours nor in `own`, or does not take its settings.
    """
    settings = settings_of(config)
    cost = named_part(str(settings["cost._target_"]), COSTS, own, path)
    given = config.get("cost", {})
    try:
        return cost(**{key: value for key, value in given.items() if not key.startswith("_")})
    except TypeError as error:
        raise InputError(f"{path}: the cost {settings['cost._target_']} does not take its settings: {error}") from error


def named_part(name: str, ours: Mapping[str, Any], own: Collection[str], path: Path) -> Any:
    """Return the class that a configuration names: one of ours, or the user's own where the user allows it now.

    Args:
        name: as the configuration has it; text, and nothing more, until the user says that it may be run.
        ours: name -> class.
        own: dotted paths that the user allows.
        path: where the configuration was read from.

    Raises:
        InputError: it is neither.
    """
    if name in ours:
        return ours[name]
    if name in own:
        return own_part(name, "own")
    raise InputError(
        f"{path} was trained with {name}, somebody's own code, which was not executed; if it is yours, say own=[{name}]"
    )


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


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a run as {"model.d": 18, ...}, those included that came after it."""
    settings = ADDED_SINCE | {RENAMED.get(key, key): value for key, value in flattened(config)}
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
    """Return a configuration without the paths that it holds, its data settings by the names that they have now."""
    own = {key: value for key, value in config.items() if key not in PATHS_IN_A_CONFIG[""]}
    if isinstance(own.get("data"), dict):
        own["data"] = {
            RENAMED.get(f"data.{key}", f"data.{key}").removeprefix("data."): value
            for key, value in own["data"].items()
            if key not in PATHS_IN_A_CONFIG["data"]
        }
    return own
