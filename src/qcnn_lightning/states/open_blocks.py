"""Open blocks: reduced density matrices of a few blocks of the tree, everything else traced out (theory.md, eq. R1-R4).

An *operator* on a block has two legs of block states, for bra and ket, and between them one leg for the pairs of states
of all pixels that are left open within the block: Q^(oo')_PP'. Legs of block states are bordered: P = * is the constant
state |f_0 .. f_0>, P = I is |phi_I> - m_I |f_0 .. f_0> (theory.md, eq. M3). A block without open pixels is the operator
diag(1, C). An `Environment` beside open pixels has their pairs among its blocks.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from qcnn_lightning.errors import InputError
from qcnn_lightning.states.gram import (
    NUMBERS_IN_CACHE,
    BlockStates,
    Environment,
    Tree,
    TreeLevel,
    beside_constant,
    congruent,
)
from qcnn_lightning.states.regions import Block

LARGEST_DENSITY_MATRIX = 4096
"""Rows."""

QUICK_DENSITY_MATRIX = 1024
"""Rows that `blocks_fit` allows."""

LARGEST_OPERATOR = 2**27
"""Numbers: 1 GB."""


def components(states: BlockStates) -> Float[Tensor, "bordered components"]:
    """Return the components of the bordered states of a block in an orthonormal basis of their span.

    The first basis state is |f_0 .. f_0>, the next ones follow the states |phi_I> that differ from it, as Gram and
    Schmidt do. For one pixel these are the local functions f_0, f_1, ...
    """
    deviation = states.covariance.diagonal().sqrt()
    moving = deviation > 0
    deviation = deviation[moving].unsqueeze(-1)
    correlation = states.covariance[moving][:, moving] / (deviation * deviation.mT)
    eigenvalues, eigenvectors = torch.linalg.eigh(correlation)
    triangle = torch.linalg.qr((eigenvectors * eigenvalues.clamp(min=0).sqrt()).mT).R.mT
    triangle = triangle * torch.where(triangle.diagonal() < 0, -1.0, 1.0)
    rows = deviation.new_zeros(len(moving), len(deviation))
    rows[moving] = deviation * triangle
    return beside_constant(rows)


def num_components(states: BlockStates) -> int:
    """Return the dimension of the span of a block's states and |f_0 .. f_0>."""
    return 1 + int((states.covariance.diagonal() > 0).sum())


def traced(states: BlockStates) -> Float[Tensor, "bordered 1 bordered"]:
    """Return the operator of a block without open pixels: diag(1, C)."""
    return beside_constant(states.covariance).unsqueeze(1)


def opened(states: BlockStates) -> Float[Tensor, "bordered pairs bordered"]:
    """Return the operator of a block that is open itself, B_Pa B_P'a'."""
    basis = components(states)
    return torch.einsum("pa,qb->pabq", basis, basis).flatten(1, 2)


def mapped(
    operator: Float[Tensor, "below pairs below"], level: TreeLevel, side: int
) -> Float[Tensor, "above pairs above"]:
    """Return the operator between the states above the site tensor: ã Q ã^T (theory.md, eq. R1)."""
    matrix = level.bordered[side]
    return torch.tensordot(matrix, operator @ matrix.mT, dims=1)


def pooled(
    first: Float[Tensor, "bordered pairs_1 bordered"],
    second: Float[Tensor, "bordered pairs_2 bordered"],
    first_mean: Float[Tensor, " states"],
    second_mean: Float[Tensor, " states"],
) -> Float[Tensor, "bordered pairs bordered"]:
    """Pool the mapped operators of two siblings; the first one's pairs are the slower index (theory.md, eq. R2).

    (m_I 1 + c_I) (x) (m'_I 1 + c'_I) - m_I m'_I 1 (x) 1, in bra and ket, without the terms that cancel.
    """
    x, y = first.unsqueeze(2), second.unsqueeze(1)
    m, m_ = first_mean, second_mean
    column, column_ = m.reshape(-1, 1, 1, 1), m_.reshape(-1, 1, 1, 1)
    constant, bra, ket, both = _parts(x)
    constant_, bra_, ket_, both_ = _parts(y)
    whole_ket, whole_bra = ket_ + m_ * constant_, bra_ + column_ * constant_
    right = both_ + column_ * ket_
    left = both_ + bra_ * m_
    result = first.new_empty(len(first), x.shape[1], y.shape[2], len(first))
    result[:1, ..., :1] = constant * constant_
    result[:1, ..., 1:] = ket * whole_ket + m * constant * ket_
    result[1:, ..., :1] = bra * whole_bra + column * constant * bra_
    result[1:, ..., 1:] = both * (right + whole_bra * m_) + column * ket * left + bra * m * right
    result[1:, ..., 1:] += column * m * constant * both_
    return result.flatten(1, 2)


