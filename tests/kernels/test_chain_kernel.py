"""The sweep of a matrix product state: PyTorch's operators, the C++ operators and autograd agree."""

import pytest
import torch

from qcnn_lightning.kernels.build import load_operators
from qcnn_lightning.kernels.chain import _CompiledSweep, _Sweep, sweep, sweep_grams

# (steps, arms, local functions, bond, images)
SHAPES = [(0, 2, 3, 5, 4), (1, 1, 2, 3, 1), (31, 2, 3, 5, 7), (40, 2, 2, 16, 30), (17, 1, 4, 21, 60)]
TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-4}


def drawn(shape, dtype, seed=0):
    steps, arms, local, bond, images = shape
    random = torch.Generator().manual_seed(seed)
    ends = torch.randn(arms, local, bond, generator=random, dtype=dtype, requires_grad=True)
    sites = (0.2 * torch.randn(steps, arms, local, bond, bond, generator=random, dtype=dtype)).requires_grad_()
    return ends, sites, torch.randn(steps + 1, arms, images, local, generator=random, dtype=dtype)


def plain(ends, sites, features, size):
    """The vectors at the inner ends, without powers of two."""
    vector = features[0] @ ends
    for functions, site in zip(features[1:], sites, strict=True):
        vector = vector + size * torch.einsum("abk,abo,akoi->abi", functions, vector, site)
    return vector


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("operators", [_Sweep, _CompiledSweep])
def test_vectors_and_gradients_are_those_of_the_plain_sweep(operators, shape, dtype):
    given = drawn(shape, dtype)
    vector, exponent = operators.apply(*given, 0.9)
    expected = plain(*given, 0.9)
    scale = torch.exp2(exponent.to(dtype)).unsqueeze(-1)
    tolerance = TOLERANCE[dtype]
    assert (vector * scale - expected).norm() <= tolerance * expected.norm()
    weights = torch.randn(vector.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    ours = torch.autograd.grad(vector, given[:2], weights)
    theirs = torch.autograd.grad(expected, given[:2], weights / scale, allow_unused=True)
    for gradient, other in zip(ours, theirs, strict=True):
        if gradient.numel():
            assert (gradient - other).norm() <= tolerance * other.norm()
    if shape[0]:
        assert vector.abs().amax(-1).min() >= 0.5
        assert vector.abs().max() < 1


def test_threads_and_gradients_change_no_bit():
    given = drawn((40, 2, 3, 20, 70), torch.float32)
    weights = torch.randn(2, 70, 20)
    results = []
    try:
        for threads in (1, 2, 3):
            load_operators().set_num_threads(threads)
            vector, _ = sweep(*given)
            results.append((vector, *torch.autograd.grad(vector, given[:2], weights)))
    finally:
        load_operators().set_num_threads(0)
    with torch.no_grad():
        assert torch.equal(sweep(*given)[0], results[0][0])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_features_have_a_gradient_too():
    ends, sites, features = drawn((9, 2, 3, 4, 2), torch.float64)
    torch.autograd.gradcheck(lambda x: sweep(ends, sites, x, 0.5)[0], (features.requires_grad_(),))


@pytest.mark.parametrize("steps", [0, 3, 21])
def test_gram_matrices_and_gradients_are_those_of_the_plain_recursion(steps):
    _, sites, _ = drawn((steps, 2, 3, 5, 1), torch.float64)
    first = torch.randn(2, 5, 5, dtype=torch.float64)
    first = (first @ first.mT).requires_grad_()
    gram, exponent = sweep_grams(first, sites)
    expected = first
    for site in sites:
        expected = torch.einsum("akoi,aop,akpj->aij", site, expected, site)
    scale = torch.exp2(exponent.double())[:, None, None]
    torch.testing.assert_close(gram * scale, expected, rtol=1e-11, atol=0)
    weights = torch.randn(gram.shape, dtype=torch.float64)
    symmetric = weights + weights.mT
    ours = torch.autograd.grad(gram, (first, sites), symmetric)
    theirs = torch.autograd.grad(expected, (first, sites), symmetric / scale, allow_unused=True)
    for gradient, other in zip(ours, theirs, strict=True):
        if gradient.numel():
            torch.testing.assert_close(gradient, other, rtol=1e-9, atol=1e-12 * float(other.abs().max()))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda ends, sites, features: (ends[:, :1], sites, features),
        lambda ends, sites, features: (ends, sites, features[1:]),
        lambda ends, sites, features: (ends, sites.float(), features),
        lambda ends, sites, features: (ends, sites.mT, features),
    ],
)
def test_tensors_that_do_not_fit_are_refused(spoil):
    tensors = [tensor.detach() for tensor in spoil(*drawn((3, 2, 3, 5, 4), torch.float64))]
    with pytest.raises(RuntimeError, match=r"expected|shape"):
        load_operators().chain_forward(*tensors, 1.0, False)
