"""The matrix product state in training: its numbers and gradients are those of its state, in single precision too."""

import itertools
import math

import pytest
import torch

from composing import composed
from qcnn_lightning import MPS
from qcnn_lightning.costs import CrossEntropy, NegativeLogLikelihood, SquaredDistance, mean_and_gradient, scores_for
from qcnn_lightning.errors import InputError
from qcnn_lightning.models.model import num_parameters
from qcnn_lightning.training.build import build

SETTINGS = [
    {},
    {"class_site": "end"},
    {"basis": "fourier", "d": 4, "white": 0.5},
    {"basis": "levels", "d": 1},
    {"basis": "levels", "d": 2, "class_site": "end"},
    {"dtype": "complex"},
    {"dtype": "complex", "basis": "levels", "d": 1, "class_site": "end"},
]
COSTS = [SquaredDistance(), CrossEntropy(), CrossEntropy(0.01), NegativeLogLikelihood(), NegativeLogLikelihood(False)]


def chain(num_sites=32, classes=3, seed=0, padded=(2, 30), precision=torch.float64, **settings):
    torch.manual_seed(seed)
    model = MPS(num_sites, classes, **{"bond": 5, "d": 2, "spread": 2.0, **settings}).to(precision)
    model.mark_padding(torch.isin(torch.arange(num_sites), torch.tensor(padded)))
    return model


def images_for(model, number=20):
    random = torch.Generator().manual_seed(1)
    if model.basis.name != "levels":
        return torch.rand(number, model.num_sites, generator=random)
    levels = model.basis.num_levels
    return torch.randint(levels, (number, model.num_sites), generator=random) / (levels - 1)


def close(ours, theirs, tolerance=1e-10):
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_scores_and_likelihoods_are_those_of_the_state(settings):
    model = chain(**settings)
    x = images_for(model)
    state = model.state()
    # Scores of complex amplitudes are their sizes.
    close(model(x), state.amplitude(x).abs() if model.is_complex else state.amplitude(x))
    close(model.log_joint(x), state.log_joint(x))
    close(model.log_partition(), state.log_partition())
    relative = model.relative_scores(x)
    close(relative.square() / relative.square().sum(1, keepdim=True), state.conditional_probability(x))
    close(model(x[:1]), model(x)[:1])


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("cost", COSTS, ids=lambda cost: type(cost).__name__)
def test_gradients_written_by_hand_are_those_of_autograd_through_the_state(settings, cost):
    model = chain(**settings)
    x, labels = images_for(model), torch.arange(20) % 3

    def gradients(scores):
        _, gradient = mean_and_gradient(cost, scores.detach(), labels)
        return torch.autograd.grad(scores, list(model.parameters()), gradient)

    state = model.state()
    amplitude = state.amplitude(x).abs() if model.is_complex else state.amplitude(x)
    expected = gradients(state.log_joint(x) if isinstance(cost, NegativeLogLikelihood) else amplitude)
    for ours, theirs in zip(gradients(scores_for(cost, model)(x)), expected, strict=True):
        close(ours, theirs, 1e-9)


def test_gradients_reach_the_pixels():
    model = chain(8, padded=(), white=0.7)
    x = images_for(model, 3).double().requires_grad_()
    torch.autograd.gradcheck(model.forward, (x,))


@pytest.mark.parametrize(
    ("class_site", "spread", "dtype"),
    [*itertools.product(("middle", "end"), (1.0, 4.0), ("real",)), ("middle", 4.0, "complex")],
)
def test_a_thousand_sites_have_finite_scores_and_gradients_that_double_precision_confirms(class_site, spread, dtype):
    model = chain(1024, 10, bond=8, precision=torch.float32, class_site=class_site, spread=spread, dtype=dtype)
    x = torch.randint(256, (10, 1024), dtype=torch.uint8)
    labels = torch.arange(10)
    for cost in (CrossEntropy(), NegativeLogLikelihood()):
        costs, gradients = [], []
        for precision in (torch.float32, torch.float64):
            model.to(precision).zero_grad()
            costs.append(cost(scores_for(cost, model)(x), labels))
            costs[-1].mean().backward()
            gradients.append([parameter.grad.double() for parameter in model.parameters()])
        close(costs[0].double(), costs[1], 1e-3)
        for single, double in zip(*gradients, strict=True):
            assert single.isfinite().all()
            assert (single - double).norm() <= 1e-3 * double.norm() + 1e-9


def test_weights_of_any_size_neither_over_nor_underflow():
    model = chain(1024, 10, bond=8, precision=torch.float32)
    x = torch.randint(256, (10, 1024), dtype=torch.uint8)
    for factor in (100.0, 1e-30):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(factor)
        scores = model.relative_scores(x)
        assert scores.isfinite().all()
        assert (scores != 0).any(1).all()
        assert model.log_joint(x).isfinite().all()


