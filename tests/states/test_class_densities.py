"""A density for every class against sums over all images, and against the one tree that it stands for."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from test_density import all_images, drawn_density, padding_of, probabilities

from qcnn_lightning.errors import InputError
from qcnn_lightning.states import ClassDensities, DensityState

PRIOR = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)


def drawn(num_sites=8, levels=2, padding=None):
    densities = [drawn_density(num_sites, levels, padding=padding, classes=2, seed=seed) for seed in range(3)]
    return ClassDensities(densities, 100 * PRIOR)


def dense(state):
    """Images, and p(y, x) by the definition."""
    each = [probabilities(density) for density in state.densities]
    return each[0][0], np.stack([own.sum(1) for _, own in each], axis=1) * PRIOR.numpy()


@pytest.mark.parametrize(("num_sites", "levels", "padded"), [(2, 2, ()), (4, 3, (1,)), (8, 2, ()), (8, 2, (0, 5))])
def test_probabilities_of_all_images_are_those_of_dense_sums_and_sum_to_one(num_sites, levels, padded):
    state = drawn(num_sites, levels, padding_of(num_sites, *padded))
    images, expected = dense(state)
    joint = state.log_joint(images).exp()
    assert joint.numpy() == pytest.approx(expected, rel=1e-10, abs=1e-16)
    assert abs(joint.sum().item() - 1) < 1e-12
    assert joint.sum(0).numpy() == pytest.approx(PRIOR.numpy(), abs=1e-12)


def test_missing_pixels_are_summed_over():
    state = drawn()
    images, expected = dense(state)
    for missing in ((0,), (1, 2, 6), tuple(range(8))):
        observed = images[77].clone()
        observed[list(missing)] = math.nan
        same = [site for site in range(8) if site not in missing]
        own = expected[(images[:, same] == images[77][same]).all(1).numpy()].sum(0)
        assert state.log_joint(observed[None]).exp()[0].numpy() == pytest.approx(own, rel=1e-11)
        posterior = state.conditional_probability(observed[None])[0].numpy()
        assert posterior == pytest.approx(own / own.sum(), abs=1e-12)


def test_pixels_given_others_are_those_of_dense_sums():
    state = drawn()
    images, expected = dense(state)
    observed = torch.full((1, 8), math.nan)
    observed[0, :3] = torch.tensor([1.0, 0.0, 1.0])
    fits = (images[:, :3] == observed[0, :3]).all(1).numpy()
    for label in (None, 1):
        weight = (expected.sum(1) if label is None else expected[:, label]) * fits
        white = (weight[:, None] * images.numpy()).sum(0) / weight.sum()
        ours = state.pixel_probabilities(observed, label)[0, :, 1].numpy()
        assert ours[3:] == pytest.approx(white[3:], abs=1e-12)


def block_diagonal(state):
    """The one tree: matrices side by side, and the tops of every class scaled to p(y)."""
    densities = state.densities
    leaves = torch.cat([density.site_tensors[0] for density in densities], dim=1)
    above = [
        torch.stack([torch.block_diag(*nodes) for nodes in zip(*level, strict=True)])
        for level in zip(*(density.site_tensors[1:] for density in densities), strict=True)
    ]
    tops = [
        (prior.log() / 2 - density.log_partition() / 2).exp() * density.top
        for density, prior in zip(densities, PRIOR.double(), strict=True)
    ]
    return DensityState([leaves, *above], torch.block_diag(*tops), "levels")


def test_it_is_one_tree_with_block_diagonal_matrices():
    state = drawn()
    tree = block_diagonal(state)
    images, _ = all_images(state.densities[0])
    of_states = tree.log_joint(images).unflatten(-1, (3, 2)).logsumexp(-1)
    assert torch.allclose(state.log_joint(images), of_states, rtol=0, atol=1e-11)


@pytest.mark.parametrize("label", [None, 2])
def test_samples_have_the_probabilities(label):
    state = drawn(4, 2)
    images, expected = dense(state)
    draws = state.sample(40000, label, seed=3)
    place = (draws @ (2.0 ** torch.arange(4).double())).long()
    counts = place.bincount(minlength=16).numpy()
    p = expected.sum(1) if label is None else expected[:, label] / expected[:, label].sum()
    p = p[np.argsort([int(image @ 2.0 ** torch.arange(4).double()) for image in images])]
    kept = p * 40000 > 5
    statistic = ((counts - 40000 * p)[kept] ** 2 / (40000 * p)[kept]).sum()
    assert statistic < chi2.ppf(1 - 1e-6, kept.sum() - 1)


def test_observed_pixels_stay_and_the_others_are_drawn_given_them():
    state = drawn(4, 2)
    images, expected = dense(state)
    observed = torch.full((30000, 4), math.nan)
    observed[:15000, 0], observed[15000:, 0] = 1, 0
    observed[:, 3] = 1
    draws = state.sample(30000, None, observed, seed=1)
    assert torch.equal(draws[:, [0, 3]], observed[:, [0, 3]].double())
    for first, own in ((1, draws[:15000]), (0, draws[15000:])):
        fits = ((images[:, 0] == first) & (images[:, 3] == 1)).numpy()
        p = expected.sum(1)[fits] / expected.sum(1)[fits].sum()
        for (second, third), probability in zip(itertools.product((0, 1), repeat=2), p, strict=True):
            found = ((own[:, 1] == second) & (own[:, 2] == third)).double().mean().item()
            assert abs(found - probability) < 5 * 0.5 / 15000**0.5


@pytest.mark.parametrize(
    ("densities", "prior", "message"),
    [
        ((0, 1), PRIOR, "expected 2 positive numbers"),
        ((0, 1, 2), torch.tensor([1.0, 0.0, 0.0]), "positive"),
    ],
)
def test_a_prior_has_a_positive_number_for_every_class(densities, prior, message):
    with pytest.raises(InputError, match=message):
        ClassDensities([drawn_density(4, 2, seed=seed) for seed in densities], prior)


def test_densities_of_other_images_make_no_density_of_classes():
    half = torch.tensor([0.5, 0.5])
    with pytest.raises(InputError, match="states of 4 and 8 pixels"):
        ClassDensities([drawn_density(4, 2), drawn_density(8, 2)], half)
    with pytest.raises(InputError, match="padding differs"):
        ClassDensities([drawn_density(4, 2), drawn_density(4, 2, padding=padding_of(4, 2))], half)
    with pytest.raises(InputError, match="label=3: there is no such class"):
        drawn().sample(1, label=3)
