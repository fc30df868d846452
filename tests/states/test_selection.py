"""Fewer channels of a product-pooling tree: what is chosen, what is fitted, and what the images lose."""

import itertools

import numpy as np
import pytest
import torch

from qcnn_lightning import QCNN, NetworkState
from qcnn_lightning.errors import InputError
from qcnn_lightning.states.selection import choose, fitted, numbers_of, pooled, second_moments, unit_features


def images(num_sites=16, number=60):
    return torch.randint(256, (number, num_sites), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def state_of(sharing="sibling", channels="linear"):
    torch.manual_seed(0)
    network = QCNN(16, 3, 4, sharing=sharing, channels=channels).double()
    network.fix_population_statistics(images())
    with torch.no_grad():
        return network.eval().state()


def relative(state):
    """Amplitudes, with the mean norm 1 over the images."""
    alpha = state.amplitude(images())
    return alpha / alpha.norm(dim=1).mean()


@pytest.mark.parametrize("sharing", ["full", "sibling"])
def test_all_channels_give_the_same_amplitudes_up_to_one_factor(sharing):
    state = state_of(sharing, channels=[4, 4, 5, 6, 7])
    same = state.compress(images(), channels=state.channels[1:])
    assert same.channels == state.channels
    assert same.sharing == state.sharing
    torch.testing.assert_close(relative(same), relative(state), rtol=1e-5, atol=1e-6)


def test_a_channel_that_others_span_is_left_out_without_loss():
    state = state_of(channels=[4, 4, 4, 4, 4])
    tensors = [tensor.clone() for tensor in state.site_tensors]
    # Channel 5 of level 2 is channel 1 once more, and level 2 reads both.
    tensors[1] = torch.cat((tensors[1], tensors[1][:, 1:2]), dim=1)
    tensors[2] = torch.cat((tensors[2], 0.5 * tensors[2][:, :, 2:3]), dim=2)
    wide = NetworkState(tensors, state.top)
    assert wide.channels == (4, 4, 5, 4, 4)
    narrow = wide.compress(images(), channels=[4, 4, 4, 4])
    torch.testing.assert_close(relative(narrow), relative(wide), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sharing", ["full", "sibling"])
def test_fewer_channels_lose_little_by_little(sharing):
    state = state_of(sharing)
    numbers = numbers_of([channels + 1 for channels in state.channels], 3, [len(t) for t in state.site_tensors])
    errors = []
    for part in (0.9, 0.6, 0.3):
        smaller = state.compress(images(), parameters=part * numbers)
        assert smaller.sharing == state.sharing
        sizes = [channels + 1 for channels in smaller.channels]
        assert numbers_of(sizes, 3, [len(tensor) for tensor in smaller.site_tensors]) <= part * numbers
        errors.append((relative(smaller) - relative(state)).norm().item())
        # The constant channel stays what it is.
        for tensor in smaller.site_tensors:
            first = tensor[:, 0] / tensor[:, :1, 0]
            expected = torch.eye(1, tensor.shape[-1], dtype=torch.float64).expand(len(tensor), -1)
            torch.testing.assert_close(first, expected, rtol=0, atol=1e-6)
    assert errors == sorted(errors)
    assert errors[0] < 0.1 * relative(state).norm().item()


def test_the_first_choice_is_the_one_that_leaves_the_least_error():
    generator = np.random.default_rng(0)
    phi, chi = generator.normal(size=(2, 40, 5))
    moments, gradients = phi.T @ phi, chi.T @ chi

    def error(kept):
        spanned = moments[:, kept] @ np.linalg.solve(moments[np.ix_(kept, kept)], moments[kept])
        return np.trace(gradients @ (moments - spanned))

    best = min(range(1, 5), key=lambda k: error([0, k]))
    assert choose(torch.from_numpy(moments), torch.from_numpy(gradients), 2) == [0, best]
    three = choose(torch.from_numpy(moments), torch.from_numpy(gradients), 3)
    assert error(three) <= min(error([0, best, k]) for k in range(1, 5) if k != best) + 1e-9
    assert error(three) <= 1.5 * min(error([0, *pair]) for pair in itertools.combinations(range(1, 5), 2))


def test_the_fit_is_that_of_least_squares():
    random = torch.Generator().manual_seed(0)
    small = torch.randn(50, 3, generator=random, dtype=torch.float64) * torch.tensor([1e-6, 1, 1e6])
    whole = torch.randn(50, 4, generator=random, dtype=torch.float64)
    expected = np.linalg.lstsq(small.numpy(), whole.numpy(), rcond=None)[0].T
    assert fitted(small, whole).numpy() == pytest.approx(expected, rel=1e-7)


def test_second_moments_are_those_of_features_and_gradients():
    state = state_of()
    pairs = [(tensor[0], tensor[-1]) for tensor in state.site_tensors]
    features = state.represent(images(number=3))
    moments, gradients = second_moments(pairs, state.top, features)
    # Level 3: the two halves; alpha is bilinear in their features.
    blocks = features
    for pair in pairs[:3]:
        blocks = pooled(blocks, pair)
    left, right = blocks.unbind(1)
    torch.testing.assert_close(moments[3], left.mT @ left + right.mT @ right)
    alpha = state.amplitude(images(number=3))
    expected = 0
    for own, other in ((pairs[3][0], right @ pairs[3][1].mT), (pairs[3][1], left @ pairs[3][0].mT)):
        chi = torch.einsum("yi,ni,ij->nyj", state.top, other, own) / alpha.norm(dim=1)[:, None, None]
        expected = expected + torch.einsum("nyi,nyj->ij", chi, chi)
    torch.testing.assert_close(gradients[3], expected)


def test_unit_features_have_the_mean_square_one_and_the_same_amplitudes():
    state = state_of("full")
    features = state.represent(images())
    pairs, top = unit_features([(tensor[0], tensor[-1]) for tensor in state.site_tensors], state.top, features)
    for pair in pairs:
        assert torch.equal(*pair)
        mapped = torch.cat((features[:, 0::2] @ pair[0].mT, features[:, 1::2] @ pair[1].mT), dim=1)
        torch.testing.assert_close(mapped.square().mean((0, 1)), torch.ones(len(pair[0]), dtype=torch.float64))
        features = pooled(features, pair)
    torch.testing.assert_close(features[:, 0] @ top.mT, relative(state), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give one of parameters and channels"),
        ({"parameters": 100, "channels": [1, 1, 1, 1]}, "give one of parameters and channels"),
        ({"parameters": 3}, "parameters: 3 numbers are fewer than a tree"),
        ({"channels": [2, 2]}, r"channels=\[2, 2\]: expected 4 numbers"),
    ],
)
def test_what_a_state_cannot_be_compressed_to_is_told(arguments, message):
    with pytest.raises(InputError, match=message):
        state_of().compress(images(), **arguments)
