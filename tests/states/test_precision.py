"""Digits: against mpmath with 60 of them, where float64 could lose its own."""

import math
import runpy
from itertools import pairwise
from pathlib import Path

import mpmath
import numpy as np
import pytest
import torch
from drawn_networks import moved_network, random_tensors
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


judge = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks/entropy_precision.py"))


@pytest.mark.parametrize("matrices", [1, 2])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_4096_pixels(size: float, matrices: int) -> None:
    site_tensors, top = random_tensors([2] + [3] * 12, 2, matrices)
    site_tensors = [tensor * size for tensor in site_tensors]
    state = NetworkState(site_tensors, top)
    (entropy,), log_norm = judge["exact_numbers"](site_tensors, top, 1)
    assert state.entanglement_entropy()[1].item() == pytest.approx(entropy, abs=1e-11)
    assert state.log_norm()[1].item() == pytest.approx(log_norm, rel=1e-13)
    assert abs(log_norm) > 709 or size == 1
    assert state.entropy_profile().isfinite().all()
    assert state.block_entropies(0).shape == (2, 4096)
    assert state.overlaps()[0, 1].abs() <= 1


def test_a_network_of_4096_pixels() -> None:
    network = moved_network(4096, 2, spread=0.1)
    with torch.no_grad():
        state = NetworkState.from_network(network)
        x = torch.rand(3, 4096, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        torch.testing.assert_close(state.amplitude(x), network(x), rtol=1e-9, atol=1e-12)
    (entropy,), log_norm = judge["exact_numbers"](state.site_tensors, state.top, 0)
    assert state.entanglement_entropy()[0].item() == pytest.approx(entropy, abs=1e-10)
    assert state.log_norm()[0].item() == pytest.approx(log_norm, rel=1e-12)


@pytest.mark.parametrize("matrices", [1, 2])
def test_classes_whose_norms_differ_by_1e300(matrices: int) -> None:
    site_tensors, top = random_tensors([2, 3, 4, 5], 3, matrices)
    plain = NetworkState(site_tensors, top)
    factors = torch.tensor([1e-300, 1.0, 1e300], dtype=torch.float64)
    scaled = NetworkState(site_tensors, top * factors[:, None])
    torch.testing.assert_close(scaled.log_norm() - 2 * factors.log(), plain.log_norm(), rtol=0, atol=1e-12)
    torch.testing.assert_close(scaled.overlaps(), plain.overlaps(), rtol=0, atol=1e-14)
    torch.testing.assert_close(scaled.entropy_profile(), plain.entropy_profile(), rtol=0, atol=1e-14)


def test_channels_whose_norms_differ_beyond_float64() -> None:
    """Powers of ten move freely between a channel of a site tensor and the one above it: no number may change."""
    site_tensors, top = random_tensors([2, 3, 4, 5], 3, matrices=2)
    plain = NetworkState(site_tensors, top)
    moved = [tensor.clone() for tensor in site_tensors]
    for level in (0, 1):
        # Pooling squares the factor of the left and right child.
        factors = torch.logspace(-100, 100, moved[level].shape[1], dtype=torch.float64)
        moved[level] *= factors[:, None]
        moved[level + 1] /= factors**2
    gauged = NetworkState(moved, top)
    torch.testing.assert_close(gauged.log_norm(), plain.log_norm(), rtol=0, atol=1e-11)
    torch.testing.assert_close(gauged.entropy_profile(), plain.entropy_profile(), rtol=0, atol=1e-12)
    x = torch.rand(4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(gauged.amplitude(x), plain.amplitude(x), rtol=1e-11, atol=0)


@pytest.mark.parametrize("size", [1e-3, 1e3])
@pytest.mark.parametrize("matrices", [1, 2])
def test_probabilities_where_amplitudes_leave_float64(matrices: int, size: float) -> None:
    site_tensors, top = random_tensors([2] + [3] * 10, 3, matrices)
    site_tensors = [tensor * size for tensor in site_tensors]
    state = NetworkState(site_tensors, top)
    x = torch.rand(2, 1024, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with mpmath.workdps(30):
        features = judge["exact"](state.represent(x)[1])
        for tensor in site_tensors:
            matrix = judge["exact"](tensor)
            features = (features[0::2] @ matrix[0].T) * (features[1::2] @ matrix[-1].T)
        amplitudes = features[0] @ judge["exact"](top).T
        expected = amplitudes**2 / np.sum(amplitudes**2)
    assert torch.isin(state.amplitude(x), torch.tensor([0.0, math.inf, -math.inf], dtype=torch.float64)).all()
    ours = state.conditional_probability(x)[1]
    torch.testing.assert_close(ours, torch.from_numpy(expected.astype(float)), rtol=0, atol=1e-12)


def test_gradients_of_4096_pixels_are_finite() -> None:
    site_tensors, top = random_tensors([2] + [3] * 12, 2, matrices=2)
    leaves = [(tensor * 10).requires_grad_() for tensor in site_tensors]
    state = NetworkState(leaves, top)
    (state.entropy_profile().sum() + state.log_norm().sum()).backward()
    assert all(leaf.grad is not None and leaf.grad.isfinite().all() for leaf in leaves)


def test_a_state_that_vanishes() -> None:
    site_tensors, top = random_tensors([2, 3, 4], 2, matrices=1)
    top[1] = 0
    state = NetworkState(site_tensors, top)
    assert state.log_norm()[1] == -math.inf
    assert state.entanglement_entropy()[0].isfinite()
    assert state.entanglement_entropy()[1].isnan()


def test_logarithms_of_amplitudes_have_all_digits() -> None:
    """Exponents are integers: times log 2 they must not become single precision numbers."""
    with torch.no_grad():
        state = NetworkState.from_network(moved_network(64, 2, sharing="sibling", start="default"))
    x = torch.rand(3, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    logarithm, sign = state.log_amplitude(x)
    torch.testing.assert_close(sign * logarithm.exp(), state.amplitude(x), rtol=1e-13, atol=0)
