"""Amplitudes of product states: the tree contracted from pixels to classes, with powers of two taken out (eq. 31)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from qcnn_lightning.errors import InputError
from qcnn_lightning.states.gram import binary_exponent, take_out_powers_of_two, times_power_of_two

LARGEST_DENSE_SIZE = 2**24


def contract(
    site_tensors: Sequence[Float[Tensor, "_ _ _"]],
    top: Float[Tensor, "classes states"],
    features: Float[Tensor, "batch sites functions"],
) -> tuple[Float[Tensor, "batch classes"], Int[Tensor, "batch classes"]]:
    """Return a and e with <x|Psi_y> = a 2^e for products x of one-pixel states (theory.md, powers of two).

    Powers of two are taken out of every channel, because site tensors scale whole channels, and out of every site of
    every image, because images differ.

    Args:
        site_tensors: ã^(0) .. ã^(L-1).
        top: ã^(L).
        features: the one-pixel states in the local basis.
    """
    channel_exponent = features.new_zeros(features.shape[-1], dtype=torch.int64)
    site_exponent = features.new_zeros(features.shape[:-1], dtype=torch.int64)
    for site_tensor in site_tensors:
        scaled, row_exponent = take_out_powers_of_two(site_tensor, channel_exponent)
        left = functional.linear(features[:, 0::2], scaled[0])
        right = functional.linear(features[:, 1::2], scaled[-1])
        features = left * right
        channel_exponent = row_exponent[0] + row_exponent[-1]
        site_exponent = site_exponent[:, 0::2] + site_exponent[:, 1::2]

        shift = binary_exponent(features.detach().abs().amax(-1))
        features = times_power_of_two(features, -shift.unsqueeze(-1))
        site_exponent = site_exponent + shift
        shift = binary_exponent(features.detach().abs().amax((0, 1)))
        features = times_power_of_two(features, -shift)
        channel_exponent = channel_exponent + shift
    scaled, row_exponent = take_out_powers_of_two(top, channel_exponent)
    return functional.linear(features[:, 0], scaled), site_exponent + row_exponent


def dense_vectors(
    site_tensors: Sequence[Float[Tensor, "_ _ _"]], top: Float[Tensor, "classes states"]
) -> Float[Tensor, "classes dimension"]:
    """Return the state vectors, flattened with the first site slowest (eq. 27, 30).

    Raises:
        InputError: they would be more than 2^24 numbers.
    """
    local_dimension, num_sites = site_tensors[0].shape[-1], 2 ** len(site_tensors)
    if max(top.shape) * local_dimension**num_sites > LARGEST_DENSE_SIZE:
        raise InputError(
            f"the state vectors have {local_dimension}^{num_sites} entries each: dense() takes small systems, up to "
            f"{LARGEST_DENSE_SIZE} numbers in all"
        )
    states = torch.eye(local_dimension, dtype=top.dtype, device=top.device)
    for site_tensor in site_tensors:
        left, right = site_tensor[0] @ states, site_tensor[-1] @ states
        states = (left.unsqueeze(-1) * right.unsqueeze(-2)).flatten(1)
    return top @ states
