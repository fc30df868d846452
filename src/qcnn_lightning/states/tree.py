"""The quantum states of a network: |Psi_y>, one per class, with <x|Psi_y> = alpha_y(x), the score (eq. 30, 31).

A `NetworkState` is the tree tensor network of eq. 11-16: its site tensors and nothing else. Everything is exact up to
round-off in float64, needs no state vector, and can be differentiated with respect to the site tensors.
"""

import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from qcnn_lightning.basis import make_basis
from qcnn_lightning.pixels import Images, check_images, checked_white
from qcnn_lightning.states.amplitudes import contract, dense_vectors
from qcnn_lightning.states.checks import as_tensor, check_tensors, checked_names
from qcnn_lightning.states.dense_tree import DenseTreeState, pooled_tree
from qcnn_lightning.states.ensemble import check_comparable, checked_weights, overlaps_between, summed_tensors
from qcnn_lightning.states.entropy import block_spectra_below, cut_spectrum, renyi_entropy, von_neumann_entropy
from qcnn_lightning.states.gram import Environment, binary_exponent, times_power_of_two
from qcnn_lightning.states.layout import ImageLayout
from qcnn_lightning.states.observables import Observables
from qcnn_lightning.states.state_file import NETWORK_STATE, StoredInFiles

IMAGES_AT_A_TIME = 500


