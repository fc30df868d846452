"""Densities of small systems against sums over all images, and of large ones against mpmath."""

import itertools
import math

import mpmath
import numpy as np
import pytest
import torch
from scipy.stats import chi2

from qcnn_lightning.basis import make_basis
from qcnn_lightning.errors import InputError
from qcnn_lightning.states import DensityState, NetworkState, State
from qcnn_lightning.states.layout import ImageLayout
from qcnn_lightning.states.state_file import write_epochs

SHARINGS = ("none", "sibling", "full", "from_level_1")
CASES = [
    (sites, levels, sharing)
    for sites, levels in ((2, 2), (4, 2), (8, 2), (4, 3), (8, 3))
    for sharing in SHARINGS
    if (sites, levels) in ((4, 3), (8, 2)) or sharing == "none"
]


def drawn_density(num_sites, levels, sharing="none", padding=None, classes=3, seed=0, largest=5, basis="levels"):
    random = torch.Generator().manual_seed(seed)
    num_levels = num_sites.bit_length() - 1
    channels = [levels, *(largest - level % 2 for level in range(num_levels))]
    tensors = []
    for level in range(num_levels):
        nodes = num_sites >> level
        own = {"none": nodes, "sibling": 2, "full": 1, "from_level_1": nodes if level < 1 else 2}[sharing]
        tensors.append(torch.randn(own, channels[level + 1], channels[level], generator=random, dtype=torch.float64))
    top = torch.randn(classes, channels[-1], generator=random, dtype=torch.float64)
    return DensityState(tensors, top, basis, padding)


def padding_of(num_sites, *sites):
    padding = torch.zeros(num_sites, dtype=torch.bool)
    padding[list(sites)] = True
    return padding


def features_of(state, x, number=float):
    """f_i(x_p) by the definition, f_0 alone without a pixel."""
    basis = make_basis(state.basis.name, state.basis.num_functions)
    values = basis(torch.as_tensor(x, dtype=torch.float64))
    rows = []
    for padded, row in zip(state.padding.tolist(), values.tolist(), strict=True):
        rows.append([number(1), *(number(0) if padded else number(value) for value in row)])
    return rows


def contracted(state, rows, number=float):
    """<x|Psi_y>, one node after the other, in Python's or mpmath's numbers."""
    blocks = rows
    for tensor in state.site_tensors:
        own = tensor.tolist()
        mapped = [
            [
                sum(number(weight) * value for weight, value in zip(line, block, strict=True))
                for line in own[n % len(own)]
            ]
            for n, block in enumerate(blocks)
        ]
        blocks = [[a * b for a, b in zip(*pair, strict=True)] for pair in zip(mapped[0::2], mapped[1::2], strict=True)]
    return [sum(number(w) * v for w, v in zip(line, blocks[0], strict=True)) for line in state.top.tolist()]


def all_images(state):
    """Every image, and the amplitudes of all classes by the definition."""
    levels = state.basis.num_levels
    grey = [[0.0] if padded else [k / (levels - 1) for k in range(levels)] for padded in state.padding.tolist()]
    images = list(itertools.product(*grey))
    return torch.tensor(images, dtype=torch.float64), np.array(
        [contracted(state, features_of(state, x)) for x in images]
    )


def probabilities(state):
    """Images and p(y, x) by the definition."""
    images, alpha = all_images(state)
    return images, alpha**2 / (alpha**2).sum()


@pytest.mark.parametrize(("num_sites", "levels", "sharing"), CASES)
def test_probabilities_of_all_images_are_squared_amplitudes_and_sum_to_one(num_sites, levels, sharing):
    if num_sites == 8 and levels == 3:
        padding = padding_of(8, 0, 5, 7)
    else:
        padding = padding_of(num_sites, 1) if num_sites > 2 else None
    state = drawn_density(num_sites, levels, sharing, padding)
    images, expected = probabilities(state)
    joint = state.log_joint(images).exp()
    assert joint.numpy() == pytest.approx(expected, rel=1e-10, abs=1e-16)
    assert abs(joint.sum().item() - 1) < 1e-12
    assert state.log_probability(images).exp().numpy() == pytest.approx(expected.sum(1), rel=1e-10)
    assert state.conditional_probability(images).numpy() == pytest.approx(
        expected / expected.sum(1, keepdims=True), rel=1e-9
    )
    logarithm, sign = state.log_amplitude(images)
    assert (sign * logarithm.exp()).numpy() == pytest.approx(all_images(state)[1], rel=1e-9, abs=1e-12)


