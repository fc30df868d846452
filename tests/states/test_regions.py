"""Few pixels, pairs, any region, orders of interaction: against state vectors, for all kinds of small networks."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from drawn_networks import moved_network, random_tensors, small_networks
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qcnn_lightning import NetworkState
from qcnn_lightning.errors import InputError
from qcnn_lightning.states.gram import build_tree
from qcnn_lightning.states.regions import Block, aligned_blocks
from qcnn_lightning.states.renyi import purity

small = settings(deadline=None, max_examples=25)


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0)


def normalised_vectors(state: NetworkState) -> Tensor:
    """The normalised state vectors, (classes, d_0 + 1, .. d_0 + 1)."""
    vectors = state.dense()
    local = state.channels[0] + 1
    return (vectors / vectors.norm(dim=1, keepdim=True)).reshape(-1, *[local] * state.num_sites)


def density(vectors: Tensor, sites: list[int]) -> Tensor:
    """The reduced density matrices of some pixels, by tracing out the others."""
    num_sites, local = vectors.ndim - 1, vectors.shape[1]
    others = [site for site in range(num_sites) if site not in sites]
    matrix = vectors.permute(0, *(1 + site for site in sites + others)).reshape(len(vectors), local ** len(sites), -1)
    return matrix @ matrix.mT


def entropy(vectors: Tensor, sites: list[int]) -> Tensor:
    """Von Neumann entropies of some pixels, by singular values."""
    num_sites = vectors.ndim - 1
    others = [site for site in range(num_sites) if site not in sites]
    matrix = vectors.permute(0, *(1 + site for site in sites + others))
    values = torch.linalg.svdvals(matrix.reshape(len(vectors), vectors.shape[1] ** len(sites), -1))
    return torch.special.entr(values.square()).sum(-1)


@st.composite
def networks_and_sites(draw: st.DrawFn) -> tuple[dict[str, Any], list[int]]:
    """Arguments of a state of at most eight pixels, and some of them in any order."""
    arguments = draw(small_networks())
    if draw(st.booleans()):
        channels = draw(st.lists(st.integers(1, 4), min_size=2, max_size=3).map(lambda above: [2, *above]))
        arguments = {"channels": channels, "num_classes": 2, "matrices": draw(st.integers(1, 2))}
        arguments |= {"num_sites": 2 ** (len(channels) - 1), "seed": draw(st.integers(0, 2**16))}
    sites = draw(st.permutations(range(arguments["num_sites"])))
    return arguments, sites[: draw(st.integers(1, min(3, arguments["num_sites"])))]


def built(arguments: dict[str, Any]) -> NetworkState:
    """The state of a network, or one that no network need have."""
    if "matrices" in arguments:
        given = {name: value for name, value in arguments.items() if name != "num_sites"}
        return NetworkState(*random_tensors(**given))
    with torch.no_grad():
        return NetworkState.from_network(moved_network(**arguments))


def compare_with_vectors(state: NetworkState, site: int, others: list[int], tolerance: float) -> None:
    """Compare every number of a pixel and of some others with the state vectors'."""
    vectors = normalised_vectors(state)
    sites = [site, *others]
    matrices = density(vectors, sites)
    close(state.reduced_density_matrix(sites), matrices, tolerance)
    close(state.region_entropy(sites), entropy(vectors, sites), tolerance)
    squares = matrices.square().sum((1, 2))
    # Four legs square once more what cancels in Gram matrices.
    by_four_legs = purity(build_tree(state.site_tensors, state.top), tuple(sorted(sites)))
    close(by_four_legs, squares, tolerance if tolerance < 1e-11 else 1e-4)
    exact = state.renyi_2(sites)
    close(exact.value, -squares.log(), tolerance)
    assert (exact.standard_error == 0).all()

    def information(a: list[int], b: list[int]) -> Tensor:
        return entropy(vectors, a) + entropy(vectors, b) - entropy(vectors, a + b)

    if others:
        close(state.mutual_information(site, others), information([site], others), tolerance)
    picture = state.mutual_information_map(site)
    assert picture[:, site].isnan().all()
    for other in set(range(state.num_sites)) - {site}:
        close(picture[:, other], information([site], [other]), tolerance)

    involved = torch.stack(torch.meshgrid(*[torch.arange(vectors.shape[1]) > 0] * state.num_sites, indexing="ij"))
    weights = torch.zeros(len(vectors), state.num_sites + 1, dtype=torch.float64)
    weights.index_add_(1, involved.sum(0).flatten(), vectors.flatten(1).square())
    close(state.interaction_order(), weights, tolerance)


