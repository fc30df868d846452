"""The operators of a tree with matrices of its own at every node: numbers and gradients of `states/node_tree.py`."""

import pytest
import torch
from torch import Tensor

from qcnn_lightning import Density
from qcnn_lightning.costs import NegativeLogLikelihood
from qcnn_lightning.kernels import node_kernel
from qcnn_lightning.kernels.node_kernel import can_compute, image_states
from qcnn_lightning.models import density as density_module
from qcnn_lightning.states.gram import BlockStates
from qcnn_lightning.states.node_tree import block_amplitudes, build_node_tree

pytestmark = pytest.mark.skipif(
    not can_compute(torch.zeros(1, 2, dtype=torch.uint8), [torch.zeros(2, 1, 1)]), reason="no C++ compiler"
)


def model_of(num_sites: int, levels: int, seed: int = 0, **settings: object) -> Density:
    torch.manual_seed(seed)
    model = Density(num_sites, 3, levels=levels, **{"d": 7, **settings}).double()
    if num_sites > 4:
        model.mark_padding(torch.isin(torch.arange(num_sites), torch.tensor([1, 6])))
    return model


def images(number: int, num_sites: int, levels: int) -> Tensor:
    random = torch.Generator().manual_seed(1)
    drawn = torch.randint(levels, (number, num_sites), generator=random)
    return (255 * drawn / (levels - 1)).round().to(torch.uint8)


def unscaled(states: BlockStates, features: Tensor, exponent: Tensor) -> tuple[Tensor, Tensor]:
    """Return <x|phi_I> and <phi_I|phi_J>."""
    of_states = torch.exp2(states.exponent.double())
    return features * torch.exp2(exponent.double()).unsqueeze(-1) * of_states, states.gram() * torch.outer(
        of_states, of_states
    )


@pytest.mark.parametrize("levels", [2, 3, 256])
@pytest.mark.parametrize("num_sites", [2, 32])
@pytest.mark.parametrize("sharing", ["none", "sibling", "full"])
def test_states_amplitudes_and_gradients_are_those_of_the_plain_recursion(
    levels: int, num_sites: int, sharing: str
) -> None:
    model = model_of(num_sites, levels, sharing=sharing)
    x = images(40, num_sites, levels)
    ours = unscaled(*image_states(x, model._table(), model.padding, tuple(model.levels)))
    tree = build_node_tree(tuple(model.levels), model.top, model.padding)
    left, right = (
        BlockStates(*(part[side] for part in (mapped.mean, mapped.covariance, mapped.exponent)))
        for mapped in [tree.levels[-1].mapped]
        for side in (0, 1)
    )
    amplitude, exponent = block_amplitudes(tree, model.represent(x).transpose(0, 1))[-1]
    plain = unscaled(left.pooled(right), amplitude[0], exponent[0])
    for one, other in zip(ours, plain, strict=True):
        assert torch.allclose(one, other, rtol=1e-12, atol=1e-12 * other.abs().max().item())
    weights = [torch.randn(one.shape, dtype=torch.float64) for one in plain]
    gradients = [
        torch.autograd.grad(sum((a * w).sum() for a, w in zip(some, weights, strict=True)), list(model.levels))  # type: ignore[arg-type]
        for some in (ours, plain)
    ]
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-12 * other.abs().max().item())


def test_gradients_with_respect_to_local_functions_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    x = images(6, 8, 3)
    weights = [torch.randn(8 >> level, 3, 3, dtype=torch.float64, requires_grad=True) for level in range(3)]
    table = torch.randn(256, 3, dtype=torch.float64, requires_grad=True)
    padding = torch.arange(8) == 5

    def number(table: Tensor, *weights: Tensor) -> Tensor:
        states, features, exponent = image_states(x, table, padding, weights, table.mT @ table / 256)
        amplitude, gram = unscaled(states, features, exponent)
        return amplitude.square().sum().log() + gram.diagonal().sum().log()

    assert torch.autograd.gradcheck(number, (table, *weights), atol=1e-6, rtol=1e-6, fast_mode=True)


def test_the_number_of_threads_does_not_change_a_bit() -> None:
    operators = node_kernel.load_operators()
    model = model_of(256, 2)
    x, results = images(30, 256, 2), []
    for threads in (1, 3):
        operators.set_num_threads(threads)
        model.zero_grad()
        model.log_joint(x).sum().backward()
        results.append([parameter.grad for parameter in model.parameters()])
    operators.set_num_threads(0)
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_of_extreme_sizes_have_the_likelihoods_and_gradients_of_ordinary_ones(dtype: torch.dtype) -> None:
    model = model_of(64, 2).to(dtype)
    x = images(10, 64, 2)
    expected = model.log_joint(x)
    expected.sum().backward()
    # A factor of all weights of a level cancels; a power of two does so exactly.
    exponents = [30, -90, 60, 0, -30, 20]
    gradients = [weight.grad for weight in model.levels]
    with torch.no_grad():
        for weight, exponent in zip(model.levels, exponents, strict=True):
            weight *= 2.0**exponent
    model.zero_grad()
    moved = model.log_joint(x)
    assert torch.equal(moved, expected)
    moved.sum().backward()
    for weight, exponent, gradient in zip(model.levels, exponents, gradients, strict=True):
        assert torch.allclose(weight.grad * 2.0**exponent, gradient, rtol=1e-6)  # type: ignore[operator,arg-type]


def test_without_a_compiler_numbers_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = model_of(32, 2), images(20, 32, 2)
    ours, scores = model.log_joint(x), model(x)
    monkeypatch.setattr(density_module, "can_compute", lambda *_: False)
    assert torch.allclose(model.log_joint(x), ours, rtol=1e-12)
    assert torch.allclose(model(x), scores, rtol=1e-10, atol=1e-12)


def test_images_and_weights_that_the_operators_do_not_take() -> None:
    weights = [torch.zeros(2, 1, 1)]
    assert not can_compute(torch.zeros(1, 2), weights)
    assert not can_compute(torch.zeros(0, 2, dtype=torch.uint8), weights)
    assert not can_compute(torch.zeros(1, 2, dtype=torch.uint8), [weights[0].half()])
    with pytest.raises(RuntimeError, match=r"weights is .* of shape"):
        image_states(
            torch.zeros(1, 4, dtype=torch.uint8),
            torch.zeros(256, 2),
            torch.zeros(4, dtype=torch.bool),
            [torch.zeros(4, 3, 2), torch.zeros(2, 3, 2)],
        )


def test_a_batch_of_equal_images_has_the_gradient_of_one() -> None:
    model, x = model_of(64, 2), images(1, 64, 2)
    labels = torch.zeros(1, dtype=torch.int64)
    gradients = []
    for batch in (x, x.expand(7, -1)):
        model.zero_grad()
        NegativeLogLikelihood()(model.log_joint(batch), labels.expand(len(batch))).mean().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])  # type: ignore[union-attr]
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-14)
