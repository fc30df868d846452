"""Gram recursions of trees of dense tensors (theory.md, eq. T3): as `gram.py` has them for product pooling.

A node joins the states of its children by a tensor: |phi_i> = sum_jk T_ijk |phi_j> (x) |phi'_k>. Means, covariances and
powers of two are those of `BlockStates`. The first axis of everything is the nodes of a level, or one that stands for
all: then all blocks of the level are alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Inexact, Int
from torch import Tensor

from qcnn_lightning.states.gram import BlockStates, binary_exponent, take_out_powers_of_two, times_power_of_two


@dataclass(frozen=True)
class DenseLevel:
    """One level of the tree.

    Attributes:
        maps: T of every node, or of all, between states without their powers of two.
        left: states of the left children.
        right: states of the right ones.
    """

    maps: Inexact[Tensor, "nodes joined left right"]
    left: BlockStates
    right: BlockStates


@dataclass(frozen=True)
class DenseLevels:
    """All block states from the pixels to the classes.

    Attributes:
        levels: level 0 .. L-1.
        top: from the image's states to the classes without their powers of two.
        classes: |Psi_y>.
    """

    levels: tuple[DenseLevel, ...]
    top: Inexact[Tensor, "classes states"]
    classes: BlockStates


def build_dense_levels(
    site_tensors: Sequence[Inexact[Tensor, "_ _ _ _"]], top: Inexact[Tensor, "classes states"]
) -> DenseLevels:
    """Build the states of every block from those of its halves: G_parent = T (G x G') T^†.

    Args:
        site_tensors: T of level 0 .. L-1, 1 for all nodes, 2 in turn, or one for each.
        top: of the classes.
    """
    local = site_tensors[0].shape[-1]
    pixel = BlockStates.of_one_pixel(local, like=top)
    states = BlockStates(pixel.mean.unsqueeze(0), pixel.covariance.unsqueeze(0), pixel.exponent.unsqueeze(0))
    levels = []
    for level, tensor in enumerate(site_tensors):
        left, right = halves(states)
        nodes = 1 if len(tensor) == len(left.mean) == 1 else 2 ** (len(site_tensors) - 1 - level)
        maps, states = joined(for_nodes(tensor, nodes), left, right)
        levels.append(DenseLevel(maps, left, right))
    scaled, exponent = take_out_powers_of_two(top, states.exponent[0])
    classes = BlockStates(states.mean[0], states.covariance[0], states.exponent[0]).mapped(scaled, exponent)
    maps = times_power_of_two(scaled, (exponent - classes.exponent).unsqueeze(-1))
    return DenseLevels(tuple(levels), maps, classes)


def for_nodes(tensor: Tensor, nodes: int) -> Tensor:
    """Return tensors of a level for so many nodes; 1 stands for all."""
    return tensor if len(tensor) in (1, nodes) else tensor.repeat(nodes // len(tensor), *(1 for _ in tensor.shape[1:]))


def halves(states: BlockStates) -> tuple[BlockStates, BlockStates]:
    """Return the states of left and of right children."""
    if len(states.mean) == 1:
        return states, states
    left, right = (
        BlockStates(states.mean[side::2], states.covariance[side::2], states.exponent[side::2]) for side in (0, 1)
    )
    return left, right


def joined(
    tensor: Inexact[Tensor, "_ joined left right"], left: BlockStates, right: BlockStates
) -> tuple[Inexact[Tensor, "_ joined left right"], BlockStates]:
    """Return T between states without their powers of two, and the states that it gives."""
    exponents = (left.exponent.unsqueeze(-1) + right.exponent.unsqueeze(-2)).flatten(-2)
    scaled, exponent = take_out_powers_of_two(tensor.flatten(-2), exponents)
    scaled = scaled.unflatten(-1, tensor.shape[-2:])
    mean = torch.einsum("npjk,nj,nk->np", scaled, left.mean, right.mean)
    covariance = joined_covariance(scaled, (left, right), scaled, (left, right), (left.covariance, right.covariance))
    states = BlockStates(mean, covariance, exponent).rescaled()
    return times_power_of_two(scaled, (exponent - states.exponent)[..., None, None]), states


Pair = tuple[BlockStates, BlockStates]


def joined_covariance(
    tensor: Tensor, states: Pair, other_tensor: Tensor, other_states: Pair, covariances: tuple[Tensor, Tensor]
) -> Inexact[Tensor, "nodes joined other_joined"]:
    """Return the covariance between the joined states of two trees.

    T (m m^† x C' + C x m' m'^† + C x C') S^†, with means m of the one and of the other tree.

    Args:
        tensor: T.
        states: of the left and the right children, of which only means are used.
        other_tensor: S.
        other_states: the same of the other tree.
        covariances: C and C', between the two trees.
    """
    of_left, of_right = covariances
    by_left, other_by_left = (
        torch.einsum("npjk,nj->npk", t, pair[0].mean) for t, pair in ((tensor, states), (other_tensor, other_states))
    )
    by_right, other_by_right = (
        torch.einsum("npjk,nk->npj", t, pair[1].mean) for t, pair in ((tensor, states), (other_tensor, other_states))
    )
    both = torch.einsum("npjk,njl->nplk", tensor, of_left) @ of_right.unsqueeze(1)
    return (
        both.flatten(-2) @ other_tensor.flatten(-2).mH
        + by_left @ of_right @ other_by_left.mH
        + by_right @ of_left @ other_by_right.mH
    )


def overlaps_between(first: DenseLevels, second: DenseLevels) -> Inexact[Tensor, "classes other_classes"]:
    """Return <Psi_y|Psi'_y'> / sqrt(<Psi_y|Psi_y> <Psi'_y'|Psi'_y'>) of two trees of one height (theory.md, eq. E1)."""
    local, other_local = (levels.levels[0].maps.shape[-1] for levels in (first, second))
    covariance = torch.eye(local, other_local, dtype=first.top.dtype, device=first.top.device)
    covariance[0, 0] = 0
    covariance = covariance.unsqueeze(0)
    for level, other in zip(first.levels, second.levels, strict=True):
        sides = (covariance, covariance) if len(covariance) == 1 else (covariance[0::2], covariance[1::2])
        covariance = joined_covariance(
            level.maps, (level.left, level.right), other.maps, (other.left, other.right), sides
        )
    mean, other_mean = (
        torch.einsum("npjk,nj,nk->np", top.maps, top.left.mean, top.right.mean)[0]
        for top in (first.levels[-1], second.levels[-1])
    )
    between = torch.outer(first.top @ mean, (second.top @ other_mean).conj())
    between = between + first.top @ covariance[0] @ second.top.mH
    norms = [levels.classes.gram().diagonal().real.sqrt() for levels in (first, second)]
    return between.conj() / torch.outer(*norms)


def amplitudes(
    levels: DenseLevels, features: Float[Tensor, "sites batch local"]
) -> tuple[Inexact[Tensor, "batch classes"], Int[Tensor, "batch classes"]]:
    """Return a and e with <x|Psi_y> = a 2^e (eq. 31)."""
    blocks = features.to(levels.top.dtype)
    exponent = torch.zeros(features.shape[:2], dtype=torch.int64, device=features.device)
    for level in levels.levels:
        blocks, shift = without_powers_of_two(joined_features(blocks, level.maps))
        exponent = exponent[0::2] + exponent[1::2] + shift
    return blocks[0] @ levels.top.mT, exponent[0].unsqueeze(-1) + levels.classes.exponent


def joined_features(
    features: Inexact[Tensor, "nodes batch _"], tensor: Inexact[Tensor, "_ joined left right"]
) -> Inexact[Tensor, "nodes//2 batch joined"]:
    """Return sum_jk T_ijk z_j z'_k of every node and image, from the children's z and z'."""
    pairs: Tensor = OuterProduct.apply(*children(features))
    matrices = for_nodes(tensor, len(pairs)).flatten(-2).mT
    return pairs.flatten(-2) @ (matrices[0] if len(matrices) == 1 else matrices)


def children(features: Inexact[Tensor, "nodes ..."]) -> tuple[Inexact[Tensor, "..."], Inexact[Tensor, "..."]]:
    """Return what left and what right children have; unlike that of slices, the gradient is one copy."""
    left, right = features.unflatten(0, (-1, 2)).unbind(1)
    return left, right


class OuterProduct(torch.autograd.Function):
    """z_j z'_k. Its gradient is two products of a matrix and a vector, where autograd would hold two more matrices."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor) -> Tensor:
        """Return the products."""
        ctx.save_for_backward(left, right)
        return left.unsqueeze(-1) * right.unsqueeze(-2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of both."""
        left, right = ctx.saved_tensors
        of_left = (gradient @ right.conj().unsqueeze(-1)).squeeze(-1)
        return of_left, (left.conj().unsqueeze(-2) @ gradient).squeeze(-2)


def without_powers_of_two(
    features: Inexact[Tensor, "nodes batch _"],
) -> tuple[Inexact[Tensor, "nodes batch _"], Int[Tensor, "nodes batch"]]:
    """Return features whose largest size in every block and image is from 1/2 to 1, and the exponents taken out."""
    shift = binary_exponent(features.detach().abs().amax(-1))
    return times_power_of_two(features, -shift.unsqueeze(-1)), shift


def environments(
    levels: DenseLevels, image: Inexact[Tensor, "states states"], down_to: int = 0
) -> list[Inexact[Tensor, "_ _ _"]]:
    """Return the Gram matrices of the states outside every block, for levels up to L, up to one factor each (eq. B1).

    Args:
        levels: block states.
        image: that of the whole image.
        down_to: the lowest level.
    """
    by_level = [image.unsqueeze(0)]
    for level in reversed(levels.levels[down_to:]):
        outside, maps = by_level[0], level.maps
        half = torch.einsum("npq,npjk->nqjk", outside, maps)
        left = torch.einsum("nqjm,nqlm->njl", half @ level.right.gram().unsqueeze(1), maps.conj())
        over_left = torch.einsum("nqjk,njl->nqlk", half, level.left.gram())
        right = torch.einsum("nqlk,nqlm->nkm", over_left, maps.conj())
        both = torch.stack((left, right), dim=1).flatten(0, 1)
        largest = both.diagonal(dim1=-2, dim2=-1).real.amax(-1)
        by_level.insert(0, times_power_of_two(both, -binary_exponent(largest)[:, None, None]))
    return by_level


def halves_of_image(levels: DenseLevels) -> tuple[Tensor, Inexact[Tensor, "classes left left"]]:
    """Return the Gram matrix of the left half's states, and that of the states outside it for every class."""
    level = levels.levels[-1]
    joint = torch.einsum("yp,pjk->yjk", levels.top, level.maps[0])
    return level.left.gram()[0], joint @ level.right.gram() @ joint.mH
