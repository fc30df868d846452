"""Matrix product states, one arm at a time: vectors, Gram matrices, canonical form (theory.md, section A).

The tensor of the classes divides the chain into two arms. An arm is its tensors from the outside inwards, so both are
computed alike; the state of the whole image is v T_y w for v of the left arm and w of the right one. Powers of two are
carried beside vectors and matrices.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Inexact, Int
from torch import Tensor
from torch.nn import functional

from qcnn_lightning.states.gram import binary_exponent, times_power_of_two

Arm = Sequence[Inexact[Tensor, "_ _ _"]]
"""Tensors (outer, local, inner), from the outside inwards."""


def reversed_chain(tensors: Arm) -> list[Inexact[Tensor, "_ _ _"]]:
    """Return the tensors of a chain from its right end to the left one."""
    return [tensor.permute(2, 1, 0) for tensor in reversed(tensors)]


def carried_vectors(
    arm: Arm, features: Inexact[Tensor, "sites batch local"]
) -> tuple[Inexact[Tensor, "batch inner"], Int[Tensor, " batch"]]:
    """Return v and e: the amplitudes <x|phi_I> of an arm's states are v 2^e for products x of pixels (eq. A1)."""
    vector = features.new_ones(features.shape[1], 1)
    exponent = torch.zeros(features.shape[1], dtype=torch.int64, device=features.device)
    for tensor, functions in zip(arm, features, strict=True):
        product = (vector.unsqueeze(2) * functions.unsqueeze(1)).flatten(1)
        vector = product @ tensor.flatten(0, 1)
        shift = binary_exponent(vector.abs().amax(-1))
        vector, exponent = times_power_of_two(vector, -shift.unsqueeze(-1)), exponent + shift
    return vector, exponent


def joined(
    gram: Inexact[Tensor, "*batch outer other_outer"],
    tensor: Inexact[Tensor, "outer local inner"],
    other: Inexact[Tensor, "other_outer local other_inner"],
) -> Inexact[Tensor, "*batch inner other_inner"]:
    """Return G' = sum_i A_i^† G A'_i: one more site on the inside of two arms (eq. A3)."""
    mapped = (gram @ other.flatten(1)).unflatten(-1, other.shape[1:]).flatten(-3, -2)
    return tensor.flatten(0, 1).mH @ mapped


def rescaled(gram: Inexact[Tensor, "*batch rows columns"]) -> tuple[Inexact[Tensor, "*batch rows columns"], Tensor]:
    """Return G 2^-e with a largest entry of 1/2 to 1, and e."""
    shift = binary_exponent(gram.abs().amax((-1, -2)))
    return times_power_of_two(gram, -shift[..., None, None]), shift


def overlaps_of_arms(
    arm: Arm, other: Arm, like: Tensor
) -> tuple[Inexact[Tensor, "inner other_inner"], Int[Tensor, ""]]:
    """Return G and e with <phi_I|phi'_J> = G_IJ 2^e (eq. A3); arms without a site have G = 1 as `like`."""
    gram = like.new_ones(1, 1)
    exponent = torch.zeros((), dtype=torch.int64, device=gram.device)
    for tensor, other_tensor in zip(arm, other, strict=True):
        gram, shift = rescaled(joined(gram, tensor, other_tensor))
        exponent = exponent + shift
    return gram, exponent


def overlaps_of_chains(
    state: Any, other: Any
) -> tuple[Inexact[Tensor, "classes other_classes"], Int[Tensor, "classes other_classes"]]:
    """Return G and e with <Psi_y|Psi'_y'> = G 2^e for two `MPSState`, wherever their classes stand (eq. A3).

    One may be real and the other complex, and one may have fewer local functions.
    """
    first, last = state.class_site, other.class_site
    if first > last:
        gram, exponent = overlaps_of_chains(other, state)
        return gram.mH, exponent.mT
    (ours, of_classes), (theirs, of_other_classes) = alike(state, other)
    left, of_left = overlaps_of_arms(ours[:first], theirs[:first], of_classes)
    right, of_right = overlaps_of_arms(reversed_chain(ours[last:]), reversed_chain(theirs[last:]), of_classes)
    (rows, of_rows), (columns, of_columns) = (rescaled(one.transpose(0, 1)) for one in (of_classes, of_other_classes))
    gram = rows.mH @ left
    # From one class tensor to the other, every class has overlaps of its own.
    for tensor, other_tensor in zip(ours[first:last], theirs[first:last], strict=True):
        gram, shift = rescaled(joined(gram, tensor, other_tensor))
        of_rows = of_rows + shift
    overlaps = torch.einsum("ymp,zpq,mq->yz", gram, columns, right)
    return overlaps, of_left + of_right + of_rows.unsqueeze(1) + of_columns


