"""Schmidt spectra across a cut of the tree, and the entropies of a spectrum (eq. 37-45).

Cut the state between a block and everything else: |Psi> = sum_I |phi_I> (x) |chi_I>. Let B B^T be the Gram matrix of
the phi_I and W the Gram matrix of the chi_I. Then the block's reduced density matrix has the spectrum of B^T W B
(theory.md, eq. B3). Only eigenvalues are differentiated, never eigenvectors or B, so gradients stay finite at equal
Schmidt values and at product states.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Inexact
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from qcnn_lightning.errors import InputError
from qcnn_lightning.states.gram import BlockStates, Environment, TreeLevel, build_tree

RESOLUTION = 8 * torch.finfo(torch.float64).eps
"""Schmidt probabilities below this part of the largest are round-off."""


class _CutSpectrum(torch.autograd.Function):
    """Eigenvalues lambda_k of B^† W B, and their gradients with respect to W and the covariance C (theory.md, eq. D1).

    B = diag(1, R), C = R R^†. With the eigenvectors u_k, d lambda_k / dW = (B u_k)(B u_k)^† and
    d lambda_k / d(B B^†) = (W B u_k)(W B u_k)^† / lambda_k. A lambda_k below the resolution is zero with zero gradient:
    it is the square of a number that depends smoothly on the site tensors.
    """

    @staticmethod
    def forward(ctx: Any, overlaps: Tensor, covariance: Tensor, factor: Tensor) -> Tensor:
        reduced = _upper_triangles(overlaps, factor)
        if not any(ctx.needs_input_grad):
            return _resolved_eigenvalues(reduced)
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
            ((inside * gradient) @ inside.mH).movedim(0, 1),
            torch.tensordot(outside * weights, outside.conj(), dims=([0, 2], [0, 2])),
            None,
        )


def _resolved_eigenvalues(upper_triangles: Inexact[Tensor, "*blocks states states"]) -> Float[Tensor, "*blocks states"]:
    eigenvalues = torch.linalg.eigvalsh(upper_triangles, UPLO="U")
    return torch.where(eigenvalues > RESOLUTION * eigenvalues[..., -1:], eigenvalues, 0)


def _upper_triangles(
    overlaps: Inexact[Tensor, "states blocks states"], factor: Inexact[Tensor, "states states"]
) -> Inexact[Tensor, "blocks states states"]:
    """Return the upper triangles of B^† W B for lower triangular B; entries below them are meaningless."""
    reduced = torch.empty_like(overlaps)
    # Three panels save half the multiplications; more panels would be too narrow to be fast.
    width = -(-len(factor) // 3)
    for start in range(0, len(factor), width):
        below, panel = slice(start, None), slice(start, start + width)
        product = overlaps[below, :, below] @ factor[below, panel]
        reduced[below, :, panel] = torch.tensordot(factor[below, below].conj(), product, dims=([0], [0]))
    # Rows and columns are exchanged.
    return reduced.permute(1, 2, 0).conj()


def cut_spectrum(block: BlockStates, outside: Environment) -> Float[Tensor, "blocks states"]:
    """Return the Schmidt probabilities of several blocks against the rest, descending (eq. 45).

    p_k = lambda_k / sum_k' lambda_k'. lambda_k are the eigenvalues of B^† W B (theory.md, eq. B3). p_k below
    `RESOLUTION` times the largest is zero. A state that vanishes has NaN.

    Args:
        block: the states of every block.
        outside: the environments of the blocks; if states are complex, the conjugate of W.
    """
    return _probabilities(_CutSpectrum.apply(outside.overlaps, block.covariance, block.factor))


def _probabilities(eigenvalues: Float[Tensor, "*blocks states"]) -> Float[Tensor, "*blocks rank"]:
    # The smallest is superfluous: the Schmidt rank is at most the number of states.
    weights = eigenvalues[..., 1:].flip(-1)
    return weights / weights.sum(-1, keepdim=True)


@torch.no_grad()
def spectra_of_halves(
    site_tensors: Sequence[Float[Tensor, "_ networks _ _"]], top: Float[Tensor, "networks classes states"]
) -> Float[Tensor, "networks classes rank"]:
    """Return the Schmidt probabilities between the halves of the image, of several networks of one shape.

    The recursion up the tree, factors and eigenvalues are batched.

    Args:
        site_tensors: (1 or 2, networks, d_{l+1} + 1, d_l + 1), ã^(0) .. ã^(L-1).
        top: ã^(L).
    """
    tree = build_tree(site_tensors, top)
    level = tree.levels[-1]
    factors = level.below.factor
    reduced = []
    for network, (coefficients, factor) in enumerate(zip(tree.top, factors, strict=True)):
        bordered = tuple(matrix[network] for matrix in level.bordered)
        mapped = tuple(states.of_block(network) for states in level.mapped)
        own = TreeLevel(bordered, level.below.of_block(network), mapped)
        half = Environment.of_everything(tree.states.of_block(network), coefficients).of_child(own, side=0)
        reduced.append(_upper_triangles(half.overlaps, factor))
    return _probabilities(_resolved_eigenvalues(torch.stack(reduced)))


def spectrum_of_grams(
    block: Inexact[Tensor, "states states"], outside: Inexact[Tensor, "cuts states states"]
) -> Float[Tensor, "cuts states"]:
    """Return `cut_spectrum` of one block whose Gram matrices have no mean split off; differentiable.

    Args:
        block: of the block's states.
        outside: of the states outside it, for every cut.
    """
    # The average over the block's pixels, which borders the overlaps, is zero then.
    states = BlockStates(torch.zeros_like(block[0]), block, torch.zeros(len(block), dtype=torch.int64))
    return cut_spectrum(states, Environment(functional.pad(outside, (1, 0, 1, 0)).movedim(0, 1)))


def block_spectra_below(levels: Sequence[TreeLevel], outside: Environment, num_cuts: int) -> list[Float[Tensor, "_ _"]]:
    """Return the Schmidt probabilities (eq. 45) of the halves of some blocks, of their quarters, and so on.

    A cut costs O(d^3). Memory is bounded: `NUMBERS_AT_A_TIME` environments at a time go all the way down. (Gradients
    need all of them.)

    Args:
        levels: the levels of the halves and below, lowest first.
        outside: the environments of the blocks.
        num_cuts: how many of the levels to cut at, from the lowest up.

    Returns:
        `cut_spectrum` for each of these levels, lowest first: the parts with different environments, left to right.
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


