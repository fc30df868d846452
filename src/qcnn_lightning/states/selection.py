"""Fewer channels for a product-pooling tree: those that images need (theory.md, eq. T6).

Rotations of channels do not commute with product pooling, so channels are chosen. The others' features are fitted by
those that stay, and the matrices above take the fit. What an error costs is measured on images: second moments of the
features there, and of the amplitudes' gradients. Overlaps of states measure it over all of [0, 1]^N instead, where no
image is; channels chosen that way keep the fidelity and lose the accuracy.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from qcnn_lightning.errors import InputError
from qcnn_lightning.states.gram import binary_exponent, times_power_of_two

IMAGES_AT_A_TIME = 256
SPANNED = 1e-12
"""A channel whose features others fit up to this part of their second moment adds nothing."""
RIDGE = 1e-10
"""Added to normalised second moments: the fit's coefficients stay small where features are alike."""

Matrices = tuple[Tensor, Tensor]


def numbers_of(channels: Sequence[int], num_classes: int, matrices: Sequence[int]) -> int:
    """Return how many numbers a tree of so many channels has, the constant one included."""
    levels = zip(matrices, channels[:-1], channels[1:], strict=True)
    return sum(s * above * below for s, below, above in levels) + num_classes * channels[-1]


def channels_for(state: Any, numbers: int | float) -> list[int]:
    """Return the channels that enter levels 1 .. L, the constant one included: the same part of all, so many numbers.

    Raises:
        InputError: not even one channel a level is as little as that.
    """
    all_channels = [tensor.shape[-1] for tensor in (*state.site_tensors, state.top)]
    matrices = [len(tensor) for tensor in state.site_tensors]
    for part in torch.linspace(1, 0, 1001).tolist():
        kept = [max(2, round(part * channels)) for channels in all_channels[1:]]
        if numbers_of([all_channels[0], *kept], state.num_classes, matrices) <= numbers:
            return kept
    raise InputError(f"parameters: {numbers:.0f} numbers are fewer than a tree with one channel a level has")


def selected(
    state: Any, images: Tensor, channels: Sequence[int]
) -> tuple[list[Float[Tensor, "_ _ _"]], Float[Tensor, "classes states"]]:
    """Return site tensors and top of a tree with so many channels, close to a `NetworkState` on these images.

    Channels are chosen one by one, each time the one whose features, once fitted, lower the mean of
    sum_y (d alpha_y / |alpha|)^2 most. Then, from the pixels up, least squares fit the features of the whole tree by
    those that the smaller one has. All features of the result have the mean square 1 on the images, and so have
    alpha's norms.

    Args:
        state: the states.
        images: (batch, N) training images, some hundreds or more.
        channels: how many enter levels 1 .. L, with the constant one.
    """
    pairs: list[Matrices] = [(tensor[0].detach(), tensor[-1].detach()) for tensor in state.site_tensors]
    features = state.represent(images)
    pairs, top = unit_features(pairs, state.top.detach(), features)
    moments, gradients = second_moments(pairs, top, features)
    chosen = [choose(g, e, number) for g, e, number in zip(moments[1:], gradients[1:], channels, strict=True)]
    reduced, fit = [], torch.eye(features.shape[-1], dtype=top.dtype, device=top.device)
    small = features
    for (left, right), kept in zip(pairs, chosen, strict=True):
        new = (left[kept] @ fit, right[kept] @ fit)
        reduced.append(new)
        features, small = pooled(features, (left, right)), pooled(small, new)
        fit = fitted(small.flatten(0, 1), features.flatten(0, 1))
    reduced, top = unit_features(reduced, top @ fit, state.represent(images))
    shared = [len(tensor) for tensor in state.site_tensors]
    return [torch.stack(pair)[:number] for pair, number in zip(reduced, shared, strict=True)], top


def pooled(features: Float[Tensor, "batch sites _"], pair: Matrices) -> Float[Tensor, "batch sites//2 _"]:
    """Map left and right children, and multiply (eq. 8, 15)."""
    return (features[:, 0::2] @ pair[0].mT) * (features[:, 1::2] @ pair[1].mT)


