"""Matrix product states against dense vectors, quimb's contraction, and a canonical form in 50 digits."""

import itertools
import math
import warnings

import mpmath
import pytest
import torch
from drawn_chains import drawn_chain, drawn_tensors

from qcnn_lightning import MPSState, State
from qcnn_lightning.basis import make_basis, quadrature
from qcnn_lightning.errors import InputError
from qcnn_lightning.pixels import PADDING
from qcnn_lightning.states.layout import ImageLayout
from qcnn_lightning.states.state_file import write_epochs

NUMBERS = [torch.float64, torch.complex128]
PLACES = [(2, 1), (2, 2), (5, 0), (6, 3), (6, 6), (8, 4), (8, 2)]


def close(ours, theirs, tolerance=1e-10):
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)


def dense_vectors(state):
    """Psi_{y; i_1 .. i_N} by the definition, one amplitude after the other."""
    local = range(state.site_tensors[0].shape[1])
    vectors = []
    for indices in itertools.product(local, repeat=state.num_sites):
        matrices = [tensor[:, i] for tensor, i in zip(state.site_tensors, indices, strict=True)]
        rows = []
        for label in range(state.num_classes):
            factors = [*matrices]
            factors.insert(state.class_site, state.class_tensor[:, label])
            product = factors[0]
            for factor in factors[1:]:
                product = product @ factor
            rows.append(product[0, 0])
        vectors.append(torch.stack(rows))
    return torch.stack(vectors, dim=1)


