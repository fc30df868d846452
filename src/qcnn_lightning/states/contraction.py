"""The same states as nodes and edges of the TensorNetwork library: an independent way to the numbers of `NetworkState`.

Every pixel has its own branch of the tree, and every pooling is a copy tensor (fig. 1). Schmidt values come from QR
decompositions from both sides towards the cut, not from Gram matrices. The cost grows with the number of pixels: use it
for some tens of them.

The nodes hold NumPy arrays: for PyTorch tensors the library calls decompositions that PyTorch has removed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import tensornetwork as tn
import torch
from jaxtyping import Float
from torch import Tensor

from qcnn_lightning.errors import InputError
from qcnn_lightning.states.tree import NetworkState

LARGEST_DENSITY_MATRIX = 4096


@dataclass(frozen=True)
class TreeNetwork:
    """A fresh copy of the tree tensor network, to be connected to others and contracted.

    Attributes:
        nodes: all nodes; the pooling ones are copy nodes.
        sites: the dangling edges of the pixels, left to right, each of dimension d_0 + 1 (constant function first).
        label: the dangling edge of the classes; None if one class was chosen.
    """

    nodes: list[tn.AbstractNode]
    sites: list[tn.Edge]
    label: tn.Edge | None


class TensorNetworkState:
    """A `NetworkState` as a TensorNetwork tree.

    Args:
        state: the states. No gradients reach its site tensors.
    """

    def __init__(self, state: NetworkState):
        self.state = state
        self._site_tensors = [tensor.numpy(force=True) for tensor in state.site_tensors]
        self._top = state.top.numpy(force=True)

    def __repr__(self) -> str:
        return f"TensorNetworkState({self.state!r})"

    def tree(self, label: int | None = None) -> TreeNetwork:
        """Build the network (eq. 8, 15, 16, 30): site tensors, copy nodes, and the top tensor or the row of a class."""
        nodes: list[tn.AbstractNode] = []
        sites: list[tn.Edge] = []
        below: list[tn.Edge] = []
        for level, matrices in enumerate(self._site_tensors):
            above = []
            for position in range(self.state.num_sites >> level):
                node = _node(matrices[position % len(matrices)], ["above", "below"])
                nodes.append(node)
                above.append(node["above"])
                if level:
                    node["below"] ^ below[position]
                else:
                    sites.append(node["below"])
            below = []
            for left, right in zip(above[0::2], above[1::2], strict=True):
                copy = tn.CopyNode(3, left.dimension, axis_names=["left", "right", "above"], backend="numpy")
                copy["left"] ^ left
                copy["right"] ^ right
                nodes.append(copy)
                below.append(copy["above"])
        if label is None:
            top = _node(self._top, ["label", "below"])
            label_edge = top["label"]
        else:
            top = _node(self._top[label], ["below"])
            label_edge = None
        top["below"] ^ below[0]
        nodes.append(top)
        return TreeNetwork(nodes, sites, label_edge)

    def amplitude(self, x: Tensor) -> Float[Tensor, "batch classes"]:
        """Return alpha_y(x) = <x|Psi_y> (eq. 31), image by image.

        Args:
            x: (batch, N) grey levels in tree order, uint8 or floats in [0, 1].

        Raises:
            InputError: x has another shape, dtype or range.
        """
        return torch.stack([self._amplitude(image) for image in self.state.represent(x)])

    def _amplitude(self, image: Float[Tensor, "sites functions"]) -> Float[Tensor, " classes"]:
        tree = self.tree()
        pixels = [_node(pixel, ["below"]) for pixel in image.numpy(force=True)]
        for pixel, site in zip(pixels, tree.sites, strict=True):
            pixel["below"] ^ site
        return _contract(tree.nodes + pixels, [tree.label])

    def norm(self) -> Float[Tensor, " classes"]:
        """Return <Psi_y|Psi_y> (eq. 36)."""
        return self._gram.diagonal()

    def overlaps(self) -> Float[Tensor, "classes classes"]:
        """Return <Psi_y|Psi_y'> / sqrt(<Psi_y|Psi_y> <Psi_y'|Psi_y'>) (eq. 36)."""
        norm = self.norm().sqrt()
        return self._gram / torch.outer(norm, norm)

    @cached_property
    def _gram(self) -> Float[Tensor, "classes classes"]:
        ket, bra = self.tree(), self.tree()
        for ket_site, bra_site in zip(ket.sites, bra.sites, strict=True):
            ket_site ^ bra_site
        return _contract(ket.nodes + bra.nodes, [ket.label, bra.label])

    def reduced_density_matrix(self, label: int, sites: Sequence[int]) -> Float[Tensor, "dimension dimension"]:
        """Return rho = Tr_rest |Psi_y><Psi_y| / <Psi_y|Psi_y> of some pixels (eq. 37).

        Args:
            label: y.
            sites: the pixels that are kept, in any order; the first is the slowest index.

        Raises:
            InputError: a pixel does not exist or comes twice, or the matrix would have more than 4096 rows.
        """
        if len(set(sites)) != len(sites) or not set(sites) <= set(range(self.state.num_sites)):
            raise InputError(f"sites={list(sites)}: expected different pixels from 0 to {self.state.num_sites - 1}")
        dimension = (self.state.channels[0] + 1) ** len(sites)
        if dimension > LARGEST_DENSITY_MATRIX:
            raise InputError(
                f"sites={list(sites)}: their density matrix has {dimension} rows, the limit is {LARGEST_DENSITY_MATRIX}"
            )
        ket, bra = self.tree(label), self.tree(label)
        for site in set(range(self.state.num_sites)) - set(sites):
            ket.sites[site] ^ bra.sites[site]
        kept = [tree.sites[site] for tree in (ket, bra) for site in sites]
        density = _contract(ket.nodes + bra.nodes, kept).reshape(dimension, dimension)
        return density / density.trace()

    def block_spectrum(self, label: int, level: int, block: int) -> Float[Tensor, " rank"]:
        """Return the Schmidt probabilities of a block of 2^level pixels against the rest, descending (eq. 45).

        p_k = s_k^2 / sum_k' s_k'^2 with the singular values s_k across the cut.

        Args:
            label: y.
            level: 0 (one pixel) to L-1 (half the image).
            block: which of the N / 2^level blocks, from the left.
        """
        inside = _node(self._inside[level][block], ["rows", "states"])
        outside = _node(self._outside(label, level, block), ["rows", "states"])
        rows, columns = inside["rows"], outside["rows"]
        inside["states"] ^ outside["states"]
        _, values, _, _ = tn.split_node_full_svd(inside @ outside, [rows], [columns])
        probabilities = torch.as_tensor(values.tensor).diagonal().square()
        return probabilities / probabilities.sum()

    def schmidt_spectrum(self) -> Float[Tensor, "classes rank"]:
        """Return the Schmidt probabilities p_k between the two halves of the image, descending (eq. 45)."""
        half = self.state.num_levels - 1
        return torch.stack([self.block_spectrum(label, half, 0) for label in range(self.state.num_classes)])

    def entanglement_entropy(self) -> Float[Tensor, " classes"]:
        """Return S = -sum_k p_k log p_k between the two halves of the image, nats (eq. 38, 44)."""
        return torch.special.entr(self.schmidt_spectrum()).sum(-1)

    @cached_property
    def _inside(self) -> list[list[np.ndarray]]:
        """The components of every block's states in an orthonormal basis, (components, d_level + 1)."""
        identity = np.eye(self.state.channels[0] + 1)
        levels = [[identity] * self.state.num_sites]
        for level in range(self.state.num_levels - 1):
            mapped = [self._mapped(level, position, block) for position, block in enumerate(levels[-1])]
            levels.append([self._pooled(*pair) for pair in zip(mapped[0::2], mapped[1::2], strict=True)])
        return levels

    def _outside(self, label: int, level: int, block: int) -> np.ndarray:
        """Return the components of everything outside a block in an orthonormal basis, (components, d_level + 1)."""
        if level == self.state.num_levels:
            return self._top[label][None]
        parent = self._outside(label, level + 1, block // 2)
        sibling = self._mapped(level, block ^ 1, self._inside[level][block ^ 1])
        matrices = self._site_tensors[level]
        return self._pooled(parent, sibling, matrices[block % len(matrices)])

    def _mapped(self, level: int, position: int, components: np.ndarray) -> np.ndarray:
        """Contract components, (components, d_level + 1), with the site tensor above them."""
        matrices = self._site_tensors[level]
        states = _node(components, ["rows", "below"])
        site = _node(matrices[position % len(matrices)], ["above", "below"])
        states["below"] ^ site["below"]
        return tn.contract_between(states, site, output_edge_order=[states["rows"], site["above"]]).tensor

    def _pooled(self, first: np.ndarray, second: np.ndarray, through: np.ndarray | None = None) -> np.ndarray:
        """Join two sides at a copy node and return the components on the third, by QR.

        Args:
            first: (components, n).
            second: (components, n).
            through: (n, m) matrix on the third side, or None for the identity.
        """
        if through is None:
            through = np.eye(first.shape[-1])
        sides = [_node(side, ["rows", "states"]) for side in (first, second)]
        third = _node(through, ["states", "below"])
        copy = tn.CopyNode(3, first.shape[-1], backend="numpy")
        for axis, node in enumerate((*sides, third)):
            copy[axis] ^ node["states"]
        rows, column = [side["rows"] for side in sides], third["below"]
        joined = tn.contract_copy_node(copy)
        _, remainder = tn.split_node_qr(joined, rows, [column])
        return remainder.reorder_edges([remainder[0], column]).tensor


def _node(tensor: np.ndarray, axis_names: list[str]) -> tn.Node:
    return tn.Node(tensor, axis_names=axis_names, backend="numpy")


def _contract(nodes: list[tn.AbstractNode], edges: Sequence[tn.Edge | None]) -> Tensor:
    return torch.as_tensor(tn.contractors.greedy(nodes, output_edge_order=edges).tensor)
