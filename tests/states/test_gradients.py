"""Gradients: equal to finite differences, and finite where eigenvectors or square roots have none."""

from collections.abc import Callable

import pytest
import torch
from drawn_networks import moved_network, random_tensors
from torch import Tensor

from qcnn_lightning import NetworkState
from qcnn_lightning.states.gram import times_power_of_two

images = torch.rand(3, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
SYMMETRIC: dict[str, Callable[[NetworkState], Tensor]] = {
    "entanglement_entropy": NetworkState.entanglement_entropy,
    "renyi_2": lambda state: state.renyi_entropy(2),
    "effective_schmidt_rank": NetworkState.effective_schmidt_rank,
    "entropy_profile": NetworkState.entropy_profile,
    "pixel_entropies": lambda state: state.block_entropies(0),
    "log_norm": NetworkState.log_norm,
    "overlaps": NetworkState.overlaps,
    "amplitude": lambda state: state.amplitude(images),
    "conditional_probability": lambda state: state.conditional_probability(images),
}
GENERIC = SYMMETRIC | {
    "schmidt_spectrum": NetworkState.schmidt_spectrum,
    "renyi_1/2": lambda state: state.renyi_entropy(0.5),
    "renyi_infinity": lambda state: state.renyi_entropy(torch.inf),
}


def product_states(matrices: int) -> tuple[list[Tensor], Tensor]:
    """Every class a product of the same one-pixel state: every Schmidt spectrum is (1, 0, 0, ..)."""
    site_tensors, top = random_tensors([2, 3, 2, 3], 2, matrices)
    return [tensor[..., :1] * tensor[:1, :1] for tensor in site_tensors], top


def equal_schmidt_values(matrices: int) -> tuple[list[Tensor], Tensor]:
    """|000..> + |111..> + |222..>: every block has three equal Schmidt values."""
    return [torch.eye(3, dtype=torch.float64).repeat(matrices, 1, 1)] * 3, torch.ones(2, 3, dtype=torch.float64)


def constant_states(matrices: int) -> tuple[list[Tensor], Tensor]:
    """The constant function for every class, all features of all levels unused."""
    site_tensors, top = random_tensors([2, 3, 2, 3], 2, matrices)
    for tensor in site_tensors:
        tensor[:, 0] = torch.eye(tensor.shape[-1], dtype=torch.float64)[0]
    return site_tensors, torch.eye(top.shape[-1], dtype=torch.float64)[[0, 0]]


def check(number: Callable[[NetworkState], Tensor], site_tensors: list[Tensor], top: Tensor) -> None:
    tensors = [tensor.clone().requires_grad_() for tensor in (*site_tensors, top)]
    assert torch.autograd.gradcheck(
        lambda *given: number(NetworkState(given[:-1], given[-1])), tensors, atol=1e-5, rtol=1e-5, fast_mode=True
    )


@pytest.mark.parametrize("name", GENERIC)
@pytest.mark.parametrize("matrices", [1, 2])
def test_generic_states(matrices: int, name: str) -> None:
    check(GENERIC[name], *random_tensors([2, 3, 2, 3], 2, matrices))


@pytest.mark.parametrize("name", SYMMETRIC)
@pytest.mark.parametrize("states", [product_states, equal_schmidt_values, constant_states])
def test_degenerate_and_rank_deficient_states(states: Callable[[int], tuple[list[Tensor], Tensor]], name: str) -> None:
    check(SYMMETRIC[name], *states(2 if states is product_states else 1))


@pytest.mark.parametrize("states", [product_states, equal_schmidt_values, constant_states])
def test_even_single_schmidt_values_have_finite_gradients(
    states: Callable[[int], tuple[list[Tensor], Tensor]],
) -> None:
    tensors = [tensor.clone().requires_grad_() for tensor in states(2)[0]]
    state = NetworkState(tensors, states(2)[1])
    state.schmidt_spectrum().square().cos().sum().backward()
    assert all(tensor.grad is not None and tensor.grad.isfinite().all() for tensor in tensors)


def test_product_states_have_no_entropy() -> None:
    for states in (product_states, constant_states):
        state = NetworkState(*states(2))
        assert state.entropy_profile().abs().max() < 1e-13


@pytest.mark.parametrize("by_a_batch", [False, True])
def test_gradients_reach_the_parameters_of_the_network(by_a_batch: bool) -> None:
    network = moved_network(16, 2, sharing="sibling")
    batch = torch.rand(20, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def mean_entropy() -> Tensor:
        statistics = network.statistics_of(batch) if by_a_batch else None
        return NetworkState.from_network(network, statistics).entanglement_entropy().mean()

    entropy = mean_entropy()
    gradients = torch.autograd.grad(entropy, list(network.parameters()))
    step = 1e-6
    moved = [gradient / gradient.norm() for gradient in gradients]
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            for parameter, direction in zip(network.parameters(), moved, strict=True):
                parameter.add_(direction, alpha=sign * step)
            values.append(mean_entropy().item())
            for parameter, direction in zip(network.parameters(), moved, strict=True):
                parameter.add_(direction, alpha=-sign * step)
    expected = sum((gradient * direction).sum() for gradient, direction in zip(gradients, moved, strict=True))
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("exponent", [-1500, -300, 200, 1000])
def test_powers_of_two_beyond_single_precision_have_finite_gradients(exponent):
    x = torch.tensor([2.0**-exponent if abs(exponent) < 1000 else 2.0 ** (-exponent // 2), 0.0], dtype=torch.float64)
    x.requires_grad_()
    result = times_power_of_two(x, torch.tensor(exponent))
    result.sum().backward()
    assert result[0].item() == x[0].item() * 2.0 ** (exponent // 2) * 2.0 ** (exponent - exponent // 2)
    if abs(exponent) <= 1000:
        assert x.grad.tolist() == [2.0**exponent] * 2
