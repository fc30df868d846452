"""The density in training: its numbers are those of its state, in single precision too."""

import math

import numpy as np
import pytest
import torch

from composing import composed
from qcnn_lightning import Density
from qcnn_lightning.costs import CrossEntropy, NegativeLogLikelihood, SquaredDistance, mean_and_gradient, scores_for
from qcnn_lightning.errors import InputError
from qcnn_lightning.models.channels import channels_up_to
from qcnn_lightning.models.model import num_parameters
from qcnn_lightning.training.build import build, white_for

SETTINGS = [
    {"sharing": "none"},
    {"sharing": "sibling"},
    {"sharing": "full"},
    {"sharing": "full", "from_level": 2},
    {"levels": 3},
    {"basis": "legendre", "levels": 4},
    {"basis": "fourier", "levels": 3},
    {"levels": 5, "leaf_rank": 2},
    {"levels": 256, "leaf_rank": 6, "sharing": "sibling"},
    {"levels": 5, "leaf_rank": 2, "dtype": "complex"},
]


def density(num_sites=16, classes=3, seed=0, padded=(2, 9), **settings):
    torch.manual_seed(seed)
    model = Density(num_sites, classes, **{"d": 6, "levels": 2, **settings})
    model.mark_padding(torch.isin(torch.arange(num_sites), torch.tensor(padded)))
    return model


def images_for(model, number=20):
    random = torch.Generator().manual_seed(1)
    if model.basis.name != "levels":
        return torch.rand(number, model.num_sites, generator=random)
    return torch.randint(model.basis.num_levels, (number, model.num_sites), generator=random) / (
        model.basis.num_levels - 1
    )


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_likelihoods_are_those_of_the_state(settings):
    model = density(**settings)
    x = images_for(model)
    state = model.state()
    assert torch.allclose(model.log_joint(x).double(), state.log_joint(x), atol=2e-3)
    model.double()
    assert torch.allclose(model.log_joint(x), state.log_joint(x), atol=1e-10)
    assert torch.allclose(model.log_probability(x), state.log_probability(x), atol=1e-10)
    assert torch.allclose(model.log_partition(), state.log_partition(), atol=1e-10)
    logarithm, sign = state.log_amplitude(x)
    # Scores of complex amplitudes are their sizes.
    expected = (sign.abs() if model.is_complex else sign) * logarithm.exp()
    assert torch.allclose(model(x), expected / expected.norm(dim=1, keepdim=True), atol=1e-10)
    assert torch.allclose(model(x).square(), state.conditional_probability(x), atol=1e-10)


@pytest.mark.parametrize("sharing", ["none", "sibling", "full"])
def test_complex_likelihoods_are_those_of_the_state_and_sum_to_one(sharing):
    model = density(8, sharing=sharing, dtype="complex", padded=()).double()
    x = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 8)
    joint = model.log_joint(x)
    assert joint.exp().sum().item() == pytest.approx(1, abs=1e-10)
    state = model.state()
    torch.testing.assert_close(joint, state.log_joint(x), rtol=0, atol=1e-10)
    torch.testing.assert_close(model(x).square(), state.conditional_probability(x), rtol=0, atol=1e-10)
    assert state.top.is_complex()
    NegativeLogLikelihood()(joint, torch.zeros(256, dtype=torch.int64)).mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_thousand_sites_have_finite_likelihoods_and_gradients_that_double_precision_confirms(dtype):
    model = density(1024, 10, d=8, spread=1.0).to(dtype)
    x = torch.randint(2, (10, 1024), dtype=torch.uint8) * 255
    labels = torch.arange(10)
    scores = model.log_joint(x)
    assert torch.allclose(scores.double(), model.state().log_joint(x), rtol=1e-5 if dtype == torch.float32 else 1e-12)
    NegativeLogLikelihood()(scores, labels).mean().backward()
    gradients = [parameter.grad.clone().double() for parameter in model.parameters()]
    model.double().zero_grad()
    NegativeLogLikelihood()(model.log_joint(x), labels).mean().backward()
    for gradient, parameter in zip(gradients, model.parameters(), strict=True):
        assert (gradient - parameter.grad).norm() <= (1e-3 if dtype == torch.float32 else 1e-12) * parameter.grad.norm()


