"""Canonical form and Schmidt truncation of trees of dense tensors (theory.md, eq. T4, T5)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from qcnn_lightning.errors import InputError
from qcnn_lightning.states.dense_gram import environments, for_nodes
from qcnn_lightning.states.gram import binary_exponent, outer, times_power_of_two

State = TypeVar("State")


@dataclass(frozen=True)
class Compressed(Generic[State]):
    """States with fewer channels.

    Attributes:
        state: the new ones.
        fidelity: |<Psi_y|Psi'_y>|^2 of the normalised states.
    """

    state: State
    fidelity: Float[Tensor, " classes"]


def canonical_tensors(
    site_tensors: Sequence[Inexact[Tensor, "_ _ _ _"]], top: Inexact[Tensor, "classes states"]
) -> tuple[list[Inexact[Tensor, "_ _ _ _"]], Inexact[Tensor, "classes _"]]:
    """Return tensors of the same states; those of nodes are isometries times a power of two.

    T^T = Q R at every node, from the pixels up; the node keeps Q, and the node above takes R.
    """
    local = site_tensors[0].shape[-1]
    remainder = torch.eye(local, dtype=top.dtype, device=top.device).unsqueeze(0)
    result = []
    for level, tensor in enumerate(site_tensors):
        left, right = (remainder, remainder) if len(remainder) == 1 else (remainder[0::2], remainder[1::2])
        nodes = 1 if len(tensor) == len(left) == 1 else 2 ** (len(site_tensors) - 1 - level)
        taken = torch.einsum("npjk,naj,nbk->npab", for_nodes(tensor, nodes), left, right)
        isometry, remainder = torch.linalg.qr(taken.flatten(-2).mT)
        shift = binary_exponent(remainder.abs().amax((-2, -1)))[:, None, None]
        remainder = times_power_of_two(remainder, -shift)
        node = times_power_of_two(isometry, shift).mT
        result.append(node.unflatten(-1, taken.shape[-2:]))
    return result, top @ remainder[0].mT


def compressed_tensors(canonical: Any, fidelity: int | float | None, channels: Sequence[int] | None) -> Compressed[Any]:
    """Return a `DenseTreeState` with fewer channels; the arguments are those of its `compress`.

    Every block keeps the eigenvectors of its reduced density matrix, averaged over the classes, and where nodes are
    shared over the blocks of a level, with the largest eigenvalues.

    Args:
        canonical: states in canonical form.
        fidelity: the smallest that is allowed.
        channels: or those that enter levels 1 .. L, at most.
    """
    check_goal(fidelity, channels, canonical.num_levels)
    bases = schmidt_bases(canonical)

    def truncated(ranks: Sequence[int]) -> Compressed[Any]:
        state = projected(canonical, bases, ranks)
        return Compressed(state, canonical.overlaps(state).diagonal().abs().square())

    if channels is not None:
        return truncated([min(rank, basis.shape[-1]) for rank, (_, basis) in zip(channels, bases, strict=True)])
    weights = [weight * (canonical.num_sites >> level) for level, (weight, _) in enumerate(bases, start=1)]
    return fewest(weights, float(fidelity or 0), truncated)


def check_goal(fidelity: int | float | None, channels: Sequence[int] | None, num_levels: int) -> None:
    """Check what states shall be compressed to.

    Raises:
        InputError: not one of both is given, or one cannot be.
    """
    if (fidelity is None) == (channels is None):
        raise InputError(f"give one of fidelity and channels; given: fidelity={fidelity}, channels={channels}")
    if fidelity is not None and not 0 < fidelity <= 1:
        raise InputError(f"fidelity={fidelity}: must be above 0 and at most 1")
    if channels is not None and (len(channels) != num_levels or min(channels) < 1):
        raise InputError(
            f"channels={list(channels)}: expected {num_levels} numbers of at least 1, of the channels that enter "
            f"levels 1 to {num_levels}"
        )


def fewest(
    weights: Sequence[Float[Tensor, " _"]],
    fidelity: float,
    truncated: Callable[[Sequence[int]], Compressed[Any]],
) -> Compressed[Any]:
    """Return the states with the fewest channels that are as faithful as wanted: bisection over the weight to keep.

    Args:
        weights: of every level's channels, descending: what each adds to the fidelity, about.
        fidelity: the smallest that is allowed, of any class.
        truncated: the states for numbers of channels.
    """
    thresholds = torch.cat(list(weights)).sort().values.tolist()

    def at(place: int) -> Compressed[Any]:
        return truncated([max(1, int((weight > thresholds[place]).sum())) for weight in weights])

    best = truncated([len(weight) for weight in weights])
    low, high = 0, len(thresholds) - 1
    while low <= high:
        middle = (low + high) // 2
        found = at(middle)
        if bool((found.fidelity >= fidelity).all()):
            best, low = found, middle + 1
        else:
            high = middle - 1
    return best


def schmidt_bases(canonical: Any) -> list[tuple[Float[Tensor, " _"], Inexact[Tensor, "_ _ _"]]]:
    """Return eigenvalues and eigenvectors of the reduced density matrices of the blocks of level 1 .. L, descending.

    Eigenvalues are means over the blocks of a level. Eigenvectors are those of every block, or one matrix for all.
    """
    levels = canonical._levels
    sums: list[Any] = [0.0] * canonical.num_levels
    for row in levels.top:
        outside = environments(levels, outer(row))[1:]
        for place, weight in enumerate(outside):
            shared = len(canonical.site_tensors[place]) == 1
            normalised = weight / weight.diagonal(dim1=-2, dim2=-1).real.sum(-1)[:, None, None]
            sums[place] = sums[place] + (normalised.mean(0, keepdim=True) if shared else normalised)
    result = []
    for total in sums:
        # Where a block's states are orthonormal, its density matrix is the Gram matrix of those outside.
        values, vectors = torch.linalg.eigh(total / canonical.num_classes)
        result.append((values.flip(-1).clamp(min=0).mean(0), vectors.flip(-1)))
    return result


def projected(canonical: Any, bases: Sequence[tuple[Tensor, Tensor]], ranks: Sequence[int]) -> Any:
    """Return states whose blocks keep so many vectors of their bases, and no other."""
    below, tensors = None, []
    for tensor, (_, basis), rank in zip(canonical.site_tensors, bases, ranks, strict=True):
        kept = basis[..., :rank]
        tensor = torch.einsum("npjk,npa->najk", tensor, kept)
        if below is not None:
            left, right = (below, below) if len(below) == 1 else (below[0::2], below[1::2])
            tensor = torch.einsum("najk,njb,nkc->nabc", tensor, left, right)
        tensors.append(tensor)
        below = kept.conj()
    assert below is not None
    return canonical._with(tensors, canonical.top @ below[0])
