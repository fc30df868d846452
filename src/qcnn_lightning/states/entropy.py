"""Schmidt spectra across a cut of the tree, and the entropies of a spectrum (eq. 37-45).

Cut the state between a block and everything else: |Psi> = sum_i |phi_i> (x) |chi_i>. With B B^T the Gram matrix of the
phi and W that of the chi, the reduced density matrix of the block has the spectrum of B^T W B. Its eigenvalues are
differentiated, its eigenvectors and B never are, so gradients stay finite at equal Schmidt values and product states.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from qcnn_lightning.errors import InputError
from qcnn_lightning.states.gram import BlockStates, Environment, TreeLevel

RESOLUTION = 8 * torch.finfo(torch.float64).eps
"""A Schmidt probability this much smaller than the largest cannot be told from round-off."""


class _CutSpectrum(torch.autograd.Function):
    """Eigenvalues of B^T W B, and their gradients with respect to W and to the covariance C.

    B = diag(1, R) with C = R R^T. With eigenvalues lambda_k and eigenvectors u_k, d lambda_k / dW = (B u_k)(B u_k)^T
    and d lambda_k / d(B B^T) = (W B u_k)(W B u_k)^T / lambda_k. A lambda_k below the resolution is zero, and so are its
    gradients: Schmidt probabilities are squares of numbers that depend smoothly on the site tensors.
    """

    @staticmethod
    def forward(ctx: Any, overlaps: Tensor, covariance: Tensor, factor: Tensor) -> Tensor:
        reduced = _upper_triangles(overlaps, factor)
        if not any(ctx.needs_input_grad):
            eigenvalues = torch.linalg.eigvalsh(reduced, UPLO="U")
            return torch.where(eigenvalues > RESOLUTION * eigenvalues[:, -1:], eigenvalues, 0)
        eigenvalues, eigenvectors = torch.linalg.eigh(reduced, UPLO="U")
        eigenvalues = torch.where(eigenvalues > RESOLUTION * eigenvalues[:, -1:], eigenvalues, 0)
        ctx.save_for_backward(overlaps, eigenvalues, factor @ eigenvectors)
        return eigenvalues

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        overlaps, eigenvalues, inside = ctx.saved_tensors
        resolved = eigenvalues > 0
        gradient = torch.where(resolved, gradient, 0).unsqueeze(-2)
        outside = (overlaps.movedim(1, 0) @ inside)[:, 1:]
        weights = gradient / torch.where(resolved, eigenvalues, 1).unsqueeze(-2)
        return (
            ((inside * gradient) @ inside.mT).movedim(0, 1),
            torch.tensordot(outside * weights, outside, dims=([0, 2], [0, 2])),
            None,
        )


def _upper_triangles(
    overlaps: Float[Tensor, "states blocks states"], factor: Float[Tensor, "states states"]
) -> Float[Tensor, "blocks states states"]:
    """Return the upper triangles of B^T W B, B being lower triangular; what stands below them is meaningless."""
    reduced = torch.empty_like(overlaps)
    # By three panels, which spares half the multiplications; more of them would be too narrow to be fast.
    width = -(-len(factor) // 3)
    for start in range(0, len(factor), width):
        below, panel = slice(start, None), slice(start, start + width)
        product = overlaps[below, :, below] @ factor[below, panel]
        reduced[below, :, panel] = torch.tensordot(factor[below, below], product, dims=([0], [0]))
    return reduced.permute(1, 2, 0)


def cut_spectrum(block: BlockStates, outside: Environment) -> Float[Tensor, "blocks states"]:
    """Return the Schmidt probabilities of several blocks with the same states against the rest, descending.

    p_k = lambda_k / sum lambda, lambda the eigenvalues of B^T W B (eq. 45).

    Probabilities below `RESOLUTION` times the largest are returned as zero. If the state vanishes, its probabilities
    are not a number.

    Args:
        block: the states of every block.
        outside: the environments of the blocks.
    """
    weights = _CutSpectrum.apply(outside.overlaps, block.covariance, block.factor)
    # One component is superfluous: the Schmidt rank is at most the number of states.
    weights = weights[:, 1:].flip(-1)
    return weights / weights.sum(-1, keepdim=True)


def block_spectra_below(levels: Sequence[TreeLevel], outside: Environment, num_cuts: int) -> list[Float[Tensor, "_ _"]]:
    """Cut out the halves of some blocks, their quarters, and so on: O(d^3) for each.

    Memory stays bounded: where the environments of all blocks of a level would be many numbers, those of some blocks
    are followed to the lowest level before the next are. Only gradients need them all.

    Args:
        levels: of the halves, last, and of all that are below, first.
        outside: the environments of the blocks.
        num_cuts: at how many of the levels to cut, the lowest first.

    Returns:
        For each of the lowest levels the Schmidt probabilities, as `cut_spectrum` gives them, of those parts of every
        block whose environments differ, left to right.
    """
    if not levels:
        return []
    parts = outside.parts()
    if len(parts) > 1:
        by_part = [block_spectra_below(levels, part, num_cuts) for part in parts]
        return [torch.cat(spectra) for spectra in zip(*by_part, strict=True)]
    *lower, level = levels
    halves = outside.of_children(level)
    spectra = block_spectra_below(lower, halves, num_cuts)
    return [*spectra, cut_spectrum(level.below, halves)] if len(lower) < num_cuts else spectra


def von_neumann_entropy(probabilities: Float[Tensor, "*shape components"]) -> Float[Tensor, "*shape"]:
    """Return -sum_k p_k log p_k, nats (eq. 44)."""
    return -(probabilities * _log_where_positive(probabilities)).sum(-1)


def renyi_entropy(probabilities: Float[Tensor, "*shape components"], alpha: int | float) -> Float[Tensor, "*shape"]:
    """Return log(sum_k p_k^alpha) / (1 - alpha), nats; alpha = 1 and infinity are its limits.

    Args:
        probabilities: a Schmidt spectrum.
        alpha: order; 0 gives the logarithm of the Schmidt rank, 1 the von Neumann entropy, infinity -log max p.

    Raises:
        InputError: alpha is negative or not a number.
    """
    if not alpha >= 0:
        raise InputError(f"alpha={alpha}: a Rényi entropy has an order from 0 to infinity")
    if alpha == 1:
        return von_neumann_entropy(probabilities)
    if math.isinf(alpha):
        return -probabilities.amax(-1).log()
    logarithms = _log_where_positive(probabilities)
    if abs(alpha - 1) < 0.5:
        # sum p^alpha = 1 + sum p (p^(alpha - 1) - 1), which keeps its digits as alpha goes to 1.
        moment = torch.log1p((probabilities * torch.expm1((alpha - 1) * logarithms)).sum(-1))
    else:
        moment = torch.where(probabilities > 0, alpha * logarithms, -torch.inf).logsumexp(-1)
    return moment / (1 - alpha)


def _log_where_positive(probabilities: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return log p, and 0 with gradient 0 at p = 0, where every term of an entropy vanishes."""
    return torch.where(probabilities == 0, 1, probabilities).log()