def test_a_start_without_spread_is_a_product_state_and_the_usual_one_is_near():
    for class_site, dtype in itertools.product(("middle", "end"), ("real", "complex")):
        assert chain(spread=0.0, class_site=class_site, dtype=dtype).state().entanglement_entropy().abs().max() < 1e-10
        near = chain(spread=1.0, padded=(), class_site=class_site, dtype=dtype).state().cut_entropies()
        assert 0 < near.max() < 1


@pytest.mark.parametrize("class_site", ["middle", "end"])
def test_two_sites_are_a_chain(class_site):
    model = chain(2, padded=(), class_site=class_site)
    x = images_for(model)
    close(model(x), model.state().amplitude(x))
    close(model.log_joint(x), model.state().log_joint(x))


def test_uint8_is_floats_over_255():
    model = chain()
    x = torch.randint(256, (5, 32), dtype=torch.uint8)
    close(model(x), model(x.double() / 255), 1e-12)


def test_sites_without_a_pixel_hold_what_they_like():
    model = chain(padded=(0, 31))
    x = images_for(model)
    other = x.clone()
    other[:, [0, 31]] = 0.3
    close(model(x), model(other), 0)
    close(model.state().log_norm(), chain(padded=(0, 31)).state().log_norm())


def test_the_number_of_parameters_is_the_formula():
    d, bond = 2, 20
    # Complex weights count twice.
    assert num_parameters(MPS(256, 10, d=d, dtype="complex")) == 2 * num_parameters(MPS(256, 10, d=d))
    assert num_parameters(MPS(256, 10, d=d)) == 2 * (d + 1) * bond + 254 * (d + 1) * bond**2 + 10 * bond**2
    assert num_parameters(MPS(256, 10, d=d, class_site="end")) == (d + 1) * bond + 255 * (d + 1) * bond**2 + 10 * bond


def test_training_makes_the_likelihood_and_the_entropy_grow():
    model = chain(8, 2, basis="levels", d=1, padded=(), bond=4)
    x = torch.tensor([[0, 255] * 4, [255] * 4 + [0] * 4] * 5, dtype=torch.uint8)
    labels = torch.tensor([0, 1] * 5)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    before = model.log_joint(x).mean().item()
    for _ in range(200):
        optimizer.zero_grad()
        NegativeLogLikelihood()(model.log_joint(x), labels).mean().backward()
        optimizer.step()
    # Each of two images half of the time: -log 2.
    assert before < model.log_joint(x).gather(1, labels.unsqueeze(1)).mean().item() < -math.log(2) + 1e-9
    assert model.log_joint(x).gather(1, labels.unsqueeze(1)).mean().item() > -1


def test_the_entropy_can_be_a_term_of_the_cost():
    for class_site in ("middle", "end"):
        model = chain(class_site=class_site)
        entropy = model.state().entanglement_entropy().mean()
        entropy.backward()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 1e-3 * parameter.grad / parameter.grad.norm()
        assert model.state().entanglement_entropy().mean() < entropy


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bond": 0}, "model.bond=0"),
        ({"d": 0}, "model.d=0"),
        ({"class_site": "left"}, "model.class_site=left: choose one of middle, end"),
        ({"spread": -1.0}, "model.spread=-1.0"),
        ({"dtype": "half"}, "model.dtype=half: choose one of real, complex"),
        ({"basis": "fourier", "d": 3}, "choose an even model.d"),
        ({"num_sites": 5}, "num_sites=5"),
        ({"white": 2.0}, "data.white=2.0"),
    ],
)
def test_what_no_matrix_product_state_can_be_is_told(settings, message):
    with pytest.raises(InputError, match=message):
        chain(**settings)


def test_images_that_do_not_fit_are_told():
    with pytest.raises(InputError, match=r"expected \(batch, 32\)"):
        chain()(torch.zeros(3, 31))
    with pytest.raises(InputError, match=r"grey level 0\.5"):
        chain(basis="levels", d=1)(torch.full((2, 32), 0.5))


def test_the_configuration_builds_it():
    model = build(composed("train", "model=mps", "model.bond=3").model, "model", num_sites=16, num_classes=2)
    assert isinstance(model, MPS)
    assert model.bond == 3


def test_the_operators_get_all_threads_in_training():
    threads = torch.get_num_threads()
    with chain().around_training():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == threads


def test_the_first_number_that_is_not_finite_is_found():
    model = chain()
    x = images_for(model)
    assert model.first_non_finite(x) == "the scores of the classes"
    with torch.no_grad():
        model.sites[0, 0, 0, 0, 0] = math.nan
    assert model.first_non_finite(x) == "the weights of the sites"
