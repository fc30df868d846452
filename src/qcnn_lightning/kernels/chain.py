"""Vectors carried along a matrix product state, for a batch of images at once; forward and backward written by hand.

Both arms of a chain move inwards together: a site is one batched matrix product. The backward pass carries the
gradients outwards the same way. The gradients of all sites are then one batched product (theory.md, eq. A2).
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from qcnn_lightning.states.gram import binary_exponent

SITES_BETWEEN_RESCALING = 8


class _Sweep(torch.autograd.Function):
    """v_0 = sum_i f_i u_i, then v <- v + sum_i f_i v W_i and a power of two out of every image after some sites."""

    @staticmethod
    def forward(
        ctx: Any,
        ends: Float[Tensor, "arms local bond"],
        sites: Float[Tensor, "steps arms local bond bond"],
        features: Float[Tensor, "sites arms batch local"],
    ) -> tuple[Float[Tensor, "arms batch bond"], Int[Tensor, "arms batch"]]:
        steps, arms, local, bond = sites.shape[:4]
        batch = features.shape[2]
        keep = any(ctx.needs_input_grad)
        vectors = features.new_empty(steps + 1 if keep else 2, arms, batch, bond)
        product = features.new_empty(arms, batch, local, bond)
        torch.bmm(features[0], ends, out=vectors[0])
        exponent = torch.zeros(arms, batch, dtype=torch.int64, device=features.device)
        factors = []
        # Views are made in advance: making one takes as long as a product.
        seen, by_channel = vectors.unbind(), vectors.unsqueeze(3).unbind()
        rows = product.flatten(2)
        weights, functions = sites.flatten(2, 3).unbind(), features.unsqueeze(-1).unbind()
        for step in range(steps):
            here, there = (step, step + 1) if keep else (step % 2, (step + 1) % 2)
            torch.mul(functions[step + 1], by_channel[here], out=product)
            torch.baddbmm(seen[here], rows, weights[step], out=seen[there])
            if (step + 1) % SITES_BETWEEN_RESCALING == 0 or step == steps - 1:
                shift = binary_exponent(seen[there].abs().amax(-1))
                factor = torch.ldexp(torch.ones_like(shift, dtype=sites.dtype), -shift).unsqueeze(-1)
                seen[there].mul_(factor)
                exponent += shift
                factors.append(factor)
        last = seen[steps if keep else steps % 2].clone()
        ctx.factors = factors
        if keep:
            ctx.save_for_backward(ends, sites, features, vectors)
        ctx.mark_non_differentiable(exponent)
        ctx.set_materialize_grads(False)
        return last, exponent

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor | None, _: Any) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        if gradient is None:
            return None, None, None
        ends, sites, features, vectors = ctx.saved_tensors
        steps = len(sites)
        gradients = torch.empty_like(vectors)
        gradients[steps] = gradient
        product = torch.empty_like(features[0].unsqueeze(-1) * vectors[0].unsqueeze(2))
        rows = product.flatten(2)
        seen, by_channel = gradients.unbind(), gradients.unsqueeze(3).unbind()
        weights, functions = sites.mT.flatten(2, 3).unbind(), features.unsqueeze(-1).unbind()
        for step in reversed(range(steps)):
            if (step + 1) % SITES_BETWEEN_RESCALING == 0 or step == steps - 1:
                seen[step + 1].mul_(ctx.factors[step // SITES_BETWEEN_RESCALING])
            torch.mul(functions[step + 1], by_channel[step + 1], out=product)
            torch.baddbmm(seen[step + 1], rows, weights[step], out=seen[step])
        of_ends = features[0].mT @ gradients[0]
        products = features[1:].unsqueeze(-1) * vectors[:-1].unsqueeze(3)
        of_sites = (products.flatten(3).mT @ gradients[1:]).view_as(sites)
        of_features = None
        if ctx.needs_input_grad[2]:
            of_features = torch.empty_like(features)
            of_features[0] = gradients[0] @ ends.mT
            of_features[1:] = torch.einsum("sabo,sakoi,sabi->sabk", vectors[:-1], sites, gradients[1:])
        return of_ends, of_sites, of_features


def sweep(
    ends: Float[Tensor, "arms local bond"],
    sites: Float[Tensor, "steps arms local bond bond"],
    features: Float[Tensor, "sites arms batch local"],
) -> tuple[Float[Tensor, "arms batch bond"], Int[Tensor, "arms batch"]]:
    """Return v and e: the product states of the images, carried along every arm to its inner end, are v 2^e.

    v_0 = sum_i f_i(x_0) u_i, v_p = v_{p-1} + sum_i f_i(x_p) v_{p-1} W_{p,i} (theory.md, eq. A1). Differentiable once.

    Args:
        ends: u_i of the outermost site of every arm.
        sites: W_{p,i} of the others, from the outside inwards; rows are the outer bond.
        features: f_i of every pixel, from the outside inwards.
    """
    result: tuple[Tensor, Tensor] = _Sweep.apply(ends, sites, features)
    return result
