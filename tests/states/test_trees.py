"""Trees of dense tensors, and complex trees, against dense vectors, quimb and finite differences."""

import copy
import math

import numpy as np
import pytest
import torch
from drawn_trees import KINDS, SHARINGS, TREES, dense_tree, entropy_of, product_tree, spectrum_of, vectors_of

from qcnn_lightning import QCNN, NetworkState, State
from qcnn_lightning.basis import make_basis
from qcnn_lightning.errors import InputError
from qcnn_lightning.states import DenseTreeState, DensityState, observables
from qcnn_lightning.states.gram import build_tree
from qcnn_lightning.states.layout import ImageLayout

SIZES = (2, 4, 8)


@pytest.mark.parametrize("num_sites", SIZES)
@pytest.mark.parametrize(("kind", "sharing", "dtype"), KINDS)
def test_norms_overlaps_and_entropies_of_all_cuts_are_those_of_the_vectors(kind, sharing, dtype, num_sites):
    state = TREES[kind](num_sites, sharing, dtype, local=3 if num_sites < 8 else 2)
    assert isinstance(state, State)
    vectors = vectors_of(state)
    flat = vectors.reshape(len(vectors), -1)
    norms = np.linalg.norm(flat, axis=1)
    assert state.log_norm().numpy() == pytest.approx(2 * np.log(norms), abs=1e-10)
    overlaps = flat.conj() @ flat.T / np.outer(norms, norms)
    assert np.abs(state.overlaps().numpy() - overlaps).max() < 1e-10
    for level in range(state.num_levels):
        blocks = [range(start, start + 2**level) for start in range(0, num_sites, 2**level)]
        expected = [[entropy_of(spectrum_of(vector, list(block))) for block in blocks] for vector in vectors]
        assert np.abs(state.block_entropies(level).numpy() - expected).max() < 1e-10
        assert state.entropy_profile()[:, level].numpy() == pytest.approx(np.mean(expected, axis=1), abs=1e-10)
    half = np.array([spectrum_of(vector, list(range(num_sites // 2))) for vector in vectors])
    spectrum = state.schmidt_spectrum().numpy()
    rank = min(half.shape[1], spectrum.shape[1])
    assert np.abs(spectrum[:, :rank] - half[:, :rank]).max() < 1e-10
    assert state.entanglement_entropy().numpy() == pytest.approx([entropy_of(p) for p in half], abs=1e-10)


@pytest.mark.parametrize(("kind", "sharing", "dtype"), KINDS)
def test_amplitudes_and_probabilities_are_those_of_the_vectors(kind, sharing, dtype):
    state = TREES[kind](4, sharing, dtype)
    x = torch.rand(7, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    functions = torch.cat((torch.ones(7, 4, 1, dtype=torch.float64), make_basis("legendre", 2)(x)), -1).numpy()
    expected = np.einsum("yabcd,na,nb,nc,nd->ny", vectors_of(state), *functions.transpose(1, 0, 2))
    logarithm, sign = state.log_amplitude(x)
    assert np.abs((sign * logarithm.exp()).numpy() - expected).max() < 1e-10
    squares = np.abs(expected) ** 2
    assert np.abs(state.conditional_probability(x).numpy() - squares / squares.sum(1, keepdims=True)).max() < 1e-10


@pytest.mark.parametrize("sharing", SHARINGS)
def test_complex_densities_sum_to_one_and_their_samples_and_missing_pixels_are_those_of_the_sums(sharing):
    state = product_tree(4, sharing, torch.complex128, local=2)
    state = type(state)(state.site_tensors, state.top, "levels")
    images = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 4)
    joint = state.log_joint(images).exp()
    assert joint.sum().item() == pytest.approx(1, abs=1e-12)
    hidden = images[:4].clone()
    hidden[:, 0] = math.nan
    expected = torch.stack([joint[(images[:, 1:] == row[1:]).all(1)].sum(0) for row in hidden])
    torch.testing.assert_close(state.log_joint(hidden).exp(), expected, rtol=1e-10, atol=1e-14)
    drawn = state.sample(20000, seed=0)
    counts = torch.stack([(drawn == image).all(1).double().mean() for image in images])
    torch.testing.assert_close(counts, joint.sum(1), rtol=0, atol=4 * 0.5 / 20000**0.5)
    probability = state.pixel_probabilities(hidden)[:, 0]
    both = torch.stack([joint[(images == row).all(1)].sum() for row in images[:4]]) / expected.sum(1)
    torch.testing.assert_close(probability[:, 0], both, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("kind", TREES)
def test_gradients_of_norms_overlaps_and_entropies_are_those_of_finite_differences(kind, dtype):
    start = TREES[kind](4, "none", dtype, channels=3, classes=2)

    def numbers(*tensors):
        state = type(start)(tensors[:-1], tensors[-1], "legendre")
        return torch.cat((state.log_norm(), state.overlaps().abs().flatten(), state.entanglement_entropy()))

    tensors = [tensor.clone().requires_grad_() for tensor in (*start.site_tensors, start.top)]
    assert torch.autograd.gradcheck(numbers, tensors, eps=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_sixty_four_sites_have_quimbs_norm_and_half_image_entropy(dtype):
    qtn = pytest.importorskip("quimb.tensor")
    state = dense_tree(64, "none", dtype, local=2, channels=4)
    network = state.to_quimb(1)
    assert isinstance(network, qtn.TensorNetworkGenVector)
    exponent, network.exponent = network.exponent, 0.0
    norm = (network.H & network).contract(all, optimize="greedy").real
    assert math.log(norm) + 2 * exponent * math.log(10) == pytest.approx(state.log_norm()[1].item(), abs=1e-10)
    # Between the halves the state is a matrix of the channels that enter the top node.
    level = state.num_levels - 1
    top = network.select_any([f"L{level}", f"L{level + 1}"]).contract(all)
    sides = []
    for child in range(2):
        below = [t for t in network if set(t.tags) & {f"I{site}" for site in range(32 * child, 32 * child + 32)}]
        half = qtn.TensorNetwork(below)
        for inner in range(1, level):
            half |= qtn.TensorNetwork(
                [t for t in network.select(f"L{inner}") if int(t.inds[0].split("_")[1]) >> (level - 1 - inner) == child]
            )
        index = f"b{level}_{child}"
        other = half.H.reindex({index: "other"})
        sides.append((half & other).contract(all, output_inds=(index, "other"), optimize="greedy").data)
    roots = [np.linalg.cholesky(gram) for gram in sides]
    matrix = top.transpose(f"b{level}_0", f"b{level}_1").data
    squares = np.linalg.svd(roots[0].T @ matrix @ roots[1], compute_uv=False) ** 2
    entropy = entropy_of(squares / squares.sum())
    assert state.entanglement_entropy()[1].item() == pytest.approx(entropy, abs=1e-10)


@pytest.mark.parametrize("sharing", ["full", "sibling"])
def test_a_networks_state_as_a_dense_tree_has_the_same_numbers(sharing):
    torch.manual_seed(0)
    network = QCNN(16, 3, 2, sharing=sharing, start="default").double()
    x = torch.randint(256, (40, 16), dtype=torch.uint8)
    network.fix_population_statistics(x)
    with torch.no_grad():
        state = network.eval().state()
        tree = state.to_dense_tree()
        torch.testing.assert_close(tree.amplitude(x), network(x), rtol=1e-12, atol=1e-12)
        for name in ("log_norm", "overlaps", "entropy_profile", "entanglement_entropy"):
            torch.testing.assert_close(getattr(tree, name)(), getattr(state, name)(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(NetworkState.from_dense_tree(tree).amplitude(x), network(x), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("kind", "sharing", "dtype"), KINDS)
def test_a_file_gives_the_state_back(kind, sharing, dtype, tmp_path):
    state = TREES[kind](8, sharing, dtype)
    state.save(tmp_path / "state.safetensors")
    back = type(state).load(tmp_path / "state.safetensors")
    ours, theirs = ((*one.site_tensors, one.top) for one in (state, back))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    with pytest.raises(InputError, match="holds no such state"):
        NetworkState.load(tmp_path / "state.safetensors")


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("sharing", SHARINGS)
def test_canonical_nodes_are_isometries_of_the_same_states(sharing, dtype):
    state = dense_tree(8, sharing, dtype, local=2)
    canonical = state.canonical()
    assert np.abs(vectors_of(canonical) - vectors_of(state)).max() < 1e-10 * np.abs(vectors_of(state)).max()
    for tensor in canonical.site_tensors:
        for node in tensor.flatten(2):
            product = node @ node.mH
            scale = product[0, 0].real
            assert torch.allclose(product, scale * torch.eye(len(node), dtype=dtype), atol=1e-12 * scale.item())
            assert math.log2(scale.item()) == pytest.approx(round(math.log2(scale.item())), abs=1e-12)
    # Two sites have four states, whatever the channels were.
    assert canonical.channels[1] == 4


def test_a_truncated_tree_loses_at_most_the_weights_that_it_leaves_out():
    state = dense_tree(8, "none", torch.complex128, local=2, channels=6, classes=1)
    vectors = vectors_of(state)
    channels = [3, 3, 2]
    compressed = state.compress(channels=channels)
    assert compressed.state.channels == (2, *channels)
    lost = 0.0
    for level, rank in enumerate(channels[:-1], start=1):
        for start in range(0, 8, 2**level):
            lost += spectrum_of(vectors[0], list(range(start, start + 2**level)))[rank:].sum()
    ours, theirs = (vector.reshape(-1) for vector in (vectors[0], vectors_of(compressed.state)[0]))
    fidelity = abs(np.vdot(ours, theirs)) ** 2 / (np.linalg.norm(ours) * np.linalg.norm(theirs)) ** 2
    assert compressed.fidelity.item() == pytest.approx(fidelity, abs=1e-12)
    assert 0.5 < 1 - lost <= fidelity < 1


@pytest.mark.parametrize("sharing", SHARINGS)
def test_the_fewest_channels_keep_the_fidelity_that_is_asked_for(sharing):
    state = dense_tree(16, sharing, local=2, channels=5)
    sizes = []
    for fidelity in (0.9, 0.99, 1.0):
        compressed = state.compress(fidelity=fidelity)
        assert compressed.fidelity.min() >= fidelity - 1e-12
        torch.testing.assert_close(
            compressed.fidelity, state.overlaps(compressed.state).diagonal().square(), rtol=0, atol=1e-10
        )
        sizes.append(compressed.state.num_parameters)
    assert sizes == sorted(sizes)
    assert sizes[0] < state.num_parameters


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give one of fidelity and channels"),
        ({"fidelity": 0.9, "channels": [1, 1]}, "give one of fidelity and channels"),
        ({"fidelity": 1.5}, "fidelity=1.5: must be above 0 and at most 1"),
        ({"channels": [1]}, r"channels=\[1\]: expected 2 numbers of at least 1"),
    ],
)
def test_what_states_cannot_be_compressed_to_is_told(arguments, message):
    with pytest.raises(InputError, match=message):
        dense_tree(4).compress(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors, top: ([], top), "site_tensors is empty"),
        (lambda tensors, top: (tensors, top[:, :-1]), "its last dimension must be"),
        (lambda tensors, top: ([tensors[0][:, 0], tensors[1]], top), r"expected \(s, d_1, d_0, d_0\)"),
        (lambda tensors, top: (tensors, top.to(torch.complex128)), "expected one for all"),
        (lambda tensors, top: ([tensor.float() for tensor in tensors], top), "need torch.float64"),
    ],
)
def test_tensors_that_make_no_tree_are_told(change, message):
    state = dense_tree(4)
    with pytest.raises(InputError, match=message):
        DenseTreeState(*change(list(state.site_tensors), state.top))
    with pytest.raises(InputError, match="level=2: a state of"):
        state.block_spectra(2)


def kinds_of_states():
    drawn = product_tree(4, "full", local=3, channels=3, classes=2)
    tensors = [tensor.clone() for tensor in drawn.site_tensors]
    return [
        DensityState(tensors, drawn.top.clone(), "legendre"),
        dense_tree(4, "full", classes=2),
        NetworkState(tensors, drawn.top.clone(), "legendre"),
    ]


@pytest.mark.parametrize("state", kinds_of_states(), ids=lambda state: type(state).__name__)
def test_names_and_layouts_must_fit(state):
    with pytest.raises(InputError, match="class_names has 3 names, the state has 2 classes"):
        state.described(["a", "b", "c"], None)
    with pytest.raises(InputError, match="layout has 8 sites, the state has 4"):
        state.described(None, ImageLayout.of(range(8), (2, 4)))
    assert state.described(["a", "b"], ImageLayout.of(range(4), (2, 2))).class_names == ("a", "b")


@pytest.mark.parametrize("state", kinds_of_states(), ids=lambda state: type(state).__name__)
@pytest.mark.parametrize("trained", [False, True])
def test_a_tensor_that_is_changed_in_place_changes_the_state(state, trained):
    state.top.requires_grad_(trained)
    with torch.no_grad():
        before = state.log_norm()
        state.top.mul_(2)
        copied = copy.deepcopy(state)
        torch.testing.assert_close(state.log_norm(), before + 2 * math.log(2))
        torch.testing.assert_close(copied.log_norm(), before + 2 * math.log(2))
    assert state.log_norm().requires_grad == trained


@pytest.mark.parametrize("kind", range(3))
def test_a_tensor_in_place_of_another_changes_the_state_wherever_it_lies_in_memory(kind):
    state = kinds_of_states()[kind]
    before, doubled, place = state.log_norm(), (2 * state.top).tolist(), state.top.data_ptr()
    state.top = None  # its memory is free for another, unless the state holds it
    others = [torch.tensor(doubled, dtype=torch.float64) for _ in range(100)]
    state.top = next((other for other in others if other.data_ptr() == place), others[0])
    torch.testing.assert_close(state.log_norm(), before + 2 * math.log(2))


def test_block_states_are_computed_once_however_many_numbers_are_asked_for(monkeypatch):
    *_, state = kinds_of_states()
    built = []
    monkeypatch.setattr(observables, "build_tree", lambda *tensors: built.append(tensors) or build_tree(*tensors))
    for number in (state.log_norm, state.overlaps, state.entropy_profile, state.pixel_density_matrices):
        number()
    assert len(built) == 1
