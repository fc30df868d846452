"""Gram recursions: all overlaps of block states, up and down the tree, without state vectors (theory.md).

Up the tree, the site tensor maps the states of a block, and pooling joins them with the sibling block: their Gram
matrix follows by a congruence and an elementwise product (eq. G1). Down the tree, so does the Gram matrix of the states
outside a block (eq. B1, in place of eq. 42, 43). The whole tree costs O(L d^3).

Two things keep the digits:

* A Gram matrix is held as mean mean^T + covariance with mean_I = <f_0 .. f_0|phi_I> (eq. M1): the mean and covariance
  of the features over images drawn uniformly from [0, 1]^N. Batch norm subtracts nearly constant features. That leaves
  the covariance with full relative precision; in the Gram matrix it would be a small difference of large numbers.
* Every state has its own power of two (eq. P1). Pooling squares magnitudes L times; then exponents grow, not numbers.
  Powers of two are exact and change no overlap, so autograd treats them as constants.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Inexact, Int
from torch import Tensor
from torch.nn import functional

NUMBERS_AT_A_TIME = 2**19
"""Overlaps of environments held at a time on the way down: 4 MB."""

NUMBERS_IN_CACHE = 2**17
"""Overlaps of environments computed at a time: 1 MB, which fit into a core's own cache."""


def times_power_of_two(x: Inexact[Tensor, "*shape"], exponent: Int[Tensor, "*#shape"]) -> Inexact[Tensor, "*shape"]:
    """Return x 2^exponent, exact unless the result leaves the range of the dtype."""
    # In two halves: 2^exponent may be out of range when the product is not.
    largest = 2000 if x.dtype in (torch.float64, torch.complex128) else 252
    exponent = exponent.clamp(-largest, largest)
    half = exponent.div(2, rounding_mode="floor")
    # As factors: the gradient of torch.ldexp overflows above 2^127 even in float64.
    ones = torch.ones_like(half, dtype=x.real.dtype)
    return x * torch.ldexp(ones, half) * torch.ldexp(ones, exponent - half)


