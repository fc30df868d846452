"""What physics asks of a model: the states |Psi_y>, one a class, whose amplitudes are the scores (eq. 30, 31)."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class State(Protocol):
    """The quantum states of the classes. Everything is exact up to round-off, in float64.

    Callbacks, evaluation and figures speak to this protocol alone. A state of one's own has these members. One more,
    `entropy_profile() -> (classes, levels)`, is logged where a state has it.
    """

    @property
    def num_sites(self) -> int:
        """N, the number of pixels."""

    @property
    def num_classes(self) -> int:
        """How many states these are."""

    def log_norm(self) -> Float[Tensor, " classes"]:
        """Return log <Psi_y|Psi_y>."""

    def overlaps(self) -> Float[Tensor, "classes classes"]:
        """Return <Psi_y|Psi_y'> of the normalised states (eq. 36)."""

    def log_amplitude(self, x: Tensor) -> tuple[Float[Tensor, "batch classes"], Float[Tensor, "batch classes"]]:
        """Return log |<x|Psi_y>| and the sign of <x|Psi_y>, -1, 0 or 1, at (batch, N) images x."""

    def conditional_probability(self, x: Tensor) -> Float[Tensor, "batch classes"]:
        """Return p(y|x) (eq. 34) at (batch, N) images x."""

    def schmidt_spectrum(self) -> Float[Tensor, "classes rank"]:
        """Return the Schmidt probabilities of half the image against the other half, descending (eq. 45)."""

    def entanglement_entropy(self) -> Float[Tensor, " classes"]:
        """Return -sum_k p_k log p_k of the half-image Schmidt spectrum, nats (eq. 38, 44)."""
