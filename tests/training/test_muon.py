"""Muon: orthogonal steps of stacks of matrices."""

import pytest
import torch
from small_runs import compose_small
from torch import nn

from qcnn_lightning.errors import InputError
from qcnn_lightning.kernels.build import UnavailableError
from qcnn_lightning.training import muon
from qcnn_lightning.training.muon import Muon, orthogonal_factors
from qcnn_lightning.training.run import train


def no_operators():
    raise UnavailableError


@pytest.mark.parametrize("shape", [(3, 4, 2), (2, 5, 5), (2, 3, 20), (1, 40, 33)])
def test_factors_have_the_singular_vectors_and_singular_values_near_one(shape, monkeypatch):
    torch.manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(*shape, dtype=torch.float64), full_matrices=False)
    singular = torch.linspace(1, 0.05, min(shape[1:]), dtype=torch.float64)
    matrices = 1e-20 * u @ torch.diag_embed(singular.expand(len(u), -1)) @ v
    factors = orthogonal_factors(matrices)
    of_singular = u.mT @ factors @ v.mT
    assert ((of_singular.diagonal(dim1=-2, dim2=-1) > 0.6) & (of_singular.diagonal(dim1=-2, dim2=-1) < 1.3)).all()
    assert (of_singular - torch.diag_embed(of_singular.diagonal(dim1=-2, dim2=-1))).abs().max() < 1e-12
    monkeypatch.setattr(muon, "load_operators", no_operators)
    assert torch.allclose(orthogonal_factors(matrices), factors, atol=1e-12)
    assert orthogonal_factors(torch.zeros(shape)).abs().max() == 0


def test_a_step_is_as_long_however_small_the_gradient():
    steps = []
    for size in (1.0, 1e-12):
        torch.manual_seed(0)
        weight = nn.Parameter(torch.randn(4, 6, 6))
        before = weight.detach().clone()
        optimizer = Muon([weight], lr=0.1)
        weight.grad = size * torch.randn(4, 6, 6)
        optimizer.step()
        steps.append(weight.detach() - before)
    assert torch.allclose(*steps, atol=1e-6)
    assert torch.linalg.matrix_norm(steps[0], ord=2).max() < 0.13


def test_a_least_squares_problem_is_solved():
    torch.manual_seed(0)
    target, weight = torch.randn(3, 4, 4), nn.Parameter(torch.zeros(3, 4, 4))
    optimizer = Muon([weight], lr=0.2)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.2 * (1 - step / 300)
        optimizer.zero_grad()
        (weight - target).square().sum().backward()
        optimizer.step()
    assert (weight - target).abs().max() < 0.02


def test_it_trains_a_density_from_the_command_line_and_refuses_other_parameters(tmp_path):
    density = ("model=density", "model.d=8", "cost=negative_log_likelihood", "data.levels=2")
    results = train(compose_small(tmp_path, *density, "optimizer=muon", "trainer.max_epochs=1"), quiet=True)
    assert results is not None
    with pytest.raises(InputError, match="optimizer=muon is for matrices, and a parameter has the shape"):
        train(compose_small(tmp_path / "qcnn", "optimizer=muon"), quiet=True)
    for settings, message in (({"momentum": 1.0}, "momentum=1.0"), ({"iterations": 0}, "iterations=0")):
        with pytest.raises(InputError, match=message):
            Muon([nn.Parameter(torch.zeros(2, 2))], **settings)
