"""The weights that a training starts from, if they are those of another run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from qcnn_lightning.errors import InputError
from qcnn_lightning.models.statistics import FixedStatistics
from qcnn_lightning.runs.rebuild import network_of
from qcnn_lightning.runs.run import Run


def take_weights(network: nn.Module, folder: Any, own: Sequence[str]) -> None:
    """Give a network the last weights of a run; what evaluation normalises by is measured anew.

    Args:
        network: of the same sizes.
        folder: `start_from`, the run's folder; None changes nothing.
        own: dotted paths of the network's own code, which the run's network may use too.

    Raises:
        InputError: there is no such run, or its network has other weights.
    """
    if folder is None:
        return
    path = Path(str(folder)).expanduser()
    checkpoint = Run(path).checkpoint() if path.is_dir() else None
    if checkpoint is None:
        raise InputError(f"start_from={folder}: no run folder with a checkpoint")
    weights = network_of(checkpoint, own).state_dict()
    ours = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    theirs = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise InputError(
                f"start_from={folder}: its network has {name} of shape {theirs.get(name)}, this one {ours.get(name)}; "
                "give both the same model and data"
            )
    network.load_state_dict(weights)
    for module in network.modules():
        if isinstance(module, FixedStatistics):
            module.population_fixed.fill_(False)
