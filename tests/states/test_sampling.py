"""Perfect samples, and the swap estimator: against exact distributions and exact entropies, with seeds 0, 1, 2, ..."""

import numpy as np
import pytest
import torch
from drawn_networks import moved_network, random_tensors
from scipy.stats import chisquare, kstest

from qcnn_lightning import NetworkState
from qcnn_lightning.errors import InputError
from qcnn_lightning.states.gram import build_tree
from qcnn_lightning.states.sampling import perfect_samples


@pytest.mark.parametrize("matrices", [1, 2])
def test_samples_have_the_probabilities_of_the_state_vector(matrices: int) -> None:
    state = NetworkState(*random_tensors([2, 3, 4], 2, matrices))
    tree = build_tree(state.site_tensors, state.top)
    samples = perfect_samples(tree, 1, torch.eye(3).double(), 20000, torch.Generator().manual_seed(0))
    expected = state.dense()[1].square()
    expected = (20000 * expected / expected.sum()).numpy()
    places = (samples * 3 ** torch.arange(3, -1, -1)).sum(1)
    counts = torch.bincount(places, minlength=81).numpy()
    rare = expected < 5
    counts, expected = (np.append(array[~rare], array[rare].sum()) for array in (counts, expected))
    assert chisquare(counts, expected).pvalue > 1e-3


def test_grey_levels_are_drawn_from_their_density() -> None:
    with torch.no_grad():
        state = NetworkState.from_network(moved_network(8, 4, sharing="sibling", basis="legendre"))
    images = state.sample(2, 2000, seed=1)
    assert images.shape == (2000, 8)
    grid = torch.linspace(0, 1, 2001, dtype=torch.float64)
    cumulative = torch.cumulative_trapezoid(state.marginal_densities(grid)[2], grid).clamp(0, 1)
    for site in range(8):
        # Half a step of the quadrature's points blurs the continuous distribution by less than this test sees.
        ours = images[:, site].numpy()
        assert kstest(ours, lambda x, site=site: np.interp(x, grid[1:], cumulative[site])).pvalue > 1e-3
    mean, variance = state.grey_level_moments()
    assert ((images.mean(0) - mean[2]) / (variance[2] / 2000).sqrt()).abs().max() < 4
    # Correlations of two pixels, which no marginal knows.
    density = state.reduced_density_matrix([0, 5])[2]
    points, weights = (torch.from_numpy(array) for array in np.polynomial.legendre.leggauss(24))
    x, weights = (points + 1) / 2, weights / 2
    f = state._local_functions(x)
    joint = torch.einsum("aibj,xa,xi,yb,yj->xy", density.reshape(5, 5, 5, 5).transpose(1, 2), f, f, f, f)
    product = (joint * weights * weights[:, None] * x * x[:, None]).sum()
    square = (joint * weights * weights[:, None] * (x * x[:, None]).square()).sum()
    drawn = (images[:, 0] * images[:, 5]).mean()
    assert abs(drawn - product) < 4 * ((square - product.square()) / 2000).sqrt()


def test_equal_seeds_give_equal_samples() -> None:
    state = NetworkState(*random_tensors([2, 3, 4], 2, matrices=2))
    assert torch.equal(state.sample(0, 5, seed=3), state.sample(0, 5, seed=3))
    assert not torch.equal(state.sample(0, 5, seed=3), state.sample(0, 5, seed=4))


def test_outcomes_that_do_not_add_up_to_one_are_refused() -> None:
    state = NetworkState(*random_tensors([2, 3, 4], 2, matrices=2))
    tree = build_tree(state.site_tensors, state.top)
    with pytest.raises(InputError, match="differs from 1 by 1"):
        perfect_samples(tree, 0, 2**0.5 * torch.eye(3).double(), 10)


def test_too_few_samples_are_refused_and_a_product_state_s_estimate_is_zero() -> None:
    site_tensors, top = random_tensors([2, 3, 4], 2, matrices=2)
    state = NetworkState(site_tensors, top)
    for number in (0, -1):
        with pytest.raises(InputError, match=f"num_samples={number}: the number of samples must be at least 1"):
            state.sample(0, number)
    for number in (0, 1):
        with pytest.raises(InputError, match=f"num_samples={number}: a standard error needs at least 2 pairs"):
            state.renyi_2([0, 2], num_samples=number)
    product = NetworkState([tensor[..., :1] * tensor[:1, :1] for tensor in site_tensors], top)
    value, error = product.renyi_2([0, 2], num_samples=10)
    assert (value.abs() < 1e-12).all()
    assert not value[value == 0].signbit().any()
    assert (error < 1e-12).all()


def test_the_swap_estimate_is_within_three_standard_errors_of_the_exact_value() -> None:
    """50 of 50 seeds. By chance alone one trial in 370 lies outside, so all 50 inside has probability 0.87.

    The region is every second pixel of 16: no aligned blocks, all 8 nodes of the lowest level are cut.
    """
    with torch.no_grad():
        state = NetworkState.from_network(moved_network(16, 2, num_classes=2, sharing="sibling", start="default"))[1]
    region = range(0, 16, 2)
    exact = state.renyi_2(region).value
    deviations = []
    for seed in range(50):
        value, error = state.renyi_2(region, num_samples=1000, seed=seed)
        # The purity, of which the standard error is.
        purity, exact_purity = (-value).exp(), (-exact).exp()
        deviations.append(((purity - exact_purity) / (error * purity)).item())
    assert np.abs(deviations).max() < 3
    # And they spread as they should: neither all too close nor all too far.
    assert 0.7 < np.std(deviations) < 1.4


def test_too_few_samples_for_a_large_entropy_give_nan_not_a_number_that_misleads() -> None:
    state = NetworkState(*random_tensors([2, 3, 4, 5, 6], 2, matrices=2))
    exact, nothing = state.renyi_2(range(0, 16, 2))
    value, error = state.renyi_2(range(0, 16, 2), num_samples=2000)
    assert (nothing == 0).all()
    assert (error > 0).all()
    inside = ((-value).exp() - (-exact).exp()).abs() < 4 * error * (-value).exp()
    assert (value.isnan() | inside).all()
