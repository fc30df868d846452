"""The q-CNN itself, by the plain kernel: `tests/kernels/test_cpu_kernel.py` holds the other one to it."""

import importlib.util
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from qcnn_lightning import QCNN, NetworkState
from qcnn_lightning.errors import InputError
from qcnn_lightning.models.convolution import NormalisedConvolution

ARCHITECTURES = [
    {"sharing": sharing, "basis": basis, "start": start}
    for sharing in ("full", "sibling")
    for basis in ("fourier", "legendre")
    for start in ("product_state", "default")
]


def make_network(num_sites=16, num_classes=10, d=4, seed=0, **settings):
    torch.manual_seed(seed)
    return QCNN(num_sites, num_classes, d, kernel="plain", **settings).double()


def make_images(batch, sites=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (batch, sites), generator=generator, dtype=torch.uint8)


def textbook_with_the_weights_of(network):
    path = Path(__file__).parents[2] / "benchmarks" / "textbook.py"
    spec = importlib.util.spec_from_file_location("textbook", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sharing = "sibling" if len(network.levels[0].weight) == 2 else "full"
    textbook = module.TextbookQCNN(network.num_sites, network.num_classes, network.channels[0], sharing).double()
    for theirs, ours in counterparts(textbook, network):
        theirs.data.copy_(ours.detach().reshape(theirs.shape))
    return textbook


def counterparts(textbook, network):
    """Pairs of the textbook's parameters and the network's."""
    for norm, level in zip(textbook.norms, network.all_levels, strict=True):
        yield norm.weight, level.gamma
        yield norm.bias, level.beta
    for side, convolutions in enumerate((textbook.left, textbook.right)):
        for convolution, level in zip(convolutions, network.levels, strict=False):
            yield convolution.weight, level.weight[side]
    yield textbook.classification.weight, network.classification.weight[0]


@pytest.mark.parametrize("sharing", ["full", "sibling"])
@pytest.mark.parametrize("start", ["product_state", "default"])
def test_equals_the_textbook_network(sharing, start):
    network = make_network(sharing=sharing, start=start)
    textbook = textbook_with_the_weights_of(network)
    x = make_images(30)
    targets = nn.functional.one_hot(torch.arange(30) % 10, 10)
    for batch, labels in ((x[:20], targets[:20]), (x[20:], targets[20:])):
        scores = [model(batch.double() / 255) for model in (network, textbook)]
        for alpha in scores:
            (alpha - labels).square().sum(1).mean().backward()
        torch.testing.assert_close(*scores, rtol=1e-9, atol=1e-9)
    for norm, level in zip(textbook.norms, network.all_levels, strict=True):
        torch.testing.assert_close(level.gamma.grad, norm.weight.grad, rtol=1e-7, atol=1e-9)
        torch.testing.assert_close(level.beta.grad, norm.bias.grad, rtol=1e-7, atol=1e-9)
        torch.testing.assert_close(level.statistics.running_mean, norm.running_mean, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(level.statistics.running_var, norm.running_var, rtol=1e-9, atol=1e-9)
    for side, convolutions in enumerate((textbook.left, textbook.right)):
        for convolution, level in zip(convolutions, network.levels, strict=False):
            ours = level.weight.grad[side]
            torch.testing.assert_close(ours, convolution.weight.grad.squeeze(-1), rtol=1e-7, atol=1e-9)
    ours = network.classification.weight.grad[0]
    torch.testing.assert_close(ours, textbook.classification.weight.grad, rtol=1e-7, atol=1e-9)
    network.eval(), textbook.eval()
    torch.testing.assert_close(network(x), textbook(x.double() / 255), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("d", "count"), [(2, 1320), (18, 81_000), (40, 391_200)])
def test_the_papers_numbers_of_parameters(d, count):
    assert sum(parameter.numel() for parameter in QCNN(256, 10, d).parameters()) == count == 240 * d**2 + 180 * d


@settings(deadline=None, max_examples=30)
@given(
    num_levels=st.integers(1, 6),
    d=st.integers(1, 9),
    num_classes=st.integers(2, 12),
    sharing=st.sampled_from(["full", "sibling"]),
    data=st.data(),
)
def test_number_of_parameters_of_any_schedule(num_levels, d, num_classes, sharing, data):
    explicit = st.lists(st.integers(1, 9), min_size=num_levels + 1, max_size=num_levels + 1)
    schedule = data.draw(st.sampled_from(["linear", "constant"]) | explicit)
    channels = {"linear": [d * (level + 1) for level in range(num_levels + 1)], "constant": [d] * (num_levels + 1)}.get(
        str(schedule), schedule
    )
    convolutions = sum(below * above for below, above in pairwise(channels)) * (2 if sharing == "sibling" else 1)
    network = QCNN(2**num_levels, num_classes, d, basis="legendre", channels=schedule, sharing=sharing)
    assert network.channels == tuple(channels)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == convolutions + channels[-1] * num_classes + 2 * sum(channels)


@pytest.mark.parametrize("training", [True, False])
def test_exchanging_the_children_of_a_node_changes_no_bit_of_full_sharing_but_siblings_scores(training):
    full, sibling = (make_network(sharing=sharing).train(training) for sharing in ("full", "sibling"))
    x = make_images(20)
    scores = full(x), sibling(x)
    for level in range(4):
        exchanged = x.reshape(20, -1, 2, 2**level)
        exchanged = torch.cat((exchanged[:, :1].flip(2), exchanged[:, 1:]), dim=1).reshape(20, 16)
        if training:  # the statistics are sums in another order
            torch.testing.assert_close(full(exchanged), scores[0], rtol=1e-12, atol=1e-12)
        else:
            assert torch.equal(full(exchanged), scores[0])
        assert (sibling(exchanged) - scores[1]).abs().max() > 1e-3 * scores[1].abs().max()


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_grey_levels_and_floats_are_the_same_images(architecture, training):
    network = make_network(**architecture).train(training)
    x = make_images(20)
    torch.testing.assert_close(network(x), network(x.double() / 255), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(network(x), network(x.float() / 255), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_the_states_amplitude_is_the_score(architecture):
    network = make_network(**architecture)
    network.fix_population_statistics(make_images(100))
    network.eval()
    x = make_images(20, seed=1)
    torch.testing.assert_close(
        NetworkState.from_network(network).amplitude(x), network(x).detach(), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_the_state_by_a_batchs_statistics_has_the_scores_of_training(architecture):
    network = make_network(**architecture)
    network.fix_population_statistics(make_images(100, seed=2))
    x = make_images(20, seed=1)
    state = NetworkState.from_network(network, network.statistics_of(x))
    torch.testing.assert_close(state.amplitude(x), network.train()(x), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_population_statistics_normalise_the_sample_at_every_level(architecture):
    network = make_network(**architecture)
    sample = make_images(200)
    network.fix_population_statistics(sample)
    features = network.basis(sample.double() / 255)
    for level in network.all_levels:
        mean, var = level.statistics()
        normalised = (features - mean) / var.sqrt()
        assert normalised.mean((0, 1)).abs().max() < 1e-9
        assert (normalised.var((0, 1), correction=0) - 1).abs().max() < 1e-9
        features = (features - mean) / (var + 1e-5).sqrt() * level.gamma + level.beta
        if level is not network.classification:
            left, right = (features[:, side::2] @ level.weight[min(side, len(level.weight) - 1)].T for side in (0, 1))
            features = (left * right).detach()
    scores = features[:, 0] @ network.classification.weight[0].T
    torch.testing.assert_close(network.eval()(sample), scores, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("sharing", ["full", "sibling"])
@pytest.mark.parametrize("basis", ["fourier", "legendre"])
def test_the_product_state_start_is_one_over_classes_and_of_the_order_of_gamma_away_from_a_product(sharing, basis):
    distances, entropies = [], []
    for gamma in (0.05, 0.025):
        network = make_network(sharing=sharing, basis=basis, start_gamma=gamma)
        network.fix_population_statistics(make_images(100))
        distances.append((network.eval()(make_images(100)) - 1 / 10).abs().max().item())
        entropies.append(NetworkState.from_network(network).entanglement_entropy().max().item())
    assert 1e-3 < distances[0] < 0.05
    assert distances[0] / distances[1] == pytest.approx(2, rel=0.15)
    assert 0 <= entropies[1] < entropies[0] < 1e-4


def test_the_default_start_is_pytorchs():
    for inputs, outputs in ((18, 36), (7, 3)):
        torch.manual_seed(0)
        ours = NormalisedConvolution(inputs, outputs, matrices=1)
        torch.manual_seed(0)
        convolution = nn.Conv1d(inputs, outputs, 1, bias=False)
        torch.testing.assert_close(ours.weight[0], convolution.weight.squeeze(-1))
        norm = nn.BatchNorm1d(inputs)
        assert torch.equal(ours.gamma, norm.weight)
        assert torch.equal(ours.beta, norm.bias)
        assert ours.epsilon == norm.eps
    network = make_network(256, d=18, sharing="sibling", start="default")
    for level in network.all_levels:
        bound = math.sqrt(1 / level.weight.shape[-1])
        assert 0.95 * bound < level.weight.abs().max() <= bound + 1e-7
        assert level.weight.mean().abs() < 0.1 * bound


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"num_sites": 12}, r"num_sites=12: .*power of two"),
        ({"num_sites": 1}, r"num_sites=1: .*at least 2"),
        ({"num_classes": 1}, r"num_classes=1: .*at least 2 classes"),
        ({"d": 0}, r"model\.d=0: .*at least 1"),
        ({"d": 3}, r"even model\.d \(2 or 4\)"),
        ({"basis": "haar"}, r"model\.basis=haar"),
        ({"channels": "steep"}, r"model\.channels=steep: choose linear, constant, or a list of 5 numbers"),
        ({"channels": [2, 4]}, r"model\.channels=\[2, 4\] has 2 numbers: 16 pixels make L = 4 levels.* L \+ 1 = 5"),
        ({"channels": [2, 4, 0, 4, 4]}, r"every number of channels must be at least 1"),
        ({"sharing": "some"}, r"model\.sharing=some: choose one of full, sibling"),
        ({"start": "warm"}, r"model\.start=warm: choose one of product_state, default"),
        ({"start_gamma": 0.0}, r"model\.start_gamma=0\.0: must be positive"),
    ],
    ids=str,
)
def test_a_network_that_cannot_be_is_refused_with_the_setting_and_what_would_be_right(change, told):
    with pytest.raises(InputError, match=told):
        QCNN(**({"num_sites": 16, "num_classes": 10, "d": 4} | change))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda network: network.levels[2].weight.data.fill_(math.nan), "the weights of level 2"),
        (lambda network: network.levels[1].weight.data.fill_(1e200), "the features entering level 2"),
        (lambda network: network.classification.gamma.data.fill_(math.inf), "the weights of level 4"),
    ],
)
def test_says_where_the_first_number_is_that_is_not_finite(spoil, told):
    network = make_network()
    spoil(network)
    assert network.first_non_finite(make_images(20)) == told


