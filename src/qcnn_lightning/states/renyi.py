"""The Rényi entropy of order 2 of any region, exactly: tr rho_A^2 by a recursion of four legs (theory.md, eq. V1).

Two copies of <Psi|Psi>, their bras exchanged at the pixels of A, are a tree whose blocks have four legs of block
states: ket and bra of the first copy, ket and bra of the second one. Legs are bordered (theory.md, eq. M3). Only blocks
that A cuts need all d^4 numbers; one inside A or outside is a product of two Gram matrices.

Where the amplitudes of a class cancel to a part c of their terms, the relative error is about 1e-16 / c^4. That of a
density matrix is 1e-16 / c^2.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from qcnn_lightning.states.gram import BlockStates, Tree, beside_constant
from qcnn_lightning.states.regions import Block, aligned_blocks

LARGEST_OPERATOR = 2**25
"""Numbers of one block's operator with four legs: 268 MB."""

FourLegs = Float[Tensor, "ket_1 bra_1 ket_2 bra_2"]


def four_legs_fit(tree: Tree, sites: tuple[int, ...]) -> bool:
    """Return whether the operators of all blocks that a region cuts fit into memory."""
    lowest = min(block.level for block in aligned_blocks(sites))
    sizes = [len(level.mapped[0].mean) + 1 for level in tree.levels[lowest:]]
    return max(sizes, default=0) ** 4 <= LARGEST_OPERATOR


def purity(tree: Tree, sites: tuple[int, ...]) -> Float[Tensor, " classes"]:
    """Return tr rho_A^2 of a region A for every class; the time is O(N d^5) for d channels."""
    operator = _operator(tree, Block(len(tree.levels), 0), set(sites))
    result = []
    for coefficients in tree.top:
        bordered = torch.cat(((coefficients @ tree.states.mean).reshape(1), coefficients))
        norm = bordered[0].square() + coefficients @ tree.states.covariance @ coefficients
        value = operator
        for _ in range(4):
            value = torch.tensordot(value, bordered, dims=([0], [0]))
        result.append(value / norm.square())
    return torch.stack(result)


def _operator(tree: Tree, block: Block, region: set[int]) -> FourLegs:
    """Return the operator of a block."""
    inside = len(region.intersection(block.sites))
    if inside in (0, len(block.sites)):
        states = tree.states if block.level == len(tree.levels) else tree.levels[block.level].below
        return _uncut(states, swapped=inside > 0)
    level = tree.levels[block.level - 1]
    mapped = []
    for half, matrix in zip(block.halves, (level.bordered[0], level.bordered[-1]), strict=True):
        operator = _operator(tree, half, region)
        for _ in range(4):
            # The first leg becomes the last one: after four turns all are in their places.
            operator = torch.tensordot(operator, matrix, dims=([0], [1]))
        mapped.append(operator)
    return _pooled(mapped[0], mapped[1], level.mapped[0].mean, level.mapped[-1].mean)


def _uncut(states: BlockStates, swapped: bool) -> FourLegs:
    """Return the operator of a block that lies inside the region, where bras are exchanged, or outside of it."""
    gram = beside_constant(states.covariance)
    product = gram[:, :, None, None] * gram
    return product.transpose(1, 3) if swapped else product


def _pooled(
    left: FourLegs, right: FourLegs, mean: Float[Tensor, " states"], other_mean: Float[Tensor, " states"], leg: int = 0
) -> FourLegs:
    """Pool siblings on all legs from this one on: m_I m'_I 1 (x) 1 is left out, as in `open_blocks.pooled`."""
    if leg == 4:
        return left * right
    states = len(mean)
    constant, moving = left.narrow(leg, 0, 1), left.narrow(leg, 1, states)
    other_constant, other_moving = right.narrow(leg, 0, 1), right.narrow(leg, 1, states)
    m, m_ = (vector.reshape([-1 if axis == leg else 1 for axis in range(4)]) for vector in (mean, other_mean))
    pooled = _pooled(moving, m_ * other_constant + other_moving, mean, other_mean, leg + 1)
    pooled = pooled + _pooled(m * constant, other_moving, mean, other_mean, leg + 1)
    return torch.cat((_pooled(constant, other_constant, mean, other_mean, leg + 1), pooled), dim=leg)