def test_all_images_without_padding_sum_to_one():
    for num_sites, levels in ((8, 2), (4, 3)):
        state = drawn_density(num_sites, levels)
        images, _ = all_images(state)
        assert len(images) == levels**num_sites
        assert abs(state.log_joint(images).exp().sum().item() - 1) < 1e-12


def dense_classes(state):
    """Psi_y as vectors in the basis that is orthonormal on the levels: alpha / sqrt(K^N) of all images is one."""
    _, alpha = all_images(state)
    return alpha.T / math.sqrt(state.basis.num_levels ** int((~state.padding).sum()))


@pytest.mark.parametrize("sharing", SHARINGS)
def test_norms_overlaps_and_entropies_are_those_of_dense_vectors(sharing):
    state = drawn_density(8, 2, sharing)
    dense = dense_classes(state)
    gram = dense @ dense.T
    assert state.log_norm().numpy() == pytest.approx(np.log(np.diag(gram)), abs=1e-11)
    assert state.log_partition().item() == pytest.approx(math.log(np.trace(gram)), abs=1e-11)
    norm = np.sqrt(np.diag(gram))
    assert state.overlaps().numpy() == pytest.approx(gram / np.outer(norm, norm), abs=1e-11)
    for level in range(3):
        for label, vector in enumerate(dense):
            size = 2**level
            for block, entropy in enumerate(state.block_entropies(level)[label]):
                rows = np.moveaxis(vector.reshape([2] * 8), range(block * size, (block + 1) * size), range(size))
                p = np.linalg.svd(rows.reshape(2**size, -1), compute_uv=False) ** 2
                p = p[p > 1e-13 * p.max()] / p.sum()
                assert entropy.item() == pytest.approx(-(p * np.log(p)).sum(), abs=1e-9)
    assert torch.allclose(state.entanglement_entropy(), state.block_entropies(2)[:, 0], atol=1e-9)
    assert torch.allclose(state.entropy_profile()[:, 2], state.entanglement_entropy(), atol=1e-9)
    assert isinstance(state, State)


