"""A trained tree with fewer channels: its state, its accuracy before and after, and the settings to train it on."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig
from torch import Tensor

from qcnn_lightning.costs import COSTS
from qcnn_lightning.data.flattening import FLATTENINGS
from qcnn_lightning.data.sources import SOURCES
from qcnn_lightning.data.split_images import STORED_AS
from qcnn_lightning.errors import InputError
from qcnn_lightning.evaluation.evaluate import check_fit, find_checkpoints, make_folder, rebuild_data
from qcnn_lightning.evaluation.measure import as_json, plain
from qcnn_lightning.files import inside, replace_atomically
from qcnn_lightning.models.model import num_parameters
from qcnn_lightning.runs.rebuild import network_of
from qcnn_lightning.runs.settings import settings_of, without_paths
from qcnn_lightning.states import DenseTreeState, NetworkState
from qcnn_lightning.states.layout import ImageLayout

NUMBERS = "compressed.json"
STATE = "state.safetensors"
RETRAINED = "retrained"
BATCH_SIZE = 1000
KEPT_DATA = (
    *("classes", "flatten", "levels", "redraw", "rounding", "white"),
    *("test_fraction", "val_size", "batch_size", "size", "population_size", "seed"),
)
COMPRESSES = {
    "product": "model=qcnn, and model=convac with real weights that nodes share",
    "dense": "model=ttn, model=qcnn, and model=convac with real weights that nodes share",
}
"""What either tree can be made of."""
COST_NAMES = {"SquaredDistance": "squared_distance", "CrossEntropy": "cross_entropy"}


@dataclass
class Compression:
    """What compression did to a network.

    Attributes:
        tree: "product" or "dense".
        channels: d_0 .. d_L, the constant one included, before and after.
        parameters: trained numbers, before and after.
        fidelity: the mean of |<Psi_y|Psi'_y>|^2 over the classes; over all of [0, 1]^N, not on images.
        accuracy: of the test images, before, after, and after further training; None without that.
    """

    tree: str
    channels: dict[str, list[int]]
    parameters: dict[str, int]
    fidelity: float
    accuracy: dict[str, float | None]

    def write(self, folder: Path) -> None:
        """Write the numbers."""
        replace_atomically(folder / NUMBERS, as_json(plain(asdict(self))))


def compress(config: DictConfig) -> tuple[Compression, Path, dict[str, Any] | None]:
    """Compress the state of a trained network; write the new state and the numbers.

    Args:
        config: composed from `conf/compress.yaml`.

    Returns:
        The numbers, their folder, and the settings that train the new network; None if `epochs` is 0.

    Raises:
        InputError: a run that cannot be read or has no such state, a goal that cannot be, or data that do not fit or
            cannot be reached.
    """
    goals = [name for name in ("parameters", "fidelity", "channels") if config[name] is not None]
    if len(goals) != 1:
        raise InputError(f"give one of parameters, fidelity and channels; given: {', '.join(goals) or 'none'}")
    if config.tree not in ("product", "dense"):
        raise InputError(f"tree={config.tree}: choose product or dense")
    if (config.tree, goals[0]) in (("product", "fidelity"), ("dense", "parameters")):
        other = "parameters=0.5" if config.tree == "product" else "fidelity=0.999"
        raise InputError(f"{goals[0]}={config[goals[0]]}: tree={config.tree} takes {other} or channels=[...]")
    check_numbers_of(config)
    (checkpoint, *_), evaluated = find_checkpoints(config)
    folder = evaluated.parent / evaluated.name.replace("evaluation", "compressed") if config.out is None else evaluated
    own = [str(path) for path in config.own]
    network: Any = network_of(checkpoint, own)
    settings, images = without_paths(checkpoint.config), checkpoint.content.get(STORED_AS, {})
    data = rebuild_data(settings, config.data, checkpoint.path, own, images.get("pixel_order"), network.num_sites)
    check_fit(network, data, "test")
    with torch.no_grad():
        state = network.state()
        kinds = NetworkState | DenseTreeState if config.tree == "dense" else NetworkState
        if not isinstance(state, kinds):
            raise InputError(
                f"{checkpoint.path}: {type(network).__name__} has no states that tree={config.tree} compresses; it "
                f"takes {COMPRESSES[config.tree]}"
            )
        layout = ImageLayout.of(data.pixel_order, data.image_shape)
        state = state.described(data.class_names, layout)
        before = state.to_dense_tree() if config.tree == "dense" and isinstance(state, NetworkState) else state
        sample, (x, y) = data.splits["train"][0][: config.images], data.splits["test"]
        goal = config.channels if config.channels is None else list(config.channels)
        after: Any
        if isinstance(before, NetworkState):
            numbers = None if config.parameters is None else config.parameters * num_parameters(network)
            after = before.compress(sample, numbers, goal)
            fidelity = before.overlaps(after).diagonal().square()
        else:
            compressed = before.compress(config.fidelity, goal)
            after, fidelity = compressed.state, compressed.fidelity
    result = Compression(
        tree=config.tree,
        channels={"before": sizes_of(state), "after": sizes_of(after)},
        parameters={
            "before": num_parameters(network),
            "after": sum(tensor.numel() * (1 + tensor.is_complex()) for tensor in (*after.site_tensors, after.top)),
        },
        fidelity=fidelity.mean().item(),
        accuracy={"before": accuracy(state, x, y), "after": accuracy(after, x, y), "retrained": None},
    )
    make_folder(folder)
    for name in (NUMBERS, STATE):
        inside(folder, name)
    after.save(folder / STATE)
    result.write(folder)
    return result, folder, further_training(config, settings, after, folder) if config.epochs else None


def check_numbers_of(config: DictConfig) -> None:
    """Check the numbers of `conf/compress.yaml`.

    Raises:
        InputError: one is out of range, or no number.
    """
    for name in ("parameters", "fidelity"):
        if config[name] is not None and not (type(config[name]) in (int, float) and 0 < config[name] <= 1):
            raise InputError(f"{name}={config[name]}: must be a number above 0, at most 1")
    for name, least in (("images", 1), ("epochs", 0)):
        if type(config[name]) is not int or config[name] < least:
            raise InputError(f"{name}={config[name]}: must be a whole number, {least} or more")
    channels = config.channels
    listed = isinstance(channels, ListConfig) and all(type(number) is int and number > 0 for number in channels)
    if channels is not None and not listed:
        raise InputError(f"channels={channels}: must be a list of whole numbers, 1 or more")


def sizes_of(state: Any) -> list[int]:
    """Return d_0 .. d_L, the constant one included."""
    return [tensor.shape[-1] for tensor in (*state.site_tensors, state.top)]


@torch.no_grad()
def accuracy(state: Any, images: Tensor, labels: Tensor) -> float:
    """Return the part of the images whose most probable class is their own."""
    chosen = [state.conditional_probability(part).argmax(-1) for part in images.split(BATCH_SIZE)]
    return (torch.cat(chosen) == labels).double().mean().item()


def further_training(config: DictConfig, settings: Mapping[str, Any], state: Any, folder: Path) -> dict[str, Any]:
    """Return settings that train a network from a state, on the images and with the cost of a run.

    Raises:
        InputError: the run's data or cost are somebody's own.
    """
    data, cost = settings["data"], settings_of(settings)["cost._target_"]
    named = COSTS.get(cost)
    if data.get("name") not in SOURCES or named is None or named.__name__ not in COST_NAMES:
        raise InputError(f"epochs={config.epochs}: only our own data and costs can be trained on; say epochs=0")
    flatten = str(data.get("flatten"))
    if not (flatten in (*FLATTENINGS, *config.own) or flatten.endswith(".npy")):
        raise InputError(f"epochs={config.epochs}: data.flatten={flatten} is code; if it is yours, say own=[{flatten}]")
    paths = {key: value for key, value in config.data.items() if value is not None}
    kept = {f"data.{key}": data[key] for key in KEPT_DATA if key in data}
    augment = {f"data.augment.{key}": value for key, value in data.get("augment", {}).items()}
    of_cost = {f"cost.{key}": value for key, value in settings.get("cost", {}).items() if not key.startswith("_")}
    local, *channels = sizes_of(state)
    is_product = isinstance(state, NetworkState)
    model = {
        "model.d": local - 1,
        "model.basis": state.basis.name,
        "model.channels": [local - 1, *channels] if is_product else channels,
        "model.sharing": sharing_of(state),
        "model.dtype": "complex" if state.top.is_complex() else "real",
        "model.start": str((folder / STATE).resolve()),
    }
    return {
        "data": data["name"],
        "cost": COST_NAMES[named.__name__],
        "model": "convac" if is_product else "ttn",
        **kept,
        **augment,
        **of_cost,
        **{f"data.{key}": str(value) for key, value in paths.items()},
        **model,
        "seed": settings.get("seed", 0),
        "optimizer.lr": config.lr,
        "scheduler": "one_cycle",
        "trainer.max_epochs": config.epochs,
        "logger": "none",
        # Another state is another training.
        "hydra.run.dir": str(folder / f"{RETRAINED}-{sha256((folder / STATE).read_bytes()).hexdigest()[:8]}"),
    }


def sharing_of(state: Any) -> str:
    """Return the sharing of the network with a state's tensors."""
    matrices = {len(tensor) for tensor in state.site_tensors}
    return "full" if matrices == {1} else "sibling" if isinstance(state, NetworkState) else "none"
