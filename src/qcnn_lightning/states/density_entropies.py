"""Entropies of a density's states: of the halves, of the mixture, of aligned blocks (eq. 37-45)."""

import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from qcnn_lightning.states.conditional import environments
from qcnn_lightning.states.entropy import renyi_entropy, spectra_of, spectrum_of_grams, von_neumann_entropy
from qcnn_lightning.states.gram import outer, times_power_of_two
from qcnn_lightning.states.node_tree import NodeTree
from qcnn_lightning.states.tree_sizes import TreeSizes


class DensityEntropies(TreeSizes):
    """Methods of a `DensityState`."""

    @property
    def tree(self) -> NodeTree:
        """All block states."""
        raise NotImplementedError

    def schmidt_spectrum(self) -> Float[Tensor, "classes rank"]:
        """Return the Schmidt probabilities between the two halves of the image, descending (eq. 45); differentiable."""
        return self._spectra_of_left_half(outer(self.tree.top))

    def mixture_spectrum(self) -> Float[Tensor, " rank"]:
        """Return the eigenvalues of sum_y Tr_right |Psi_y><Psi_y| / Z, descending: of the left half in p(x) (eq. N6).

        They are the Schmidt probabilities of sum_y |Psi_y>|y> between the left half, and the right one with y.
        """
        exponent = self.tree.classes.exponent
        top = times_power_of_two(self.tree.top, (exponent - exponent.amax()).unsqueeze(-1))
        return self._spectra_of_left_half(outer(top).sum(0, keepdim=True))[0]

    def mixture_entropy(self) -> Float[Tensor, ""]:
        """Return S(sum_y Tr_right |Psi_y><Psi_y| / Z), nats: the left half's entropy in the mixture p(x).

        The mutual information of the halves in p(x) is at most this (theory.md, eq. N6).
        """
        return von_neumann_entropy(self.mixture_spectrum())

    def _spectra_of_left_half(self, image: Inexact[Tensor, "states d d"]) -> Float[Tensor, "states rank"]:
        """Return the spectra of the left half if W_IJ are the coefficients of |phi_I><phi_J| in the whole image."""
        left, right = self.tree.levels[-1].mapped.gram()
        return spectrum_of_grams(left, image.mT * right.mT)

    def entanglement_entropy(self) -> Float[Tensor, " classes"]:
        """Return S = -sum_k p_k log p_k between the two halves of the image, nats (eq. 38, 44)."""
        return von_neumann_entropy(self.schmidt_spectrum())

    def renyi_entropy(self, alpha: int | float) -> Float[Tensor, " classes"]:
        """Return the Rényi entropy of order alpha between the two halves of the image, nats."""
        return renyi_entropy(self.schmidt_spectrum(), alpha)

    @torch.no_grad()
    def block_entropies(self, level: int) -> Float[Tensor, "classes blocks"]:
        """Return the entropy of every aligned block of 2^level sites with the rest, nats (eq. 38, 44).

        Args:
            level: 0 (one pixel) to L-1 (half the image).

        Raises:
            InputError: no such level.
        """
        self.check_level(level)
        return self._entropies(self._environments()[level], level)

    @torch.no_grad()
    def entropy_profile(self) -> Float[Tensor, "classes levels"]:
        """Return the mean over the blocks of `block_entropies(l)`, nats, for l = 0 .. L-1."""
        outside = self._environments()
        return torch.stack([self._entropies(outside[level], level).mean(-1) for level in range(self.num_levels)], -1)

    def _environments(self) -> list[Tensor]:
        grams = [level.mapped.gram().unsqueeze(0) for level in self.tree.levels]
        return environments(self.tree, grams, outer(self.tree.top))

    def _entropies(self, outside: Inexact[Tensor, "classes nodes states states"], level: int) -> Tensor:
        if level == 0:
            gram = self.tree.pixels.gram()
        else:
            mapped = self.tree.levels[level - 1].mapped.gram()
            gram = mapped[0::2] * mapped[1::2]
        return von_neumann_entropy(spectra_of(gram, outside))