@pytest.mark.parametrize("sharing", ["full", "sibling"])
def test_shared_matrices_give_the_state_of_the_network_state(sharing):
    state = drawn_density(64, 3, sharing, basis="legendre")
    other = NetworkState(state.site_tensors, state.top, "legendre")
    assert torch.allclose(state.log_norm(), other.log_norm(), rtol=1e-12)
    assert torch.allclose(state.entropy_profile(), other.entropy_profile(), atol=1e-8)
    x = torch.rand(5, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.allclose(state.log_amplitude(x)[0], other.log_amplitude(x)[0], rtol=1e-9)
    assert torch.equal(state.log_amplitude(x)[1], other.log_amplitude(x)[1])


def huge_density():
    """1024 sites; norms of classes and channels that differ by 10^300."""
    state = drawn_density(1024, 2, padding=padding_of(1024, *range(0, 1024, 5)), largest=4)
    state.top[0] *= 1e150
    state.top[1] *= 1e-150
    state.site_tensors[3][7] *= 1e120
    state.site_tensors[5][:, 2] *= 1e-100
    state.site_tensors[6][:, :, 2] *= 1e100
    return DensityState(state.site_tensors, state.top, "levels", state.padding)


def exact_log_joint(state, x):
    """log p(y, x) in mpmath: the amplitudes, and the Gram recursion without any scale."""
    number, level = mpmath.mpf, state.basis.num_levels
    alpha = contracted(state, features_of(state, x, number), number)
    identity = mpmath.eye(level)
    constant = mpmath.zeros(level)
    constant[0, 0] = 1
    grams = [constant if padded else identity for padded in state.padding.tolist()]
    for tensor in state.site_tensors:
        mapped = []
        for n, gram in enumerate(grams):
            own = mpmath.matrix(tensor[n % len(tensor)].tolist())
            mapped.append(own * gram * own.T)
        grams = []
        for left, right in zip(mapped[0::2], mapped[1::2], strict=True):
            product = mpmath.matrix(left.rows, left.cols)
            for i, j in itertools.product(range(left.rows), range(left.cols)):
                product[i, j] = left[i, j] * right[i, j]
            grams.append(product)
    top = mpmath.matrix(state.top.tolist())
    classes = top * grams[0] * top.T
    log_z = mpmath.log(sum(classes[y, y] for y in range(classes.rows)))
    pixels = int((~state.padding).sum())
    return [2 * mpmath.log(abs(a)) - log_z - pixels * mpmath.log(level) for a in alpha]


def test_a_thousand_sites_agree_with_fifty_digits_though_norms_differ_by_ten_to_the_300():
    state = huge_density()
    x = torch.randint(2, (2, 1024), generator=torch.Generator().manual_seed(3)).double()
    joint = state.log_joint(x)
    with mpmath.workdps(50):
        for image, values in zip(x, joint.tolist(), strict=True):
            for value, exact in zip(values, exact_log_joint(state, image), strict=True):
                assert abs((mpmath.mpf(value) - exact) / exact) < 1e-10


def test_gradients_of_a_thousand_sites_are_finite_differences():
    state = huge_density()
    tensors = [tensor.clone().requires_grad_() for tensor in (*state.site_tensors, state.top)]
    x = torch.randint(2, (3, 1024), generator=torch.Generator().manual_seed(3)).double()

    def value():
        return DensityState(tensors[:-1], tensors[-1], "levels", state.padding).log_joint(x).sum()

    gradients = torch.autograd.grad(value(), tensors)
    assert all(gradient.isfinite().all() for gradient in gradients)
    random = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for tensor, gradient in zip(tensors, gradients, strict=True):
            # Relative steps: weights differ by 10^300.
            direction = torch.randn(tensor.shape, generator=random, dtype=torch.float64) * tensor
            step, start = 1e-7, tensor.clone()
            tensor += step * direction
            above = value()
            tensor.copy_(start - step * direction)
            below = value()
            tensor.copy_(start)
            assert ((above - below) / (2 * step)).item() == pytest.approx(
                (gradient * direction).sum().item(), rel=1e-5, abs=1e-4
            )


@pytest.mark.parametrize("sharing", ["none", "sibling"])
def test_gradients_of_norms_and_entropies_are_finite_differences(sharing):
    state = drawn_density(4, 3, sharing, padding_of(4, 2))
    tensors = [tensor.clone().requires_grad_() for tensor in (*state.site_tensors, state.top)]

    def entropies_and_norms(*given):
        density = DensityState(given[:-1], given[-1], "levels", state.padding)
        return density.entanglement_entropy(), density.log_norm(), density.log_partition()

    assert torch.autograd.gradcheck(entropies_and_norms, tensors, atol=1e-5)


MASKS = [(8, 2, None, (0, 3, 4)), (8, 2, (1, 6), (0, 7)), (4, 3, None, (1,)), (4, 3, (0,), (3,)), (8, 2, None, ())]


@pytest.mark.parametrize(("num_sites", "levels", "padded", "seen"), MASKS)
def test_marginals_and_conditionals_are_dense_sums(num_sites, levels, padded, seen):
    state = drawn_density(num_sites, levels, padding=None if padded is None else padding_of(num_sites, *padded))
    images, joint = probabilities(state)
    observed = torch.full((2, num_sites), math.nan, dtype=torch.float64)
    observed[:, list(seen)] = images[[len(images) // 3, -1]][:, list(seen)]
    for x, log_joint, of_class, of_pixels, of_pixels_in_class in zip(
        observed,
        state.log_joint(observed),
        state.conditional_probability(observed),
        state.pixel_probabilities(observed),
        state.pixel_probabilities(observed, label=1),
        strict=True,
    ):
        fits = (images[:, list(seen)] == x[list(seen)]).all(1).numpy()
        marginal = joint[fits].sum(0)
        assert log_joint.exp().numpy() == pytest.approx(marginal, abs=1e-12)
        assert of_class.numpy() == pytest.approx(marginal / marginal.sum(), abs=1e-12)
        for site in range(num_sites):
            if site in seen or state.padding[site]:
                continue
            for k in range(levels):
                here = fits & (images[:, site] == k / (levels - 1)).numpy()
                assert of_pixels[site, k].item() == pytest.approx(joint[here].sum() / marginal.sum(), abs=1e-12)
                assert of_pixels_in_class[site, k].item() == pytest.approx(
                    joint[here, 1].sum() / marginal[1], abs=1e-12
                )


def test_every_image_may_have_its_own_missing_pixels():
    state = drawn_density(16, 2, padding=padding_of(16, 4))
    random = torch.Generator().manual_seed(0)
    x = torch.randint(2, (20, 16), generator=random).double()
    x[torch.rand(20, 16, generator=random) < 0.5] = math.nan
    x[3] = 1.0
    together = state.log_joint(x)
    assert torch.allclose(together, torch.cat([state.log_joint(image[None]) for image in x]), rtol=1e-12)


@pytest.mark.parametrize(
    ("num_sites", "levels", "label", "seen"),
    [(4, 3, None, {}), (8, 2, 1, {}), (8, 2, None, {0: 1.0, 5: 0.0}), (4, 3, 2, {1: 0.5})],
)
def test_frequencies_of_samples_pass_a_chi_squared_test(num_sites, levels, label, seen):
    state = drawn_density(num_sites, levels, padding=padding_of(num_sites, 3), seed=1)
    images, joint = probabilities(state)
    observed = torch.full((num_sites,), math.nan)
    for site, value in seen.items():
        observed[site] = value
    expected = joint.sum(1) if label is None else joint[:, label]
    for site, value in seen.items():
        expected = np.where(images[:, site] == value, expected, 0)
    expected /= expected.sum()
    number = 100_000
    samples = state.sample(number, label=label, observed=observed, seed=7)
    for site, value in seen.items():
        assert (samples[:, site] == value).all()
    place = {tuple(image): index for index, image in enumerate(images.tolist())}
    unique, times = samples.unique(dim=0, return_counts=True)
    counts = np.zeros(len(images))
    for image, count in zip(unique.tolist(), times.tolist(), strict=True):
        counts[place[tuple(image)]] = count
    assert counts[expected == 0].sum() == 0
    frequent = expected * number >= 5
    often = expected[frequent] * number
    statistic = ((counts[frequent] - often) ** 2 / often).sum()
    rare, its_count = expected[~frequent].sum() * number, counts[~frequent].sum()
    statistic += (its_count - rare) ** 2 / rare if rare > 0 else 0
    assert chi2.sf(statistic, frequent.sum() - (rare == 0)) > 1e-4


def test_inpainting_never_changes_an_observed_pixel_and_samples_depend_on_the_seed_alone():
    state = drawn_density(64, 3)
    observed = torch.tensor([0.0, 0.5, 1.0, math.nan]).repeat(16).expand(10, 64).clone()
    observed[::2, ::3] = math.nan
    samples = state.sample(10, observed=observed, seed=1)
    known = ~observed.isnan()
    assert torch.equal(samples[known], observed[known].double())
    assert torch.equal(samples, state.sample(10, observed=observed, seed=1))
    assert not torch.equal(samples, state.sample(10, observed=observed, seed=2))
    assert set(samples.unique().tolist()) == {0.0, 0.5, 1.0}


def test_densities_on_an_interval_are_normalised_and_sampled():
    state = drawn_density(2, 4, basis="legendre", classes=2)
    points, weights = (torch.from_numpy(array) for array in np.polynomial.legendre.leggauss(40))
    points, weights = (points + 1) / 2, weights / 2
    images = torch.cartesian_prod(points, points)
    area = torch.outer(weights, weights).flatten()
    density = state.log_probability(images).exp()
    assert (density * area).sum().item() == pytest.approx(1, abs=1e-12)
    samples = state.sample(20000, seed=0)
    mean = (images * (density * area)[:, None]).sum(0)
    assert (samples.mean(0) - mean).abs().max() < 5 * 0.5 / 20000**0.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.sample(0), r"n=0: the number of samples"),
        (lambda s: s.sample(3, label=3), r"label=3: there is no such class; expected 0 to 2"),
        (lambda s: s.sample(3, observed=torch.zeros(2, 8)), r"observed has 2 images: expected 1, or n=3"),
        (lambda s: s.sample(3, observed=torch.zeros(7)), r"x has shape \(1, 7\)"),
        (lambda s: s.log_probability(torch.full((1, 8), 0.3)), r"grey level 0\.3, which is none of the 2"),
        (lambda s: s.log_probability(torch.full((1, 8), 1.3)), r"entries from 1\.3 to 1\.3"),
        (lambda s: s.log_amplitude(torch.full((1, 8), math.nan)), r"entries from nan"),
        (lambda s: s.block_entropies(3), r"level=3: a state of 8 pixels has levels 0"),
        (lambda s: DensityState(s.site_tensors, s.top, white=0.5).sample(2), "need data.white=1"),
        (lambda s: DensityState(s.site_tensors, s.top, padding=torch.zeros(4)), r"padding: expected 8 booleans"),
        (lambda s: DensityState([s.site_tensors[0][:3], *s.site_tensors[1:]], s.top), r"or s = 8, one for each"),
    ],
)
def test_bad_input_is_told(call, message):
    with pytest.raises(InputError, match=message):
        call(drawn_density(8, 2))


