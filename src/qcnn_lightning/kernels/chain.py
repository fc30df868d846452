"""Vectors carried along a matrix product state, for a batch of images at once; forward and backward written by hand.

Both arms of a chain move inwards together: a site is one batched matrix product. The backward pass carries the
gradients outwards the same way. The gradients of all sites are then one batched product (theory.md, eq. A2). On a CPU
with a compiler, C++ operators do the same, several times faster.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from qcnn_lightning.kernels.build import is_available, load_operators
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
        size: float,
    ) -> tuple[Float[Tensor, "arms batch bond"], Int[Tensor, "arms batch"]]:
        sites = size * sites
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
            if _is_rescaled(step, steps, 1):
                shift = binary_exponent(seen[there].abs().amax(-1))
                factor = torch.ldexp(torch.ones_like(shift, dtype=sites.dtype), -shift).unsqueeze(-1)
                seen[there].mul_(factor)
                exponent += shift
                factors.append(factor)
        last = seen[steps if keep else steps % 2].clone()
        ctx.factors, ctx.size = factors, size
        if keep:
            ctx.save_for_backward(ends, sites, features, vectors)
        ctx.mark_non_differentiable(exponent)
        ctx.set_materialize_grads(False)
        return last, exponent

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
        if gradient is None:
            return None, None, None, None
        ends, sites, features, vectors = ctx.saved_tensors
        steps = len(sites)
        gradients, factors = torch.empty_like(vectors), list(ctx.factors)
        gradients[steps] = gradient
        product = torch.empty_like(features[0].unsqueeze(-1) * vectors[0].unsqueeze(2))
        rows = product.flatten(2)
        seen, by_channel = gradients.unbind(), gradients.unsqueeze(3).unbind()
        weights, functions = sites.mT.flatten(2, 3).unbind(), features.unsqueeze(-1).unbind()
        for step in reversed(range(steps)):
            if _is_rescaled(step, steps, 1):
                seen[step + 1].mul_(factors.pop())
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
        return of_ends, ctx.size * of_sites, of_features, None


def sweep(
    ends: Float[Tensor, "arms local bond"],
    sites: Float[Tensor, "steps arms local bond bond"],
    features: Float[Tensor, "sites arms batch local"],
    size: float = 1.0,
) -> tuple[Float[Tensor, "arms batch bond"], Int[Tensor, "arms batch"]]:
    """Return v and e: the product states of the images, carried along every arm to its inner end, are v 2^e.

    v_0 = sum_i f_i(x_0) u_i, v_p = v_{p-1} + sum_i f_i(x_p) v_{p-1} W_{p,i} (theory.md, eq. A1). Differentiable once.

    Args:
        ends: u_i of the outermost site of every arm.
        sites: W_{p,i} / size of the others, from the outside inwards; rows are the outer bond.
        features: f_i of every pixel, from the outside inwards.
        size: factor of the sites.
    """
    compiled = not features.requires_grad and can_compute(ends, sites, features)
    result: tuple[Tensor, Tensor] = (_CompiledSweep if compiled else _Sweep).apply(ends, sites, features, size)
    return result


class _CompiledSweep(torch.autograd.Function):
    """The same by the C++ operators of `cpu/chain.h`; without the features' gradient."""

    @staticmethod
    def forward(ctx: Any, ends: Tensor, sites: Tensor, features: Tensor, size: float) -> tuple[Tensor, Tensor]:
        keep = any(ctx.needs_input_grad)
        sites, features = sites.contiguous(), features.contiguous()
        operators = load_operators()
        last, exponent, vectors, shifts = operators.chain_forward(ends.contiguous(), sites, features, size, keep)
        ctx.size = size
        if keep:
            ctx.save_for_backward(sites, features, vectors, shifts)
        ctx.mark_non_differentiable(exponent)
        ctx.set_materialize_grads(False)
        return last, exponent

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor | None, _: Any) -> tuple[Tensor | None, Tensor | None, None, None]:
        if gradient is None:
            return None, None, None, None
        return *load_operators().chain_backward(gradient.contiguous(), *ctx.saved_tensors, ctx.size), None, None


