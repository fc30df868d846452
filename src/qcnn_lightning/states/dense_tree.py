"""States of trees of dense tensors with three legs: any tree tensor network of our shape (refs 30, 31 of the paper).

A `NetworkState` is one, and every one with equal nodes is a `NetworkState` with more channels (theory.md, eq. T1, T2).
"""

import importlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Inexact, Int
from torch import Tensor

from qcnn_lightning.basis import make_basis
from qcnn_lightning.errors import InputError
from qcnn_lightning.pixels import Images, check_images, checked_white
from qcnn_lightning.states.checks import as_tensor, check_dense_tensors, checked_label, checked_names
from qcnn_lightning.states.dense_gram import (
    DenseLevels,
    amplitudes,
    build_dense_levels,
    environments,
    for_nodes,
    halves_of_image,
    overlaps_between,
)
from qcnn_lightning.states.ensemble import check_comparable
from qcnn_lightning.states.entropy import renyi_entropy, spectra_of, spectrum_of_grams, von_neumann_entropy
from qcnn_lightning.states.gram import outer, times_power_of_two
from qcnn_lightning.states.layout import ImageLayout
from qcnn_lightning.states.state_file import DENSE_TREE_STATE, StoredInFiles
from qcnn_lightning.states.tree_sizes import TreeSizes
from qcnn_lightning.states.truncation import Compressed, canonical_tensors, compressed_tensors

NEGLIGIBLE = 1e-15
"""Singular values below this part of the largest are zero."""
LARGEST_DENSE_SIZE = 2**24
IMAGES_AT_A_TIME = 500