IMAGES_THAT_ARE_NONE = [
    (torch.zeros(3, dtype=torch.uint8), r"shape \(3,\): expected \(batch, 16\)"),
    (torch.zeros(3, 4, 4, dtype=torch.uint8), r"shape \(3, 4, 4\)"),
    (torch.zeros(3, 1, 4, 4), r"shape \(3, 1, 4, 4\)"),
    (torch.zeros(3, 8, dtype=torch.uint8), r"shape \(3, 8\)"),
    (torch.zeros(3, 32, dtype=torch.uint8), r"shape \(3, 32\)"),
    (torch.zeros(0, 16, dtype=torch.uint8), "at least one image"),
    (torch.full((3, 16), 200), "dtype torch.int64: expected uint8"),
    (torch.zeros(3, 16, dtype=torch.bool), "dtype torch.bool"),
    (torch.full((3, 16), 200.0), "entries from 200 to 200: expected grey levels in"),
    (torch.full((3, 16), -0.1), "entries from -0.1 to -0.1"),
    (torch.full((3, 16), torch.nan), "expected grey levels"),
]


@pytest.mark.parametrize("kernel", ["plain", "auto"])
@pytest.mark.parametrize(("x", "told"), IMAGES_THAT_ARE_NONE, ids=[told for _, told in IMAGES_THAT_ARE_NONE])
def test_images_that_are_none_are_refused_with_what_would_be_right(x, told, kernel):
    network = QCNN(16, num_classes=10, d=4, kernel=kernel)
    for take in (network, network.fix_population_statistics, network.statistics_of):
        with pytest.raises(InputError, match=told):
            take(x)


