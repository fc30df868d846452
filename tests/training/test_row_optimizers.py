"""A row's steps are those of PyTorch's optimiser."""

import copy

import pytest
import torch
from torch.optim import SGD, Adam, AdamW

from qcnn_lightning import QCNN
from qcnn_lightning.models.networks import Networks
from qcnn_lightning.training.row_optimizers import row_optimizer, settings_of, take_over


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        lambda parameters, lr: AdamW(parameters, lr=lr, fused=True, weight_decay=0.1),
        lambda parameters, lr: Adam(parameters, lr=lr, weight_decay=0.1, betas=(0.8, 0.9), eps=1e-6),
        lambda parameters, lr: Adam(parameters, lr=lr, fused=True, amsgrad=True),
        lambda parameters, lr: SGD(parameters, lr=lr, momentum=0.9, nesterov=True),
    ],
)
def test_steps_of_all_rows_are_the_steps_of_each_optimiser(make, batched):
    torch.manual_seed(0)
    alone = [QCNN(8, 3, d=2).double() for _ in range(3)]
    networks = copy.deepcopy(alone)
    rates = (0.1, 0.01, 0.001)
    optimizers = [make(network.parameters(), rate) for network, rate in zip(networks, rates, strict=True)]
    expected = [make(network.parameters(), rate) for network, rate in zip(alone, rates, strict=True)]
    for restored in (False, True):
        together = Networks(networks)
        together.attach_gradients()
        if restored:
            for optimizer in optimizers:
                optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        rows = row_optimizer(optimizers, together, batched)
        # A schedule has moved to the end of the steps before they are taken.
        numbers = [[settings_of(optimizer) for optimizer in expected] for _ in range(2)]
        for of_step, factor in zip(numbers, (1.0, 0.5), strict=True):
            for of_network in of_step:
                of_network[0] = dict(of_network[0]) | {"lr": of_network[0]["lr"] * factor}
        rows.begin([list(of_network) for of_network in zip(*numbers, strict=True)])
        for number in range(2):
            torch.randn(together.gradients.shape, out=together.gradients)
            rows.step(number, torch.ones(3))
            for network, own, optimizer, now in zip(alone, networks, expected, numbers[number], strict=True):
                before = settings_of(optimizer)
                take_over(optimizer, now)
                for parameter, of_row in zip(network.parameters(), own.parameters(), strict=True):
                    parameter.grad = of_row.grad.clone()
                optimizer.step()
                take_over(optimizer, before)
        for network, own in zip(alone, networks, strict=True):
            for parameter, of_row in zip(network.parameters(), own.parameters(), strict=True):
                torch.testing.assert_close(of_row, parameter, rtol=1e-12, atol=1e-14)
    for optimizer, other in zip(optimizers, expected, strict=True):
        one, two = optimizer.state_dict()["state"], other.state_dict()["state"]
        assert all(set(one[key]) == set(two[key]) for key in two)
        for key in two:
            for name, number in two[key].items():
                torch.testing.assert_close(one[key][name], number, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("batched", [True, False])
def test_a_network_whose_cost_is_not_finite_stays_as_it_is(batched):
    networks = [QCNN(8, 3, d=2) for _ in range(2)]
    together = Networks(networks)
    together.attach_gradients()
    rows = row_optimizer([AdamW(network.parameters(), fused=True) for network in networks], together, batched)
    before = together.weights.clone()
    together.gradients.fill_(1)
    together.gradients[1] = torch.nan
    rows.begin([[settings_of(AdamW(network.parameters(), fused=True))] for network in networks])
    rows.step(0, torch.tensor([1.0, torch.nan]))
    assert not torch.equal(together.weights[0], before[0])
    assert torch.equal(together.weights[1], before[1])
