"""Networks for the tests: drawn by hypothesis, or moved away from their start as training would."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from qcnn_lightning import QCNN


def moved_network(
    num_sites: int, d: int, num_classes: int = 3, seed: int = 0, spread: float = 0.5, **settings: object
) -> QCNN:
    """A float64 network in evaluation mode whose every parameter was moved, with statistics of random images."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = QCNN(num_sites, num_classes, d, **settings).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(noise * spread * parameter.std(correction=0).clamp(min=0.1))
    # Darker than uniform, as pictures are.
    network.fix_population_statistics(torch.rand(200, num_sites, generator=generator, dtype=torch.float64) ** 2)
    return network


@st.composite
def small_networks(draw: st.DrawFn, largest_level: int = 3) -> dict[str, Any]:
    """Arguments of `moved_network`: all kinds, at most 2^largest_level pixels and 2^16 entries in a state vector."""
    num_levels = draw(st.integers(1, largest_level))
    basis = draw(st.sampled_from(["fourier", "legendre"]))
    largest_d0 = min(4, math.floor(2 ** (16 / 2**num_levels)) - 1)
    d0 = 2 * draw(st.integers(1, largest_d0 // 2)) if basis == "fourier" else draw(st.integers(1, largest_d0))
    channels = draw(st.sampled_from(["linear", "constant"]) | st.lists(st.integers(1, 7), min_size=3, max_size=3))
    return {
        "num_sites": 2**num_levels,
        "d": d0,
        "num_classes": draw(st.integers(2, 5)),
        "seed": draw(st.integers(0, 2**16)),
        "spread": draw(st.sampled_from([0.0, 0.1, 1.0])),
        "basis": basis,
        "channels": channels if isinstance(channels, str) else [d0, *channels[:num_levels]],
        "sharing": draw(st.sampled_from(["full", "sibling"])),
        "start": draw(st.sampled_from(["product_state", "default"])),
        "start_gamma": draw(st.sampled_from([1.0, 0.3, 0.03])),
    }


def state_vectors(network: QCNN) -> Tensor:
    """<f_i|Psi_y> by integrating the network's output, as eq. 31 defines the states: (classes, d_0 + 1, .. d_0 + 1).

    Gauss-Legendre quadrature over all images whose grey levels are its points; 24 of them integrate products of the
    first few local functions to round-off.
    """
    points, weights = (torch.from_numpy(array) for array in np.polynomial.legendre.leggauss(24))
    grey_levels, weights = (points + 1) / 2, weights / 2
    images = torch.cartesian_prod(*[grey_levels] * network.num_sites)
    with torch.no_grad():
        output = network(images.reshape(-1, network.num_sites))
    vectors = output.T.reshape(-1, *[len(grey_levels)] * network.num_sites)
    projection = torch.cat((torch.ones(len(grey_levels), 1), network.basis(grey_levels)), dim=1) * weights[:, None]
    for _ in range(network.num_sites):
        vectors = torch.tensordot(vectors, projection.double(), dims=([1], [0]))
    return vectors


def random_tensors(channels: list[int], num_classes: int, matrices: int, seed: int = 0) -> tuple[list[Tensor], Tensor]:
    """Site tensors and top of a state that no network need have: no constant channel."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64) / shape[-1] ** 0.5

    site_tensors = [normal(matrices, above + 1, below + 1) for below, above in pairwise(channels)]
    return site_tensors, normal(num_classes, channels[-1] + 1)
