"""What a user meets first: construction, errors, files, and what symmetry says about the numbers."""

import copy
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch
from drawn_networks import moved_network, random_tensors
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from qcnn_lightning import QCNN, NetworkState
from qcnn_lightning.errors import InputError
from qcnn_lightning.states import gram


@pytest.fixture
def state() -> NetworkState:
    return NetworkState(*random_tensors([2, 3, 4, 5], 3, matrices=2))


def test_repr_tells_what_it_is(state: NetworkState) -> None:
    text = "num_sites=8, num_classes=3, channels=(2, 3, 4, 5), basis='fourier', white=1.0, sharing="
    assert repr(state) == f"NetworkState({text}'sibling')"
    assert repr(NetworkState(*random_tensors([2, 3, 4, 5], 3, 1))) == f"NetworkState({text}'full')"


def test_a_network_gives_the_same_state_in_training_and_in_evaluation() -> None:
    network = moved_network(8, 2)
    with torch.no_grad():
        evaluating = NetworkState.from_network(network.eval()).entanglement_entropy()
        training = NetworkState.from_network(network.train()).entanglement_entropy()
    assert network.training
    assert torch.equal(evaluating, training)


def test_a_float32_network_gives_a_float64_state() -> None:
    network = QCNN(16, 3, 2, sharing="sibling").eval()
    x = torch.rand(100, 16)
    network.fix_population_statistics(x)
    with torch.no_grad():
        state = NetworkState.from_network(network)
        torch.testing.assert_close(state.amplitude(x), network(x).double(), rtol=1e-4, atol=1e-5)
    assert state.top.dtype == torch.float64


def test_full_sharing_makes_all_blocks_of_a_level_equal() -> None:
    state = NetworkState(*random_tensors([2, 3, 4, 5], 3, matrices=1))
    for level in range(3):
        entropies = state.block_entropies(level)
        assert entropies.shape == (3, 8 >> level)
        assert torch.equal(entropies, entropies[:, :1].expand_as(entropies))
    own = NetworkState([tensor.repeat(2, 1, 1) for tensor in state.site_tensors], state.top)
    torch.testing.assert_close(own.entropy_profile(), state.entropy_profile(), rtol=0, atol=1e-13)


def test_exchanging_children_exchanges_their_blocks(state: NetworkState) -> None:
    first, second, third = state.site_tensors
    exchanged = NetworkState([first, second.flip(0), third], state.top)
    expected = state.block_entropies(0).reshape(3, 2, 2, 2).flip(2).reshape(3, 8)
    torch.testing.assert_close(exchanged.block_entropies(0), expected, rtol=0, atol=1e-13)


def test_blocks_followed_one_by_one_are_those_followed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    site_tensors, top = random_tensors([2, 3, 4, 3, 5], 3, matrices=2)
    site_tensors[2] = site_tensors[2][:1]
    leaves = [tensor.requires_grad_() for tensor in (*site_tensors, top)]

    def profile_and_gradients() -> list[Tensor]:
        profile = NetworkState(site_tensors, top).entropy_profile()
        return [profile.detach(), *torch.autograd.grad(profile.sum(), leaves)]

    together = profile_and_gradients()
    pixels = NetworkState(site_tensors, top).block_spectra(0)
    monkeypatch.setattr(gram, "NUMBERS_AT_A_TIME", 1)
    for ours, theirs in zip(profile_and_gradients(), together, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-11, atol=1e-12)
    assert torch.allclose(NetworkState(site_tensors, top).block_spectra(0), pixels, rtol=0, atol=1e-13)


def test_both_halves_have_one_entropy(state: NetworkState) -> None:
    left, right = state.block_entropies(2).T
    torch.testing.assert_close(left, right, rtol=0, atol=1e-13)
    assert torch.equal(left, state.entanglement_entropy())


def test_entropies_stay_within_their_bounds(state: NetworkState) -> None:
    spectrum = state.schmidt_spectrum()
    torch.testing.assert_close(spectrum.sum(-1), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-14)
    assert (spectrum.diff() <= 0).all()
    entropies = torch.stack([state.renyi_entropy(alpha) for alpha in (0, 0.5, 1, 2, torch.inf)])
    assert (entropies.diff(dim=0) <= 1e-14).all()
    assert (entropies >= 0).all()
    # The state's rank: that of the narrower side of the cut.
    torch.testing.assert_close(entropies[0].exp(), torch.full((3,), 5.0, dtype=torch.float64))