def unit_features(
    pairs: Sequence[Matrices], top: Tensor, features: Float[Tensor, "batch sites local"]
) -> tuple[list[Matrices], Float[Tensor, "classes states"]]:
    """Return matrices of the same states, up to one factor, whose mapped features have the mean square 1.

    Matrices that left and right children share stay equal.
    """
    scale = features.new_ones(features.shape[-1])
    result = []
    for left, right in pairs:
        left, right = left * scale, right * scale
        mapped = (features[:, 0::2] @ left.mT, features[:, 1::2] @ right.mT)
        sizes = [side.square().mean((0, 1)).sqrt() for side in mapped]
        if torch.equal(left, right):
            sizes = [((sizes[0].square() + sizes[1].square()) / 2).sqrt()] * 2
        sizes = [torch.where(size > 0, size, 1) for size in sizes]
        result.append((left / sizes[0].unsqueeze(-1), right / sizes[1].unsqueeze(-1)))
        features = (mapped[0] / sizes[0]) * (mapped[1] / sizes[1])
        scale = sizes[0] * sizes[1]
        scale = times_power_of_two(scale, -binary_exponent(scale.amax()))
    top = top * scale
    norm = (features[:, 0] @ top.mT).norm(dim=1).mean()
    return result, top / norm


def second_moments(
    pairs: Sequence[Matrices], top: Tensor, features: Float[Tensor, "batch sites local"]
) -> tuple[list[Float[Tensor, "_ _"]], list[Float[Tensor, "_ _"]]]:
    """Return sums, over images and blocks, of phi phi^T and of sum_y chi_y chi_y^T / |alpha|^2, for level 0 .. L.

    phi are the features of a block, chi_y = d alpha_y / d phi.
    """
    moments: list[Any] = [0.0] * (len(pairs) + 1)
    gradients: list[Any] = [0.0] * (len(pairs) + 1)
    for part in features.split(IMAGES_AT_A_TIME):
        blocks = [part.detach().requires_grad_()]
        with torch.enable_grad():
            for pair in pairs:
                blocks.append(pooled(blocks[-1], pair))
            alpha = blocks[-1][:, 0] @ top.mT
            relative = (alpha / alpha.detach().norm(dim=1, keepdim=True)).sum(0).unbind()
        for row in relative:
            chi = [gradient.flatten(0, 1) for gradient in torch.autograd.grad(row, blocks, retain_graph=True)]
            gradients = [total + own.mT @ own for total, own in zip(gradients, chi, strict=True)]
        phi = [block.detach().flatten(0, 1) for block in blocks]
        moments = [total + own.mT @ own for total, own in zip(moments, phi, strict=True)]
    return moments, gradients


def choose(
    moments: Float[Tensor, "channels channels"], gradients: Float[Tensor, "channels channels"], number: int
) -> list[int]:
    """Return the channels to keep, ascending; the constant one, 0, is among them.

    With G and E the second moments and R = G - G_:S G_SS^-1 G_S: what the channels S leave, the error is tr E R. The
    next channel k lowers it by (R E R)_kk / R_kk.
    """
    rest, kept = moments.clone(), [0]
    while True:
        last = kept[-1]
        if rest[last, last] > 0:
            rest = rest - torch.outer(rest[:, last], rest[last]) / rest[last, last]
        if len(kept) >= min(number, len(moments)):
            return sorted(kept)
        diagonal = rest.diagonal()
        gain = torch.einsum("ik,ij,jk->k", rest, gradients, rest) / diagonal.clamp(min=1e-300)
        gain = torch.where(diagonal > SPANNED * moments.diagonal(), gain, -1)
        gain[kept] = -2
        kept.append(int(gain.argmax()))


def fitted(small: Float[Tensor, "rows kept"], whole: Float[Tensor, "rows all"]) -> Float[Tensor, "all kept"]:
    """Return C that makes sum |whole - small C^T|^2 least."""
    size = small.norm(dim=0).clamp(min=1e-300)
    unit = small / size
    moments = unit.mT @ unit + RIDGE * torch.eye(unit.shape[1], dtype=unit.dtype, device=unit.device)
    return (torch.linalg.solve(moments, unit.mT @ whole) / size.unsqueeze(-1)).mT