def test_an_observation_of_probability_zero_is_told():
    """The first pixel is black for sure: f_0 + f_1 vanishes at white."""
    state = drawn_density(4, 2)
    state.site_tensors[0][0] = torch.ones(5, 2)
    observed = torch.tensor([1.0, math.nan, math.nan, math.nan])
    for call in (
        lambda: state.sample(2, observed=observed),
        lambda: state.conditional_probability(observed[None]),
        lambda: state.pixel_probabilities(observed[None]),
    ):
        with pytest.raises(InputError, match=r"known pixels of image 0 have probability 0"):
            call()
    assert state.log_probability(observed[None]).item() == -math.inf


@pytest.mark.parametrize("sharing", SHARINGS)
def test_overlaps_between_two_densities_are_sums_over_all_images(sharing):
    padding = padding_of(8, 2)
    state, other = (drawn_density(8, 2, sharing, padding, classes, seed) for classes, seed in ((3, 0), (2, 5)))
    amplitudes = [all_images(one)[1] for one in (state, other)]
    norms = [np.linalg.norm(one, axis=0) for one in amplitudes]
    expected = (amplitudes[0] / norms[0]).T @ (amplitudes[1] / norms[1])
    assert np.allclose(state.overlaps(other), expected, atol=1e-13)
    assert torch.allclose(state.overlaps(state), state.overlaps(), atol=1e-13)
    with pytest.raises(InputError, match="their padding differs"):
        state.overlaps(drawn_density(8, 2, sharing))
    with pytest.raises(InputError, match="8 and 4 pixels cannot be compared"):
        state.overlaps(drawn_density(4, 2))