def can_compute(*tensors: Tensor) -> bool:
    """Return whether the C++ operators take these tensors; they are compiled if need be."""
    if any(t.device.type != "cpu" or t.dtype not in (torch.float32, torch.float64) for t in tensors):
        return False
    return is_available()


class _Grams(torch.autograd.Function):
    """G <- sum_i A_i^T G A_i, and a power of two out of every arm after some sites."""

    @staticmethod
    def forward(
        ctx: Any, first: Float[Tensor, "arms bond bond"], sites: Float[Tensor, "steps arms local bond bond"]
    ) -> tuple[Float[Tensor, "arms bond bond"], Int[Tensor, " arms"]]:
        # The outer bond first, then the function: a site is two products without a copy.
        ordered = sites.transpose(2, 3).contiguous()
        grams = first.new_empty(len(sites) + 1, *first.shape)
        mapped = torch.empty_like(ordered)
        grams[0] = first
        exponent = torch.zeros(len(first), dtype=torch.int64, device=first.device)
        factors = []
        seen, products, rows = grams.unbind(), mapped.flatten(3).unbind(), mapped.flatten(2, 3).unbind()
        wide, tall = ordered.flatten(3).unbind(), ordered.flatten(2, 3).mT.unbind()
        for step in range(len(sites)):
            torch.bmm(seen[step], wide[step], out=products[step])
            torch.bmm(tall[step], rows[step], out=seen[step + 1])
            if _is_rescaled(step, len(sites), 2):
                shift = binary_exponent(seen[step + 1].abs().amax((1, 2)))
                factors.append(torch.ldexp(torch.ones_like(shift, dtype=first.dtype), -shift)[:, None, None])
                seen[step + 1].mul_(factors[-1])
                exponent += shift
        ctx.factors = factors
        ctx.save_for_backward(ordered, mapped)
        ctx.mark_non_differentiable(exponent)
        ctx.set_materialize_grads(False)
        return grams[-1].clone(), exponent

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor | None, _: Any) -> tuple[Tensor | None, Tensor | None]:
        if gradient is None:
            return None, None
        ordered, mapped = ctx.saved_tensors
        steps = len(ordered)
        gradients = gradient.new_empty(steps + 1, *gradient.shape)
        gradients[steps] = (gradient + gradient.mT) / 2
        factors = list(ctx.factors)
        product = torch.empty_like(mapped[0]) if steps else mapped
        seen, wide, tall = gradients.unbind(), ordered.flatten(3).mT.unbind(), ordered.flatten(2, 3).unbind()
        for step in reversed(range(steps)):
            if _is_rescaled(step, steps, 2):
                seen[step + 1].mul_(factors.pop())
            torch.bmm(tall[step], seen[step + 1], out=product.flatten(1, 2))
            torch.bmm(product.flatten(2), wide[step], out=seen[step])
        of_sites = 2 * (mapped.flatten(2, 3) @ gradients[1:]).view_as(ordered).transpose(2, 3)
        return gradients[0], of_sites


def sweep_grams(
    first: Float[Tensor, "arms bond bond"], sites: Float[Tensor, "steps arms local bond bond"]
) -> tuple[Float[Tensor, "arms bond bond"], Int[Tensor, " arms"]]:
    """Return G and e: the overlaps of the states of every arm at its inner end are G 2^e (theory.md, eq. A3).

    G_p = sum_i A_{p,i}^T G_{p-1} A_{p,i}. Differentiable once.

    Args:
        first: G_0, symmetric.
        sites: A_{p,i}, from the outside inwards; rows are the outer bond.
    """
    result: tuple[Tensor, Tensor] = _Grams.apply(first, sites)
    return result


def _is_rescaled(step: int, steps: int, degree: int) -> bool:
    """Return whether a power of two is taken out after a step, for products of so many factors a site."""
    return (step + 1) % (SITES_BETWEEN_RESCALING // degree) == 0 or step == steps - 1
