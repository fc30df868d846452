"""Several states: overlaps between networks, sums, single classes, equality; trees of dense tensors and quimb."""

import math
from pathlib import Path

import numpy as np
import pytest
import quimb.tensor as qtn
import torch
from drawn_networks import moved_network, random_tensors
from torch import Tensor

from qcnn_lightning import QCNN, NetworkState
from qcnn_lightning.errors import InputError
from qcnn_lightning.states.layout import ImageLayout


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


def network(num_sites: int = 8, d: int = 2, seed: int = 0, **settings: object) -> QCNN:
    return moved_network(num_sites, d, seed=seed, **settings)


def state_of(*arguments: int, **settings: object) -> NetworkState:
    with torch.no_grad():
        return NetworkState.from_network(network(*arguments, **settings))


STATES = {
    "full": lambda: state_of(8, 2, 1, sharing="full"),
    "sibling": lambda: state_of(8, 2, 2, sharing="sibling"),
    "other classes": lambda: state_of(8, 2, 3, num_classes=5, start="default"),
    "no constant channel": lambda: NetworkState(*random_tensors([2, 3, 4, 5], 3, matrices=2)),
}


@pytest.mark.parametrize("second", STATES)
@pytest.mark.parametrize("first", STATES)
def test_overlaps_between_networks_are_those_of_their_vectors(first: str, second: str) -> None:
    one, other = STATES[first](), STATES[second]()
    vectors, others = one.dense(), other.dense()
    expected = vectors @ others.T / vectors.norm(dim=1)[:, None] / others.norm(dim=1)
    close(one.overlaps(other), expected)
    close(other.overlaps(one), expected.T)
    close(one.overlaps(one), one.overlaps())


def test_a_smaller_basis_is_the_beginning_of_a_larger_one() -> None:
    one, other = state_of(4, 2), state_of(4, 4, 2, sharing="sibling")
    padded = torch.nn.functional.pad(one.dense().reshape(-1, 3, 3, 3, 3), [0, 2] * 4).flatten(1)
    expected = padded @ other.dense().T / padded.norm(dim=1)[:, None] / other.dense().norm(dim=1)
    close(one.overlaps(other), expected)
    x = torch.rand(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    total = NetworkState.sum([one, other], [1.0, 2.0])
    torch.testing.assert_close(total.amplitude(x), one.amplitude(x) + 2 * other.amplitude(x), rtol=1e-11, atol=1e-12)


def test_states_that_cannot_be_compared() -> None:
    state = state_of()
    with pytest.raises(InputError, match="8 and 4 pixels"):
        state.overlaps(state_of(4))
    with pytest.raises(InputError, match="'fourier' and 2 of 'legendre'"):
        state.overlaps(state_of(basis="legendre"))
    orders = [ImageLayout.of(order, (2, 4)) for order in (range(8), range(7, -1, -1))]
    with pytest.raises(InputError, match="different pixels"):
        state.described(None, orders[0]).overlaps(state.described(None, orders[1]))
    with pytest.raises(InputError, match="3 and 5 classes"):
        NetworkState.sum([state, state_of(num_classes=5)])
    with pytest.raises(InputError, match=r"a NetworkState cannot be compared with a QCNN.*network\.state\(\)"):
        state.overlaps(QCNN(8, 3, d=2))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="a NetworkState cannot be compared with a DenseTreeState"):
        NetworkState.sum([state, state.to_dense_tree()])  # type: ignore[list-item]
    with pytest.raises(InputError, match="empty"):
        NetworkState.sum([])
    with pytest.raises(InputError, match="weights has 1 numbers, there are 2 states"):
        NetworkState.sum([state, state], [1.0])