def test_black_and_white_images_have_no_state_in_the_fourier_basis():
    network = make_network()
    black_and_white = (make_images(20) > 127).to(torch.uint8) * 255
    with pytest.raises(InputError, match=r"2 grey levels, from 0 to 255.*choose data\.white=0\.75"):
        network.fix_population_statistics(black_and_white)
    with pytest.raises(InputError, match="1 grey levels, from 7 to 7; images that are all the same"):
        network.fix_population_statistics(torch.full((20, 16), 7, dtype=torch.uint8))
    # What was refused is not half-way in.
    with pytest.raises(InputError, match="no statistics yet"):
        NetworkState.from_network(network)


@pytest.mark.parametrize("basis", ["fourier", "legendre"])
def test_white_lays_grey_levels_on_a_part_of_the_interval(basis):
    network, paper = (make_network(basis=basis, white=white) for white in (0.75, 1.0))
    x = make_images(20)
    for images in (x, x.double() / 255):
        expected = paper(0.75 * x.double() / 255)
        torch.testing.assert_close(network(images), expected, rtol=1e-10, atol=1e-12)
    network.fix_population_statistics(x)
    state = network.eval().state()
    for images in (x, x.double() / 255):
        torch.testing.assert_close(state.amplitude(images), network(images).detach(), rtol=1e-9, atol=1e-12)