def beside_operator(
    outside: Environment, operator: Float[Tensor, "bordered pairs bordered"], level: TreeLevel, side: int
) -> Iterator[Environment]:
    """Yield, block by block, the environments of one half, the other half being a mapped operator (theory.md, eq. R3).

    Args:
        outside: of the blocks.
        operator: of the other half, mapped.
        level: of the halves.
        side: of the half, 0 (left) or -1 (right).

    Yields:
        The environments beside all pairs of the operator, for one block after the other.
    """
    m, m_ = level.mapped[side].mean, level.mapped[-1 - side].mean
    column, column_ = m.reshape(-1, 1, 1), m_.reshape(-1, 1, 1)
    constant, bra_, ket_, both_ = _parts(operator)
    right, left = both_ + column_ * ket_, both_ + bra_ * m_
    whole_bra, whole_ket = bra_ + column_ * constant, ket_ + m_ * constant
    factors = torch.cat((torch.cat((constant, whole_ket), -1), torch.cat((whole_bra, right + whole_bra * m_), -1)))
    _, bra, ket, both = _parts(outside.overlaps)
    # What connects the constant state of the half to its other states: sums over the operator's states.
    rows = torch.einsum("inj,ibj->inb", both, right * m)
    columns = torch.einsum("inj,ibj->nbj", both, left * column)
    corners = torch.einsum("inj,ibj->nb", both, both_ * column * m)
    corners = corners + torch.einsum("nj,bj->nb", ket[0], (ket_ * m)[0])
    corners = corners + torch.einsum("in,ib->nb", bra[..., 0], (bra_ * column)[..., 0])
    matrix = level.bordered[side]
    pairs_at_a_time = max(1, NUMBERS_IN_CACHE // len(outside.overlaps) ** 2)
    for block in range(outside.overlaps.shape[1]):
        children = []
        for pairs in torch.arange(operator.shape[1], device=operator.device).split(pairs_at_a_time):
            part = slice(int(pairs[0]), int(pairs[-1]) + 1)
            overlaps = factors[:, part] * outside.overlaps[:, block : block + 1]
            overlaps[1:, :, 0] += rows[:, block, part]
            overlaps[0, :, 1:] += columns[block, part]
            overlaps[0, :, 0] += corners[block, part]
            children.append(congruent(matrix, overlaps))
        yield Environment(torch.cat(children, dim=1))


def _parts(tensor: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the parts of a bordered operator: constant, its first column, its first row, and the rest."""
    return tensor[:1, ..., :1], tensor[1:, ..., :1], tensor[:1, ..., 1:], tensor[1:, ..., 1:]


def operator_of(tree: Tree, block: Block, open_blocks: Sequence[Block]) -> Float[Tensor, "bordered pairs bordered"]:
    """Return the operator of a block with some blocks within it open (theory.md, eq. R1, R2)."""
    if not open_blocks:
        return traced(states_of(tree, block.level))
    if open_blocks[0] == block:
        return opened(states_of(tree, block.level))
    level = tree.levels[block.level - 1]
    left, right = [
        mapped(operator_of(tree, half, [part for part in open_blocks if half.holds(part)]), level, -side)
        for side, half in enumerate(block.halves)
    ]
    return pooled(left, right, level.mapped[0].mean, level.mapped[-1].mean)


def states_of(tree: Tree, level: int) -> BlockStates:
    """Return the states of the blocks of a level."""
    return tree.states if level == len(tree.levels) else tree.levels[level].below


def pixel_density_matrices(tree: Tree) -> Float[Tensor, "blocks local local"]:
    """Return rho of the pixels with different tensors up to the top, class by class, left to right (eq. 37)."""
    outside = Environment.of_everything(tree.states, tree.top)
    for level in reversed(tree.levels):
        outside = outside.of_children(level)
    basis = components(tree.levels[0].below)
    density = torch.einsum("pnq,pa,qb->nab", outside.overlaps, basis, basis)
    return density / density.diagonal(dim1=1, dim2=2).sum(-1)[:, None, None]


def blocks_fit(tree: Tree, blocks: Sequence[Block]) -> bool:
    """Return whether the density matrix of some blocks has at most 1024 rows, which take a second."""
    return math.prod(num_components(states_of(tree, block.level)) for block in blocks) <= QUICK_DENSITY_MATRIX


def density_matrices(tree: Tree, blocks: Sequence[Block]) -> Float[Tensor, "classes dimension dimension"]:
    """Return the reduced density matrices rho_y of some blocks, with trace 1 (eq. 37; theory.md, eq. R4).

    Args:
        tree: block states.
        blocks: different blocks, in the order of the matrices' indices, the first one slowest.

    Raises:
        InputError: the matrices would have more than 4096 rows, or what leads to them more than 2^27 numbers.
    """
    sizes = [num_components(states_of(tree, block.level)) for block in blocks]
    dimension = math.prod(sizes)
    if dimension > LARGEST_DENSITY_MATRIX:
        raise InputError(
            f"the density matrix of {_described(blocks)} has {dimension:.6g} rows, the limit is "
            f"{LARGEST_DENSITY_MATRIX}: choose fewer or smaller blocks, or renyi_2"
        )
    ascending = sorted(range(len(blocks)), key=lambda place: blocks[place].sites.start)
    image = Block(len(tree.levels), 0)
    outside = Environment.of_everything(tree.states, tree.top)
    pairs = _descended(tree, image, outside, [blocks[place] for place in ascending])
    by_block = pairs.reshape([-1, *(sizes[place] for place in ascending for _ in range(2))])
    axes = [1 + 2 * ascending.index(place) for place in range(len(blocks))]
    density = by_block.permute([0, *axes, *(axis + 1 for axis in axes)]).reshape(-1, dimension, dimension)
    density = (density + density.mT) / 2
    return density / density.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]


def _described(blocks: Sequence[Block]) -> str:
    names = [f"pixel {block.position}" if block.level == 0 else str(block.sites) for block in blocks]
    more = [f"{len(names) - 4} more"] if len(names) > 4 else []
    return ", ".join(names[:4] + more)


def _descended(tree: Tree, block: Block, outside: Environment, open_blocks: Sequence[Block]) -> Tensor:
    """Return the density matrices of open blocks within a block, as pairs (environments, pairs of the 1st, ..)."""
    if open_blocks[0] == block:
        basis = components(states_of(tree, block.level))
        return torch.einsum("pnq,pa,qb->nab", outside.overlaps, basis, basis).flatten(1)
    level = tree.levels[block.level - 1]
    left, right = ([part for part in open_blocks if half.holds(part)] for half in block.halves)
    if not right:
        return _descended(tree, block.halves[0], outside.of_child(level, 0), left)
    if not left:
        return _descended(tree, block.halves[1], outside.of_child(level, -1), right)
    pairs = math.prod(num_components(states_of(tree, part.level)) for part in left) ** 2
    if pairs * len(outside.overlaps) ** 2 > LARGEST_OPERATOR:
        raise InputError(
            f"the density matrix of {_described(open_blocks)} leads through "
            f"{pairs * len(outside.overlaps) ** 2} numbers, the limit is {LARGEST_OPERATOR}: choose fewer or smaller "
            "blocks, or renyi_2"
        )
    operator = mapped(operator_of(tree, block.halves[0], left), level, 0)
    beside = beside_operator(outside, operator, level, -1)
    both = [_descended(tree, block.halves[1], environment, right) for environment in beside]
    return torch.stack(both).flatten(1)
