"""Digits: against mpmath with 60 of them, where float64 could lose its own."""

import runpy
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from drawn_networks import moved_network
from torch import Tensor

from qcnn_lightning import NetworkState

exact_numbers = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks/entropy_precision.py"))["exact_numbers"]


def largest_error(state: NetworkState, label: int) -> float:
    """The largest error of the entropies of the first block of every level, and of the logarithm of the norm."""
    entropies, log_norm = exact_numbers(state.site_tensors, state.top, label, state.num_levels)
    ours = [state.block_entropies(level)[label, 0].item() for level in range(state.num_levels)]
    return max(
        abs(state.log_norm()[label].item() - log_norm) / max(1, abs(log_norm)),
        *(abs(our - exact) for our, exact in zip(ours, entropies, strict=True)),
    )


@pytest.mark.parametrize("start", ["product_state", "default"])
@pytest.mark.parametrize("sharing", ["full", "sibling"])
@torch.no_grad()
def test_entropies_of_a_network(sharing: str, start: str) -> None:
    network = moved_network(32, 2, sharing=sharing, start=start)
    assert largest_error(NetworkState.from_network(network), label=1) < 1e-12


def nearly_constant_features(fluctuation: float, sharing: int) -> tuple[list[Tensor], Tensor]:
    """Levels that shrink the features' fluctuations about 1, then levels that take the mean off and blow them up."""
    generator = torch.Generator().manual_seed(1)
    channels = [2, 4, 6, 8, 10]
    site_tensors = []
    for level, (below, above) in enumerate(pairwise(channels)):
        weight = torch.randn(sharing, above, below, generator=generator, dtype=torch.float64) / below**0.5
        if level % 2 == 0:
            shift, weight = torch.ones(sharing, above, 1, dtype=torch.float64), weight * fluctuation
        else:
            shift, weight = 1 - weight.sum(-1, keepdim=True) / fluctuation, weight / fluctuation
        constant = torch.zeros(sharing, 1, below + 1, dtype=torch.float64)
        constant[..., 0] = 1
        site_tensors.append(torch.cat((constant, torch.cat((shift, weight), -1)), dim=1))
    return site_tensors, torch.randn(3, channels[-1] + 1, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("sharing", [1, 2])
def test_fluctuations_that_a_gram_matrix_cannot_resolve(sharing: int) -> None:
    # Fluctuations of 1e-5 leave six digits of a Gram matrix's sixteen: plain recursions are wrong by 1e-4 here.
    assert largest_error(NetworkState(*nearly_constant_features(1e-5, sharing)), label=0) < 1e-10


def test_small_entropies_keep_their_own_digits() -> None:
    # From a product state of 1 + 1e-4 f_1 on every pixel, one class entangles by a little more.
    site_tensor = torch.tensor([[[1.0, 0.0, 0.0], [1.0, 1e-4, 0.0]]], dtype=torch.float64)
    state = NetworkState([site_tensor], torch.tensor([[1.0, 1.0]], dtype=torch.float64))
    (entropy,), _ = exact_numbers(state.site_tensors, state.top, 0)
    assert 1e-16 < entropy < 1e-14
    assert state.entanglement_entropy().item() == pytest.approx(entropy, rel=1e-2)