class DenseTreeState(TreeSizes, StoredInFiles):
    """One quantum state per class, of a tree of dense tensors.

    |phi_I^(l+1)> = sum_JK T_IJK |phi_J^(l)> (x) |phi_K^(l)> at every node, |Psi_y> = sum_I top_yI |phi_I^(L)>, and
    |phi_I^(0)> is the local basis, the constant function first.

    Args:
        site_tensors: T of level l, (s, d_{l+1}, d_l, d_l): s = 1 for all nodes, 2 for nodes in turn, or one for each of
            the N / 2^(l+1) nodes. float64 or complex128.
        top: (classes, d_L).
        basis: local basis, as `make_basis` takes it.
        class_names: what the classes are called.
        layout: where the sites stand in the image.
        white: where the grey level 1 lies in the basis's interval [0, 1]; x lies at white x.

    Raises:
        InputError: tensors that do not fit together, another dtype, entries that are not finite, or an unknown basis.
    """

    kind = DENSE_TREE_STATE

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
        check_dense_tensors(self.site_tensors, self.top)
        self.basis, self.white = make_basis(basis, self.site_tensors[0].shape[-1] - 1), checked_white(white)
        self.class_names = checked_names(class_names, self.num_classes, layout, self.num_sites)
        self.layout = layout

    @property
    def channels(self) -> tuple[int, ...]:
        """d_0 .. d_L, the constant function included."""
        return tuple(tensor.shape[-1] for tensor in (*self.site_tensors, self.top))

    @property
    def num_parameters(self) -> int:
        """Numbers in the tensors; a complex one counts twice."""
        return sum(tensor.numel() * (2 if tensor.is_complex() else 1) for tensor in (*self.site_tensors, self.top))

    def __repr__(self) -> str:
        nodes = [len(tensor) for tensor in self.site_tensors]
        return (
            f"DenseTreeState(num_sites={self.num_sites}, num_classes={self.num_classes}, channels={self.channels}, "
            f"basis={self.basis.name!r}, nodes={nodes})"
        )

    def described(self, class_names: Sequence[str] | None, layout: ImageLayout | None) -> "DenseTreeState":
        """Return the same states with these names of classes and this layout.

        Raises:
            InputError: they do not fit.
        """
        return DenseTreeState(self.site_tensors, self.top, self.basis.name, class_names, layout, self.white)

    def _with(self, site_tensors: Sequence[Tensor], top: Tensor) -> "DenseTreeState":
        return DenseTreeState(site_tensors, top, self.basis.name, self.class_names, self.layout, self.white)

    @property
    def _levels(self) -> DenseLevels:
        """All block states."""
        return self.blocks_by(lambda: build_dense_levels(self.site_tensors, self.top))

    def log_norm(self) -> Float[Tensor, " classes"]:
        """Return log <Psi_y|Psi_y> (eq. 36)."""
        classes = self._levels.classes
        return classes.gram().diagonal().real.log() + 2 * math.log(2) * classes.exponent.double()

    def overlaps(self, other: "DenseTreeState | None" = None) -> Inexact[Tensor, "classes other_classes"]:
        """Return <Psi_y|Psi_y'> / sqrt(<Psi_y|Psi_y> <Psi_y'|Psi_y'>) (eq. 36; theory.md, eq. E1).

        Args:
            other: where the |Psi_y'> are from; None for these.

        Raises:
            InputError: the two have other sites, local functions or layouts.
        """
        if other is None:
            return overlaps_between(self._levels, self._levels)
        check_comparable(self, other)
        return overlaps_between(self._levels, other._levels)

    def log_amplitude(self, x: Images) -> tuple[Float[Tensor, "batch classes"], Inexact[Tensor, "batch classes"]]:
        """Return log |<x|Psi_y>| and the sign of <x|Psi_y> (-1, 0, 1), or the phase of a complex one (eq. 31).

        Args:
            x: (batch, N) grey levels in tree order, uint8 or floats in [0, 1].

        Raises:
            InputError: x has another shape, dtype or range, or grey levels that the basis does not have.
        """
        amplitude, exponent = self._amplitudes(x)
        return amplitude.abs().log() + math.log(2) * exponent.double(), amplitude.sgn()

    def amplitude(self, x: Images) -> Inexact[Tensor, "batch classes"]:
        """Return alpha_y(x) = <x|Psi_y> (eq. 31); `log_amplitude` says what x is."""
        return times_power_of_two(*self._amplitudes(x))

    def conditional_probability(self, x: Images) -> Float[Tensor, "batch classes"]:
        """Return p(y|x) = |alpha_y(x)|^2 / sum_y' |alpha_y'(x)|^2 (eq. 34); NaN where all amplitudes vanish.

        Args:
            x: as `log_amplitude` takes it.
        """
        logarithm, _ = self.log_amplitude(x)
        return (2 * logarithm).softmax(-1)

    def _amplitudes(self, x: Images) -> tuple[Inexact[Tensor, "batch classes"], Int[Tensor, "batch classes"]]:
        x = torch.as_tensor(x).to(self.top.device)
        check_images(x, self.num_sites, self.basis)
        levels, parts = self._levels, []
        for part in x.split(IMAGES_AT_A_TIME):
            points = self.white * part.double() / (255 if part.dtype == torch.uint8 else 1)
            features = torch.cat((torch.ones_like(points).unsqueeze(-1), self.basis(points)), dim=-1)
            parts.append(amplitudes(levels, features.transpose(0, 1)))
        amplitude, exponent = zip(*parts, strict=True)
        return torch.cat(amplitude), torch.cat(exponent)

    def schmidt_spectrum(self) -> Float[Tensor, "classes rank"]:
        """Return the Schmidt probabilities between the two halves of the image, descending (eq. 45); differentiable."""
        gram, outside = halves_of_image(self._levels)
        return spectrum_of_grams(gram, outside.mT)

    def entanglement_entropy(self) -> Float[Tensor, " classes"]:
        """Return S = -sum_k p_k log p_k between the two halves of the image, nats (eq. 38, 44)."""
        return von_neumann_entropy(self.schmidt_spectrum())

    def renyi_entropy(self, alpha: int | float) -> Float[Tensor, " classes"]:
        """Return the Rényi entropy of order alpha between the two halves of the image, nats."""
        return renyi_entropy(self.schmidt_spectrum(), alpha)

    @torch.no_grad()
    def block_spectra(self, level: int) -> Float[Tensor, "classes blocks rank"]:
        """Return the Schmidt probabilities of every aligned block of 2^level sites with the rest, descending (eq. 45).

        Args:
            level: 0 (one pixel) to L-1 (half the image).

        Raises:
            InputError: no such level.
        """
        self.check_level(level)
        return self._spectra(level, level + 1)[0]

    def block_entropies(self, level: int, alpha: int | float = 1) -> Float[Tensor, "classes blocks"]:
        """Return the Rényi entropy of every aligned block of 2^level sites with the rest, nats; of order 1 eq. 38."""
        return renyi_entropy(self.block_spectra(level), alpha)

    @torch.no_grad()
    def entropy_profile(self) -> Float[Tensor, "classes levels"]:
        """Return the mean over the blocks of `block_entropies(l)`, nats, for l = 0 .. L-1."""
        spectra = self._spectra(0, self.num_levels)
        return torch.stack([von_neumann_entropy(of_level).mean(-1) for of_level in spectra], dim=-1)

    def _spectra(self, first: int, last: int) -> list[Float[Tensor, "classes _ _"]]:
        """Return the spectra of the blocks of levels `first` to below `last`."""
        levels, by_class = self._levels, []
        for row in levels.top:
            outside = environments(levels, outer(row), down_to=first)
            spectra = []
            for level in range(first, last):
                left, right = levels.levels[level].left.gram(), levels.levels[level].right.gram()
                pairs = [spectra_of(gram, outside[level - first][side::2]) for side, gram in enumerate((left, right))]
                spectra.append(torch.stack(pairs, dim=1).flatten(0, 1).flip(-1))
            by_class.append(spectra)
        return [torch.stack(of_classes) for of_classes in zip(*by_class, strict=True)]

    def dense(self) -> Inexact[Tensor, "classes dimension"]:
        """Return the state vectors, flattened with the first site slowest (eq. 27, 30); small systems only.

        Raises:
            InputError: they would be more than 2^24 numbers.
        """
        if max(self.channels[-1], self.num_classes) * self.channels[0] ** self.num_sites > LARGEST_DENSE_SIZE:
            raise InputError(f"the state vectors have {self.channels[0]}^{self.num_sites} entries each: too many")
        states = torch.eye(self.channels[0], dtype=self.top.dtype, device=self.top.device)
        states = states.expand(self.num_sites, -1, -1)
        for tensor in self.site_tensors:
            tensors = for_nodes(tensor, len(states) // 2).expand(len(states) // 2, -1, -1, -1)
            states = torch.einsum("nijk,nja,nkb->niab", tensors, states[0::2], states[1::2]).flatten(2)
        return self.top @ states[0]

    @torch.no_grad()
    def canonical(self) -> "DenseTreeState":
        """Return the same states with nodes that are isometries times a power of two (theory.md, eq. T4).

        Channels that other channels of their block span are left out. Nodes stay shared where all are.
        """
        return self._with(*canonical_tensors(self.site_tensors, self.top))

    @torch.no_grad()
    def compress(
        self, fidelity: int | float | None = None, channels: Sequence[int] | None = None
    ) -> "Compressed[DenseTreeState]":
        """Return states with fewer channels, by Schmidt truncation of every block (theory.md, eq. T5).

        Args:
            fidelity: smallest |<Psi_y|Psi'_y>|^2 of the normalised states that is allowed for any class; the fewest
                channels that keep it.
            channels: or the numbers of channels that enter levels 1 .. L, at most.

        Raises:
            InputError: not one of both is given, or one cannot be.
        """
        return compressed_tensors(self.canonical(), fidelity, channels)

    @torch.no_grad()
    def to_quimb(self, label: int) -> Any:
        """Return |Psi_y> as a `quimb.tensor.TensorNetworkGenVector` of NumPy arrays.

        Its sites are 0 .. N-1, with outer indices k0, k1, .. of the local basis and tags I0, I1, ..; the nodes of level
        l have the tag L<l>. Arrays have entries of order 1; the rest of the norm is in the network's `exponent`.

        Raises:
            InputError: quimb is not installed, or there is no such class.
        """
        checked_label(label, self.num_classes)
        try:
            qtn = importlib.import_module("quimb.tensor")
        except ImportError as error:
            raise InputError("to_quimb() needs quimb: pip install 'qcnn-lightning[quimb]'") from error
        levels, tensors = self._levels, []
        for level, maps in enumerate(one.maps.numpy(force=True) for one in levels.levels):
            for place in range(self.num_sites >> (level + 1)):
                children = [f"b{level}_{child}" if level else f"k{child}" for child in (2 * place, 2 * place + 1)]
                tags = [f"L{level}"] if level else ["L0", f"I{2 * place}", f"I{2 * place + 1}"]
                inds = (f"b{level + 1}_{place}", *children)
                tensors.append(qtn.Tensor(maps[place % len(maps)], inds=inds, tags=tags))
        top = levels.top[label].numpy(force=True)
        tensors.append(qtn.Tensor(top, inds=(f"b{self.num_levels}_0",), tags=[f"L{self.num_levels}"]))
        network = qtn.TensorNetwork(tensors)
        network.exponent = levels.classes.exponent[label].item() * math.log10(2)
        sites = tuple(range(self.num_sites))
        return network.view_as_(qtn.TensorNetworkGenVector, sites=sites, site_tag_id="I{}", site_ind_id="k{}")


def dense_tensors(site_tensors: Sequence[Tensor]) -> list[Inexact[Tensor, "_ _ _ _"]]:
    """Return the nodes T_IJK = ã_0,IJ ã_1,IK: site tensors and pooling as one tensor (theory.md, eq. T1).

    Args:
        site_tensors: 1 matrix for all children, 2 for left and right ones, or one for each.
    """
    lefts = [tensor if len(tensor) == 1 else tensor[0::2] for tensor in site_tensors]
    rights = [tensor if len(tensor) == 1 else tensor[1::2] for tensor in site_tensors]
    return [torch.einsum("nij,nik->nijk", left, right) for left, right in zip(lefts, rights, strict=True)]


def pooled_tree(tree: DenseTreeState) -> tuple[list[Float[Tensor, "2 _ _"]], Float[Tensor, "classes states"]]:
    """Return site tensors and top of a product-pooling tree with the same states (theory.md, eq. T2).

    Every slice T_I becomes sum_r u_Ir v_Ir^T, by its singular values. Each term is a channel of the pooling, and the
    matrix above adds up the terms. A tree from product pooling has one term a slice, and keeps its channels.

    Raises:
        InputError: the nodes of a level differ, or are complex.
    """
    if any(len(tensor) > 1 or tensor.is_complex() for tensor in tree.site_tensors):
        raise InputError(f"{tree!r} has other nodes than a NetworkState may have: one real tensor per level")
    site_tensors, adding = [], torch.eye(tree.channels[0], dtype=tree.top.dtype, device=tree.top.device)
    for (node,) in tree.site_tensors:
        left, right, owner = [], [], []
        for index, part in enumerate(node):
            u, values, v = torch.linalg.svd(part, full_matrices=False)
            rank = max(1, int((values > NEGLIGIBLE * values[0]).sum()))
            left.append((u[:, :rank] * values[:rank]).mT)
            right.append(v[:rank])
            owner += [index] * rank
        site_tensors.append(torch.stack((torch.cat(left) @ adding, torch.cat(right) @ adding)))
        adding = torch.nn.functional.one_hot(torch.tensor(owner, device=node.device)).mT.to(node)
    return site_tensors, tree.top @ adding


class BecomesDenseTree:
    """A state that `to_dense_tree` makes a tree of dense tensors of."""

    def to_dense_tree(self) -> DenseTreeState:
        """Return the same states as a tree of dense tensors with three legs."""
        raise NotImplementedError

    @torch.no_grad()
    def to_quimb(self, label: int) -> Any:
        """Return |Psi_y> as a tensor network of quimb's, as `DenseTreeState.to_quimb` does.

        Raises:
            InputError: quimb is not installed, or there is no such class.
        """
        return self.to_dense_tree().to_quimb(label)