def binary_exponent(x: Inexact[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Return e with |x| = m 2^e, 1/2 <= m < 1; 0 for x = 0."""
    x = x.detach()
    return torch.frexp(x.abs() if x.is_complex() else x).exponent.long()


def take_out_powers_of_two(
    matrix: Inexact[Tensor, "*matrices rows states"], exponent: Int[Tensor, "*#matrices states"]
) -> tuple[Inexact[Tensor, "*matrices rows states"], Int[Tensor, "*matrices rows"]]:
    """Absorb the states' powers of two into a matrix that acts on them, and take one out of every row.

    Returns:
        `scaled` and `row_exponent` with matrix_iI 2^{exponent_I} = 2^{row_exponent_i} scaled_iI and |scaled_iI| < 1.
    """
    exponent = exponent.unsqueeze(-2)
    magnitude = binary_exponent(matrix) + exponent
    negligible = torch.iinfo(torch.int64).min
    row_exponent = torch.where(matrix.detach() != 0, magnitude, negligible).amax(-1)
    row_exponent = torch.where(row_exponent == negligible, 0, row_exponent)
    return times_power_of_two(matrix, exponent - row_exponent.unsqueeze(-1)), row_exponent


def congruent(
    matrix: Float[Tensor, "rows columns"], overlaps: Float[Tensor, "rows blocks rows"]
) -> Float[Tensor, "columns blocks columns"]:
    """Return matrix^T W matrix for many matrices W, which are the middle axis."""
    # No powers of two to take out: Tr W G = <Psi|Psi> at every level.
    return torch.tensordot(matrix, overlaps @ matrix, dims=([0], [0]))


def beside_constant(matrix: Inexact[Tensor, "*blocks rows columns"]) -> Inexact[Tensor, "*blocks 1+rows 1+columns"]:
    """Return diag(1, matrix): a state before the others stays as it is."""
    constant = matrix.new_zeros(matrix.shape[-1] + 1)
    constant[0] = 1
    rows = functional.pad(matrix, (1, 0))
    return torch.cat((constant.expand(*rows.shape[:-2], 1, -1), rows), dim=-2)


@dataclass(frozen=True)
class BlockStates:
    """The states |phi_I> of a block of pixels (eq. 41), known by their overlaps (theory.md, eq. M1, P1).

    Leading axes are several blocks, each with states of its own.

    <phi_J|phi_I> = 2^{exponent_I + exponent_J} (mean_I conj(mean_J) + covariance_IJ); the norm of phi_I is near
    2^{exponent_I}. Only trees with matrices of their own (`node_tree.py`) may be complex.
    """

    mean: Inexact[Tensor, "*blocks states"]
    covariance: Inexact[Tensor, "*blocks states states"]
    exponent: Int[Tensor, "*blocks states"]

    @classmethod
    def of_one_pixel(cls, num_states: int, like: Tensor) -> "BlockStates":
        """Return the local basis |f_I>: G = 1, mean = (1, 0, .., 0) (eq. 19)."""
        identity = torch.eye(num_states, dtype=like.dtype, device=like.device)
        mean = identity[0]
        return cls(mean, identity - torch.outer(mean, mean), torch.zeros_like(mean, dtype=torch.int64))

    def of_block(self, block: int) -> "BlockStates":
        """Return the states of one block of the first axis."""
        return BlockStates(self.mean[block], self.covariance[block], self.exponent[block])

    def gram(self) -> Inexact[Tensor, "*blocks states states"]:
        """Return mean mean^† + covariance: the Gram matrix without powers of two."""
        return outer(self.mean) + self.covariance

    @cached_property
    @torch.no_grad()
    def factor(self) -> Inexact[Tensor, "*blocks bordered bordered"]:
        """B = diag(1, R), lower triangular, with covariance = R R^†."""
        deviation = self.covariance.diagonal(dim1=-2, dim2=-1).real.sqrt()
        deviation = torch.where(deviation > 0, deviation, 1).unsqueeze(-1)
        # Factor correlations: states of small variance then get the same relative precision.
        eigenvalues, eigenvectors = torch.linalg.eigh(self.covariance / (deviation * deviation.mT))
        root = deviation * eigenvectors * eigenvalues.clamp(min=0).sqrt().unsqueeze(-2)
        return beside_constant(torch.linalg.qr(root.mH).R.mH)

    def mapped(
        self, scaled: Inexact[Tensor, "*#blocks mapped states"], exponent: Int[Tensor, "*#blocks mapped"]
    ) -> "BlockStates":
        """Return |eta_i> = 2^{exponent_i} sum_I scaled_iI 2^{-exponent_I} |phi_I> (eq. 15).

        m -> ã m, C -> ã C ã^† (theory.md, eq. M2).
        """
        mean = (scaled @ self.mean.unsqueeze(-1)).squeeze(-1)
        covariance = scaled @ self.covariance @ scaled.mH
        return BlockStates(mean, covariance, exponent).rescaled()

    def rescaled(self) -> "BlockStates":
        """Return the same states with norms near 2^{exponent_I}."""
        squares = self.mean.abs().square() + self.covariance.diagonal(dim1=-2, dim2=-1).real
        # Half the exponent of the squared norm.
        shift = binary_exponent(squares).div(2, rounding_mode="floor")
        return BlockStates(
            times_power_of_two(self.mean, -shift),
            times_power_of_two(self.covariance, -(shift.unsqueeze(-1) + shift.unsqueeze(-2))),
            self.exponent + shift,
        )

    def pooled(self, other: "BlockStates") -> "BlockStates":
        """Return |phi_i> (x) |phi'_i>: product pooling with the sibling block (eq. 8).

        m -> m * m', C -> m m^T * C' + C * m' m'^T + C * C', elementwise (theory.md, eq. M2).
        """
        means, other_means = outer(self.mean), outer(other.mean)
        return BlockStates(
            self.mean * other.mean,
            means * other.covariance + self.covariance * other_means + self.covariance * other.covariance,
            self.exponent + other.exponent,
        )


def outer(x: Inexact[Tensor, "*blocks states"]) -> Inexact[Tensor, "*blocks states states"]:
    """Return x x^†."""
    return x.unsqueeze(-1) * x.conj().unsqueeze(-2)


@dataclass(frozen=True)
class TreeLevel:
    """One level of the tree, with powers of two taken out.

    Attributes:
        bordered: diag(1, ã_k) for left and right children, or once if they share ã. It maps `below` to `mapped`, both
            without their powers of two.
        below: |phi_I>, the states of a block of 2^l pixels.
        mapped: |eta_k,i> = sum_I ã_k,iI |phi_I> for left and right children, or once if they share ã.
    """

    bordered: tuple[Float[Tensor, "... bordered_mapped bordered_below"], ...]
    below: BlockStates
    mapped: tuple[BlockStates, ...]


@dataclass(frozen=True)
class Tree:
    """All block states from the pixels to the classes.

    Attributes:
        levels: level 0 .. L-1.
        states: |phi_I> of the whole image.
        top: ã^(L) with powers of two taken out, (classes, d_L + 1) (eq. 16).
        classes: |Psi_y> = sum_I ã^(L)_yI |phi_I>.
    """

    levels: tuple[TreeLevel, ...]
    states: BlockStates
    top: Float[Tensor, "... classes states"]
    classes: BlockStates


def build_tree(site_tensors: Sequence[Tensor], top: Float[Tensor, "*networks classes states"]) -> Tree:
    """Build the states of every block from those of its two halves, level by level (eq. 8, 15; theory.md, eq. G1).

    G^(0) = 1; H_k = ã_k G^(l) ã_k^T for left and right children; G^(l+1) = H_0 * H_1, elementwise. With full sharing
    H_0 = H_1.

    Args:
        site_tensors: (1 or 2, rows, states) of every level; of several networks (1 or 2, networks, rows, states).
        top: ã^(L).
    """
    states = BlockStates.of_one_pixel(site_tensors[0].shape[-1], like=top)
    levels = []
    for site_tensor in site_tensors:
        scaled, exponents = take_out_powers_of_two(site_tensor, states.exponent)
        mapped = tuple(states.mapped(matrix, exponent) for matrix, exponent in zip(scaled, exponents, strict=True))
        bordered = tuple(
            beside_constant(times_power_of_two(matrix, (exponent - child.exponent).unsqueeze(-1)))
            for matrix, exponent, child in zip(scaled, exponents, mapped, strict=True)
        )
        levels.append(TreeLevel(bordered, states, mapped))
        states = mapped[0].pooled(mapped[-1])
    scaled, exponent = take_out_powers_of_two(top, states.exponent)
    return Tree(tuple(levels), states, scaled, states.mapped(scaled, exponent))


@dataclass(frozen=True)
class Environment:
    """The states |chi_I> outside each of several blocks with the same states |phi_I>, known by their overlaps.

    |Psi> = sum_I |phi_I> (x) |chi_I> = |f_0 .. f_0> (x) |chi_*> + sum_I (|phi_I> - mean_I |f_0 .. f_0>) (x) |chi_I>
    with |chi_*> = sum_I mean_I |chi_I> (theory.md, eq. M3): the state averaged over the block's pixels. Its overlaps
    are held too: computed from the others they would be small differences. Overlaps are up to one factor per block.

    Attributes:
        overlaps: W of |chi_*>, |chi_0>, |chi_1>, ... The blocks are the middle axis, so one large product acts on the
            states of all blocks.
    """

    overlaps: Inexact[Tensor, "outside blocks outside"]

    @classmethod
    def of_everything(cls, states: BlockStates, coefficients: Float[Tensor, "classes states"]) -> "Environment":
        """Return the environment of the whole image in every class: W_IJ = ã_yI ã_yJ (eq. 40; theory.md, eq. B1)."""
        average = coefficients @ states.mean
        bordered = torch.cat((average.unsqueeze(1), coefficients), dim=1)
        return cls(bordered.mT.contiguous().unsqueeze(-1) * bordered)

    def parts(self, numbers: int | None = None) -> list["Environment"]:
        """Split the blocks into parts of at most so many (`NUMBERS_AT_A_TIME`) overlaps, at least one block each."""
        blocks_at_a_time = max(1, (NUMBERS_AT_A_TIME if numbers is None else numbers) // len(self.overlaps) ** 2)
        return [Environment(part) for part in self.overlaps.split(blocks_at_a_time, dim=1)]

    def of_child(self, level: TreeLevel, side: int) -> "Environment":
        """Return the environments of the left (0) or right (-1) halves of the blocks.

        W_k = ã_k^T (W * H_{1-k}) ã_k: the sibling's mapped states join the outside (theory.md, eq. B1, M4).
        """
        parts = self.parts(NUMBERS_IN_CACHE)
        return Environment(torch.cat([part._child_overlaps(level, side) for part in parts], dim=1))

    def _child_overlaps(self, level: TreeLevel, side: int) -> Float[Tensor, "outside blocks outside"]:
        sibling = level.mapped[-1 - side]
        covariance = functional.pad(sibling.covariance, (1, 0, 1, 0))
        child_mean = functional.pad(level.mapped[side].mean, (1, 0))
        sibling_mean = functional.pad(sibling.mean, (1, 0), value=1)
        fluctuations = self.overlaps * covariance.unsqueeze(1)
        # Rows and columns: beside open pixels (`states/open_blocks.py`) overlaps are not symmetric.
        rows = fluctuations @ child_mean
        columns = torch.tensordot(child_mean, fluctuations, dims=1)
        overlaps = torch.addcmul(fluctuations, self.overlaps, torch.outer(sibling_mean, sibling_mean).unsqueeze(1))
        overlaps[:, :, 0] += rows
        overlaps[0] += columns
        overlaps[0, :, 0] += child_mean @ rows
        return congruent(level.bordered[side], overlaps)

    def of_children(self, level: TreeLevel) -> "Environment":
        """Return the environments of both halves of every block, left first; of one half if they share ã."""
        children = [self.of_child(level, side).overlaps for side in range(len(level.mapped))]
        return Environment(torch.stack(children, dim=2).flatten(1, 2))