@pytest.mark.parametrize("second", ["full", "sibling", "no constant channel"])
def test_a_sum_is_the_state_of_the_averaged_scores(second: str) -> None:
    networks = [STATES["full"](), STATES[second]()]
    x = torch.rand(20, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for weights in (None, [2.0, -0.5], [0.0, 1.0]):
        total = NetworkState.sum(networks, weights)
        factors = [0.5, 0.5] if weights is None else weights
        expected = sum(factor * state.amplitude(x) for factor, state in zip(factors, networks, strict=True))
        torch.testing.assert_close(total.amplitude(x), expected, rtol=1e-11, atol=1e-12)
    # One constant channel for all, if all have it.
    shared = second != "no constant channel"
    assert total.channels[1:] == tuple(
        sum(channels) + (0 if shared else 1) for channels in zip(*(s.channels[1:] for s in networks), strict=True)
    )


def test_entropies_of_a_sum_are_those_of_its_vectors() -> None:
    states = [state_of(seed=seed) for seed in range(3)]
    total = NetworkState.sum(states)
    vectors = sum(state.dense() for state in states) / 3
    close(total.log_norm(), vectors.square().sum(1).log())
    values = torch.linalg.svdvals(vectors.reshape(3, 81, 81)).square()
    spectrum = values / values.sum(-1, keepdim=True)
    close(total.entanglement_entropy(), torch.special.entr(spectrum).sum(-1))


def test_an_ensemble_of_networks_scores_as_its_state() -> None:
    networks = [network(16, 2, seed, sharing="sibling") for seed in range(3)]
    x = torch.randint(256, (10, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    with torch.no_grad():
        total = NetworkState.sum([one.state() for one in networks])
        torch.testing.assert_close(total.amplitude(x), sum(one(x) for one in networks) / 3, rtol=1e-10, atol=1e-12)


def test_single_classes_of_a_state() -> None:
    state = state_of().described(["zero", "one", "two"], None)
    assert len(state) == 3
    assert len(state[1]) == 1
    assert [one.class_names for one in state] == [("zero",), ("one",), ("two",)]
    close(state[-1].entanglement_entropy(), state.entanglement_entropy()[2:])
    for classes in ([2, 0], np.array([2, 0]), torch.tensor([2, 0])):
        assert state[classes].class_names == ("two", "zero")
        close(state[classes].overlaps(), state.overlaps()[[2, 0]][:, [2, 0]])
    assert torch.equal(state[1:].top, state.top[1:])
    with pytest.raises(IndexError):
        state[3]


def test_states_are_equal_if_their_tensors_and_bases_are(tmp_path: Path) -> None:
    state = state_of()
    state.save(tmp_path / "state.safetensors")
    assert NetworkState.load(tmp_path / "state.safetensors") == state
    assert len({state, state_of(), state[:]}) == 1
    assert state != state[:2]
    assert state != NetworkState(state.site_tensors, state.top, "legendre")
    assert state != NetworkState(state.site_tensors, state.top + 1e-15)
    assert state != "state"


@pytest.mark.parametrize("name", STATES)
def test_a_tree_of_dense_tensors_and_back(name: str) -> None:
    state = STATES[name]()
    tree = state.to_dense_tree()
    states = torch.eye(state.channels[0] + 1, dtype=torch.float64)
    for (node,) in tree.site_tensors:
        states = torch.einsum("ijk,ja,kb->iab", node, states, states).flatten(1)
    torch.testing.assert_close(tree.top @ states, state.dense(), rtol=1e-12, atol=1e-12)
    back = NetworkState.from_dense_tree(tree)
    assert back.channels == state.channels
    torch.testing.assert_close(back.dense(), state.dense(), rtol=1e-12, atol=1e-12)


def test_any_tree_of_dense_tensors_is_a_state() -> None:
    generator = torch.Generator().manual_seed(0)
    tree = state_of(4).to_dense_tree()
    nodes = tuple(torch.randn(node.shape, generator=generator, dtype=torch.float64) for node in tree.site_tensors)
    state = NetworkState.from_dense_tree(type(tree)(nodes, tree.top))
    states = torch.eye(3, dtype=torch.float64)
    for (node,) in nodes:
        states = torch.einsum("ijk,ja,kb->iab", node, states, states).flatten(1)
    torch.testing.assert_close(state.dense(), tree.top @ states, rtol=1e-11, atol=1e-11)


@pytest.fixture(params=["full", "sibling"])
def large(request: pytest.FixtureRequest) -> NetworkState:
    return state_of(64, 2, sharing=request.param, start="default")


def norm_and_density(network: object, sites: list[int]) -> tuple[float, np.ndarray]:
    """log <Psi|Psi> and the density matrix of some sites, contracted by quimb."""
    bra = network.H.reindex({f"k{site}": f"b{site}" for site in sites})
    both = network & bra
    exponent, both.exponent = 2 * network.exponent, 0.0
    inds = [f"k{site}" for site in sites] + [f"b{site}" for site in sites]
    dense = both.contract(all, output_inds=inds, optimize="greedy").data
    dense = dense.reshape(math.isqrt(dense.size), -1)
    return math.log(np.trace(dense)) + exponent * math.log(10), dense / np.trace(dense)


def test_quimb_finds_the_same_norms_density_matrices_and_entropies(large: NetworkState) -> None:
    network = large.to_quimb(1)
    assert network.sites == tuple(range(64))
    for sites in ([5], [7, 50], [33, 32, 2]):
        log_norm, dense = norm_and_density(network, sites)
        assert large.log_norm()[1].item() == pytest.approx(log_norm, abs=1e-10)
        ours = large.reduced_density_matrix(sites)[1]
        torch.testing.assert_close(ours, torch.from_numpy(dense), atol=1e-10, rtol=0)
        eigenvalues = torch.linalg.eigvalsh(torch.from_numpy(dense)).clamp(min=0)
        entropy = torch.special.entr(eigenvalues).sum()
        torch.testing.assert_close(large.region_entropy(sites)[1], entropy, atol=1e-10, rtol=0)
        renyi = -torch.from_numpy(dense).square().sum().log()
        torch.testing.assert_close(large.renyi_2(sites).value[1], renyi, atol=1e-10, rtol=0)
    close(large.mutual_information_map(7)[:, 50], large.mutual_information(7, 50))
    single = [norm_and_density(network, [site])[1] for site in (7, 50)]
    double = norm_and_density(network, [7, 50])[1]
    entropies = [torch.special.entr(torch.linalg.eigvalsh(torch.from_numpy(rho)).clamp(min=0)).sum() for rho in
                 (*single, double)]  # fmt: skip
    expected = entropies[0] + entropies[1] - entropies[2]
    torch.testing.assert_close(large.mutual_information_map(7)[1, 50], expected, atol=1e-10, rtol=0)


def test_quimb_finds_the_same_amplitudes_and_overlaps(large: NetworkState) -> None:
    x = torch.rand(1, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    log_amplitude, sign = large.log_amplitude(x)
    network = large.to_quimb(2)
    image = [qtn.Tensor(pixel, inds=[f"k{site}"]) for site, pixel in enumerate(large.represent(x)[0].numpy(force=True))]
    both = network & qtn.TensorNetwork(image)
    exponent, both.exponent = network.exponent, 0.0
    value = both.contract(all, output_inds=[], optimize="greedy")
    assert math.copysign(1, value) == sign[0, 2]
    assert math.log(abs(value)) + exponent * math.log(10) == pytest.approx(log_amplitude[0, 2].item(), abs=1e-10)

    other = state_of(64, 4, 5, sharing="sibling")[[0, 1]]
    smaller = NetworkState([tensor[..., :3] if level == 0 else tensor for level, tensor in
                            enumerate(other.site_tensors)], other.top)  # fmt: skip
    first, second = network, smaller.to_quimb(0)
    first.exponent = second.exponent = 0.0
    second.reindex_({ind: f"o{ind}" for ind in second.inner_inds()})

    def product(one: object, two: object) -> float:
        two = two.reindex({ind: f"x{ind}" for ind in two.inner_inds()})
        return (one & two).contract(all, output_inds=[], optimize="greedy")

    fidelity = product(first, second) / math.sqrt(product(first, first) * product(second, second))
    assert large.overlaps(smaller)[2, 0].item() == pytest.approx(fidelity, abs=1e-10)


def test_quimb_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "quimb.tensor", None)
    with pytest.raises(InputError, match=r"pip install 'qcnn-lightning\[quimb\]'"):
        state_of().to_quimb(0)


def test_classes_that_there_are_not() -> None:
    state = state_of()
    for ask in (state.to_quimb, lambda label: state.sample(label, 1)):
        with pytest.raises(InputError, match="label=3: there is no such class; expected 0 to 2"):
            ask(3)