@small
@given(drawn=networks_and_sites())
def test_all_numbers_are_those_of_the_state_vectors(drawn: tuple[dict[str, Any], list[int]]) -> None:
    arguments, (site, *others) = drawn
    # Gram matrices square the cancellation in networks whose channels nearly depend on each other.
    compare_with_vectors(built(arguments), site, others, tolerance=1e-9)


@pytest.mark.parametrize("basis", ["fourier", "legendre"])
@pytest.mark.parametrize("sharing", ["full", "sibling"])
def test_numbers_of_ordinary_networks_have_twelve_digits(sharing: str, basis: str) -> None:
    with torch.no_grad():
        state = NetworkState.from_network(moved_network(8, 2, sharing=sharing, basis=basis))
    compare_with_vectors(state, 5, [0, 6], tolerance=1e-12)
    matrices = 1 if sharing == "full" else 2
    compare_with_vectors(NetworkState(*random_tensors([2, 3, 4, 5], 3, matrices), basis), 2, [7, 3], tolerance=1e-12)


def test_tiny_orders_of_interaction_keep_their_digits() -> None:
    """Products of 1 + e f_1 have binomial weights, here down to 1e-300, where roots of unity would see nothing."""
    small_part = 1e-10
    site_tensor = torch.tensor([[[1.0, small_part, 0.0]]], dtype=torch.float64)
    states = [site_tensor] + [torch.ones(1, 1, 1, dtype=torch.float64)] * 3
    state = NetworkState([torch.cat((tensor, tensor), 1) for tensor in states[:1]] + [torch.eye(2).double()[None]] * 3,
                         torch.tensor([[1.0, 0.0]], dtype=torch.float64))  # fmt: skip
    weights = state.interaction_order()[0]
    binomials = torch.tensor([float(np.prod([(16 - i) / (i + 1) for i in range(k)])) for k in range(17)])
    expected = binomials.double() * small_part ** (2 * torch.arange(17, dtype=torch.float64))
    expected = expected / (1 + small_part**2) ** 16
    torch.testing.assert_close(weights[:15], expected[:15], rtol=1e-12, atol=0)


@pytest.mark.parametrize("matrices", [1, 2])
def test_blocks_have_the_density_matrices_of_their_pixels(matrices: int) -> None:
    state = NetworkState(*random_tensors([2, 3, 4, 5], 3, matrices))
    vectors = normalised_vectors(state)
    for blocks in ([range(2, 4)], [range(4), 5], [7, range(2, 4)], [range(4, 8), range(2)]):
        sites = [site for part in blocks for site in (part if isinstance(part, range) else [part])]
        ours = state.reduced_density_matrix(blocks)
        close(ours.diagonal(dim1=1, dim2=2).sum(-1), torch.ones(3, dtype=torch.float64))
        close(ours, ours.mT)
        ours_sorted = torch.linalg.eigvalsh(ours).flip(-1)
        theirs = torch.linalg.eigvalsh(density(vectors, sites)).flip(-1)
        rank = min(ours_sorted.shape[-1], theirs.shape[-1])
        close(ours_sorted[:, :rank], theirs[:, :rank])
    # The first basis state of a block is the constant one.
    constant = density(vectors, [2, 3])[:, 0, 0]
    close(state.reduced_density_matrix([range(2, 4)])[:, 0, 0], constant)


def test_the_order_of_pixels_is_the_order_of_indices() -> None:
    state = NetworkState(*random_tensors([2, 3, 4, 5], 3, matrices=2))
    first = state.reduced_density_matrix([5, 2]).reshape(3, 3, 3, 3, 3)
    second = state.reduced_density_matrix([2, 5]).reshape(3, 3, 3, 3, 3)
    close(first.permute(0, 2, 1, 4, 3), second)
    close(state.reduced_density_matrix(5), state.pixel_density_matrices()[:, 5])


@given(sites=st.sets(st.integers(0, 15), min_size=1))
def test_a_region_is_made_of_the_fewest_aligned_blocks(sites: set[int]) -> None:
    blocks = aligned_blocks(sites)
    assert sorted(site for block in blocks for site in block.sites) == sorted(sites)
    siblings = {Block(block.level, block.position ^ 1) for block in blocks}
    assert not siblings & set(blocks)


