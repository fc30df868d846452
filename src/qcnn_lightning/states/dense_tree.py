"""Trees of dense tensors with three legs: a q-CNN's state as others know trees, and back; quimb's networks."""

import importlib
import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from qcnn_lightning.errors import InputError
from qcnn_lightning.states.gram import Tree

NEGLIGIBLE = 1e-15
"""Singular values below this part of the largest are zero."""


@dataclass(frozen=True)
class DenseTree:
    """A tree of dense tensors; all nodes of a level are alike.

    |phi_I^(l+1)> = sum_JK T^(l)_IJK |phi_J^(l)> (x) |phi_K^(l)>, |Psi_y> = sum_I top_yI |phi_I^(L)>, and |phi_I^(0)>
    is the local basis.

    Attributes:
        nodes: T^(0) .. T^(L-1), each (parent, left child, right child).
        top: (classes, parent).
    """

    nodes: tuple[Float[Tensor, "_ _ _"], ...]
    top: Float[Tensor, "classes _"]


def dense_tree(site_tensors: tuple[Tensor, ...], top: Tensor) -> DenseTree:
    """Return the nodes T_IJK = ã_0,IJ ã_1,IK: site tensors and pooling as one tensor (theory.md, eq. T1)."""
    nodes = tuple(torch.einsum("ij,ik->ijk", tensor[0], tensor[-1]) for tensor in site_tensors)
    return DenseTree(nodes, top)


def pooled_tree(tree: DenseTree) -> tuple[list[Float[Tensor, "2 _ _"]], Float[Tensor, "classes states"]]:
    """Return site tensors and top of a product-pooling tree with the same states (theory.md, eq. T2).

    Every slice T_I becomes sum_r u_Ir v_Ir^T, by its singular values. Each term is a channel of the pooling, and the
    matrix above adds up the terms. A tree from `dense_tree` has one term a slice, and keeps its channels.
    """
    site_tensors, adding = [], torch.eye(tree.nodes[0].shape[-1], dtype=tree.top.dtype, device=tree.top.device)
    for node in tree.nodes:
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


def quimb_network(tree: Tree, label: int, log_norm: float) -> Any:
    """Return |Psi_y> as a `quimb.tensor.TensorNetworkGenVector` of NumPy arrays.

    Its sites are 0 .. N-1, with outer indices k0, k1, .. of the local basis and tags I0, I1, ..; the nodes of level l
    have the tag L<l>. Arrays have entries of order 1; the rest of the norm is in the network's `exponent`.

    Args:
        tree: block states.
        label: y.
        log_norm: log <Psi_y|Psi_y>.

    Raises:
        InputError: quimb is not installed.
    """
    try:
        qtn = importlib.import_module("quimb.tensor")
    except ImportError as error:
        raise InputError("to_quimb() needs quimb: pip install 'qcnn-lightning[quimb]'") from error
    scaled = tuple(
        torch.stack((level.bordered[0][1:, 1:], level.bordered[-1][1:, 1:])).detach() for level in tree.levels
    )
    dense = dense_tree(scaled, tree.top.detach())
    tensors = []
    for level, node in enumerate(dense.nodes):
        array = node.numpy(force=True)
        for place in range(1 << (len(dense.nodes) - 1 - level)):
            children = [f"b{level}_{child}" if level else f"k{child}" for child in (2 * place, 2 * place + 1)]
            tags = [f"L{level}"] if level else ["L0", f"I{2 * place}", f"I{2 * place + 1}"]
            tensors.append(qtn.Tensor(array, inds=(f"b{level + 1}_{place}", *children), tags=tags))
    top = dense.top[label].numpy(force=True)
    tensors.append(qtn.Tensor(top, inds=(f"b{len(dense.nodes)}_0",), tags=[f"L{len(dense.nodes)}"]))
    network = qtn.TensorNetwork(tensors)
    coefficients = tree.top[label]
    average = coefficients @ tree.states.mean
    square = (average.square() + coefficients @ tree.states.covariance @ coefficients).item()
    network.exponent = (log_norm - math.log(square)) / 2 / math.log(10)
    sites = tuple(range(1 << len(dense.nodes)))
    return network.view_as_(qtn.TensorNetworkGenVector, sites=sites, site_tag_id="I{}", site_ind_id="k{}")
