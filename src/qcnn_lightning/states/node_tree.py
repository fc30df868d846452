"""A tree whose nodes may have matrices of their own: norms and amplitudes in any dtype, differentiable.

The Gram recursion is that of `gram.py` (theory.md, eq. M2), with one mean and covariance per node. It also gives every
state its norm, so the maps of a `NodeTree` take states of norm about 1 to states of norm about 1. Sites without a pixel
are constant: they have the state f_0 alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Inexact, Int
from torch import Tensor

from qcnn_lightning.states.gram import BlockStates, binary_exponent, take_out_powers_of_two, times_power_of_two


@dataclass(frozen=True)
class NodeLevel:
    """One level of the tree; the first axis is the nodes, left to right.

    Attributes:
        maps: ã_n between states without their powers of two.
        mapped: |eta_n,i> = sum_I ã_n,iI |phi_n,I> of every node.
    """

    maps: Inexact[Tensor, "nodes mapped states"]
    mapped: BlockStates


@dataclass(frozen=True)
class NodeTree:
    """All block states from the pixels to the classes.

    Attributes:
        pixels: f_0, f_1, ... of every site; f_0 alone at a site without a pixel.
        levels: level 0 .. L-1.
        top: ã^(L) from states to classes without their powers of two.
        classes: |Psi_y>.
    """

    pixels: BlockStates
    levels: tuple[NodeLevel, ...]
    top: Inexact[Tensor, "classes states"]
    classes: BlockStates

    def log_norms(self) -> Float[Tensor, " classes"]:
        """Return log <Psi_y|Psi_y>."""
        squares = self.classes.gram().diagonal().real
        return squares.log() + 2 * math.log(2) * self.classes.exponent.to(squares.dtype)

    def scaled_norm(self) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
        """Return s and e with Z = sum_y <Psi_y|Psi_y> = s 4^e (eq. 33)."""
        squares, exponent = self.classes.gram().diagonal().real, self.classes.exponent
        largest = torch.where(squares.detach() > 0, exponent, torch.iinfo(torch.int64).min // 4).amax()
        return times_power_of_two(squares, 2 * (exponent - largest)).sum(), largest


def build_node_tree(
    site_tensors: Sequence[Inexact[Tensor, "_ _ _"]],
    top: Inexact[Tensor, "classes states"],
    padding: Bool[Tensor, " sites"],
) -> NodeTree:
    """Build the states of every block from those of its halves (theory.md, eq. M2, N1).

    Args:
        site_tensors: level l has 1 matrix for all nodes, 2 for left and right children, or one for each of its N / 2^l
            nodes.
        top: ã^(L).
        padding: whether a site has no pixel.
    """
    one_pixel = BlockStates.of_one_pixel(site_tensors[0].shape[-1], like=top)
    states = pixels = BlockStates(
        one_pixel.mean.expand(len(padding), -1),
        torch.where(padding[:, None, None], 0, one_pixel.covariance),
        one_pixel.exponent.expand(len(padding), -1),
    )
    levels = []
    for site_tensor in site_tensors:
        nodes = len(states.mean)
        scaled, exponent = take_out_powers_of_two(
            site_tensor.repeat(nodes // len(site_tensor), 1, 1) if len(site_tensor) < nodes else site_tensor,
            states.exponent,
        )
        mapped = states.mapped(scaled, exponent)
        maps = times_power_of_two(scaled, (exponent - mapped.exponent).unsqueeze(-1))
        levels.append(NodeLevel(maps, mapped))
        left, right = (
            BlockStates(mapped.mean[side::2], mapped.covariance[side::2], mapped.exponent[side::2]) for side in (0, 1)
        )
        states = left.pooled(right)
    image = BlockStates(states.mean[0], states.covariance[0], states.exponent[0])
    return NodeTree(pixels, tuple(levels), *classes_of(image, top))


def classes_of(
    image: BlockStates, top: Inexact[Tensor, "classes states"]
) -> tuple[Inexact[Tensor, "classes states"], BlockStates]:
    """Return ã^(L) between states without their powers of two, and |Psi_y> = sum_I ã^(L)_yI |phi_I> (eq. 16).

    Args:
        image: |phi_I> of the whole image.
        top: ã^(L).
    """
    scaled, exponent = take_out_powers_of_two(top, image.exponent)
    classes = image.mapped(scaled, exponent)
    return times_power_of_two(scaled, (exponent - classes.exponent).unsqueeze(-1)), classes


def block_amplitudes(
    tree: NodeTree, features: Float[Tensor, "sites batch local"]
) -> list[tuple[Inexact[Tensor, "_ batch _"], Int[Tensor, "_ batch"]]]:
    """Return a and e with <x|phi_n,I> = a 2^e, without phi's powers of two, for level 0 .. L and products x of pixels.

    The largest |a| of every block and image is from 1/2 to 1. Amplitudes that are smaller by more than the dtype's
    range (10^38 in float32, 10^308 in float64) are 0.
    """
    amplitude = features.to(tree.top.dtype)
    exponent = torch.zeros(features.shape[:2], dtype=torch.int64, device=features.device)
    by_level = [(amplitude, exponent)]
    for level in tree.levels:
        mapped = amplitude @ level.maps.mT
        amplitude = mapped[0::2] * mapped[1::2]
        shift = binary_exponent(amplitude.detach().abs().amax(-1))
        amplitude = times_power_of_two(amplitude, -shift.unsqueeze(-1))
        exponent = exponent[0::2] + exponent[1::2] + shift
        by_level.append((amplitude, exponent))
    return by_level


def amplitudes(
    tree: NodeTree, features: Float[Tensor, "batch sites local"]
) -> tuple[Inexact[Tensor, "batch classes"], Int[Tensor, "batch classes"]]:
    """Return a and e with <x|Psi_y> = a 2^e (eq. 31)."""
    amplitude, exponent = block_amplitudes(tree, features.transpose(0, 1))[-1]
    return amplitude[0] @ tree.top.mT, exponent[0].unsqueeze(-1) + tree.classes.exponent


def log_density(
    tree: NodeTree, amplitude: Inexact[Tensor, "batch classes"], exponent: Int[Tensor, "batch classes"]
) -> Float[Tensor, "batch classes"]:
    """Return log(|a 2^e|^2 / Z) (eq. 32, 33); minus infinity, with no gradient, where the amplitude vanishes.

    Powers of two are subtracted as integers, so logarithms of large numbers do not cancel.
    """
    norm, of_norm = tree.scaled_norm()
    size = amplitude.abs()
    logarithm = torch.where(size > 0, torch.where(size > 0, size, 1).log(), -math.inf)
    return 2 * (logarithm + math.log(2) * (exponent - of_norm).to(size.dtype)) - norm.log()


def overlaps_between_trees(
    first: NodeTree, second: NodeTree, pixels: Float[Tensor, "sites local other_local"]
) -> Inexact[Tensor, "classes other_classes"]:
    """Return <Psi_y|Psi'_y'> / sqrt(<Psi_y|Psi_y> <Psi'_y'|Psi'_y'>) for trees of one local basis (theory.md, eq. E1).

    The overlaps between the block states of the one and the other tree climb both at once, as G does in eq. G1.

    Args:
        first: of the |Psi_y>.
        second: of the |Psi'_y'>.
        pixels: overlaps of the local functions of the one and the other at every site.
    """
    gram, exponent = pixels.to(first.top.dtype), torch.zeros(len(pixels), dtype=torch.int64)
    for level, other in zip(first.levels, second.levels, strict=True):
        mapped = level.maps @ gram @ other.maps.mH
        gram = mapped[0::2] * mapped[1::2]
        shift = binary_exponent(gram.abs().amax((-2, -1)))
        gram = times_power_of_two(gram, -shift[:, None, None])
        exponent = exponent[0::2] + exponent[1::2] + shift.cpu()
    between = first.top @ gram[0] @ second.top.mH
    norms = [tree.classes.gram().diagonal().real.sqrt() for tree in (first, second)]
    return times_power_of_two(between.conj() / torch.outer(*norms), exponent.to(between.device))