def test_regions_that_cannot_be() -> None:
    state = NetworkState(*random_tensors([2, 3, 4, 5], 3, matrices=2))
    for region, message in (
        ([8], "no pixel 8; expected 0 to 7"),
        (-1, "no pixel -1"),
        ([1, 1], "pixel 1 comes twice"),
        ([], "empty"),
        ("3", "expected a pixel's number"),
        (1.5, "expected a pixel's number"),
    ):
        with pytest.raises(InputError, match=message):
            state.region_entropy(region)
    with pytest.raises(InputError, match=r"range\(1, 3\) is no aligned block.*range\(1, 2\), range\(2, 3\)"):
        state.reduced_density_matrix([range(1, 3)])
    with pytest.raises(InputError, match="pixel 2 comes twice"):
        state.mutual_information([1, 2], range(2, 4))
    large = NetworkState(*random_tensors([8] * 6, 1, matrices=2))
    with pytest.raises(InputError, match=r"of pixel 0, pixel 3, pixel 9, pixel 17 has 6561 rows, the limit"):
        large.reduced_density_matrix([0, 3, 9, 17])
    with pytest.raises(InputError, match=r"pixel 6, 12 more has 1\.85302e\+15 rows"):
        large.region_entropy(range(0, 32, 2))
    with pytest.raises(InputError, match=r"site=\[1, 2\]: expected one pixel"):
        state.mutual_information_map([1, 2])
    for outside in (-0.1, 1.5, np.nan):
        with pytest.raises(InputError, match=r"expected points of the basis's interval \[0, 1\]"):
            state.marginal_densities(np.array([0.5, outside]))


def test_regions_are_given_in_many_ways() -> None:
    state = NetworkState(*random_tensors([2, 3, 4, 5], 3, matrices=2))
    expected = state.region_entropy([2, 3, 5])
    for region in ([range(2, 4), 5], np.array([5, 3, 2]), torch.tensor([2, 3, 5]), (np.int64(5), [3, 2])):
        assert torch.equal(state.region_entropy(region), expected)
    assert torch.equal(state.region_entropy(range(8)), torch.zeros(3, dtype=torch.float64))
    for level, alpha in itertools.product(range(3), (0.5, 1, 2)):
        blocks = [range(start, start + 2**level) for start in range(0, 8, 2**level)]
        ours = torch.stack([state.region_entropy(block, alpha) for block in blocks], dim=1)
        torch.testing.assert_close(ours, state.block_entropies(level, alpha), rtol=0, atol=1e-7 if alpha < 1 else 1e-12)


@pytest.mark.parametrize("basis", ["fourier", "legendre"])
def test_marginals_are_integrals_over_the_other_pixels(basis: str) -> None:
    site_tensors, top = random_tensors([2, 3, 4], 2, matrices=2)
    state = NetworkState(site_tensors, top, basis)
    points, weights = (torch.from_numpy(array) for array in np.polynomial.legendre.leggauss(24))
    points, weights = (points + 1) / 2, weights / 2
    images = torch.cartesian_prod(*[points] * 4)
    squares = state.amplitude(images).square() / state.log_norm().exp()
    joint = squares.T.reshape(2, 24, 24, 24, 24)
    for site in range(4):
        others = joint.movedim(1 + site, 1)
        marginal = torch.einsum("yxabc,a,b,c->yx", others, weights, weights, weights)
        close(state.marginal_densities(points.numpy())[:, site], marginal)
        mean = (marginal * weights) @ points
        close(state.grey_level_moments()[0][:, site], mean)
        close(state.grey_level_moments()[1][:, site], (marginal * weights) @ points.square() - mean.square())


def test_what_was_checked_without_entropy_is_zero_and_never_minus_zero() -> None:
    site_tensors, top = random_tensors([2, 3, 2], 2, matrices=2)
    product = NetworkState([tensor[..., :1] * tensor[:1, :1] for tensor in site_tensors], top)
    for entropies in (
        product.entanglement_entropy(),
        product.renyi_entropy(2),
        product.renyi_entropy(torch.inf),
        product.region_entropy([0, 3]),
        product.renyi_2([0, 2]).value,
        product.entropy_profile(),
    ):
        assert not entropies.signbit().any(), entropies
