"""The model and the cost of a run, rebuilt from its checkpoint; code of the user's own runs only if named again now."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from qcnn_lightning.basis import BASES
from qcnn_lightning.costs import COSTS, Cost
from qcnn_lightning.errors import InputError
from qcnn_lightning.models import MODELS, QCNN
from qcnn_lightning.models.model import completed
from qcnn_lightning.own_parts import own_part
from qcnn_lightning.runs.checkpoint import StoredCheckpoint
from qcnn_lightning.runs.settings import settings_of


def network_of(checkpoint: StoredCheckpoint, own: Collection[str] = ()) -> nn.Module:
    """Rebuild the model of a checkpoint, in evaluation mode, on the CPU.

    Args:
        checkpoint: of a run.
        own: dotted paths of the user's own code that may be run.

    Raises:
        InputError: there are no weights, only the record of a run that was restored from its metrics; the configuration
            names code that is neither ours nor in `own`; or the weights are not those of the model that it describes.
    """
    path, config = checkpoint.path, checkpoint.config
    if not checkpoint.content["state_dict"]:
        raise InputError(
            f"{path} has no weights: the run was restored from its kept metrics; delete its folder, and train it again"
        )
    weights = {
        name.removeprefix("network."): tensor
        for name, tensor in checkpoint.content["state_dict"].items()
        if name.startswith("network.")
    }
    try:
        model_class = named_part(str(settings_of(config)["model._target_"]), MODELS, own, path)
        settings = {key: value for key, value in config["model"].items() if not key.startswith("_")}
        if model_class in MODELS.values():
            named_part(str(settings.get("basis", "fourier")), BASES, own, path)
        if model_class is QCNN:
            # Nobody should need a compiler to look at a network.
            settings["kernel"] = "plain"
        if model_class in MODELS.values() and str(settings.get("start")).endswith(".safetensors"):
            # Its weights are in the checkpoint.
            settings["start"] = "default"
        sizes = sizes_of(checkpoint, weights)
        white = settings_of(config)["data.white"]
        # A model that knows nothing of it was trained with 1.
        settings |= {} if white == 1 else {"white": white}
        if model_class in MODELS.values():
            check_size(model_class, sizes, settings, weights)
        model = model_class(**sizes, **settings)
        dtypes = {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()}
        model.to(torch.float64 if torch.float64 in dtypes else torch.float32).load_state_dict(weights)
    except (KeyError, TypeError, RuntimeError, AttributeError, IndexError) as error:
        raise InputError(f"{path} does not hold the network that its settings describe: {error}") from error
    model = completed(model.eval())
    for name, size in sizes.items():
        if not hasattr(model, name):
            setattr(model, name, size)
    return model


def check_size(
    model_class: Callable[..., nn.Module],
    sizes: dict[str, Any],
    settings: Mapping[str, Any],
    weights: Mapping[str, torch.Tensor],
) -> None:
    """Check, before any memory is taken, that a model of these settings has as many weights as there are.

    Raises:
        RuntimeError: it has more, or fewer.
    """
    with torch.device("meta"):
        described = sum(parameter.numel() for parameter in model_class(**sizes, **settings).parameters())
    there = sum(tensor.numel() for tensor in weights.values())
    if not described <= there <= 2 * described + 1000:
        raise RuntimeError(f"they describe {described} weights, and {there} are there")


def sizes_of(checkpoint: StoredCheckpoint, weights: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Return num_sites and num_classes: those that the run recorded, or those of a q-CNN's weights."""
    facts = checkpoint.record["facts"]
    if "num_sites" in facts and "class_names" in facts:
        return {"num_sites": int(facts["num_sites"]), "num_classes": len(facts["class_names"])}
    num_levels = len({name.split(".")[1] for name in weights if name.startswith("levels.")})
    return {"num_sites": 2**num_levels, "num_classes": len(weights["classification.weight"][0])}


def cost_of(checkpoint: StoredCheckpoint, own: Collection[str] = ()) -> Cost:
    """Rebuild the cost that a run minimised.

    Args:
        checkpoint: of a run.
        own: dotted paths of the user's own code that may be run.

    Raises:
        InputError: it is neither ours nor in `own`, or does not take its settings.
    """
    name = str(settings_of(checkpoint.config)["cost._target_"])
    cost = named_part(name, COSTS, own, checkpoint.path)
    given = checkpoint.config.get("cost", {})
    try:
        return cost(**{key: value for key, value in given.items() if not key.startswith("_")})
    except TypeError as error:
        raise InputError(f"{checkpoint.path}: the cost {name} does not take its settings: {error}") from error


def named_part(name: str, ours: Mapping[str, Any], own: Collection[str], path: Path) -> Any:
    """Return the class that a configuration names: one of ours, or the user's own where the user allows it now.

    Args:
        name: as the configuration has it; only text until the user says that it may be run.
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
