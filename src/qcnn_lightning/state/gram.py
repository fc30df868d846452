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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


def times_power_of_two(x: Float[Tensor, "*shape"], exponent: Int[Tensor, "*#shape"]) -> Float[Tensor, "*shape"]:
    """Return x 2^exponent, exact unless the result leaves the range of float64."""
    # In two halves, for 2^exponent itself may be out of range where the product is not.
    exponent = exponent.clamp(-2000, 2000)
    half = exponent.div(2, rounding_mode="floor")
    return torch.ldexp(torch.ldexp(x, half), exponent - half)


def binary_exponent(x: Float[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Return e of |x| = m 2^e, 1/2 <= m < 1, and 0 for x = 0."""
    return torch.frexp(x.detach()).exponent.long()


def balance(
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

    @torch.no_grad()
    def factor(self) -> Float[Tensor, "states components"]:
        """Return R with covariance = R R^T."""
        deviation = self.covariance.diagonal().sqrt()
        deviation = torch.where(deviation > 0, deviation, 1)
        # Of the correlations, so that states that fluctuate little are factored as precisely as the others.
        eigenvalues, eigenvectors = torch.linalg.eigh(self.covariance / torch.outer(deviation, deviation))
        return deviation.unsqueeze(-1) * eigenvectors * eigenvalues.clamp(min=0).sqrt()

    def mapped(self, balanced: Float[Tensor, "mapped states"], exponent: Int[Tensor, " mapped"]) -> "BlockStates":
        """Return the combinations 2^{exponent_i} sum_I balanced_iI 2^{-exponent_I} |phi_I>."""
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
        """Return |phi_i> (x) |phi'_i>, same-channel pooling with the block beside this one (eq. 8)."""
        means = torch.outer(self.mean, self.mean)
        other_means = torch.outer(other.mean, other.mean)
        return BlockStates(
            self.mean * other.mean,
            means * other.covariance + self.covariance * other_means + self.covariance * other.covariance,
            self.exponent + other.exponent,
        )


@dataclass(frozen=True)
class Level:
    """One level of the tree, with powers of two taken out.

    Attributes:
        site_tensor: (s, d_{l+1} + 1, d_l + 1), mapping `below`, without its powers of two, to `mapped`, without theirs.
        below: states of a block of 2^l pixels.
        mapped: what the convolution makes of them, for the left and the right child, or once if the children share it.
    """

    site_tensor: Float[Tensor, "children mapped states"]
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

    levels: tuple[Level, ...]
    states: BlockStates
    top: Float[Tensor, "classes states"]
    classes: BlockStates


def climb(site_tensors: Sequence[Float[Tensor, "_ _ _"]], top: Float[Tensor, "classes states"]) -> Tree:
    """Build the states of every block from those of its two halves: G -> H = ã G ã^T -> H * H, level by level."""
    states = BlockStates.of_one_pixel(site_tensors[0].shape[-1], like=top)
    levels = []
    for site_tensor in site_tensors:
        balanced, exponents = balance(site_tensor, states.exponent)
        mapped = tuple(states.mapped(matrix, exponent) for matrix, exponent in zip(balanced, exponents, strict=True))
        rescaled = [
            times_power_of_two(matrix, (exponent - child.exponent).unsqueeze(-1))
            for matrix, exponent, child in zip(balanced, exponents, mapped, strict=True)
        ]
        levels.append(Level(torch.stack(rescaled), states, mapped))
        states = mapped[0].pooled(mapped[-1])
    balanced, exponent = balance(top, states.exponent)
    return Tree(tuple(levels), states, balanced, states.mapped(balanced, exponent))


@dataclass(frozen=True)
class Environment:
    """The states of everything outside each of several blocks with the same states |phi_I>, known by their overlaps.

    |Psi> = sum_I |phi_I> (x) |chi_I> = |f_0 .. f_0> (x) |chi_*> + sum_I |phi_I - mean_I f_0 .. f_0> (x) |chi_I>, where
    |chi_*> = sum_I mean_I |chi_I>, the state if the block's own pixels are averaged over. Its overlaps are carried too:
    like the covariances, they are small differences of the others. All overlaps are up to one factor per block.

    Attributes:
        average: <chi_*|chi_*>.
        cross: <chi_*|chi_I>.
        gram: <chi_I|chi_J>.
    """

    average: Float[Tensor, " blocks"]
    cross: Float[Tensor, "blocks states"]
    gram: Float[Tensor, "blocks states states"]

    @classmethod
    def of_everything(cls, states: BlockStates, coefficients: Float[Tensor, " states"]) -> "Environment":
        """Return the environment of the whole image: nothing is outside, only the class's coefficients (eq. 40)."""
        average = (coefficients @ states.mean).unsqueeze(0)
        cross = average * coefficients
        return cls(average.square(), cross.unsqueeze(0), torch.outer(coefficients, coefficients).unsqueeze(0))

    def of_child(self, child: BlockStates, sibling: BlockStates) -> "Environment":
        """Return the environment of one of two pooled blocks: the other one joins what is outside."""
        fluctuations = self.gram * sibling.covariance
        cross = fluctuations @ child.mean
        return Environment(
            self.average + cross @ child.mean,
            self.cross * sibling.mean + cross,
            torch.addcmul(fluctuations, self.gram, torch.outer(sibling.mean, sibling.mean)),
        )

    def below(self, matrix: Float[Tensor, "states below"]) -> "Environment":
        """Return the environment of the same blocks, in terms of the states that `matrix` maps to these."""
        return Environment(self.average, self.cross @ matrix, (self.gram @ matrix).mT @ matrix)


def descend(tree: Tree, coefficients: Float[Tensor, " states"]) -> Iterator[Environment]:
    """Build the environment of every block from that of the block twice its size, from the top level down.

    Args:
        tree: the states of all blocks.
        coefficients: one class's row of `tree.top`.

    Yields:
        For each level, the last first: the environments of the blocks of 2^l pixels in terms of their states, for those
        blocks whose environments differ, left to right. With s_l tensors at level l, these are the product of s over
        this level and those above.
    """
    environment = Environment.of_everything(tree.states, coefficients)
    for level in reversed(tree.levels):
        children = [
            environment.of_child(child, sibling).below(matrix)
            for child, sibling, matrix in zip(level.mapped, reversed(level.mapped), level.site_tensor, strict=True)
        ]
        # No powers of two to take out: sum_IJ <chi_I|chi_J> <phi_I|phi_J> is the state's squared norm at every level.
        environment = Environment(
            torch.stack([child.average for child in children], dim=1).flatten(0, 1),
            torch.stack([child.cross for child in children], dim=1).flatten(0, 1),
            torch.stack([child.gram for child in children], dim=1).flatten(0, 1),
        )
        yield environment
