import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qcnn_lightning.basis import make_basis, quadrature
from qcnn_lightning.errors import InputError

BASES = [("fourier", 2), ("fourier", 18), ("fourier", 40), ("legendre", 1), ("legendre", 7), ("legendre", 40)]


@pytest.mark.parametrize(("name", "num_functions"), BASES)
def test_orthonormal_on_the_unit_interval_together_with_the_constant(name, num_functions):
    points, weights = (torch.from_numpy(array) for array in np.polynomial.legendre.leggauss(120))
    functions = make_basis(name, num_functions)((points + 1) / 2)
    assert functions.shape == (120, num_functions)
    functions = torch.cat((torch.ones(120, 1), functions), dim=1)
    overlaps = functions.T @ (functions * weights[:, None] / 2)
    assert (overlaps - torch.eye(1 + num_functions)).abs().max() < 1e-12


@given(x=st.floats(0, 1))
def test_fourier_functions_are_powers_of_one_point_of_the_unit_circle(x):
    functions = make_basis("fourier", 8)(torch.tensor(x, dtype=torch.float64))
    point = complex(math.cos(2 * math.pi * x), math.sin(2 * math.pi * x))
    expected = [part for k in range(1, 5) for part in ((point**k).real, (point**k).imag)]
    assert functions.numpy() == pytest.approx(math.sqrt(2) * np.array(expected), abs=1e-13)


@given(x=st.floats(0, 1), num_functions=st.integers(1, 12))
def test_legendre_functions_are_scaled_and_shifted_legendre_polynomials(x, num_functions):
    functions = make_basis("legendre", num_functions)(torch.tensor(x, dtype=torch.float64))
    expected = [
        np.polynomial.Legendre.basis(k, domain=[0, 1])(x) * math.sqrt(2 * k + 1) for k in range(1, num_functions + 1)
    ]
    assert functions.numpy() == pytest.approx(np.array(expected), abs=1e-12)


@pytest.mark.parametrize(("name", "num_functions"), BASES)
def test_single_precision_loses_few_digits_and_any_shape_is_taken(name, num_functions):
    x = torch.linspace(0, 1, 256, dtype=torch.float64).reshape(2, 32, 4)
    exact = make_basis(name, num_functions)(x)
    single = make_basis(name, num_functions)(x.float())
    assert single.dtype == torch.float32
    assert single.shape == (2, 32, 4, num_functions)
    assert (single - exact).abs().max() < 2e-6 * num_functions * exact.abs().max()


def test_fourier_functions_come_in_pairs():
    with pytest.raises(InputError, match=r"d_0 = 3 .* even model\.d \(2 or 4\), or model\.basis=legendre"):
        make_basis("fourier", 3)


def test_an_unknown_basis_is_answered_with_those_there_are():
    with pytest.raises(InputError, match=r"model\.basis=haar: .* fourier, legendre"):
        make_basis("haar", 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_black_and_white_are_the_same_point_of_the_circle_to_the_last_bit(dtype):
    black, white = make_basis("fourier", 40)(torch.tensor([0, 1], dtype=dtype))
    assert torch.equal(black, white)


@pytest.mark.parametrize("num_levels", [2, 3, 4, 17, 256])
def test_functions_of_levels_are_orthonormal_on_them_together_with_the_constant(num_levels):
    basis = make_basis("levels", num_levels - 1)
    points, weights = quadrature(basis, torch.zeros(1, dtype=torch.float64))
    assert points.tolist() == pytest.approx([k / (num_levels - 1) for k in range(num_levels)])
    functions = torch.cat((torch.ones(num_levels, 1), basis(points)), dim=1)
    overlaps = functions.T @ (functions * weights[:, None])
    assert (overlaps - torch.eye(num_levels)).abs().max() < 1e-12


def test_the_function_of_two_levels_is_plus_or_minus_one():
    assert make_basis("levels", 1)(torch.tensor([0.0, 1.0])).flatten().tolist() == pytest.approx([1, -1])


@pytest.mark.parametrize("num_levels", [2, 3, 5, 100, 256])
def test_levels_are_known_as_bytes_and_as_floats(num_levels):
    basis = make_basis("levels", num_levels - 1)
    exact = torch.arange(num_levels, dtype=torch.float64) / (num_levels - 1)
    as_bytes = (255 * exact).round().to(torch.uint8)
    for x in (exact, exact.float(), as_bytes, as_bytes / 255):
        basis.check(x)
    assert torch.allclose(basis(as_bytes.double() / 255), basis(exact))


@pytest.mark.parametrize("x", [torch.tensor([[0, 255, 7]], dtype=torch.uint8), torch.tensor([[0.0, 0.3, 1.0]])])
def test_another_grey_level_is_named(x):
    with pytest.raises(InputError, match=r"grey level (7|0\.3), which is none of the 2 .*data\.levels=2"):
        make_basis("levels", 1).check(x)


@pytest.mark.parametrize("num_functions", [0, 256])
def test_a_basis_of_one_level_or_too_many_is_refused(num_functions):
    with pytest.raises(InputError, match=r"K from 2 to 256"):
        make_basis("levels", num_functions)


@pytest.mark.parametrize("basis", ["fourier", "legendre"])
def test_the_quadrature_of_an_interval_gives_the_overlaps(basis):
    functions = make_basis(basis, 6)
    points, weights = quadrature(functions, torch.zeros(1, dtype=torch.float64))
    values = functions(points)
    assert (values.T @ (values * weights[:, None]) - torch.eye(6)).abs().max() < 1e-12