def test_black_and_white_images_have_states_where_white_is_another_point_than_black():
    network = make_network(white=0.75).eval()
    black_and_white = (make_images(200) > 127).to(torch.uint8) * 255
    network.fix_population_statistics(black_and_white)
    scores = network(black_and_white).detach()
    torch.testing.assert_close(network.state().amplitude(black_and_white), scores, rtol=1e-9, atol=1e-12)
    assert scores.std(0).min() > 0


@pytest.mark.parametrize("white", [0, -0.5, 1.01, math.nan])
def test_white_lies_in_the_interval(white):
    with pytest.raises(InputError, match=rf"data\.white={white}: must be greater than 0, and at most 1"):
        make_network(white=white)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kernel", ["plain", "auto"])
def test_functions_that_black_and_white_images_do_not_vary_are_named_and_scores_are_still_the_amplitudes(
    kernel, dtype, caplog
):
    torch.manual_seed(0)
    network = QCNN(64, num_classes=10, d=6, basis="legendre", kernel=kernel).to(dtype).eval()
    black_and_white = (make_images(200, sites=64) > 127).to(torch.uint8) * 255
    for _ in range(2):
        network.fix_population_statistics(black_and_white)
    named = [record for record in caplog.records if "are constant over these images of 2 grey levels" in record.message]
    assert [record.message.split(" of ")[0] for record in named] == ["f_2, f_4, f_6"]
    scores = network(black_and_white).detach().double()
    amplitude = NetworkState.from_network(network).amplitude(black_and_white).detach()
    torch.testing.assert_close(scores, amplitude, rtol=1e-4, atol=1e-4)
    assert scores.std(0).min() > 0


@pytest.mark.parametrize("training", [True, False])
def test_a_network_without_statistics_is_no_state_until_it_has_some(training):
    network = make_network().train(training)
    with pytest.raises(InputError, match=r"no statistics yet.*fix_population_statistics"):
        NetworkState.from_network(network)
    network.train()(make_images(20))
    running = NetworkState.from_network(network)
    network.fix_population_statistics(make_images(20))
    assert not torch.equal(NetworkState.from_network(network).top, running.top)


def test_sizes_may_be_numbers_of_numpy():
    torch.manual_seed(0)
    one = QCNN(np.int64(16), np.int32(3), d=np.int64(2))
    torch.manual_seed(0)
    other = QCNN(16, 3, d=2)
    assert all(torch.equal(one.state_dict()[name], tensor) for name, tensor in other.state_dict().items())
    assert type(one.num_sites) is int