@pytest.mark.parametrize("alpha", [-1, -0.5, float("nan")])
def test_orders_that_no_entropy_has(state: NetworkState, alpha: float) -> None:
    with pytest.raises(InputError, match="alpha"):
        state.renyi_entropy(alpha)


@pytest.mark.parametrize("level", [-1, 3])
def test_levels_that_a_state_does_not_have(state: NetworkState, level: int) -> None:
    with pytest.raises(InputError, match=f"level={level}.*0 .* to 2"):
        state.block_entropies(level)


def with_entry(value: float) -> Callable[[list[Tensor], Tensor], object]:
    def change(site_tensors: list[Tensor], top: Tensor) -> None:
        site_tensors[1][0, 0, 0] = value

    return change


def replaced(level: int, change: Callable[[Tensor], object]) -> Callable[[list[Tensor], Tensor], object]:
    def change_level(site_tensors: list, top: Tensor) -> None:
        site_tensors[level] = change(site_tensors[level])

    return change_level


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda site_tensors, top: site_tensors.clear(), "at least one level"),
        (replaced(0, Tensor.float), r"site_tensors\[0\] has dtype torch.float32"),
        (with_entry(float("nan")), r"site_tensors\[1\] has entries that are infinite or not a number"),
        (with_entry(float("inf")), r"site_tensors\[1\] has entries that are infinite or not a number"),
        (replaced(2, lambda tensor: tensor[0]), r"site_tensors\[2\] has shape \(6, 5\): expected \(s, d_3 \+ 1"),
        (replaced(2, lambda tensor: tensor.repeat(2, 1, 1)), r"site_tensors\[2\] has shape \(4, 6, 5\)"),
        (replaced(1, lambda tensor: tensor[..., 1:]), r"site_tensors\[1\] has shape \(2, 5, 3\).* must be 4"),
        (replaced(2, lambda tensor: tensor[:, 1:]), r"top has shape \(3, 6\).* must be 5"),
        (replaced(0, lambda tensor: tensor[..., 1:]), "d_0 = 1 local functions"),
    ],
)
def test_tensors_that_make_no_state(change: Callable[[list[Tensor], Tensor], object], message: str) -> None:
    site_tensors, top = random_tensors([2, 3, 4, 5], 3, matrices=2)
    change(site_tensors, top)
    with pytest.raises(InputError, match=message):
        NetworkState(site_tensors, top)


def test_arrays_of_numpy_serve_as_tensors(state: NetworkState, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = NetworkState([tensor.numpy() for tensor in state.site_tensors], state.top.numpy())
    assert arrays == state
    x = np.random.default_rng(0).integers(0, 256, (3, 8), dtype=np.uint8)
    for images in (x, x / 255):
        assert torch.equal(arrays.amplitude(images), state.amplitude(torch.from_numpy(images)))
        assert torch.equal(arrays.conditional_probability(images), state.conditional_probability(images))
    # As for a user: the suite's own check of types would look at one of the tensors, drawn at random, before we do.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(InputError, match=r"site_tensors\[1\] is a list"):
        NetworkState([state.site_tensors[0], state.site_tensors[1].tolist(), state.site_tensors[2]], state.top)
    with pytest.raises(InputError, match=r"top has dtype torch.float32"):
        NetworkState(state.site_tensors, state.top.numpy().astype(np.float32))


def test_tops_and_bases_that_make_no_state() -> None:
    site_tensors, top = random_tensors([2, 3], 3, matrices=2)
    with pytest.raises(InputError, match=r"top has shape \(4,\)"):
        NetworkState(site_tensors, top[0])
    with pytest.raises(InputError, match=r"top has shape \(0, 4\)"):
        NetworkState(site_tensors, top[:0])
    with pytest.raises(InputError, match=r"wavelet.*fourier, legendre"):
        NetworkState(site_tensors, top, basis="wavelet")


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(8), r"x has shape \(8,\): expected \(batch, 8\)"),
        (torch.zeros(2, 4), r"x has shape \(2, 4\)"),
        (torch.zeros(0, 8), "at least one image"),
        (torch.zeros(2, 8, dtype=torch.int64), "x has dtype torch.int64"),
        (torch.full((2, 8), 255.0), "from 255 to 255.*uint8"),
        (torch.full((2, 8), torch.nan), "expected grey levels"),
    ],
)
def test_images_that_are_none(state: NetworkState, x: Tensor, message: str) -> None:
    for number in (state.amplitude, state.conditional_probability):
        with pytest.raises(InputError, match=message):
            number(x)


