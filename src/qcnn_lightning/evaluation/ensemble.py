"""Several networks as one: scores are averaged (theory.md, eq. E2), or each is the density of a class (eq. N7)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from qcnn_lightning.data.images import class_number
from qcnn_lightning.data.split_images import STORED_AS, SplitImages
from qcnn_lightning.errors import InputError
from qcnn_lightning.models.model import Model
from qcnn_lightning.runs.checkpoint import StoredCheckpoint
from qcnn_lightning.runs.settings import settings_of
from qcnn_lightning.states import ClassDensities, DensityState, MPSState, NetworkState
from qcnn_lightning.states.gram import times_power_of_two


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
        if any(hasattr(network, "scaled_scores") for network in networks):
            self.relative_scores = self._relative_scores

    def _relative_scores(self, x: Tensor) -> Float[Tensor, "batch classes"]:
        """Return the mean scores without a power of two of every image: that of its largest network."""
        scaled = [scaled_scores(network, x) for network in self.networks]
        largest = torch.stack([exponent for _, exponent in scaled]).amax(0)
        parts = [times_power_of_two(scores, (exponent - largest).unsqueeze(-1)) for scores, exponent in scaled]
        return torch.stack(parts).mean(0)

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


def scaled_scores(network: Any, x: Tensor) -> tuple[Float[Tensor, "batch classes"], Int64[Tensor, " batch"]]:
    """Return s and e: the scores of a network are s 2^e; e = 0 where the network does not tell a power of two."""
    if hasattr(network, "scaled_scores"):
        scores, exponent = network.scaled_scores(x)
        return scores, exponent
    scores = network(x)
    return scores, torch.zeros(len(x), dtype=torch.int64, device=scores.device)


class MirrorImage(Model):
    """alpha_y(x') of the mirror image x': a network with the same weights, and the state `NetworkState.exchanged`.

    Args:
        network: of the image as it is.
        levels: whose children are exchanged (`mirror_levels`).
    """

    def __init__(self, network: nn.Module, levels: Sequence[int]):
        super().__init__()
        self.network, self.levels = network, tuple(levels)
        self.num_sites: Any = network.num_sites
        self.num_classes: Any = network.num_classes
        self.normalises_scores, self.is_complex = bool(network.normalises_scores), bool(network.is_complex)
        if hasattr(network, "scaled_scores"):
            self.scaled_scores = self._scaled_scores

    def mirrored(self, x: Tensor) -> Tensor:
        """Return the mirror images."""
        return x[:, torch.arange(self.num_sites, device=x.device) ^ sum(2**level for level in self.levels)]

    def _scaled_scores(self, x: Tensor) -> tuple[Float[Tensor, "batch classes"], Int64[Tensor, " batch"]]:
        return scaled_scores(self.network, self.mirrored(x))

    def forward(self, x: Tensor) -> Float[Tensor, "batch classes"]:
        """Return the scores of the mirror images (eq. 10)."""
        scores: Tensor = self.network(self.mirrored(x))
        return scores

    def state(self, statistics: Any = None) -> NetworkState | None:
        """Return the states with <x|Psi_y> = alpha_y(x'); None of a network with other states."""
        found: Any = self.network.state()  # type: ignore[operator]
        return found.exchanged(self.levels) if isinstance(found, NetworkState) else None


class ClassModel(Model):
    """A density of images for every class: p(y, x) = p(y) p(x | y), p(x | y) the p(x) of one network.

    Args:
        networks: one per class, in the order of the labels.
        prior: p(y).

    Raises:
        InputError: a network is no density.
    """

    normalises_scores = True
    prior: Tensor

    def __init__(self, networks: Sequence[nn.Module], prior: Float[Tensor, " classes"]):
        super().__init__()
        for network in networks:
            if not hasattr(network, "log_joint"):
                raise InputError(
                    f"runs of one class each make p(y, x) of densities, and {type(network).__name__} is no density"
                )
        self.networks = nn.ModuleList(networks)
        self.register_buffer("prior", prior)
        self.num_sites: Any = networks[0].num_sites
        self.num_classes = len(networks)

    def log_joint(self, x: Tensor) -> Float[Tensor, "batch classes"]:
        """Return log p(y, x) = log p(y) + log p(x | y), nats."""
        each = [network.log_joint(x).logsumexp(-1) for network in self.networks]  # type: ignore[operator]
        return self.prior.log() + torch.stack(each, dim=-1)

    def forward(self, x: Tensor) -> Float[Tensor, "batch classes"]:
        """Return sqrt(p(y | x)) (eq. 34)."""
        return (self.log_joint(x).log_softmax(-1) / 2).exp()

    def densities(self) -> ClassDensities:
        """Return the densities, float64, on the CPU.

        Raises:
            InputError: networks whose states are no densities, or of different images.
        """
        states: list[Any] = [network.state() for network in self.networks]  # type: ignore[operator]
        for state in states:
            if not isinstance(state, DensityState | MPSState):
                raise InputError(f"{type(state).__name__} has no likelihood")
        return ClassDensities(states, self.prior.cpu())


def class_model(networks: Sequence[nn.Module], datamodule: SplitImages) -> ClassModel:
    """Return p(y, x) of one density per class; p(y) is the part of the training images that is of the class."""
    sizes = datamodule.splits["train"][1].cpu().bincount(minlength=datamodule.num_classes)
    return ClassModel(networks, sizes / sizes.sum())


def one_of_each_class(checkpoints: Sequence[StoredCheckpoint]) -> list[int] | None:
    """Return the places of the runs of class 0, 1, ... if each learned one class alone; None if some learned several.

    Raises:
        InputError: they are not one of every class.
    """
    data: list[Any] = [one.config.get("data") for one in checkpoints]
    classes: list[Any] = [of_run.get("classes") if isinstance(of_run, Mapping) else None for of_run in data]
    if not all(isinstance(own, list) and len(own) == 1 for own in classes) or len(set(map(str, classes))) == 1:
        return None
    names = [str(name) for name in checkpoints[0].record["facts"].get("class_names") or []]
    learned = [class_number("data.classes", own[0], names) for own in classes]
    if sorted(learned) != list(range(len(names))):
        told = ", ".join(names[label] for label in sorted(learned))
        raise InputError(
            f"runs of the classes {told}: a density of all classes needs one of each of {', '.join(names)}"
        )
    return [learned.index(label) for label in range(len(names))]


def check_same_images(checkpoints: Sequence[StoredCheckpoint], split: str, of_classes: bool = False) -> None:
    """Check that all were trained with the same images, pixel by pixel, or with their own classes of them.

    Args:
        checkpoints: of the runs.
        split: that they are evaluated on: none may have been trained with it.
        of_classes: whether each has its own classes.

    Raises:
        InputError: they were not.
    """
    first = checkpoints[0]
    kept = OF_IMAGES if of_classes else (*OF_IMAGES, "classes")
    kept = (*kept, "val_size") if split == "val" else kept
    for other in checkpoints[1:]:
        ours, theirs = ({key: settings_of(one.config).get(f"data.{key}") for key in kept} for one in (first, other))
        images = [one.content.get(STORED_AS, {}) for one in (first, other)]
        orders = [None if (order := of_run.get("pixel_order")) is None else order.tolist() for of_run in images]
        contents = {of_run.get("content") for of_run in images} - {None}
        if ours != theirs or orders[0] != orders[1] or len(contents) > 1:
            differing = [f"data.{key}={ours[key]} and {theirs[key]}" for key in kept if ours[key] != theirs[key]]
            told = f": {', '.join(differing)}" if differing else ""
            raise InputError(
                f"{first.path} and {other.path} were trained with different images or pixel orders{told}; they make no "
                "ensemble"
            )


OF_IMAGES = ("name", "size", "flatten", "white", "levels", "rounding", "test_fraction")
"""Settings of the data that say what the pixels are."""
