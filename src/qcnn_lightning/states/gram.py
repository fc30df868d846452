"""Gram recursions: every overlap of block states, up and down the tree, without one state vector.

Going up, the states of a block of pixels are mapped by the site tensor and pooled with those of the block beside it:
their Gram matrix follows by a congruence and an elementwise product. Coming down, so does the Gram matrix of the states
of everything outside a block (the tree's form of eq. 42, 43). The cost is O(L d^3) for the whole tree.

Two things keep the digits:

* A Gram matrix is carried as mean mean^T + covariance, where mean_I = <f_0 .. f_0|phi_I>. Seen as functions of the
  image, these are the mean and covariance of the features over images drawn uniformly from [0, 1]^N. Batch norm takes
  differences of features that are nearly constant; their covariance survives that to full relative precision, whereas
  in the Gram matrix it is a small difference of large numbers.
* Every state carries its own power of two. Pooling L times squares magnitudes L times; the exponents grow instead of
  the numbers. Powers of two are exact, and which ones are chosen changes no overlap, so they are constants to autograd.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

NUMBERS_AT_A_TIME = 2**19
"""How many overlaps of environments are worked on at a time: they fit into the processor's cache (4 MB)."""


def times_power_of_two(x: Float[Tensor, "*shape"], exponent: Int[Tensor, "*#shape"]) -> Float[Tensor, "*shape"]:
    """Return x 2^exponent, exact unless the result leaves the range of float64."""
    # In two halves, for 2^exponent itself may be out of range where the product is not.
    exponent = exponent.clamp(-2000, 2000)
    half = exponent.div(2, rounding_mode="floor")
    return torch.ldexp(torch.ldexp(x, half), exponent - half)