def test_a_file_gives_back_the_state_and_says_what_it_holds(tmp_path):
    layout = ImageLayout((3, -1, 2, 0, -1, -1, 1, -1), 2, 2)
    padding = torch.tensor(layout.pixel_order) < 0
    state = drawn_density(8, 3, padding=padding).described(["a", "b", "c"], layout)
    state.save(tmp_path / "state.safetensors")
    loaded = DensityState.load(tmp_path / "state.safetensors")
    assert loaded == state
    assert loaded != drawn_density(8, 3, padding=padding, seed=1)
    assert loaded != drawn_density(8, 3)
    assert (loaded.class_names, loaded.layout) == (("a", "b", "c"), layout)
    with pytest.raises(InputError, match=r"its format is qcnn_lightning\.DensityState 1, expected .*NetworkState 2"):
        NetworkState.load(tmp_path / "state.safetensors")
    with pytest.raises(InputError, match=r"expected qcnn_lightning\.DensityState of epochs 1"):
        DensityState.load_epochs(tmp_path / "state.safetensors")


def test_complex_states_are_pairs_of_numbers_in_a_file(tmp_path):
    real, imaginary = drawn_density(4, 2), drawn_density(4, 2, seed=1)
    tensors = [torch.complex(one, other) for one, other in zip(real.site_tensors, imaginary.site_tensors, strict=True)]
    state = DensityState(tensors, torch.complex(real.top, imaginary.top))
    state.save(tmp_path / "state.safetensors")
    assert DensityState.load(tmp_path / "state.safetensors") == state