def test_shared_local_functions_are_learned_and_stay_the_states_when_they_are_not_orthonormal():
    model = density(levels=7, leaf_rank=3).double()
    with torch.no_grad():
        model.leaves += 0.5 * torch.randn_like(model.leaves)
    x = (images_for(model) * 255).round().to(torch.uint8)
    floats = images_for(model)
    state = model.state()
    assert torch.allclose(state.local @ state.local.mT, torch.eye(3, dtype=torch.float64))
    expected = state.log_joint(floats)
    assert torch.allclose(model.log_joint(floats), expected, atol=1e-10)
    # The operators know the functions' overlaps instead.
    assert torch.allclose(model.log_joint(x), expected, atol=1e-10)
    gradients = []
    for images in (x, floats):
        model.zero_grad()
        model.log_joint(images).sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    assert len(gradients[0]) == len(list(model.levels)) + 2
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, rtol=1e-7, atol=1e-9)
    # Sums over all images of few pixels are 1.
    small = density(4, 2, padded=(1,), levels=3, leaf_rank=2).double()
    with torch.no_grad():
        small.leaves += 0.3 * torch.randn_like(small.leaves)
    grey = (
        torch.cartesian_prod(
            torch.arange(3), torch.zeros(1, dtype=torch.int64), torch.arange(3), torch.arange(3)
        ).double()
        / 2
    )
    assert small.state().log_probability(grey).exp().sum().item() == pytest.approx(1, abs=1e-12)
    assert torch.allclose(small.state().log_probability(grey), small.log_probability(grey), atol=1e-12)


def test_a_better_likelihood_is_found_by_following_the_gradient():
    model = density(8, 2, padded=())
    x = torch.tensor([[0, 255] * 4, [255] * 4 + [0] * 4] * 5, dtype=torch.uint8)
    labels = torch.tensor([0, 1] * 5)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(300):
        optimizer.zero_grad()
        NegativeLogLikelihood()(model.log_joint(x), labels).mean().backward()
        optimizer.step()
    # Nothing is below log 2: the entropy of the two images.
    assert math.log(2) - 1e-5 < -model.log_joint(x).gather(1, labels[:, None]).mean().item() < math.log(2) + 0.05


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, lambda joint, y: -joint[y]),
        ({"labels": False}, lambda joint, y: -math.log(sum(math.exp(value) for value in joint))),
        (
            {"discriminative_weight": 0.3},
            lambda joint, y: -0.7 * joint[y] + 0.3 * (math.log(sum(math.exp(value) for value in joint)) - joint[y]),
        ),
        (
            {"discriminative_weight": 1, "discriminative": "squared_distance", "labels": False},
            lambda joint, y: sum(
                ((math.exp(value) / sum(map(math.exp, joint))) ** 0.5 - (label == y)) ** 2
                for label, value in enumerate(joint)
            ),
        ),
    ],
)
def test_the_cost_is_the_formula(settings, expected):
    joint = torch.tensor([[-3.0, -1.0, -7.5], [-2.0, -40.0, -2.5]], dtype=torch.float64)
    labels = torch.tensor([0, 2])
    costs = NegativeLogLikelihood(**settings)(joint, labels)
    assert costs.tolist() == pytest.approx([expected(row, y) for row, y in zip(joint.tolist(), [0, 2], strict=True)])


def test_an_image_of_probability_zero_costs_infinity_and_the_others_keep_their_gradients():
    joint = torch.tensor([[-math.inf, -1.0], [-1.0, -math.inf]], dtype=torch.float64)
    assert NegativeLogLikelihood()(joint, torch.tensor([0, 0])).tolist() == [math.inf, 1.0]
    mean, gradient = mean_and_gradient(NegativeLogLikelihood(labels=False), joint, torch.tensor([0, 0]))
    assert mean.item() == 1
    assert gradient.tolist() == [[0, -0.5], [-0.5, 0]]