def alike(*states: Any) -> list[tuple[list[Inexact[Tensor, "_ _ _"]], Inexact[Tensor, "left classes right"]]]:
    """Return the tensors of all sites, and that of the classes, of several states, with one dtype and one local basis.

    A smaller basis is the beginning of a larger one.
    """
    dtype = torch.complex128 if any(state.class_tensor.is_complex() for state in states) else torch.float64
    local = max(state.site_tensors[0].shape[1] for state in states)
    return [
        (
            [functional.pad(tensor.to(dtype), (0, 0, 0, local - tensor.shape[1])) for tensor in state.site_tensors],
            state.class_tensor.to(dtype),
        )
        for state in states
    ]


def observed_overlaps(
    arm: Arm, features: Inexact[Tensor, "sites batch local"], known: Bool[Tensor, "sites batch"]
) -> Iterator[tuple[Inexact[Tensor, "batch inner inner"], Int[Tensor, " batch"]]]:
    """Yield G and e of an arm's beginning, known pixels contracted, others summed over: before its first site, and on.

    An unknown pixel joins the sites by sum_i A_i^† G A_i, a known one by A(x)^† G A(x), A(x) = sum_i f_i(x) A_i.
    """
    gram = features.new_ones(features.shape[1], 1, 1)
    exponent = torch.zeros(features.shape[1], dtype=torch.int64, device=features.device)
    yield gram, exponent
    for tensor, functions, seen in zip(arm, features, known, strict=True):
        if seen.all():
            of_pixel = torch.einsum("bk,oki->boi", functions, tensor)
            gram = of_pixel.mH @ gram @ of_pixel
        elif not seen.any():
            gram = joined(gram, tensor, tensor)
        else:
            of_pixel = torch.einsum("bk,oki->boi", functions, tensor)
            gram = torch.where(seen[:, None, None], of_pixel.mH @ gram @ of_pixel, joined(gram, tensor, tensor))
        gram, shift = rescaled(gram)
        exponent = exponent + shift
        yield gram, exponent


def isometries(arm: Arm, like: Tensor) -> tuple[list[Inexact[Tensor, "_ _ _"]], Inexact[Tensor, "inner bond"]]:
    """Return Q_1, Q_2, .. and R: the arm's states are R applied to orthonormal ones, which the Q's make (eq. A4).

    QR factorisations from the outside inwards. R is up to a power of two; without a site it is 1 as `like`.
    """
    found, remainder = [], like.new_ones(1, 1)
    for tensor in arm:
        absorbed = torch.tensordot(remainder, tensor, 1)
        orthonormal, remainder = torch.linalg.qr(absorbed.flatten(0, 1))
        found.append(orthonormal.unflatten(0, absorbed.shape[:2]))
        remainder = rescaled(remainder)[0]
    return found, remainder


def schmidt_values(arm: Arm, centre: Inexact[Tensor, "classes inner rest"]) -> Iterator[Float[Tensor, "classes _"]]:
    """Yield the Schmidt values of the cuts of an arm, from its inner end outwards (eq. A4).

    The first cut is between the arm and the centre, the last between the outermost site and its neighbour.

    Args:
        arm: isometries.
        centre: the rest of the chain in an orthonormal basis of its own, for every class.
    """
    yield torch.linalg.svdvals(centre)
    for isometry in reversed(arm[1:]):
        moved = torch.einsum("oki,yir->yokr", isometry, centre).flatten(2)
        centre = torch.linalg.qr(moved.mT).R.mT
        yield torch.linalg.svdvals(centre)
