"""Entropies of regions, and the mutual information of any two of them (theory.md, eq. R5)."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from qcnn_lightning.states.entropy import RESOLUTION, von_neumann_entropy
from qcnn_lightning.states.gram import Environment, Tree, TreeLevel
from qcnn_lightning.states.open_blocks import (
    beside_operator,
    components,
    density_matrices,
    mapped,
    opened,
    pooled,
    traced,
)
from qcnn_lightning.states.regions import Block, aligned_blocks

NEGLIGIBLE = 1e-14
"""Weight of the local states that two pixels may lose before their density matrix is diagonalised: 4e-13 nats."""


def spectra(density: Float[Tensor, "*batch rows rows"]) -> Float[Tensor, "*batch rows"]:
    """Return the eigenvalues of density matrices, descending, with sum 1; below the resolution they are zero."""
    eigenvalues = torch.linalg.eigvalsh(density).flip(-1)
    eigenvalues = torch.where(eigenvalues > RESOLUTION * eigenvalues[..., :1], eigenvalues, 0)
    return eigenvalues / eigenvalues.sum(-1, keepdim=True)


def region_spectrum(tree: Tree, sites: tuple[int, ...]) -> Float[Tensor, "classes rank"]:
    """Return the eigenvalues of a region's density matrices, descending (eq. 45).

    A pure state has the same spectrum for the region and for all other pixels: the part of fewer blocks is opened.

    Raises:
        InputError: neither part's density matrix fits.
    """
    inside = aligned_blocks(sites)
    outside = aligned_blocks(set(range(1 << len(tree.levels))) - set(sites))
    if not outside:
        return tree.top.new_ones(len(tree.top), 1)
    return spectra(density_matrices(tree, min(inside, outside, key=len)))


def mutual_information_map(tree: Tree, site: int) -> Float[Tensor, "classes sites"]:
    """Return S_p + S_q - S_pq of a pixel p with every other pixel q, nats; NaN at p itself.

    The operator of the open pixel p climbs the tree once. At every node it enters the environment of the sibling block,
    which goes down to the block's pixels q as in `block_spectra_below`.
    """
    own = [Environment.of_everything(tree.states, tree.top)]
    for number in reversed(range(len(tree.levels))):
        own.insert(0, own[0].of_child(tree.levels[number], _side(site, number)))
    basis = components(tree.levels[0].below)
    first, second = torch.triu_indices(basis.shape[1], basis.shape[1], device=basis.device)
    # The pairs (o, o') and (o', o) are transposes of each other: one of them is enough.
    operator = opened(tree.levels[0].below)[:, first * basis.shape[1] + second]
    result = tree.top.new_full((len(tree.top), 1 << len(tree.levels)), torch.nan)
    with _one_thread_each(len(tree.top)) as pool:
        for number, level in enumerate(tree.levels):
            side, sibling = _side(site, number), Block(number, (site >> number) ^ 1)
            climbed = mapped(operator, level, side)
            below = [
                pool.submit(_information_below, tree.levels[:number], environment, basis)
                for environment in beside_operator(own[number + 1], climbed, level, -1 - side)
            ]
            result[:, list(sibling.sites)] = torch.stack([future.result() for future in below])
            if number + 1 < len(tree.levels):
                other = level.mapped[-1 - side]
                operator = pooled(climbed, traced(other), level.mapped[side].mean, other.mean)
    return result


@contextmanager
def _one_thread_each(tasks: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of as many threads as PyTorch has, each of which computes alone: whole classes, not parts of products."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(min(threads, tasks)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)


def _side(site: int, level: int) -> int:
    """Return 0 where the block of a site is a left child, -1 where it is a right one."""
    return -(site >> level & 1)


@torch.no_grad()  # a thread has its own mode
def _information_below(
    levels: tuple[TreeLevel, ...], outside: Environment, basis: Float[Tensor, "bordered local"]
) -> Float[Tensor, " sites"]:
    """Return the mutual information of the open pixel outside a block with every pixel of the block.

    Args:
        levels: those below the block.
        outside: the block's environments, one for each pair of states of the open pixel, in upper triangular order.
        basis: `components` of one pixel.
    """
    if not levels:
        # The components of a pixel's states are unit vectors.
        place = basis.argmax(0)
        return _information_of_two(outside.overlaps[place][:, :, place].movedim(1, 0))
    level = levels[-1]
    children = [outside.of_child(level, -side) for side in range(len(level.mapped))]
    halves = [_information_below(levels[:-1], child, basis) for child in children]
    return torch.cat((halves[0], halves[-1]))


def _information_of_two(triangle: Float[Tensor, "pairs local local"]) -> Float[Tensor, " 1"]:
    """Return the mutual information of two pixels from the upper triangle of the first one's pairs."""
    num_local = triangle.shape[-1]
    density = triangle.new_empty(num_local, num_local, num_local, num_local)
    first, second = torch.triu_indices(num_local, num_local, device=triangle.device)
    density[second, first] = triangle.mT
    density[first, second] = triangle
    single = torch.stack((density.diagonal(dim1=2, dim2=3).sum(-1), density.diagonal().sum(-1)))
    # In the basis of the pixels' own Schmidt states most weights are small. Without those, no eigenvalue grows, and all
    # together lose no more than the weights (Cauchy's interlacing).
    _, (own, other) = torch.linalg.eigh(single)
    density = other.mT @ (density @ other)
    density = own.mT @ (own.mT @ density.flatten(1)).reshape(num_local, num_local, -1)
    both = density.reshape([num_local] * 4).transpose(1, 2).reshape(num_local**2, num_local**2)
    weight, place = both.diagonal().sort()
    kept = place[weight.cumsum(0) > NEGLIGIBLE * weight.sum()]
    entropies = von_neumann_entropy(spectra(single)).sum() - von_neumann_entropy(spectra(both[kept.unsqueeze(1), kept]))
    return entropies.reshape(1)
