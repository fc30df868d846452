"""A tree with matrices of its own at every node as C++ operators: the block states of whole images (theory.md, N1).

The function of `states/node_tree.py`, several times faster: a node computes each distinct block of a batch once.
`cpu/node_operator.cpp` and its headers explain how. The operators need uint8 images on the CPU.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from qcnn_lightning.kernels.build import is_available, load_operators
from qcnn_lightning.states.gram import BlockStates


def can_compute(x: Tensor, weights: Sequence[Tensor]) -> bool:
    """Return whether the operators take these images and weights; they are compiled if need be."""
    if x.dtype != torch.uint8 or not len(x) or any(tensor.device.type != "cpu" for tensor in (x, *weights)):
        return False
    if weights[0].dtype not in (torch.float32, torch.float64):
        return False
    return is_available()


def image_states(
    x: UInt8[Tensor, "images sites"],
    table: Float[Tensor, "256 local"],
    padding: Bool[Tensor, " sites"],
    weights: Sequence[Float[Tensor, "_ _ _"]],
    pixel_gram: Float[Tensor, "local local"] | None = None,
) -> tuple[BlockStates, Float[Tensor, "images states"], Int[Tensor, " images"]]:
    """Return the states |phi_I> of the whole image, and a and e with <x|phi_I> = a 2^e without phi's powers of two.

    Differentiable in table, pixel_gram and weights.

    Args:
        x: images in tree order.
        table: f_i of the 256 grey levels.
        padding: which sites have no pixel, so f_0 alone.
        weights: of level l, (1, 2 or N / 2^l, d_{l+1}, d_l).
        pixel_gram: <f_i|f_j>; None if the f_i are orthonormal.
    """
    of_nodes = [
        weight.repeat((len(padding) >> level) // len(weight), 1, 1) if len(weight) < len(padding) >> level else weight
        for level, weight in enumerate(weights)
    ]
    features, exponent, gram, of_gram = _ImageStates.apply(x.contiguous(), padding, table, pixel_gram, *of_nodes)
    # No mean is split off: a density's states need no differences of nearly equal numbers.
    return BlockStates(torch.zeros_like(gram[0]), gram, of_gram), features, exponent


class _ImageStates(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, padding: Tensor, table: Tensor, gram: Tensor | None, *weights: Tensor) -> Any:
        contiguous = [weight.contiguous() for weight in weights]
        result = load_operators().node_forward(x, table.contiguous(), gram, padding, contiguous)
        features, exponent, overlaps, of_overlaps, ctx.tape = result
        ctx.mark_non_differentiable(exponent, of_overlaps)
        # Autograd then refuses parameters that were changed in between.
        ctx.save_for_backward(*weights)
        return features, exponent, overlaps, of_overlaps

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_features: Tensor, _: Any, of_gram: Tensor, __: Any) -> tuple[Tensor | None, ...]:
        _ = ctx.saved_tensors
        needed = ctx.needs_input_grad
        of_pixels = needed[2] or needed[3]
        gradients = load_operators().node_backward(ctx.tape, of_features, of_gram, of_pixels)
        of_table, of_pixel_gram, *of_weights = gradients
        return (None, None, of_table if needed[2] else None, of_pixel_gram if needed[3] else None, *of_weights)
