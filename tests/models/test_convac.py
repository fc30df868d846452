"""Convolutional arithmetic circuits: scores are their states' amplitudes, in both arithmetics, real and complex."""

import itertools

import pytest
import torch

from qcnn_lightning import ConvAC, NetworkState
from qcnn_lightning.errors import InputError
from qcnn_lightning.models.model import num_parameters

CHOICES = list(itertools.product(("full", "sibling", "none"), ("product_state", "default"), ("real", "complex")))


def circuit(num_sites=8, seed=0, **settings):
    torch.manual_seed(seed)
    return ConvAC(num_sites, 3, **{"d": 2, **settings})


def images(num_sites=8, number=12):
    return torch.randint(256, (number, num_sites), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def by_definition(model, x):
    """alpha_y(x), node after node, in complex double precision (eq. 5-10)."""
    features = model.basis(model.white * x.double() / 255)
    blocks = torch.cat((torch.ones_like(features[..., :1]), features), -1).to(torch.complex128).unbind(1)
    *levels, top = (tensor.detach().to(torch.complex128) for tensor in model.tensors())
    for level in levels:
        mapped = [block @ level[n % len(level)].T for n, block in enumerate(blocks)]
        blocks = [left * right for left, right in zip(mapped[0::2], mapped[1::2], strict=True)]
    return blocks[0] @ top.T


@pytest.mark.parametrize("arithmetic", ["powers_of_two", "logarithms"])
@pytest.mark.parametrize(("sharing", "start", "dtype"), CHOICES)
def test_scores_are_the_products_and_sums_of_the_circuit(sharing, start, dtype, arithmetic):
    model = circuit(sharing=sharing, start=start, dtype=dtype, arithmetic=arithmetic, scores="amplitude", white=0.8)
    model = model.double()
    alpha = by_definition(model, images())
    expected = alpha.abs() if dtype == "complex" else alpha.real
    torch.testing.assert_close(model(images()), expected, rtol=1e-11, atol=1e-14)
    model.normalises_scores = True
    expected = expected / expected.norm(dim=1, keepdim=True)
    torch.testing.assert_close(model(images()), expected, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize(("sharing", "start", "dtype"), CHOICES)
def test_amplitudes_and_probabilities_of_the_state_are_those_of_the_model(sharing, start, dtype):
    model = circuit(sharing=sharing, start=start, dtype=dtype, white=0.8).double()
    state = model.state()
    assert isinstance(state, NetworkState) == (sharing != "none" and dtype == "real")
    logarithm, sign = state.log_amplitude(images())
    alpha = by_definition(model, images())
    torch.testing.assert_close((sign * logarithm.exp()).to(torch.complex128), alpha, rtol=1e-11, atol=1e-14)
    torch.testing.assert_close(
        state.conditional_probability(images()), model(images()).square(), rtol=1e-10, atol=1e-14
    )


@pytest.mark.parametrize("arithmetic", ["powers_of_two", "logarithms"])
@pytest.mark.parametrize("dtype", ["real", "complex"])
def test_gradients_are_those_of_finite_differences(arithmetic, dtype):
    model = circuit(4, sharing="none", dtype=dtype, arithmetic=arithmetic, start="default").double()
    parameters = tuple(model.parameters())

    def scores(*values):
        return torch.func.functional_call(model, dict(zip(names, values, strict=True)), images(4, 3))

    names = [name for name, _ in model.named_parameters()]
    assert torch.autograd.gradcheck(scores, parameters, eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("arithmetic", ["powers_of_two", "logarithms"])
@pytest.mark.parametrize("start", ["product_state", "default"])
def test_single_precision_has_finite_gradients_that_double_precision_confirms_though_amplitudes_underflow(
    start, arithmetic
):
    model = circuit(256, d=18, start=start, arithmetic=arithmetic)
    x = images(256, 10)
    logarithm, _ = model.state().log_amplitude(x)
    # 10^-39 is the smallest number of single precision.
    assert (logarithm.max() < -200) == (start == "default")
    model(x)[:, 0].sum().backward()
    gradients = [parameter.grad.double() for parameter in model.parameters()]
    model.double().zero_grad()
    model(x)[:, 0].sum().backward()
    for gradient, parameter in zip(gradients, model.parameters(), strict=True):
        assert (gradient - parameter.grad).norm() <= 1e-3 * parameter.grad.norm()


def test_a_feature_that_vanishes_has_no_logarithm_and_a_finite_gradient():
    model = circuit(4, arithmetic="logarithms")
    with torch.no_grad():
        model.levels[1][:, 0] = 0
    model(images(4))[:, 1].sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    torch.testing.assert_close(model.double()(images(4)).square().sum(1), torch.ones(12, dtype=torch.float64))


def test_an_image_on_which_all_amplitudes_vanish_has_scores_of_zero():
    model = circuit(4)
    with torch.no_grad():
        model.levels[0].zero_()
    scores = model(images(4))
    assert scores.eq(0).all()
    scores.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_at_the_product_state_start_entropies_are_small_and_fall_with_the_spread():
    entropies = [circuit(64, d=4, spread=spread).state().entanglement_entropy().max() for spread in (0.3, 0.03)]
    assert 0.1 > entropies[0] > 10 * entropies[1] > 0


def test_complex_weights_count_twice():
    counts = [num_parameters(circuit(dtype=dtype)) for dtype in ("real", "complex")]
    assert counts == [3 * 4 + 4 * 6 + 6 * 8 + 8 * 3, 2 * (3 * 4 + 4 * 6 + 6 * 8 + 8 * 3)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sharing": "some"}, r"model\.sharing=some: choose one of full, sibling, none"),
        ({"start": "cold"}, r"model\.start=cold: choose one of product_state, default"),
        ({"arithmetic": "floats"}, r"model\.arithmetic=floats: choose one of powers_of_two, logarithms"),
        ({"scores": "squares"}, r"model\.scores=squares: choose one of normalised, amplitude"),
        ({"dtype": "quaternion"}, r"model\.dtype=quaternion: choose one of real, complex"),
        ({"spread": 0.0}, r"model\.spread=0\.0: must be positive"),
        ({"num_sites": 12}, r"num_sites=12: must be a power of two"),
        ({"channels": [2, 2]}, r"model\.channels=\[2, 2\] has 2 numbers"),
    ],
)
def test_what_no_circuit_can_have_is_told(settings, message):
    with pytest.raises(InputError, match=message):
        circuit(**settings)