class NetworkState(Observables, StoredInFiles):
    """One quantum state per class, given by the site tensors of a tree tensor network.

    Args:
        site_tensors: ã^(0) .. ã^(L-1), each (s, d_{l+1} + 1, d_l + 1): s = 1 if left and right children share it, s = 2
            if each has its own, the left one first. Index 0 is the constant channel (eq. 12, 15).
        top: ã^(L), (classes, d_L + 1) (eq. 16).
        basis: local basis, as `make_basis` takes it (eq. 19).
        class_names: what the classes are called, for files and figures.
        layout: where the sites stand in the image, for files and figures.
        white: where the grey level 1 lies in the basis's interval [0, 1]; x lies at white x.

    All tensors are float64 and on one device, or NumPy arrays. They are kept as given: gradients reach their origin.
    States are equal if their tensors, bases and `white` are. `state[y]` is the state of one class, `state[[0, 3]]` of
    some.

    Raises:
        InputError: no level, shapes that do not fit together, another dtype, entries that are not finite, or an unknown
            basis.
    """

    kind = NETWORK_STATE

    def __init__(
        self,
        site_tensors: Sequence[Tensor | np.ndarray],
        top: Tensor | np.ndarray,
        basis: str = "fourier",
        class_names: Sequence[str] | None = None,
        layout: ImageLayout | None = None,
        white: int | float = 1.0,
    ):
        self.site_tensors = tuple(as_tensor(tensor) for tensor in site_tensors)
        self.top = as_tensor(top)
        check_tensors(self.site_tensors, self.top)
        self.basis, self.white = make_basis(basis, self.channels[0]), checked_white(white)
        self.class_names = checked_names(class_names, self.num_classes, layout, self.num_sites)
        self.layout = layout

    @classmethod
    def from_network(cls, network: Any, statistics: Any = None) -> "NetworkState":
        """Return the states |Psi_y> of a network (eq. 15, 16, 30).

        The site tensors are float64 on the CPU, whatever the network's device and dtype. Gradients flow back to the
        network's parameters, except under `torch.no_grad()`.

        Args:
            network: a `QCNN`, or any model with `site_tensors(statistics)` and `basis`; in training or evaluation mode.
            statistics: of levels 0 .. L, as `QCNN.statistics_of` returns them; None for those of evaluation.

        Raises:
            InputError: no statistics are given, and the network has measured none.
        """
        site_tensors, top = network.site_tensors(statistics)
        return cls(site_tensors, top, basis=network.basis.name, white=getattr(network, "white", 1.0))

    def __deepcopy__(self, memo: Any) -> "NetworkState":
        """Return a copy with tensors of its own: leaves, from which no gradient reaches the network."""
        site_tensors = [tensor.detach().clone() for tensor in self.site_tensors]
        top = self.top.detach().clone()
        return type(self)(site_tensors, top, self.basis.name, self.class_names, self.layout, self.white)

    def described(self, class_names: Sequence[str] | None, layout: ImageLayout | None) -> "NetworkState":
        """Return the same states with these names of classes and this layout.

        Raises:
            InputError: they do not fit.
        """
        return NetworkState(self.site_tensors, self.top, self.basis.name, class_names, layout, self.white)

    @classmethod
    def sum(cls, states: Sequence["NetworkState"], weights: Sequence[float] | None = None) -> "NetworkState":
        """Return sum_k c_k |Psi^(k)_y>: the state of an ensemble whose scores are averaged (theory.md, eq. E2).

        Channels add up: the entropies of the sum are exact, and take K^3 times as long for K states.

        Args:
            states: of networks with the same pixels, classes and basis.
            weights: c_k; None for 1 / K each.

        Raises:
            InputError: the states do not fit together, or the weights are not as many.
        """
        weights = checked_weights(states, weights)
        site_tensors, top = summed_tensors([(state.site_tensors, state.top) for state in states], weights)
        first = states[0]
        return cls(site_tensors, top, first.basis.name, first.class_names, first.layout, first.white)

    def exchanged(self, levels: Collection[int]) -> "NetworkState":
        """Return the states of images whose left and right children are exchanged at all nodes of some levels.

        <x|Psi'> = <x'|Psi>, x'_s = x_t with t = s xor sum_l 2^l. The levels of `mirror_levels` mirror the image.

        Args:
            levels: l, 0 for those of pixels.
        """
        site_tensors = [tensor.flip(0) if level in levels else tensor for level, tensor in enumerate(self.site_tensors)]
        return NetworkState(site_tensors, self.top, self.basis.name, self.class_names, self.layout, self.white)

    @classmethod
    def from_dense_tree(cls, tree: DenseTreeState) -> "NetworkState":
        """Return the states of a tree of dense tensors, exactly; channels are the terms of its slices (`pooled_tree`).

        Raises:
            InputError: the nodes of a level differ, or are complex.
        """
        site_tensors, top = pooled_tree(tree)
        return cls(site_tensors, top, tree.basis.name, tree.class_names, tree.layout, tree.white)

    def __len__(self) -> int:
        return self.num_classes

    def __getitem__(self, classes: int | slice | Sequence[int] | Tensor | np.ndarray) -> "NetworkState":
        chosen = np.arange(self.num_classes)[classes if isinstance(classes, slice) else np.asarray(classes)]
        labels = chosen.reshape(-1).tolist()
        names = None if self.class_names is None else [self.class_names[label] for label in labels]
        return NetworkState(self.site_tensors, self.top[labels], self.basis.name, names, self.layout, self.white)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NetworkState):
            return NotImplemented
        ours, theirs = ((*state.site_tensors, state.top) for state in (self, other))
        return (
            (self.basis.name, self.white) == (other.basis.name, other.white)
            and len(ours) == len(theirs)
            and all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
        )

    def __hash__(self) -> int:
        return hash((self.basis.name, self.channels, self.num_classes))

    def log_norm(self) -> Float[Tensor, " classes"]:
        """Return log <Psi_y|Psi_y> = log (m_y^2 + C_yy) + 2 e_y log 2 (eq. 36; theory.md, eq. P1).

        Minus infinity for a state that vanishes.
        """
        classes = self._tree().classes
        return classes.gram().diagonal().log() + 2 * math.log(2) * classes.exponent.double()

    def overlaps(self, other: "NetworkState | None" = None) -> Float[Tensor, "classes other_classes"]:
        """Return <Psi_y|Psi_y'> / sqrt(<Psi_y|Psi_y> <Psi_y'|Psi_y'>) (eq. 36); NaN where a state vanishes.

        The square of an overlap is the fidelity of the two states.

        Args:
            other: states of another network, epoch or run, of as many pixels (theory.md, eq. E1); None for these.

        Raises:
            InputError: the other states have other pixels or another basis.
        """
        if other is not None:
            check_comparable(self, other)
            return overlaps_between(self._tree(), other._tree())
        gram = self._tree().classes.gram()
        norm = gram.diagonal().sqrt()
        return gram / torch.outer(norm, norm)

    def block_spectra(self, level: int) -> Float[Tensor, "classes blocks rank"]:
        """Return the Schmidt probabilities of every aligned block of 2^level pixels against the rest (eq. 45).

        p_k = lambda_k / sum_k' lambda_k', lambda_k the eigenvalues of B^T W B (theory.md, eq. B3).

        Args:
            level: 0 (one pixel) to L-1 (half the image).

        Returns:
            p_k of the N / 2^level blocks, left to right, descending in k = 1 .. d_level + 1. p_k below 2e-15 of the
            largest is round-off and is zero.

        Raises:
            InputError: no such level.
        """
        self.check_level(level)
        return self._spectra(level, num_levels=1)[0]

    def schmidt_spectrum(self) -> Float[Tensor, "classes rank"]:
        """Return the Schmidt probabilities p_k between the two halves of the image, descending (eq. 40, 45)."""
        return self.block_spectra(self.num_levels - 1)[:, 0]

    def entanglement_entropy(self) -> Float[Tensor, " classes"]:
        """Return S = -sum_k p_k log p_k between the two halves of the image, nats (eq. 38, 44)."""
        return von_neumann_entropy(self.schmidt_spectrum())

    def renyi_entropy(self, alpha: int | float) -> Float[Tensor, " classes"]:
        """Return the Rényi entropy log(sum_k p_k^alpha) / (1 - alpha) between the two halves of the image, nats.

        Args:
            alpha: order, from 0 to infinity; 1 is the entanglement entropy. Orders below 1 depend on the smallest p_k,
                but p_k below 2e-15 of the largest is lost to round-off.

        Raises:
            InputError: alpha is negative or NaN.
        """
        return renyi_entropy(self.schmidt_spectrum(), alpha)

    def block_entropies(self, level: int, alpha: int | float = 1) -> Float[Tensor, "classes blocks"]:
        """Return S = -sum_k p_k log p_k of every aligned block of 2^level pixels with the rest, nats (eq. 38, 44).

        Args:
            level: 0 (one pixel) to L-1 (half the image).
            alpha: order, as `renyi_entropy` takes it; 1 is the entanglement entropy.

        Returns:
            Entropies of the N / 2^level blocks, left to right.

        Raises:
            InputError: no such level or order.
        """
        return renyi_entropy(self.block_spectra(level), alpha)

    def entropy_profile(self) -> Float[Tensor, "classes levels"]:
        """Return the mean over the blocks of `block_entropies(l)`, nats, for l = 0 .. L-1."""
        return torch.stack(
            [von_neumann_entropy(spectra).mean(-1) for spectra in self._spectra(0, self.num_levels)], dim=-1
        )

    def _spectra(self, lowest: int, num_levels: int) -> list[Float[Tensor, "classes _ _"]]:
        """Return the block spectra of `num_levels` levels, from `lowest` up."""
        tree = self._tree()
        image = Environment.of_everything(tree.states, tree.top)
        *lower, top = tree.levels[lowest:]
        distinct = block_spectra_below(lower, image.of_children(top), num_levels) if lower else []
        if len(lower) < num_levels:
            # Both halves of a pure state have the same spectrum.
            half = cut_spectrum(top.below, image.of_child(top, side=0))
            distinct.append(half.repeat_interleave(len(top.mapped), dim=0))
        return [self._of_all_blocks(spectra, level) for level, spectra in enumerate(distinct, start=lowest)]

    def _of_all_blocks(self, distinct: Float[Tensor, "_ _"], level: int) -> Float[Tensor, "classes _ _"]:
        """Repeat the spectra of blocks that have the same tensors up to the top."""
        matrices = [len(tensor) for tensor in reversed(self.site_tensors[level:])]
        by_path = distinct.unflatten(0, (self.num_classes, *matrices))
        return by_path.expand(-1, *(2 for _ in matrices), -1).flatten(1, -2)

    def amplitude(self, x: Images) -> Float[Tensor, "batch classes"]:
        """Return alpha_y(x) = <x|Psi_y>, the scores in evaluation (eq. 31).

        Args:
            x: (batch, N) grey levels in tree order, uint8 or floats in [0, 1].

        Raises:
            InputError: x has another shape, dtype or range.
        """
        return times_power_of_two(*self._scaled_amplitude(x))

    def conditional_probability(self, x: Images) -> Float[Tensor, "batch classes"]:
        """Return p(y|x) = alpha_y(x)^2 / sum_y' alpha_y'(x)^2, even if amplitudes over- or underflow (eq. 34).

        Args:
            x: (batch, N) grey levels in tree order, uint8 or floats in [0, 1].

        Returns:
            Probabilities of the classes; NaN for an image on which all amplitudes vanish.

        Raises:
            InputError: x has another shape, dtype or range.
        """
        amplitude, exponent = self._scaled_amplitude(x)
        magnitude = torch.where(amplitude.detach() != 0, binary_exponent(amplitude) + exponent, -(2**62))
        weights = times_power_of_two(amplitude, exponent - magnitude.amax(-1, keepdim=True)).square()
        return weights / weights.sum(-1, keepdim=True)

    def log_amplitude(self, x: Images) -> tuple[Float[Tensor, "batch classes"], Float[Tensor, "batch classes"]]:
        """Return log |<x|Psi_y>| and the sign of <x|Psi_y> (-1, 0, 1), even if amplitudes over- or underflow (eq. 31).

        Args:
            x: (batch, N) grey levels in tree order, uint8 or floats in [0, 1].

        Raises:
            InputError: x has another shape, dtype or range.
        """
        amplitude, exponent = self._scaled_amplitude(x)
        return amplitude.abs().log() + math.log(2) * exponent.double(), amplitude.sign()

    def _scaled_amplitude(self, x: Images) -> tuple[Float[Tensor, "batch classes"], Int[Tensor, "batch classes"]]:
        """Return a and e with alpha_y(x) = a 2^e."""
        x = torch.as_tensor(x)
        check_images(x, self.num_sites)
        # A whole test set's features in float64 would fill the memory.
        contracted = [
            contract(self.site_tensors, self.top, self.represent(images)) for images in x.split(IMAGES_AT_A_TIME)
        ]
        amplitudes, exponents = zip(*contracted, strict=True)
        return torch.cat(amplitudes), torch.cat(exponents)

    def represent(self, x: Images) -> Float[Tensor, "batch sites functions"]:
        """Return f_i(x_p), i = 0 .. d_0: the factors <x_p| of <x| in the local basis (eq. 12, 23, 28, 29).

        Args:
            x: (batch, N) grey levels in tree order, uint8 or floats in [0, 1].

        Raises:
            InputError: x has another shape, dtype or range.
        """
        x = torch.as_tensor(x).to(self.top.device)
        check_images(x, self.num_sites, self.basis)
        if x.dtype == torch.uint8:
            grey_levels = torch.arange(256, dtype=torch.float64, device=x.device) / 255
            return functional.embedding(x.int(), self._local_functions(self.white * grey_levels))
        return self._local_functions(self.white * x.double())

    def _local_functions(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape functions"]:
        return torch.cat((torch.ones_like(x).unsqueeze(-1), self.basis(x)), dim=-1)

    def dense(self) -> Float[Tensor, "classes dimension"]:
        """Return the state vectors Psi_{y; i_1 .. i_N}, flattened with i_1 slowest (eq. 27, 30); small systems only.

        |phi_I^(0)> = |f_I>, |phi_i^(l+1)> = |eta_0,i> (x) |eta_1,i> with |eta_k,i> = sum_I ã_k,iI |phi_I^(l)> (eq. 8,
        15), |Psi_y> = sum_I ã_yI |phi_I^(L)> (eq. 16).

        Raises:
            InputError: max(d_L + 1, classes) vectors of (d_0 + 1)^N numbers would be more than 2^24 numbers.
        """
        return dense_vectors(self.site_tensors, self.top)