def dense_entropies(vector, local, num_sites):
    spectra = [torch.linalg.svdvals(vector.reshape(local**cut, -1)).square() for cut in range(1, num_sites)]
    return torch.stack([torch.special.entr(weights / weights.sum()).sum() for weights in spectra])


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize(("num_sites", "class_site"), PLACES)
def test_norms_overlaps_and_all_cuts_are_those_of_the_vectors(num_sites, class_site, dtype):
    state = drawn_chain(num_sites, 2 if num_sites == 8 else 3, class_site=class_site, dtype=dtype)
    vectors = dense_vectors(state)
    close(state.dense(), vectors)
    close(state.log_norm(), vectors.abs().square().sum(1).log())
    close(state.log_partition(), vectors.abs().square().sum().log())
    normalised = vectors / vectors.norm(dim=1, keepdim=True)
    close(state.overlaps(), normalised.conj() @ normalised.mT)
    local = state.site_tensors[0].shape[1]
    entropies = torch.stack([dense_entropies(vector, local, num_sites) for vector in vectors])
    close(state.cut_entropies(), entropies)
    close(state.entanglement_entropy(), entropies[:, num_sites // 2 - 1])
    for cut in range(1, num_sites):
        spectrum = torch.linalg.svdvals(normalised[0].reshape(local**cut, -1)).square()
        ours = state.schmidt_spectrum(cut)[0]
        rank = min(len(ours), len(spectrum))
        close(ours[:rank], spectrum[:rank])
        close(state.renyi_entropy(2, cut)[0], -spectrum.square().sum().log())
    close(state.cut_entropies(2)[0, 0], state.renyi_entropy(2, 1)[0])


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("other_dtype", NUMBERS)
@pytest.mark.parametrize(("place", "other_place"), [(3, 3), (3, 6), (6, 2), (0, 6)])
def test_overlaps_between_chains_do_not_ask_where_their_classes_stand(place, other_place, dtype, other_dtype):
    state = drawn_chain(class_site=place, seed=0, dtype=dtype)
    other = drawn_chain(class_site=other_place, bond=3, classes=2, seed=1, dtype=other_dtype)
    ours, theirs = (vectors / vectors.norm(dim=1, keepdim=True) for vectors in map(dense_vectors, (state, other)))
    joint = torch.promote_types(dtype, other_dtype)
    close(state.overlaps(other), ours.to(joint).conj() @ theirs.to(joint).mT)


def test_a_state_of_fewer_local_functions_is_compared_as_one_of_more():
    state, other = drawn_chain(local=2), drawn_chain(local=3, seed=1)
    padded = [torch.nn.functional.pad(tensor, (0, 0, 0, 1)) for tensor in state.site_tensors]
    same = MPSState(padded, state.class_tensor, state.class_site, "legendre")
    close(state.overlaps(other), same.overlaps(other))
    close(other.overlaps(state), same.overlaps(other).mT)


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("basis", ["legendre", "fourier"])
@pytest.mark.parametrize("white", [1.0, 0.5])
def test_amplitudes_and_conditionals_are_those_of_the_vectors(basis, white, dtype):
    state = drawn_chain(basis=basis, white=white, dtype=dtype)
    x = torch.rand(4, 6, generator=torch.Generator().manual_seed(0))
    functions = make_basis(basis, 2)(white * x.double())
    functions = torch.cat((torch.ones(4, 6, 1), functions), -1)
    expected = []
    for image in functions:
        product = torch.ones(1)
        for function in image:
            product = torch.outer(product, function).flatten()
        expected.append(dense_vectors(state) @ product.to(dtype))
    expected = torch.stack(expected)
    close(state.amplitude(x), expected)
    size, sign = state.log_amplitude(x)
    close(size, expected.abs().log())
    close(sign, expected.sgn())
    weights = expected.abs().square()
    close(state.conditional_probability(x), weights / weights.sum(1, keepdim=True))
    grey = torch.tensor([[0, 1, 100, 254, 255, 17]], dtype=torch.uint8)
    close(state.amplitude(grey), state.amplitude(grey.double() / 255))


def all_images(num_sites, levels, padding=()):
    grey = [[0.0] if site in padding else [k / (levels - 1) for k in range(levels)] for site in range(num_sites)]
    return torch.tensor(list(itertools.product(*grey)), dtype=torch.float64)


def padding_of(num_sites, *sites):
    return torch.isin(torch.arange(num_sites), torch.tensor(sites))


@pytest.mark.parametrize(("local", "padding"), [(2, ()), (3, ()), (2, (0, 4))])
@pytest.mark.parametrize("class_site", [3, 6])
@pytest.mark.parametrize("dtype", NUMBERS)
def test_probabilities_of_all_images_and_labels_sum_to_one(local, padding, class_site, dtype):
    state = drawn_chain(6, local, class_site=class_site, dtype=dtype, basis="levels", padding=padding_of(6, *padding))
    images = all_images(6, local, padding)
    joint = state.log_joint(images).exp()
    close(joint.sum(), torch.tensor(1.0, dtype=torch.float64))
    close(state.log_probability(images).exp(), joint.sum(1))
    known = images[len(images) // 3].clone()
    known[[1, 5]] = math.nan
    same = (images[:, [0, 2, 3, 4]] == known[[0, 2, 3, 4]]).all(1)
    close(state.log_joint(known.unsqueeze(0)).exp()[0], joint[same].sum(0))
    close(state.conditional_probability(known.unsqueeze(0))[0], joint[same].sum(0) / joint[same].sum())
    for label in (None, 1):
        weights = joint.sum(1) if label is None else joint[:, label]
        theirs = torch.stack([weights[same & (images[:, 1] == k / (local - 1))].sum() for k in range(local)])
        ours = state.pixel_probabilities(known.unsqueeze(0), label)[0, 1]
        close(ours, theirs / theirs.sum())


@pytest.mark.parametrize("label", [None, 1])
@pytest.mark.parametrize(("class_site", "dtype"), [(2, NUMBERS[0]), (5, NUMBERS[0]), (2, NUMBERS[1])])
def test_samples_follow_the_probabilities_and_keep_what_is_known(label, class_site, dtype):
    padding = padding_of(5, 3)
    state = drawn_chain(5, 2, class_site=class_site, dtype=dtype, basis="levels", padding=padding)
    images = all_images(5, 2, (3,))
    joint = state.log_joint(images).exp()
    weights = joint.sum(1) if label is None else joint[:, label]
    for observed in (None, torch.tensor([math.nan, 1.0, math.nan, 0.0, math.nan])):
        possible = weights if observed is None else torch.where(images[:, 1] == 1, weights, 0)
        expected = possible / possible.sum()
        number = 20000
        drawn = state.sample(number, label, observed, seed=3)
        codes = (drawn @ torch.tensor([16.0, 8, 4, 2, 1]).double()).long()
        frequency = torch.bincount(codes, minlength=32)[(images @ torch.tensor([16.0, 8, 4, 2, 1]).double()).long()]
        error = (frequency / number - expected).abs() / (expected / number + 1e-12).sqrt()
        assert error.max() < 4.5
        assert torch.equal(drawn, state.sample(number, label, observed, seed=3))
    several = torch.tensor([[0.0, math.nan, 1.0, 0.0, math.nan], [1.0, math.nan, 0.0, 0.0, 0.0]])
    drawn = state.sample(2, label, several)
    assert torch.equal(drawn[~several.isnan()], several[~several.isnan()].double())


def test_samples_of_a_density_on_the_interval_have_the_means_of_its_pixels():
    state = drawn_chain(4, 3, bond=3)
    drawn = state.sample(4000, 0)
    probabilities = state.pixel_probabilities(torch.full((1, 4), math.nan), 0)[0]
    points, _ = quadrature(state.basis, state.class_tensor)
    error = (drawn.mean(0) - probabilities @ points) / (drawn.std(0) / 4000**0.5)
    assert error.abs().max() < 4.5


def mpmath_entropies(tensors, class_matrix, class_site):
    """Entropies of all cuts: the chain orthonormalised from both ends, in mpmath's numbers."""
    chain = [mpmath.matrix(1, 1)]
    chain[0][0] = mpmath.mpf(1)
    sites = [[mpmath.matrix(tensor[:, i].tolist()) for i in range(tensor.shape[1])] for tensor in tensors]
    sites[class_site - 1] = [matrix * mpmath.matrix(class_matrix.tolist()) for matrix in sites[class_site - 1]]

    def stacked(matrices):
        rows = [matrix[i, :] for matrix in matrices for i in range(matrix.rows)]
        return mpmath.matrix([list(row) for row in rows])

    entropies = []
    for cut in range(1, len(sites)):
        left = right = mpmath.matrix([[1]])
        for matrices in sites[:cut]:
            left = mpmath.qr(stacked([left * matrix for matrix in matrices]), mode="skinny")[1]
        for matrices in reversed(sites[cut:]):
            right = mpmath.qr(stacked([right * matrix.T for matrix in matrices]), mode="skinny")[1]
        values = mpmath.svd_r(left * right.T, compute_uv=False)
        weights = [value**2 for value in values]
        total = mpmath.fsum(weights)
        entropies.append(-mpmath.fsum(w / total * mpmath.log(w / total) for w in weights if w > 0))
    return entropies


def test_entropies_are_those_of_a_canonical_form_in_50_digits():
    tensors, class_tensor, place = drawn_tensors(8, 3, 3, 2)
    # Schmidt values over many orders of magnitude.
    tensors = [tensor * 10.0 ** (-2 * torch.arange(tensor.shape[2], dtype=torch.float64)) for tensor in tensors]
    ours = MPSState(tensors, class_tensor, place, "legendre").cut_entropies()
    with mpmath.workdps(50):
        for label in range(2):
            theirs = mpmath_entropies(tensors, class_tensor[:, label], place)
            for value, exact in zip(ours[label].tolist(), theirs, strict=True):
                assert abs(value - exact) < 1e-12 * max(1, abs(exact))
                assert abs(value - exact) < 1e-8 * abs(exact)


@pytest.mark.parametrize(("class_site", "dtype"), [(32, NUMBERS[0]), (64, NUMBERS[0]), (32, NUMBERS[1])])
def test_quimb_contracts_64_sites_to_the_same_numbers(class_site, dtype):
    quimb = pytest.importorskip("quimb.tensor")
    state = drawn_chain(64, 3, bond=6, class_site=class_site, dtype=dtype)
    network = state.to_quimb(1)
    assert isinstance(network, quimb.MatrixProductState)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        norm = network.H & network
        value, exponent = norm.contract(strip_exponent=True)
        log_norm = math.log(abs(value)) + math.log(10) * exponent
        assert log_norm == pytest.approx(state.log_norm()[1].item(), rel=1e-10)
        plain = network.copy()
        plain.exponent = 0
        plain.normalize()
        for cut in (1, 7, 32, 50, 63):
            assert plain.entropy(cut) * math.log(2) == pytest.approx(state.cut_entropies()[1, cut - 1].item(), abs=1e-9)
        x = torch.rand(1, 64, generator=torch.Generator().manual_seed(0))
        features = state.represent(x)[0]
        product = quimb.MPS_product_state([feature.numpy() for feature in features])
        value, exponent = (network & product).contract(strip_exponent=True)
        size, sign = state.log_amplitude(x)
        assert math.log(abs(value)) + math.log(10) * exponent == pytest.approx(size[0, 1].item(), rel=1e-10)
        assert value / abs(value) == pytest.approx(sign[0, 1].item(), rel=1e-10)


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("class_site", [0, 3, 6])
def test_gradients_are_finite_differences(class_site, dtype):
    tensors, class_tensor, place = drawn_tensors(class_site=class_site, dtype=dtype)
    if class_site == 0:
        class_tensor = torch.randn(1, 3, 1, dtype=dtype)
    parameters = [tensor.requires_grad_() for tensor in (*tensors, class_tensor)]
    x = torch.rand(2, 6, generator=torch.Generator().manual_seed(1))
    directions = [torch.randn_like(tensor) for tensor in parameters]

    def numbers(shift=0.0):
        moved = [tensor + shift * direction for tensor, direction in zip(parameters, directions, strict=True)]
        state = MPSState(moved[:-1], moved[-1], place, "legendre")
        return torch.stack(
            [
                state.log_norm().sum(),
                state.overlaps()[0, 1].abs(),
                state.log_amplitude(x)[0].sum(),
                state.log_joint(x).sum(),
                *(state.entanglement_entropy(cut).sum() for cut in (1, 2, 3, 5)),
            ]
        )

    values = numbers()
    with torch.no_grad():
        close(values, numbers())
        slopes = (numbers(1e-6) - numbers(-1e-6)) / 2e-6
    for value, slope in zip(values, slopes, strict=True):
        gradients = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        derived = sum(
            (gradient.conj() * direction).sum().real
            for gradient, direction in zip(gradients, directions, strict=True)
            if gradient is not None
        )
        assert derived.item() == pytest.approx(slope.item(), rel=1e-5, abs=1e-7)


def test_a_thousand_sites_of_any_size_neither_over_nor_underflow():
    tensors, class_tensor, place = drawn_tensors(1024, 3, 4)
    plain = MPSState(tensors, class_tensor, place, "legendre")
    x = torch.rand(3, 1024, generator=torch.Generator().manual_seed(0))
    for factor in (2.0**-20, 2.0**20):
        state = MPSState([factor * tensor for tensor in tensors], class_tensor, place, "legendre")
        grown = 1024 * math.log(factor)
        close(state.log_norm(), plain.log_norm() + 2 * grown)
        close(state.log_amplitude(x)[0], plain.log_amplitude(x)[0] + grown)
        close(state.overlaps(), plain.overlaps())
        close(state.entanglement_entropy(), plain.entanglement_entropy())
        close(state.log_joint(x), plain.log_joint(x))


def test_product_states_have_no_entropy_and_vanishing_ones_none():
    tensors, class_tensor, place = drawn_tensors(bond=1)
    close(MPSState(tensors, class_tensor, place).cut_entropies(), torch.zeros(3, 5, dtype=torch.float64))
    class_tensor[:, 1] = 0
    state = MPSState(tensors, class_tensor, place)
    assert state.log_norm()[1] == -math.inf
    assert state.entanglement_entropy().isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", NUMBERS)
def test_files_keep_everything(tmp_path, dtype):
    layout = ImageLayout.of([*range(5), PADDING], (1, 5))
    given = {"white": 0.5, "padding": padding_of(6, 5), "class_names": ["é", "b", "c"], "layout": layout}
    state = drawn_chain(class_site=2, dtype=dtype, **given)
    state.save(tmp_path / "state.safetensors")
    loaded = MPSState.load(tmp_path / "state.safetensors")
    ours, theirs = ((*one.site_tensors, one.class_tensor, one.padding) for one in (state, loaded))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    for name in ("class_site", "white", "class_names", "layout"):
        assert getattr(loaded, name) == getattr(state, name)
    other = drawn_chain(class_site=2, seed=1, dtype=dtype, **given)
    write_epochs(tmp_path / "states.safetensors", {-1: state, 4: other})
    kept = MPSState.load_epochs(tmp_path / "states.safetensors")
    assert list(kept) == [-1, 4]
    assert torch.equal(kept[4].cut_entropies(), other.cut_entropies())
    content = bytearray((tmp_path / "state.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "state.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="was altered"):
        MPSState.load(tmp_path / "state.safetensors")


@pytest.mark.parametrize("dtypes", [*itertools.product(NUMBERS, NUMBERS)])
@pytest.mark.parametrize("class_site", [0, 2, 6])
def test_a_sum_has_the_sum_of_the_amplitudes_and_its_own_entropies(class_site, dtypes):
    if class_site == 0:
        tensors, _, _ = drawn_tensors()
        ones = [
            MPSState([seed * t.to(dtype) for t in tensors], torch.randn(1, 3, 1, dtype=dtype), 0, "legendre")
            for seed, dtype in enumerate(dtypes, 1)
        ]
    else:
        ones = [
            drawn_chain(bond=bond, local=local, class_site=class_site, seed=bond, dtype=dtype)
            for bond, local, dtype in zip((4, 3), (3, 2), dtypes, strict=True)
        ]
    weights = [0.5, -2.0]
    total = MPSState.sum(ones, weights)
    x = torch.rand(4, 6, generator=torch.Generator().manual_seed(0))
    amplitudes = sum(weight * one.amplitude(x) for weight, one in zip(weights, ones, strict=True))
    close(total.amplitude(x), amplitudes)
    close(total.log_norm(), dense_vectors(total).abs().square().sum(1).log())
    entropies = torch.stack([dense_entropies(vector, 3, 6) for vector in dense_vectors(total)])
    close(total.cut_entropies(), entropies)
    close(MPSState.sum(ones).amplitude(x), sum(one.amplitude(x) for one in ones) / 2)


def test_it_is_a_state_and_some_of_its_classes_are_one():
    state = drawn_chain(class_names=["a", "b", "c"])
    assert isinstance(state, State)
    some = state[[2, 0]]
    assert (some.num_classes, some.class_names) == (2, ("c", "a"))
    close(some.log_norm(), state.log_norm()[[2, 0]])
    assert len(state) == 3
    assert "bond=4" in repr(state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_site": 7}, "class_site=7: expected"),
        ({"class_site": 2}, r"its left bond must be"),
        ({"padding": torch.ones(6, dtype=torch.bool)}, "with a pixel at least at one"),
        ({"site_tensors": [torch.ones(1, 3, 1)] * 6}, "float32: entropies need"),
        ({"site_tensors": [torch.ones(1, 3, 1).double()]}, "has 1 tensors"),
        ({"class_tensor": torch.ones(4, 3, 4, dtype=torch.complex128)}, "expected one dtype for all"),
        ({"class_names": ["a"]}, "class_names has 1 names"),
        ({"white": 2.0}, "data.white=2.0"),
    ],
)
def test_what_is_no_chain_is_told(change, message):
    tensors, class_tensor, place = drawn_tensors()
    given = {"site_tensors": tensors, "class_tensor": class_tensor, "class_site": place, "basis": "legendre"}
    with pytest.raises(InputError, match=message):
        MPSState(**{**given, **change})


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda state: state.schmidt_spectrum(6), "cut=6: expected 1 to 5"),
        (lambda state: state.overlaps(drawn_chain(5)), "6 and 5 pixels"),
        (lambda state: state.overlaps(drawn_chain(basis="fourier")), "cannot be compared"),
        (lambda state: MPSState.sum([state, drawn_chain(class_site=2)]), "3 and 2 sites before their classes"),
        (lambda state: MPSState.sum([state, drawn_chain(classes=2)]), "3 and 2 classes have no sum"),
        (lambda state: MPSState.sum([state, drawn_chain(padding=padding_of(6, 1))]), "lack pixels at different sites"),
        (lambda state: MPSState.sum([state], [1.0, 2.0]), "weights has 2 numbers, there are 1 states"),
        (lambda state: MPSState.sum([]), "states is empty"),
        (lambda state: state.sample(0), "n=0"),
        (lambda state: state.sample(2, 3), "label=3"),
        (lambda state: state.to_quimb(4), "label=4"),
        (lambda state: state.log_joint(torch.zeros(2, 5)), r"expected \(batch, 6\)"),
        (lambda state: drawn_chain(white=0.5).sample(2), "need data.white=1"),
    ],
)
def test_what_cannot_be_answered_is_told(ask, message):
    with pytest.raises(InputError, match=message):
        ask(drawn_chain())