def binary_exponent(x: Float[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Return e of |x| = m 2^e, 1/2 <= m < 1, and 0 for x = 0."""
    return torch.frexp(x.detach()).exponent.long()


def take_out_powers_of_two(
    matrix: Float[Tensor, "*matrices rows states"], exponent: Int[Tensor, " states"]
) -> tuple[Float[Tensor, "*matrices rows states"], Int[Tensor, "*matrices rows"]]:
    """Absorb the states' powers of two into a matrix acting on them, and take one out of every row.

    Returns:
        `balanced` and `row_exponent` with matrix_iI 2^{exponent_I} = 2^{row_exponent_i} balanced_iI and no entry of
        `balanced` above 1.
    """
    magnitude = binary_exponent(matrix) + exponent
    negligible = torch.iinfo(torch.int64).min
    row_exponent = torch.where(matrix.detach() != 0, magnitude, negligible).amax(-1)
    row_exponent = torch.where(row_exponent == negligible, 0, row_exponent)
    return times_power_of_two(matrix, exponent - row_exponent.unsqueeze(-1)), row_exponent


def beside_constant(matrix: Float[Tensor, "rows columns"]) -> Float[Tensor, "1+rows 1+columns"]:
    """Return diag(1, matrix), which leaves a state in front of the others as it is."""
    return torch.block_diag(matrix.new_ones(1, 1), matrix)


@dataclass(frozen=True)
class BlockStates:
    """The states |phi_I> of one block of pixels, known by their overlaps only.

    <phi_I|phi_J> = 2^{exponent_I + exponent_J} (mean_I mean_J + covariance_IJ), with phi_I's norm near 2^{exponent_I}.
    """

    mean: Float[Tensor, " states"]
    covariance: Float[Tensor, "states states"]
    exponent: Int[Tensor, " states"]

    @classmethod
    def of_one_pixel(cls, num_states: int, like: Tensor) -> "BlockStates":
        """Return the local basis itself: orthonormal, f_0 the constant function (eq. 19)."""
        identity = torch.eye(num_states, dtype=like.dtype, device=like.device)
        mean = identity[0]
        return cls(mean, identity - torch.outer(mean, mean), torch.zeros_like(mean, dtype=torch.int64))

    def gram(self) -> Float[Tensor, "states states"]:
        """Return the Gram matrix of the states without their powers of two."""
        return torch.outer(self.mean, self.mean) + self.covariance

    @cached_property
    def gram_beside_constant(self) -> Float[Tensor, "bordered bordered"]:
        """The Gram matrix of |f_0 .. f_0> and the states."""
        mean = functional.pad(self.mean, (1, 0), value=1)
        return torch.outer(mean, mean) + functional.pad(self.covariance, (1, 0, 1, 0))

    @cached_property
    @torch.no_grad()
    def factor(self) -> Float[Tensor, "bordered bordered"]:
        """B = diag(1, R), lower triangular, with covariance = R R^T."""
        deviation = self.covariance.diagonal().sqrt()
        deviation = torch.where(deviation > 0, deviation, 1)
        # Of the correlations, so that states that fluctuate little are factored as precisely as the others.
        eigenvalues, eigenvectors = torch.linalg.eigh(self.covariance / torch.outer(deviation, deviation))
        root = deviation.unsqueeze(-1) * eigenvectors * eigenvalues.clamp(min=0).sqrt()
        return beside_constant(torch.linalg.qr(root.mT).R.mT)

    def mapped(self, balanced: Float[Tensor, "mapped states"], exponent: Int[Tensor, " mapped"]) -> "BlockStates":
        """Return the combinations 2^{exponent_i} sum_I balanced_iI 2^{-exponent_I} |phi_I>.

        mean -> ã mean, covariance -> ã covariance ã^T.
        """
        mean = balanced @ self.mean
        covariance = balanced @ self.covariance @ balanced.mT
        # Half the exponent of the squared norm.
        shift = binary_exponent(mean.square() + covariance.diagonal()).div(2, rounding_mode="floor")
        return BlockStates(
            times_power_of_two(mean, -shift),
            times_power_of_two(covariance, -(shift.unsqueeze(-1) + shift)),
            exponent + shift,
        )

    def pooled(self, other: "BlockStates") -> "BlockStates":
        """Return |phi_i> (x) |phi'_i>, same-channel pooling with the block beside this one (eq. 8).

        mean = m * m', covariance = m m^T * C' + C * m' m'^T + C * C', elementwise.
        """
        means = torch.outer(self.mean, self.mean)
        other_means = torch.outer(other.mean, other.mean)
        return BlockStates(
            self.mean * other.mean,
            means * other.covariance + self.covariance * other_means + self.covariance * other.covariance,
            self.exponent + other.exponent,
        )


@dataclass(frozen=True)
class TreeLevel:
    """One level of the tree, with powers of two taken out.

    Attributes:
        bordered: diag(1, matrix) for each of the s = 1 or 2 matrices that map `below`, without its powers of two, to
            `mapped`, without theirs.
        below: states of a block of 2^l pixels.
        mapped: what the convolution makes of them, for the left and the right child, or once if the children share it.
    """

    bordered: tuple[Float[Tensor, "bordered_mapped bordered_below"], ...]
    below: BlockStates
    mapped: tuple[BlockStates, ...]


@dataclass(frozen=True)
class Tree:
    """All block states from the pixels to the classes.

    Attributes:
        levels: level 0 .. L-1.
        states: states of the whole image, out of which the classes' are made.
        top: (classes, d_L + 1), the classes' coefficients over the states of the whole image, powers of two taken out.
        classes: the class states |Psi_y> themselves (eq. 40).
    """

    levels: tuple[TreeLevel, ...]
    states: BlockStates
    top: Float[Tensor, "classes states"]
    classes: BlockStates


def build_tree(site_tensors: Sequence[Float[Tensor, "_ _ _"]], top: Float[Tensor, "classes states"]) -> Tree:
    """Build the states of every block from those of its two halves, level by level.

    G^(0) = 1; H_k = ã_k G^(l) ã_k^T for the left and the right child; G^(l+1) = H_0 * H_1, elementwise (eq. 8, 15).
    With full sharing H_0 = H_1.
    """
    states = BlockStates.of_one_pixel(site_tensors[0].shape[-1], like=top)
    levels = []
    for site_tensor in site_tensors:
        balanced, exponents = take_out_powers_of_two(site_tensor, states.exponent)
        mapped = tuple(states.mapped(matrix, exponent) for matrix, exponent in zip(balanced, exponents, strict=True))
        bordered = tuple(
            beside_constant(times_power_of_two(matrix, (exponent - child.exponent).unsqueeze(-1)))
            for matrix, exponent, child in zip(balanced, exponents, mapped, strict=True)
        )
        levels.append(TreeLevel(bordered, states, mapped))
        states = mapped[0].pooled(mapped[-1])
    balanced, exponent = take_out_powers_of_two(top, states.exponent)
    return Tree(tuple(levels), states, balanced, states.mapped(balanced, exponent))


@dataclass(frozen=True)
class Environment:
    """The states of everything outside each of several blocks with the same states |phi_I>, known by their overlaps.

    |Psi> = sum_I |phi_I> (x) |chi_I> = |f_0 .. f_0> (x) |chi_*> + sum_I |phi_I - mean_I f_0 .. f_0> (x) |chi_I>, where
    |chi_*> = sum_I mean_I |chi_I>, the state if the block's own pixels are averaged over. Its overlaps are carried too:
    like the covariances, they are small differences of the others. All overlaps are up to one factor per block.

    Attributes:
        overlaps: of |chi_*>, |chi_0>, |chi_1>, .. with each other. The blocks stand between the states, so that a
            matrix acts on the states of all blocks in one large product.
    """

    overlaps: Float[Tensor, "outside blocks outside"]

    @classmethod
    def of_everything(cls, states: BlockStates, coefficients: Float[Tensor, "classes states"]) -> "Environment":
        """Return the environment of the whole image in every class, coefficients alone: W_IJ = ã_yI ã_yJ (eq. 40)."""
        average = coefficients @ states.mean
        bordered = torch.cat((average.unsqueeze(1), coefficients), dim=1)
        return cls(bordered.mT.contiguous().unsqueeze(-1) * bordered)

    def parts(self) -> list["Environment"]:
        """Return the environments of as many blocks at a time as make `NUMBERS_AT_A_TIME`, of one at least."""
        blocks_at_a_time = max(1, NUMBERS_AT_A_TIME // len(self.overlaps) ** 2)
        return [Environment(part) for part in self.overlaps.split(blocks_at_a_time, dim=1)]

    def of_child(self, level: TreeLevel, side: int) -> "Environment":
        """Return the environments of the left (0) or right (-1) halves of the blocks: W_k = ã_k^T (W * H_{1-k}) ã_k.

        What the convolution at `level` makes of the other half joins what is outside; the half itself is described by
        its states below the convolution.
        """
        child, sibling = level.mapped[side], level.mapped[-1 - side]
        fluctuations = self.overlaps[1:, :, 1:] * sibling.covariance.unsqueeze(1)
        cross = fluctuations @ child.mean
        overlaps = self.overlaps * sibling.gram_beside_constant.unsqueeze(1)
        overlaps[0, :, 0] += child.mean @ cross
        overlaps[0, :, 1:] += cross.mT
        overlaps[1:, :, 0] += cross
        matrix = level.bordered[side]
        # No powers of two to take out: sum_IJ <chi_I|chi_J> <phi_I|phi_J> is the state's squared norm at every level.
        return Environment(torch.tensordot(matrix, overlaps @ matrix, dims=([0], [0])))

    def of_children(self, level: TreeLevel) -> "Environment":
        """Return the environments of both halves of every block, left before right; of one, if they share a matrix."""
        children = [self.of_child(level, side).overlaps for side in range(len(level.mapped))]
        return Environment(torch.stack(children, dim=2).flatten(1, 2))
