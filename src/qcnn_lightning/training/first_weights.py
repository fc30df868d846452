"""The weights that a training starts from, if they are those of another run."""

from pathlib import Path
from typing import Any

from torch import nn

from qcnn_lightning.errors import InputError
from qcnn_lightning.runs.rebuild import network_of
from qcnn_lightning.runs.run import Run


def take_weights(network: nn.Module, folder: Any) -> None:
    """Give a network the last weights of a run.

    Args:
        network: of the same sizes.
        folder: `start_from`, the run's folder; None changes nothing.

    Raises:
        InputError: there is no such run, or its network has other weights.
    """
    if folder is None:
        return
    path = Path(str(folder)).expanduser()
    checkpoint = Run(path).checkpoint() if path.is_dir() else None
    if checkpoint is None:
        raise InputError(f"start_from={folder}: no run folder with a checkpoint")
    weights = network_of(checkpoint, [f"{type(network).__module__}.{type(network).__qualname__}"]).state_dict()
    own = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    theirs = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    for name in sorted(own.keys() | theirs.keys()):
        if own.get(name) != theirs.get(name):
            raise InputError(
                f"start_from={folder}: its network has {name} of shape {theirs.get(name)}, this one {own.get(name)}; "
                "give both the same model and data"
            )
    network.load_state_dict(weights)