def test_states_of_epochs_share_a_file(tmp_path):
    states = {epoch: drawn_density(8, 2, padding=padding_of(8, 3), seed=epoch + 1) for epoch in (-1, 0, 4)}
    write_epochs(tmp_path / "states.safetensors", states)
    assert DensityState.load_epochs(tmp_path / "states.safetensors") == states


@pytest.mark.parametrize("sharing", ["none", "full"])
def test_the_mixtures_entropy_is_that_of_the_left_half_with_the_class_traced_out(sharing):
    state = drawn_density(8, 2, sharing, padding_of(8, 2))
    # Powers of two that differ between classes.
    state = DensityState(
        state.site_tensors, state.top * torch.tensor([[1.0], [2.0**40], [2.0**39]]), "levels", state.padding
    )
    images, alpha = all_images(state)
    left = [tuple(row) for row in images[:, :4].tolist()]
    rows = {row: place for place, row in enumerate(sorted(set(left)))}
    columns = {row: place for place, row in enumerate(sorted({tuple(row) for row in images[:, 4:].tolist()}))}
    matrix = np.zeros((len(rows), len(columns), 3))
    for first, second, amplitudes in zip(left, images[:, 4:].tolist(), alpha, strict=True):
        matrix[rows[first], columns[tuple(second)]] = amplitudes
    singular = np.linalg.svd(matrix.reshape(len(rows), -1), compute_uv=False)
    p = singular**2 / (singular**2).sum()
    expected = -(p[p > 1e-15] * np.log(p[p > 1e-15])).sum()
    assert state.mixture_entropy().item() == pytest.approx(expected, abs=1e-12)
    # The halves' mutual information is at most that.
    joint = (matrix**2).sum(-1) / (matrix**2).sum()
    independent = np.outer(joint.sum(1), joint.sum(0))
    assert (joint * np.log(np.where(joint > 0, joint, 1) / independent)).sum() <= expected + 1e-12
    single = drawn_density(8, 2, sharing, classes=1)
    assert single.mixture_entropy().item() == pytest.approx(single.entanglement_entropy().item(), abs=1e-12)


@pytest.mark.parametrize("kind", ["none", "padded", "from_level_1", "leaf_rank", "complex"])
def test_a_density_is_a_tree_of_dense_tensors_and_quimb_contracts_it(kind):
    padding = padding_of(8, 2, 5) if kind == "padded" else None
    sharing = {"padded": "sibling", "from_level_1": "from_level_1"}.get(kind, "none")
    state = drawn_density(8, 3, sharing, padding)
    if kind == "leaf_rank":
        local, _ = torch.linalg.qr(torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
        state = DensityState(state.site_tensors, state.top, "levels", local=local.mT)
    if kind == "complex":
        phases = [torch.polar(tensor.abs(), 7 * tensor) for tensor in (*state.site_tensors, state.top)]
        state = DensityState(phases[:-1], phases[-1], "levels")
    tree = state.to_dense_tree()
    levels = state.basis.num_levels
    x = torch.randint(levels, (20, 8), generator=torch.Generator().manual_seed(2)) / (levels - 1)
    for ours, theirs in zip(tree.log_amplitude(x), state.log_amplitude(x), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-10)
    assert torch.allclose(tree.log_norm(), state.log_norm(), atol=1e-10)
    assert torch.allclose(tree.entanglement_entropy(), state.entanglement_entropy(), atol=1e-10)
    network = state.to_quimb(1)
    exponent, network.exponent = network.exponent, 0.0
    norm = (network.H & network).contract(all, optimize="greedy")
    assert np.log(norm.real) + 2 * exponent * math.log(10) == pytest.approx(state.log_norm()[1].item(), abs=1e-10)