def test_a_density_can_learn_by_the_costs_of_classifiers():
    model = density().double()
    for cost in (SquaredDistance(), CrossEntropy()):
        assert scores_for(cost, model) is model
        model.zero_grad()
        cost(model(images_for(model)), torch.zeros(20, dtype=torch.int64)).mean().backward()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_low_levels_have_no_more_channels_than_states():
    assert channels_up_to(2, 5, 32, None) == (2, 4, 16, 32, 32, 32)
    assert channels_up_to(256, 3, 300, None) == (256, 300, 300, 300)
    assert channels_up_to(3, 2, 5, [7, 9]) == (3, 7, 9)


def test_the_experiment_has_the_parameters_that_the_configuration_says():
    config = composed("train", "data=digits", "data.levels=2", "model=density")
    model = build(config.model, "model", num_sites=1024, num_classes=10)
    assert num_parameters(model) == 432_448
    assert model.basis.num_levels == 2
    eight_bits = composed("train", "data=digits", "model=density")
    assert build(eight_bits.model, "model", num_sites=4, num_classes=2).basis.num_levels == 256


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sharing": "some"}, r"model\.sharing=some: choose one of none, sibling, full"),
        ({"from_level": 5}, r"model\.from_level=5: must be from 0 to 4"),
        ({"spread": 0.0}, r"model\.spread=0\.0: must be positive"),
        ({"leaf_rank": 3}, r"model\.leaf_rank=3: must be from 1 to 2, the local functions"),
        ({"levels": 1}, r"model\.levels=1: must be at least 2"),
        ({"levels": 257}, r"K from 2 to 256"),
        ({"dtype": "half"}, r"model\.dtype=half: choose one of real, complex"),
        ({"d": 0}, r"model\.d=0: the number of channels"),
        ({"channels": [1, 2]}, r"model\.channels=\[1, 2\]: expected L = 4 numbers"),
        ({"num_sites": 12}, r"num_sites=12: must be a power of two"),
    ],
)
def test_what_no_density_can_have_is_told(settings, message):
    with pytest.raises(InputError, match=message):
        density(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"discriminative_weight": -0.1}, r"cost\.discriminative_weight=-0\.1: must be from 0 to 1"),
        ({"discriminative_weight": 1.1}, r"cost\.discriminative_weight=1\.1"),
        ({"discriminative": "hinge"}, r"cost\.discriminative=hinge: choose one of"),
    ],
)
def test_what_no_likelihood_can_have_is_told(settings, message):
    with pytest.raises(InputError, match=message):
        NegativeLogLikelihood(**settings)


@pytest.mark.parametrize(("basis", "levels"), [("legendre", 4), ("fourier", 3)])
@pytest.mark.parametrize("sharing", ["none", "full"])
def test_a_density_on_an_interval_integrates_to_one_and_its_marginals_are_its_integrals(basis, levels, sharing):
    model = density(4, 2, padded=(1,), basis=basis, levels=levels, sharing=sharing).double()
    state = model.state()
    # Exact for polynomials of twice the degree; for trigonometric ones to rounding.
    points, weights = (torch.from_numpy(array) for array in np.polynomial.legendre.leggauss(24))
    points, weights = (points + 1) / 2, weights / 2
    grid = torch.cartesian_prod(points, torch.zeros(1, dtype=torch.float64), points, points)
    of_grid = torch.cartesian_prod(weights, weights, weights).prod(1)
    joint = state.log_joint(grid).exp()
    assert torch.allclose(model.log_joint(grid).exp(), joint, rtol=1e-9)
    assert (joint * of_grid.unsqueeze(1)).sum().item() == pytest.approx(1, abs=1e-10)
    # The first pixel's marginal, by integration and by leaving the others out.
    marginal = (joint * of_grid.unsqueeze(1)).view(24, -1, 2).sum(1) / weights.unsqueeze(1)
    missing = torch.full((24, 4), math.nan, dtype=torch.float64)
    missing[:, 0] = points
    assert torch.allclose(state.log_joint(missing).exp(), marginal, rtol=1e-9)


def test_white_is_refused_since_a_density_on_part_of_the_interval_would_not_be_normalised():
    config = composed("train", "data=digits", "model=density", "model.basis=legendre", "model.levels=4")
    with pytest.raises(InputError, match=r"data\.white=0\.75: .*Density takes no argument white"):
        white_for(config, 0.75)
