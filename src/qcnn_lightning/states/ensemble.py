"""Several networks: overlaps between their states, and sums of states (theory.md, eq. E1, E2)."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from qcnn_lightning.basis import BASES
from qcnn_lightning.errors import InputError
from qcnn_lightning.states.chain import alike
from qcnn_lightning.states.gram import Tree


def check_comparable(state: Any, other: Any) -> None:
    """Check that two states are of one kind, and have the same sites, local functions and layout.

    Raises:
        InputError: they have not.
    """
    if not isinstance(other, kind := type(state)):
        raise InputError(
            f"a {kind.__name__} cannot be compared with a {type(other).__name__}: expected another {kind.__name__}, "
            "such as network.state() or run.state()"
        )
    if other.num_sites != state.num_sites:
        raise InputError(f"states of {state.num_sites} and {other.num_sites} pixels cannot be compared")
    same_functions = state.basis.name in BASES or state.channels[0] == other.channels[0]
    if other.basis.name != state.basis.name or not same_functions:
        raise InputError(
            f"states with {state.channels[0]} functions of basis {state.basis.name!r} and {other.channels[0]} of "
            f"{other.basis.name!r} cannot be compared"
        )
    if other.white != state.white:
        raise InputError(f"states with data.white={state.white} and {other.white} cannot be compared")
    if None not in (state.layout, other.layout) and state.layout != other.layout:
        raise InputError("states whose sites stand for different pixels cannot be compared: their layouts differ")


def checked_weights(states: Sequence[Any], weights: Sequence[float] | None) -> list[float]:
    """Return the weights of a sum of states; 1 / K each if there are none.

    Raises:
        InputError: the states do not fit together, or the weights are not as many.
    """
    if not states:
        raise InputError("states is empty: a sum needs at least one state")
    weights = [1 / len(states)] * len(states) if weights is None else list(weights)
    if len(weights) != len(states):
        raise InputError(f"weights has {len(weights)} numbers, there are {len(states)} states")
    for other in states[1:]:
        check_comparable(states[0], other)
        if other.num_classes != states[0].num_classes:
            raise InputError(f"states with {states[0].num_classes} and {other.num_classes} classes have no sum")
    return weights


def overlaps_between(first: Tree, second: Tree) -> Float[Tensor, "classes other_classes"]:
    """Return <Psi_y|Psi'_y'> / sqrt(<Psi_y|Psi_y> <Psi'_y'|Psi'_y'>) for two trees of one height (theory.md, eq. E1).

    The covariances between the block states of the one and the other tree climb both at once, as C does in eq. M2.
    """
    local, other_local = (len(tree.levels[0].below.mean) for tree in (first, second))
    covariance = torch.eye(local, other_local, dtype=first.top.dtype, device=first.top.device)
    covariance[0, 0] = 0
    for level, other in zip(first.levels, second.levels, strict=True):
        left, right = (level.bordered[side][1:, 1:] @ covariance @ other.bordered[side][1:, 1:].mT for side in (0, -1))
        left_means, right_means = (torch.outer(level.mapped[side].mean, other.mapped[side].mean) for side in (0, -1))
        covariance = left_means * right + left * right_means + left * right
    means = torch.outer(first.top @ first.states.mean, second.top @ second.states.mean)
    gram = means + first.top @ covariance @ second.top.mT
    return gram / torch.outer(_norms(first), _norms(second))


def _norms(tree: Tree) -> Float[Tensor, " classes"]:
    """Return the norms of the classes' states, without the powers of two of the image's states."""
    squares = (tree.top @ tree.states.mean).square() + ((tree.top @ tree.states.covariance) * tree.top).sum(-1)
    return squares.sqrt()


def summed_tensors(
    states: Sequence[tuple[Sequence[Tensor], Tensor]], weights: Sequence[float]
) -> tuple[list[Tensor], Tensor]:
    """Return the site tensors and the top of sum_k c_k |Psi^(k)_y> (theory.md, eq. E2).

    Site tensors stand on the diagonal, and tops side by side. States that all have the constant channel, (1, 0, .., 0)
    in the first row of every site tensor, share it.

    Args:
        states: site tensors and top of every state, of as many levels and classes.
        weights: c_k.
    """
    shared = all(_has_constant_channel(tensor) for tensors, _ in states for tensor in tensors)
    num_levels = len(states[0][0])
    local = max(tensors[0].shape[-1] for tensors, _ in states)
    site_tensors = []
    for level in range(num_levels):
        parts = [tensors[level] for tensors, _ in states]
        matrices = max(len(part) for part in parts)
        parts = [part.expand(matrices, -1, -1) for part in parts]
        if level == 0:
            # All read the same local functions; a smaller basis is the beginning of a larger one.
            parts = [torch.nn.functional.pad(part, (0, local - part.shape[-1])) for part in parts]
            rows = parts if not shared else [parts[0][:, :1], *(part[:, 1:] for part in parts)]
            site_tensors.append(torch.cat(rows, dim=1))
        else:
            site_tensors.append(torch.stack([_on_the_diagonal(blocks, shared) for blocks in zip(*parts, strict=True)]))
    tops = [weight * top for weight, (_, top) in zip(weights, states, strict=True)]
    if not shared:
        return site_tensors, torch.cat(tops, dim=1)
    constant = torch.stack([top[:, 0] for top in tops]).sum(0)
    return site_tensors, torch.cat((constant.unsqueeze(1), *(top[:, 1:] for top in tops)), dim=1)


def _has_constant_channel(site_tensor: Tensor) -> bool:
    return bool((site_tensor[:, 0, 0] == 1).all() and (site_tensor[:, 0, 1:] == 0).all())


def _on_the_diagonal(blocks: Sequence[Tensor], shared: bool) -> Tensor:
    """Return a block-diagonal matrix; its constant row and column are shared or belong to the blocks."""
    if not shared:
        return torch.block_diag(*blocks)
    moving = torch.block_diag(*(block[1:, 1:] for block in blocks))
    shifts = torch.cat([block[1:, :1] for block in blocks])
    lower = torch.cat((shifts, moving), dim=1)
    first = torch.zeros_like(lower[:1])
    first[0, 0] = 1
    return torch.cat((first, lower))


def summed_chains(
    states: Sequence[Any], weights: Sequence[float]
) -> tuple[list[Inexact[Tensor, "_ _ _"]], Inexact[Tensor, "left classes right"]]:
    """Return the site tensors and the class tensor of sum_k c_k |Psi^(k)_y> for several `MPSState` (theory.md, eq. A6).

    Args:
        states: with their classes at one place.
        weights: c_k.

    Raises:
        InputError: their classes stand at different places, or they lack pixels at different sites.
    """
    first = states[0]
    for other in states[1:]:
        if other.class_site != first.class_site:
            raise InputError(
                f"matrix product states with {first.class_site} and {other.class_site} sites before their classes have "
                "no sum here: train them with one model.class_site"
            )
        if not torch.equal(other.padding, first.padding):
            raise InputError("matrix product states that lack pixels at different sites have no sum")
    chains = []
    for weight, (site_tensors, class_tensor) in zip(weights, alike(*states), strict=True):
        chains.append([*site_tensors[: first.class_site], weight * class_tensor, *site_tensors[first.class_site :]])
    last = first.num_sites
    summed = [
        _beside_one_another(parts, place == 0, place == last) for place, parts in enumerate(zip(*chains, strict=True))
    ]
    class_tensor = summed.pop(first.class_site)
    return summed, class_tensor


def _beside_one_another(parts: Sequence[Tensor], is_first: bool, is_last: bool) -> Inexact[Tensor, "left leg right"]:
    """Return the tensor with these blocks on the diagonal of its bonds; the outermost bonds stay 1."""
    if is_first or is_last:
        return torch.cat(list(parts), dim=2 if is_first else 0)
    return torch.stack([torch.block_diag(*slices) for slices in zip(*(p.unbind(1) for p in parts), strict=True)], dim=1)
