"""Several networks as one: scores are averaged, and so are states (theory.md, eq. E2)."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qcnn_lightning.data.split_images import STORED_AS
from qcnn_lightning.errors import InputError
from qcnn_lightning.models.model import Model
from qcnn_lightning.runs.checkpoint import StoredCheckpoint
from qcnn_lightning.runs.settings import without_paths
from qcnn_lightning.states import MPSState, NetworkState


class Ensemble(Model):
    """alpha_y(x) = 1 / K sum_k alpha^(k)_y(x), with the state 1 / K sum_k |Psi^(k)_y>.

    Args:
        networks: K networks with the same pixels and classes.

    Raises:
        InputError: their numbers of pixels or classes differ.
    """

    def __init__(self, networks: Sequence[nn.Module]):
        super().__init__()
        self.networks = nn.ModuleList(networks)
        sizes = [(network.num_sites, network.num_classes) for network in networks]
        if len(set(sizes)) > 1:
            raise InputError(f"runs of different sizes (pixels, classes) make no ensemble: {sizes}")
        self.num_sites, self.num_classes = sizes[0]

    def forward(self, x: Tensor) -> Float[Tensor, "batch classes"]:
        """Return the mean scores (eq. 10)."""
        return torch.stack([network(x) for network in self.networks]).mean(0)

    def state(self, statistics: Any = None) -> NetworkState | MPSState | None:
        """Return the mean of the states; None if they have no `sum` of one kind, or scores are no amplitudes.

        Raises:
            InputError: the classes of matrix product states stand at different places.
        """
        if any(network.normalises_scores or network.is_complex for network in self.networks):
            return None
        states: Any = [network.state() for network in self.networks]  # type: ignore[operator]
        kinds = {type(state) for state in states}
        kind = next((kind for kind in (NetworkState, MPSState) if kinds == {kind}), None)
        return kind and kind.sum(states)


def check_same_images(checkpoints: Sequence[StoredCheckpoint]) -> None:
    """Check that all were trained with the same images, pixel by pixel.

    Raises:
        InputError: they were not.
    """
    first = checkpoints[0]
    for other in checkpoints[1:]:
        ours, theirs = (
            {key: value for key, value in without_paths(one.config)["data"].items() if key in OF_IMAGES}
            for one in (first, other)
        )
        orders = [one.content.get(STORED_AS, {}).get("pixel_order") for one in (first, other)]
        if ours != theirs or not (orders[0] is orders[1] or torch.equal(*orders)):
            raise InputError(
                f"{first.path} and {other.path} were trained with different images or pixel orders ({ours}, {theirs}): "
                "they make no ensemble"
            )


OF_IMAGES = ("name", "size", "flatten", "white")
"""Settings of the data that say what the pixels are."""
