"""The protocol of a state: |Psi_y>, one per class, with <x|Psi_y> = alpha_y(x) (eq. 30, 31)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from qcnn_lightning.states.layout import ImageLayout


@runtime_checkable
class State(Protocol):
    """The quantum states of the classes, in float64, exact up to round-off.

    Callbacks, evaluation and figures use only these members. An optional one, `entropy_profile() -> (classes, levels)`,
    is logged where a state has it.
    """

    @property
    def num_sites(self) -> int:
        """N, the number of pixels."""

    @property
    def num_classes(self) -> int:
        """The number of states."""

    def log_norm(self) -> Float[Tensor, " classes"]:
        """Return log <Psi_y|Psi_y> (eq. 36)."""

    def overlaps(self) -> Float[Tensor, "classes classes"]:
        """Return <Psi_y|Psi_y'> / sqrt(<Psi_y|Psi_y> <Psi_y'|Psi_y'>) (eq. 36)."""

    def log_amplitude(self, x: Tensor) -> tuple[Float[Tensor, "batch classes"], Float[Tensor, "batch classes"]]:
        """Return log |<x|Psi_y>| and the sign of <x|Psi_y> (-1, 0, 1) for (batch, N) images x (eq. 31)."""

    def conditional_probability(self, x: Tensor) -> Float[Tensor, "batch classes"]:
        """Return p(y|x) = <x|Psi_y>^2 / sum_y' <x|Psi_y'>^2 for (batch, N) images x (eq. 34)."""

    def schmidt_spectrum(self) -> Float[Tensor, "classes rank"]:
        """Return the Schmidt probabilities p_k between the two halves of the image, descending (eq. 45)."""

    def entanglement_entropy(self) -> Float[Tensor, " classes"]:
        """Return S = -sum_k p_k log p_k between the two halves of the image, nats (eq. 38, 44)."""


@runtime_checkable
class StoredState(State, Protocol):
    """A state that can be written to a file. Where it also has `load_epochs`, a run can keep those of its epochs."""

    def described(self, class_names: Sequence[str] | None, layout: ImageLayout | None) -> "StoredState":
        """Return the same states with these names of classes and this layout."""

    def save(self, path: str | Path) -> None:
        """Write a file that describes itself (docs/state_format.md)."""