def test_a_large_batch_is_the_same_as_its_images_one_by_one(state: NetworkState) -> None:
    x = torch.rand(1201, 8, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    for number in (state.amplitude, state.conditional_probability):
        together = number(x)
        for image in (0, 499, 500, 1200):
            torch.testing.assert_close(together[image], number(x[image : image + 1])[0], rtol=1e-12, atol=1e-15)


def test_dense_vectors_of_large_systems_are_refused() -> None:
    with pytest.raises(InputError, match=r"3\^16 entries"):
        NetworkState(*random_tensors([2] * 5, 2, matrices=1)).dense()


def test_a_state_survives_its_file(tmp_path: Path) -> None:
    site_tensors, top = random_tensors([3, 2, 4], 3, matrices=2)
    state = NetworkState([site_tensors[0], site_tensors[1][:1].requires_grad_()], top, basis="legendre")
    state.save(tmp_path / "state.safetensors")
    loaded = NetworkState.load(tmp_path / "state.safetensors")
    assert repr(loaded) == repr(state)
    for ours, theirs in zip((*loaded.site_tensors, loaded.top), (*state.site_tensors, state.top), strict=True):
        assert torch.equal(ours, theirs)
        assert not ours.requires_grad


def test_a_file_that_cannot_be_written_is_told(state: NetworkState, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot write .*state\.safetensors"):
        state.save(tmp_path / "file" / "state.safetensors")


def test_the_file_can_be_read_without_this_code(state: NetworkState, tmp_path: Path) -> None:
    state.save(tmp_path / "state.safetensors")
    with safe_open(tmp_path / "state.safetensors", framework="numpy") as file:
        assert set(file.keys()) == {"site_tensor_0", "site_tensor_1", "site_tensor_2", "top"}
        assert file.metadata()["basis"] == "fourier"
        assert (file.get_tensor("top") == state.top.numpy()).all()


def test_files_that_hold_no_state(tmp_path: Path, state: NetworkState) -> None:
    with pytest.raises(InputError, match="missing"):
        NetworkState.load(tmp_path / "missing.safetensors")
    text = tmp_path / "text.safetensors"
    text.write_text("not a tensor in sight")
    with pytest.raises(InputError, match=r"text\.safetensors"):
        NetworkState.load(text)
    other = tmp_path / "other.safetensors"
    save_file({"top": state.top}, other)
    with pytest.raises(InputError, match="holds no such state"):
        NetworkState.load(other)
    incomplete = tmp_path / "incomplete.safetensors"
    metadata = {"format": "qcnn_lightning.NetworkState", "basis": "fourier", "num_levels": "2"}
    save_file({"top": state.top}, incomplete, metadata=metadata)
    with pytest.raises(InputError, match="site_tensor_0"):
        NetworkState.load(incomplete)


def test_a_file_with_any_byte_altered_is_refused(tmp_path):
    path = tmp_path / "state.safetensors"
    NetworkState(*random_tensors([2, 2, 2], 3, matrices=1)).save(path)
    content = path.read_bytes()
    random = np.random.default_rng(0)
    for place in (*range(0, len(content), 7), *random.integers(len(content), size=100)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << random.integers(8)
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"state\.safetensors"):
            NetworkState.load(path)
    path.write_bytes(content)
    NetworkState.load(path)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda whole: pickle.loads(pickle.dumps(whole))])
def test_copies_of_a_network_and_of_its_state_are_whole_and_have_tensors_of_their_own(copied):
    network = QCNN(16, 3, d=4, kernel="plain")
    x = torch.randint(256, (20, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    network.fix_population_statistics(x)
    state = network.state()
    other_network, other = copied(network), copied(state)
    assert torch.equal(other_network.eval()(x), network.eval()(x))
    assert all(map(torch.equal, (*other.site_tensors, other.top), (*state.site_tensors, state.top)))
    torch.testing.assert_close(other.entanglement_entropy(), state.entanglement_entropy())
    assert other.basis.name == state.basis.name
    with torch.no_grad():
        for tensor in (*other.site_tensors, other.top, *other_network.parameters()):
            tensor.zero_()
    assert torch.equal(network.state().top, state.top)
    assert state.top.abs().sum() > 0
    assert all(parameter.abs().sum() > 0 for parameter in network.parameters() if parameter.ndim > 2)


def test_a_pipe_in_place_of_a_state_is_told_at_once(tmp_path):
    os.mkfifo(tmp_path / "state.safetensors")
    with pytest.raises(
        InputError, match=r"state\.safetensors cannot be read as a state: there is no such regular file"
    ):
        NetworkState.load(tmp_path / "state.safetensors")
