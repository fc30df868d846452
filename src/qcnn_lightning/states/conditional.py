"""Pixels given other pixels: observed blocks up the tree, environments down, perfect samples (theory.md, eq. N2, F1).

An observed pixel is the product state of its value, a pixel that is not has its Gram matrix. Everything is a batch over
images; every block of every image has its own power of two.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Inexact, Int
from torch import Tensor

from qcnn_lightning.states.gram import binary_exponent, outer, times_power_of_two
from qcnn_lightning.states.node_tree import NodeTree, block_amplitudes


@dataclass(frozen=True)
class Given:
    """The block states of some images whose pixels are partly known.

    Attributes:
        known: for level 0 .. L, whether all pixels of a block are known.
        vectors: for level 0 .. L, <x|phi_n,I> of the blocks that are, up to one factor per block and image.
        mapped: for level 0 .. L-1, sum over unknown pixels of <x|eta_i><eta_j|x>, up to such factors.
        classes: <x|Psi_y><Psi_y|x> summed over the unknown pixels: p(y, known pixels) Z is classes 2^exponent.
        exponent: of the classes.
    """

    known: list[Bool[Tensor, "images _"]]
    vectors: list[Inexact[Tensor, "images _ _"]]
    mapped: list[Inexact[Tensor, "images _ _ _"]]
    classes: Float[Tensor, "images classes"]
    exponent: Int[Tensor, "images classes"]


def _shift_of(gram: Inexact[Tensor, "*blocks states states"]) -> Int[Tensor, "*blocks"]:
    return binary_exponent(gram.diagonal(dim1=-2, dim2=-1).real.amax(-1))


def given_pixels(
    tree: NodeTree, features: Float[Tensor, "images sites local"], known: Bool[Tensor, "images sites"]
) -> Given:
    """Join the blocks up the tree: H = ã G ã^†, G = H_left * H_right, with G = f f^T at a known pixel.

    Args:
        tree: block states.
        features: f_i of every pixel; anything finite at unknown ones.
        known: which pixels are observed; True at sites without a pixel.
    """
    of_blocks = [(a.transpose(0, 1), e.transpose(0, 1)) for a, e in block_amplitudes(tree, features.transpose(0, 1))]
    gram = torch.where(known[..., None, None], outer(features).to(tree.top.dtype), tree.pixels.gram())
    exponent = torch.zeros(known.shape, dtype=torch.int64, device=known.device)
    all_known, all_mapped = [known], []
    for level, (vector, of_vector) in zip(tree.levels, of_blocks[1:], strict=True):
        mapped = level.maps @ gram @ level.maps.mH
        all_mapped.append(mapped)
        known = known[:, 0::2] & known[:, 1::2]
        gram, exponent = mapped[:, 0::2] * mapped[:, 1::2], exponent[:, 0::2] + exponent[:, 1::2]
        shift = _shift_of(gram)
        gram = times_power_of_two(gram, -shift[..., None, None])
        # Of a known block the amplitudes have more digits than their products.
        gram = torch.where(known[..., None, None], outer(vector), gram)
        exponent = torch.where(known, 2 * of_vector, exponent + shift)
        all_known.append(known)
    vectors = [vector for vector, _ in of_blocks]
    classes = torch.einsum("yi,mij,yj->my", tree.top, gram[:, 0], tree.top.conj()).real.clamp(min=0)
    classes = torch.where(known, (vectors[-1][:, 0] @ tree.top.mT).abs().square(), classes)
    return Given(all_known, vectors, all_mapped, classes, exponent + 2 * tree.classes.exponent)


def environments(
    tree: NodeTree, mapped: list[Tensor], image: Inexact[Tensor, "images states states"]
) -> list[Inexact[Tensor, "_ _ _ _"]]:
    """Return the Gram matrices of the states outside every block, for level 0 .. L, up to one factor each.

    E_child = ã^T (E_parent * H_sibling) conj(ã) (theory.md, eq. B1).

    Args:
        tree: block states.
        mapped: Gram matrices of the mapped states, (images or 1, nodes, mapped, mapped), for level 0 .. L-1.
        image: that of the whole image, sum_y ã_y ã_y^† over the classes that are asked for.
    """
    outside = image.unsqueeze(1)
    by_level = [outside]
    for level, gram in zip(reversed(tree.levels), reversed(mapped), strict=True):
        sibling = gram.unflatten(1, (-1, 2)).flip(2).flatten(1, 2)
        outside = level.maps.mT @ (outside.repeat_interleave(2, dim=1) * sibling) @ level.maps.conj()
        outside = times_power_of_two(outside, -_shift_of(outside)[..., None, None])
        by_level.append(outside)
    return by_level[::-1]


class Sampler:
    """Draws the unknown pixels of images one after the other, in tree order, for all samples at once.

    Args:
        tree: block states.
        given: the known pixels of 1 image for all samples, or of one for each.
        outcomes: f_i(x_k) sqrt(w_k) of the grey levels x_k that a pixel may have.
        generator: of random numbers.
    """

    def __init__(
        self,
        tree: NodeTree,
        given: Given,
        outcomes: Float[Tensor, "outcomes local"],
        generator: torch.Generator,
    ):
        self.tree, self.given, self.outcomes, self.generator = tree, given, outcomes, generator
        self.known_in_all = [known.all(0).tolist() for known in given.known]
        self.drawn: dict[int, Tensor] = {}

    def draw(
        self, height: int, node: int, outside: Inexact[Tensor, "samples states states"]
    ) -> Inexact[Tensor, "samples states"]:
        """Draw the unknown pixels of a block, given what is known and what was drawn before; `drawn` gets them.

        Args:
            height: level of the block.
            node: its place.
            outside: its environment in every sample.

        Returns:
            <x|phi_I> of the block, up to one factor per sample.
        """
        known = self.given.vectors[height][:, node]
        if self.known_in_all[height][node]:
            return known.expand(len(outside), -1)
        if height == 0:
            weight = torch.einsum("kf,sfg,kg->sk", self.outcomes, outside.real, self.outcomes).clamp(min=0)
            outcome = torch.multinomial(weight, 1, generator=self.generator).squeeze(1)
            self.drawn[node] = outcome
            return torch.where(self.given.known[0][:, node, None], known, self.outcomes[outcome].to(known.dtype))
        maps, gram = self.tree.levels[height - 1].maps, self.given.mapped[height - 1]
        left, right = 2 * node, 2 * node + 1
        given_left = maps[left].mT @ (outside * gram[:, right]) @ maps[left].conj()
        of_left = self.draw(height - 1, left, _rescaled(given_left)) @ maps[left].mT
        given_right = maps[right].mT @ (outside * outer(of_left)) @ maps[right].conj()
        vector = of_left * (self.draw(height - 1, right, _rescaled(given_right)) @ maps[right].mT)
        return vector / vector.abs().amax(-1, keepdim=True)


def _rescaled(gram: Any) -> Any:
    return gram / gram.diagonal(dim1=-2, dim2=-1).real.amax(-1)[:, None, None]