def spectra_of(
    gram: Inexact[Tensor, "*#blocks states states"], outside: Inexact[Tensor, "*blocks states states"]
) -> Float[Tensor, "*blocks states"]:
    """Return the Schmidt probabilities of blocks against the rest, ascending, without gradients (eq. 45).

    Args:
        gram: overlaps of every block's states, B B^†.
        outside: W, those of the states outside; the spectrum is that of B^T W conj(B) (theory.md, eq. C3).
    """
    eigenvalues, eigenvectors = torch.linalg.eigh(gram)
    root = eigenvectors * eigenvalues.clamp(min=0).sqrt().unsqueeze(-2)
    weights = torch.linalg.eigvalsh(root.mT @ outside @ root.conj())
    weights = torch.where(weights > RESOLUTION * weights[..., -1:], weights, 0)
    return weights / weights.sum(-1, keepdim=True)


def von_neumann_entropy(probabilities: Float[Tensor, "*shape components"]) -> Float[Tensor, "*shape"]:
    """Return S = -sum_k p_k log p_k, nats (eq. 44)."""
    return _without_minus_zero(-(probabilities * _log_where_positive(probabilities)).sum(-1))


def renyi_entropy(probabilities: Float[Tensor, "*shape components"], order: int | float) -> Float[Tensor, "*shape"]:
    """Return S_n = log(sum_k p_k^n) / (1 - n), nats, of order n.

    Args:
        probabilities: Schmidt probabilities p_k.
        order: n, from 0 to infinity. 0 gives the logarithm of the Schmidt rank; the limits 1 and infinity give the von
            Neumann entropy and -log max_k p_k.

    Raises:
        InputError: the order is negative or NaN.
    """
    if not order >= 0:
        raise InputError(f"alpha={order}: the order of a Rényi entropy must be from 0 to infinity")
    if order == 1:
        return von_neumann_entropy(probabilities)
    if math.isinf(order):
        return _without_minus_zero(-probabilities.amax(-1).log())
    logarithms = _log_where_positive(probabilities)
    if abs(order - 1) < 0.5:
        # sum p^n = 1 + sum p (p^(n - 1) - 1) keeps its digits as n goes to 1.
        moment = torch.log1p((probabilities * torch.expm1((order - 1) * logarithms)).sum(-1))
    else:
        moment = torch.where(probabilities > 0, order * logarithms, -torch.inf).logsumexp(-1)
    return _without_minus_zero(moment / (1 - order))


def _without_minus_zero(entropy: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return an entropy that round-off may have left just below zero, or at -0.0."""
    return entropy.clamp(min=0) + 0.0


def _log_where_positive(probabilities: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return log p; 0 with zero gradient at p = 0, where the terms of an entropy vanish."""
    return torch.where(probabilities == 0, 1, probabilities).log()
