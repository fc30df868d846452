"""Every number against the state vectors themselves, for all kinds of networks of at most eight pixels."""

from typing import Any

import pytest
import torch
from drawn_networks import moved_network, random_tensors, small_networks, state_vectors
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qcnn_lightning import NetworkState

small = settings(deadline=None, max_examples=25)
many_images = torch.rand(50, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)


def probabilities(vectors: Tensor, sites: range, local_dimension: int, num_sites: int) -> Tensor:
    """Schmidt probabilities of some neighbouring pixels against the rest, by singular values of the state vectors."""
    left, block = local_dimension**sites.start, local_dimension ** len(sites)
    matrix = vectors.reshape(len(vectors), left, block, -1).transpose(1, 2).flatten(2)
    squares = torch.linalg.svdvals(matrix).square()
    return squares / squares.sum(-1, keepdim=True)


def compare_with_vectors(state: NetworkState, vectors: Tensor) -> None:
    gram = vectors @ vectors.T
    norm = gram.diagonal()
    close(state.log_norm(), norm.log())
    close(state.overlaps(), gram / norm.sqrt().outer(norm.sqrt()))
    profile = state.entropy_profile()
    for level in range(state.num_levels):
        blocks = [
            probabilities(vectors, range(start, start + 2**level), state.channels[0] + 1, state.num_sites)
            for start in range(0, state.num_sites, 2**level)
        ]
        expected = torch.stack(blocks, dim=1)
        ours = state.block_spectra(level)
        rank = min(ours.shape[-1], expected.shape[-1])
        close(ours[..., :rank], expected[..., :rank])
        assert (ours[..., rank:] == 0).all()
        assert (expected[..., rank:] < 1e-20).all()
        entropies = torch.special.entr(expected).sum(-1)
        close(state.block_entropies(level), entropies)
        close(profile[:, level], entropies.mean(-1))
    half = probabilities(vectors, range(state.num_sites // 2), state.channels[0] + 1, state.num_sites)
    close(state.schmidt_spectrum()[:, : half.shape[1]], half[:, : state.channels[-2] + 1])
    close(state.entanglement_entropy(), torch.special.entr(half).sum(-1))
    close(state.effective_schmidt_rank(), torch.special.entr(half).sum(-1).exp())
    close(state.renyi_entropy(1), torch.special.entr(half).sum(-1))
    for alpha in (1.01, 2, 10):
        close(state.renyi_entropy(alpha), half.pow(alpha).sum(-1).log() / (1 - alpha))
    close(state.renyi_entropy(torch.inf), -half[:, 0].log())


@small
@given(arguments=small_networks())
def test_all_numbers_are_those_of_the_state_vectors(arguments: dict[str, Any]) -> None:
    network = moved_network(**arguments)
    with torch.no_grad():
        state = NetworkState.from_network(network)
        compare_with_vectors(state, state.dense())


@small
@given(
    channels=st.lists(st.integers(1, 4), min_size=2, max_size=3).map(lambda above: [2, *above]),
    num_classes=st.integers(1, 5),
    matrices=st.integers(1, 2),
    seed=st.integers(0, 2**16),
)
def test_states_without_a_constant_channel(channels: list[int], num_classes: int, matrices: int, seed: int) -> None:
    site_tensors, top = random_tensors(channels, num_classes, matrices, seed)
    state = NetworkState(site_tensors, top)
    compare_with_vectors(state, state.dense())


@small
@given(arguments=small_networks())
def test_amplitudes_are_the_output_of_the_network(arguments: dict[str, Any]) -> None:
    network = moved_network(**arguments)
    x = many_images[:, : network.num_sites]
    grey_levels = (x * 255).to(torch.uint8)
    with torch.no_grad():
        state = NetworkState.from_network(network)
        for images in (x, grey_levels):
            output = network(images)
            torch.testing.assert_close(state.amplitude(images), output, atol=1e-10, rtol=1e-10)
            conditional = state.conditional_probability(images)
            close(conditional, output**2 / (output**2).sum(-1, keepdim=True))
            torch.testing.assert_close(conditional.sum(-1), torch.ones(50, dtype=torch.float64), atol=1e-12, rtol=0)
            # Of classes that are alike to the last digits, either is the most probable one.
            chosen = output.abs().gather(-1, conditional.argmax(-1, keepdim=True))
            torch.testing.assert_close(chosen, output.abs().amax(-1, keepdim=True), atol=0, rtol=1e-12)


@pytest.mark.parametrize("basis", ["fourier", "legendre"])
@pytest.mark.parametrize("sharing", ["full", "sibling"])
@pytest.mark.parametrize("num_sites", [2, 4])
def test_state_vectors_are_the_output_expanded_in_the_local_basis(num_sites: int, sharing: str, basis: str) -> None:
    network = moved_network(num_sites, 2, basis=basis, sharing=sharing)
    with torch.no_grad():
        dense = NetworkState.from_network(network).dense()
    close(dense, state_vectors(network).flatten(1))


def test_children_with_a_shared_and_levels_with_an_own_matrix_mix() -> None:
    shared, _ = random_tensors([2, 3, 4, 2], 3, matrices=1)
    own, top = random_tensors([2, 3, 4, 2], 3, matrices=2, seed=1)
    for site_tensors in ([shared[0], own[1], shared[2]], [own[0], shared[1], own[2]]):
        state = NetworkState(site_tensors, top)
        compare_with_vectors(state, state.dense())
