"""Perfect samples of a state, and what is estimated from them (Ferris and Vidal, arXiv 1201.3974; theory.md, eq. F1).

Pixels are drawn one after the other, in tree order. What is not drawn yet enters by its Gram matrix, what is drawn by
one product state, so every draw has its exact conditional probability and samples are independent.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from qcnn_lightning.errors import InputError
from qcnn_lightning.states.gram import Environment, Tree, congruent, times_power_of_two
from qcnn_lightning.states.open_blocks import components

SAMPLES_AT_A_TIME = 256


def perfect_samples(
    tree: Tree,
    label: int,
    outcomes: Float[Tensor, "outcomes local"],
    num_samples: int,
    generator: torch.Generator | None = None,
) -> Int64[Tensor, "samples sites"]:
    """Draw (k_1, .., k_N) with probability <v_k1 .. v_kN|Psi_y>^2 / <Psi_y|Psi_y>.

    Args:
        tree: block states.
        label: y.
        outcomes: v_k, the outcomes of measuring one pixel, in the local basis, with sum_k v_k v_k^T = 1: the unit
            vectors measure the local basis; f(x_k) sqrt(w_k), with points x_k and weights w_k of a quadrature that is
            exact for products of two local functions, measures the grey level.
        num_samples: how many.
        generator: of random numbers; None for PyTorch's own.

    Returns:
        k of every pixel.

    Raises:
        InputError: sum_k v_k v_k^T differs from 1 by more than 1e-6, so probabilities would not add up; or no samples.
    """
    if num_samples < 1:
        raise InputError(f"num_samples={num_samples}: the number of samples must be at least 1")
    error = outcomes.mT @ outcomes - torch.eye(outcomes.shape[1], dtype=outcomes.dtype, device=outcomes.device)
    if error.abs().max() > 1e-6:
        raise InputError(
            f"outcomes: sum_k v_k v_k^T differs from 1 by {error.abs().max():.2g}; expected a resolution of 1"
        )
    sampler = _Sampler(tree, outcomes, generator)
    parts = []
    for start in range(0, num_samples, SAMPLES_AT_A_TIME):
        number = min(SAMPLES_AT_A_TIME, num_samples - start)
        image = Environment.of_everything(tree.states, tree.top[label : label + 1])
        drawn: list[Tensor] = []
        sampler.draw(len(tree.levels), Environment(image.overlaps.expand(-1, number, -1)), drawn)
        parts.append(torch.stack(drawn, dim=1))
    return torch.cat(parts)


class _Sampler:
    """Draws the pixels of blocks, for all samples at once."""

    def __init__(self, tree: Tree, outcomes: Float[Tensor, "outcomes local"], generator: torch.Generator | None):
        self.tree, self.outcomes, self.generator = tree, outcomes, generator
        # <v_k|P> for the bordered states P of one pixel.
        self.bordered = outcomes @ components(tree.levels[0].below).mT

    def draw(self, height: int, outside: Environment, drawn: list[Tensor]) -> Float[Tensor, "samples bordered"]:
        """Draw the pixels of a block of 2^height sites, given what is drawn outside of it.

        Args:
            height: level of the block.
            outside: its environment in every sample.
            drawn: gets the outcomes of the pixels, left to right.

        Returns:
            <v ..|P> of the drawn product state and the block's bordered states P, up to one factor per sample.
        """
        if height == 0:
            weight = torch.einsum("kp,psq,kq->sk", self.bordered, outside.overlaps, self.bordered).clamp(min=0)
            outcome = torch.multinomial(weight, 1, generator=self.generator).squeeze(1)
            drawn.append(outcome)
            return self.bordered[outcome]
        level = self.tree.levels[height - 1]
        mean, other_mean = level.mapped[0].mean, level.mapped[-1].mean
        left = self.draw(height - 1, _rescaled(outside.of_child(level, 0)), drawn) @ level.bordered[0].mT
        # The left half is a product state l now:
        # chi_* -> l_* chi_* + sum_I m'_I l_I chi_I, chi_I -> (m_I l_* + l_I) chi_I.
        constant, moving = left[:, :1], left[:, 1:]
        average = torch.cat((constant, other_mean * moving), dim=1)
        factor = torch.cat((constant, mean * constant + moving), dim=1)
        row = torch.einsum("sp,psq->sq", average, outside.overlaps)
        overlaps = outside.overlaps * factor.mT.unsqueeze(-1) * factor
        overlaps[0] = row * factor
        overlaps[:, :, 0] = overlaps[0].mT
        overlaps[0, :, 0] = (row * average).sum(1)
        given = _rescaled(Environment(congruent(level.bordered[-1], overlaps)))
        right = self.draw(height - 1, given, drawn) @ level.bordered[-1].mT
        other_constant, other_moving = right[:, :1], right[:, 1:]
        pooled = moving * (other_mean * other_constant + other_moving) + mean * constant * other_moving
        pooled = torch.cat((constant * other_constant, pooled), dim=1)
        return pooled / pooled.abs().amax(1, keepdim=True)


def _rescaled(outside: Environment) -> Environment:
    """Return environments whose largest overlap is 1 in every sample."""
    largest = outside.overlaps.diagonal(dim1=0, dim2=2).abs().amax(1)
    return Environment(outside.overlaps / largest.unsqueeze(-1))


def swap_estimate(
    samples: Int64[Tensor, "samples sites"],
    amplitude: Callable[[Int64[Tensor, "pairs sites"]], tuple[Tensor, Tensor]],
    sites: tuple[int, ...],
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Estimate tr rho_A^2 = E[Psi(x_A x'_B) Psi(x'_A x_B) / (Psi(x) Psi(x'))] (theory.md, eq. V2).

    The mean square of the ratio is at most 1, whatever the state, so the standard error is at most that of a coin.

    Args:
        samples: x and x' in turn, independent.
        amplitude: maps outcomes to a and e, with Psi = a 2^e.
        sites: the region A.

    Returns:
        The mean over the pairs, and its standard error.
    """
    first, second = samples[0::2], samples[1::2]
    exchanged, remaining = first.clone(), second.clone()
    exchanged[:, sites], remaining[:, sites] = second[:, sites], first[:, sites]
    (a, e), (b, f) = amplitude(exchanged), amplitude(remaining)
    (c, g), (d, h) = amplitude(first), amplitude(second)
    ratio = times_power_of_two(a * b / (c * d), e + f - g - h)
    return ratio.mean(), ratio.std() / math.sqrt(len(ratio))
