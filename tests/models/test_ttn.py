"""Trees of dense tensors in training; a q-CNN is one, exactly."""

import numpy as np
import pytest
import torch

from qcnn_lightning import QCNN, TTN
from qcnn_lightning.errors import InputError
from qcnn_lightning.models.channels import channels_up_to
from qcnn_lightning.models.model import num_parameters

SHARINGS = ("full", "sibling", "none")


def tree(num_sites=8, seed=0, **settings):
    torch.manual_seed(seed)
    return TTN(num_sites, 3, **{"d": 2, "bond": 4, **settings})


def images(num_sites=8, number=12):
    return torch.randint(256, (number, num_sites), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


@pytest.mark.parametrize("start", ["product_state", "default"])
@pytest.mark.parametrize("dtype", ["real", "complex"])
@pytest.mark.parametrize("sharing", SHARINGS)
def test_scores_are_the_contraction_of_the_tree_and_the_amplitudes_of_its_state(sharing, dtype, start):
    model = tree(sharing=sharing, dtype=dtype, start=start, scores="amplitude", white=0.8).double()
    functions = model.basis(0.8 * images().double() / 255)
    blocks = [*torch.cat((torch.ones(12, 8, 1), functions), -1).numpy().transpose(1, 0, 2)]
    *levels, top = (tensor.detach().numpy() for tensor in model.tensors())
    for level in levels:
        pairs = zip(blocks[0::2], blocks[1::2], strict=True)
        blocks = [np.einsum("ijk,bj,bk->bi", level[n % len(level)], *pair) for n, pair in enumerate(pairs)]
    alpha = blocks[0] @ top.T
    expected = torch.from_numpy(np.abs(alpha) if dtype == "complex" else alpha)
    torch.testing.assert_close(model(images()), expected, rtol=1e-11, atol=1e-14)
    amplitude = model.state().amplitude(images())
    torch.testing.assert_close(amplitude, torch.from_numpy(alpha), rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("dtype", ["real", "complex"])
def test_gradients_are_those_of_finite_differences(dtype):
    model = tree(4, sharing="none", dtype=dtype, start="default").double()
    names = [name for name, _ in model.named_parameters()]

    def scores(*values):
        return torch.func.functional_call(model, dict(zip(names, values, strict=True)), images(4, 3))

    assert torch.autograd.gradcheck(scores, tuple(model.parameters()), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("sharing", ["full", "sibling"])
def test_a_networks_dense_tree_is_a_network_with_the_same_scores_and_states(sharing):
    torch.manual_seed(0)
    network = QCNN(16, 3, 2, sharing=sharing, start="default", white=0.7).double()
    network.fix_population_statistics(images(16, 40))
    network.eval()
    model = TTN.from_state(network.state().to_dense_tree(), scores="amplitude")
    x = images(16)
    torch.testing.assert_close(model(x), network(x), rtol=1e-12, atol=1e-12)
    entropies = [one.state().entropy_profile() for one in (model, network)]
    torch.testing.assert_close(*entropies, rtol=1e-12, atol=1e-12)
    scores = TTN.from_state(network.state().to_dense_tree())(x)
    assert torch.equal(scores.abs().argmax(1), network(x).abs().argmax(1))


@pytest.mark.parametrize("dtype", ["real", "complex"])
@pytest.mark.parametrize("sharing", SHARINGS)
def test_a_network_is_rebuilt_from_its_state(sharing, dtype):
    model = tree(sharing=sharing, dtype=dtype).double()
    again = TTN.from_state(model.state())
    assert torch.equal(again(images()), model(images()))
    assert (again.sharing, again.is_complex) == (sharing, dtype == "complex")


@pytest.mark.parametrize("dtype", ["real", "complex"])
def test_a_network_starts_from_the_file_of_a_state_of_its_dtype_alone(dtype, tmp_path):
    model = tree(dtype=dtype)
    file = str(tmp_path / "state.safetensors")
    model.state().save(file)
    torch.testing.assert_close(tree(dtype=dtype, start=file)(images()), model(images()))
    with pytest.raises(InputError, match=rf"its state has \(sites, basis, white, dtype\) = .*'{dtype}'\)"):
        tree(dtype="real" if dtype == "complex" else "complex", start=file)


@pytest.mark.parametrize("start", ["product_state", "default"])
def test_two_hundred_and_fifty_six_sites_have_finite_gradients_in_single_precision(start):
    model = tree(256, d=4, bond=16, start=start)
    model(images(256))[:, 0].sum().backward()
    gradients = [parameter.grad.double() for parameter in model.parameters()]
    model.double().zero_grad()
    model(images(256))[:, 0].sum().backward()
    for gradient, parameter in zip(gradients, model.parameters(), strict=True):
        assert (gradient - parameter.grad).norm() <= 1e-3 * parameter.grad.norm()


def test_channels_are_as_many_as_wanted_and_no_more_than_states():
    assert channels_up_to(3, 4, 20, None) == (3, 9, 20, 20, 20)
    assert channels_up_to(2, 2, 20, [5, 6]) == (2, 5, 6)
    assert tree(bond=4).channels == (3, 4, 4, 4)
    assert num_parameters(tree(bond=4)) == 4 * 9 + 4 * 16 * 2 + 3 * 4
    assert num_parameters(tree(bond=4, sharing="none")) == 4 * 4 * 9 + 3 * 4 * 16 + 3 * 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sharing": "some"}, r"model\.sharing=some: choose one of full, sibling, none"),
        ({"start": "cold"}, r"model\.start=cold"),
        ({"bond": 0}, r"model\.bond=0: the number of channels must be at least 1"),
        ({"channels": [2]}, r"model\.channels=\[2\]: expected L = 3 numbers"),
        ({"spread": 0.0}, r"model\.spread=0\.0: must be positive"),
        ({"dtype": "quaternion"}, r"model\.dtype=quaternion"),
    ],
)
def test_what_no_tree_can_have_is_told(settings, message):
    with pytest.raises(InputError, match=message):
        tree(**settings)


def test_a_state_whose_levels_share_differently_is_no_network():
    state = tree().state()
    mixed = type(state)([state.site_tensors[0].repeat(4, 1, 1, 1), *state.site_tensors[1:]], state.top)
    with pytest.raises(InputError, match="its levels share nodes in different ways"):
        TTN.from_state(mixed)
