"""The TensorNetwork library as the judge, for 16 and 32 pixels; and its network as something to go on with."""

import pytest
import tensornetwork as tn
import torch
from drawn_networks import moved_network, random_tensors
from torch import Tensor

from qcnn_lightning import NetworkState
from qcnn_lightning.errors import InputError
from qcnn_lightning.states.contraction import TensorNetworkState


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-10)


@pytest.fixture(params=[(16, "full"), (16, "sibling"), (32, "full"), (32, "sibling")], ids=str, scope="module")
def states(request: pytest.FixtureRequest) -> tuple[NetworkState, TensorNetworkState]:
    num_sites, sharing = request.param
    network = moved_network(num_sites, 2, sharing=sharing, start="default")
    with torch.no_grad():
        state = NetworkState.from_network(network)
    return state, TensorNetworkState(state)


def test_norms_and_overlaps(states: tuple[NetworkState, TensorNetworkState]) -> None:
    ours, theirs = states
    close(ours.log_norm(), theirs.norm().log())
    close(ours.overlaps(), theirs.overlaps())


def test_amplitudes(states: tuple[NetworkState, TensorNetworkState]) -> None:
    ours, theirs = states
    x = torch.randint(256, (2, ours.num_sites), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    close(ours.amplitude(x), theirs.amplitude(x))
    close(ours.amplitude(x.double() / 255), theirs.amplitude(x))


def test_schmidt_spectra_of_the_halves(states: tuple[NetworkState, TensorNetworkState]) -> None:
    ours, theirs = states
    spectrum = theirs.schmidt_spectrum()
    close(ours.schmidt_spectrum()[:, : spectrum.shape[1]], spectrum)
    close(ours.entanglement_entropy(), theirs.entanglement_entropy())
    close(ours.renyi_entropy(2), -spectrum.square().sum(-1).log())


def test_blocks_at_every_level(states: tuple[NetworkState, TensorNetworkState]) -> None:
    ours, theirs = states
    for level in range(ours.num_levels):
        entropies = ours.block_entropies(level)
        for block in {0, (5 << 3 >> level) % (ours.num_sites >> level), (ours.num_sites >> level) - 1}:
            spectrum = theirs.block_spectrum(1, level, block)
            close(entropies[1, block], torch.special.entr(spectrum).sum())


def test_density_matrices(states: tuple[NetworkState, TensorNetworkState]) -> None:
    ours, theirs = states
    for level, block in ((0, 5), (1, 3)):
        pixels = range(block << level, (block + 1) << level)
        density = theirs.reduced_density_matrix(2, pixels)
        close(density, density.T)
        spectrum = torch.linalg.eigvalsh(density).clamp(min=0)
        close(ours.block_entropies(level)[2, block], torch.special.entr(spectrum).sum())


def test_the_order_of_pixels_in_a_density_matrix(states: tuple[NetworkState, TensorNetworkState]) -> None:
    _, theirs = states
    both = theirs.reduced_density_matrix(0, [3, 7]).reshape(3, 3, 3, 3)
    close(torch.einsum("ijkj->ik", both), theirs.reduced_density_matrix(0, [3]))
    close(torch.einsum("jijk->ik", both), theirs.reduced_density_matrix(0, [7]))


def test_the_tree_can_be_contracted_further() -> None:
    """Correlation of two far pixels' grey levels in a state, as a user would have to work it out."""
    state = NetworkState(*random_tensors([2, 3, 4], 2, matrices=2))
    tree, conjugate = (TensorNetworkState(state).tree(label=1) for _ in range(2))
    assert tree.label is None
    assert [edge.dimension for edge in tree.sites] == [3] * 4
    cosine = torch.tensor([[0, 1, 0], [1, 0, 0], [0, 0, 0]], dtype=torch.float64)
    operators = [tn.Node(cosine.numpy()) for _ in range(2)]
    for site in (1, 2):
        tree.sites[site] ^ conjugate.sites[site]
    for operator, site in zip(operators, (0, 3), strict=True):
        operator[0] ^ tree.sites[site]
        operator[1] ^ conjugate.sites[site]
    value = tn.contractors.greedy([*tree.nodes, *conjugate.nodes, *operators]).tensor
    vector = state.dense()[1].reshape(3, 3, 3, 3)
    expected = torch.einsum("abcd,ax,dy,xbcy->", vector, cosine, cosine, vector)
    assert value == pytest.approx(expected.item(), rel=1e-12)


def test_density_matrices_that_cannot_be() -> None:
    state = TensorNetworkState(NetworkState(*random_tensors([2, 3, 4, 2], 2, matrices=1)))
    with pytest.raises(InputError, match="6561 rows"):
        state.reduced_density_matrix(0, range(8))
    with pytest.raises(InputError, match="from 0 to 7"):
        state.reduced_density_matrix(0, [8])
    with pytest.raises(InputError, match="different pixels"):
        state.reduced_density_matrix(0, [1, 1])
