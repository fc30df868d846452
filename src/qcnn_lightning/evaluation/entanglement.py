"""The numbers of the classes' states (eq. 36-45)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from qcnn_lightning.states import NetworkState, State
from qcnn_lightning.states.entropy import renyi_entropy, von_neumann_entropy
from qcnn_lightning.states.polynomial import orders_fit


@dataclass(frozen=True)
class Entanglement:
    """The numbers of the classes' states.

    Attributes:
        schmidt_spectrum: Schmidt probabilities between the two halves of the image, descending (eq. 45).
        log_norm: log <Psi_y|Psi_y>.
        overlaps: <Psi_y|Psi_y'> of the normalised states (eq. 36); the size of complex ones.
        block_entropies: for every level l, the entropy of every aligned block of 2^l sites with the rest, nats; empty
            if the state does not give them.
        interaction_order: weights of the terms that involve exactly k = 0 .. N pixels, with sum 1; None if the state
            does not give them.
    """

    schmidt_spectrum: Float[Tensor, "classes rank"]
    log_norm: Float[Tensor, " classes"]
    overlaps: Float[Tensor, "classes classes"]
    block_entropies: tuple[Tensor, ...]
    interaction_order: Float[Tensor, "classes orders"] | None = None

    @property
    def mean_order(self) -> Float[Tensor, " classes"] | None:
        """The mean number of pixels in a term, weighted; None if the state does not give the weights."""
        if self.interaction_order is None:
            return None
        orders = torch.arange(self.interaction_order.shape[1], dtype=self.interaction_order.dtype)
        return self.interaction_order @ orders

    @property
    def entropy(self) -> Float[Tensor, " classes"]:
        """S = -sum_k p_k log p_k between the two halves of the image, nats (eq. 38, 44)."""
        return von_neumann_entropy(self.schmidt_spectrum)

    @property
    def renyi_2(self) -> Float[Tensor, " classes"]:
        """-log sum_k p_k^2 between the two halves of the image, nats: the Rényi entropy of order 2."""
        return renyi_entropy(self.schmidt_spectrum, 2)

    @property
    def effective_schmidt_rank(self) -> Float[Tensor, " classes"]:
        """e^S: so many equal Schmidt values have this entropy."""
        return self.entropy.exp()

    @property
    def profile(self) -> Float[Tensor, "classes levels"]:
        """The mean entropy of the blocks of 1, 2, 4, ... sites, nats."""
        if not self.block_entropies:
            return self.entropy.new_empty(len(self.entropy), 0)
        return torch.stack([entropies.mean(-1) for entropies in self.block_entropies], dim=-1)

    @property
    def block_sizes(self) -> list[int]:
        """Number of sites of the blocks of every level."""
        return [2**level for level in range(len(self.block_entropies))]

    @property
    def sites_are_alike(self) -> bool:
        """Whether all blocks of a level have the same entropy, as with full weight sharing."""
        return all(
            bool(torch.isclose(entropies, entropies[:, :1], rtol=0, atol=0, equal_nan=True).all())
            for entropies in self.block_entropies
        )


def measure_entanglement(state: State) -> Entanglement:
    """Measure the states of all classes."""
    overlaps = state.overlaps()
    return Entanglement(
        schmidt_spectrum=state.schmidt_spectrum(),
        log_norm=state.log_norm(),
        overlaps=overlaps.abs() if overlaps.is_complex() else overlaps,
        block_entropies=(
            tuple(state.block_entropies(level) for level in range(state.num_sites.bit_length() - 1))
            if hasattr(state, "block_entropies")
            else ()
        ),
        interaction_order=(
            state.interaction_order() if isinstance(state, NetworkState) and orders_fit(state.channels) else None
        ),
    )
