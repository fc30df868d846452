"""Muon: steps along the orthogonal factor of the momentum of every matrix (theory.md, eq. N5)."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

from qcnn_lightning.errors import InputError, checked_settings
from qcnn_lightning.kernels.build import UnavailableError, load_operators

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of K. Jordan's iteration: it takes singular values from 0.002 to 1 into 0.7 .. 1.2 in five steps."""


class Muon(Optimizer):
    """a <- a - lr sqrt(max(1, rows / columns)) U of every matrix a, U the orthogonal factor of its momentum.

    `torch.optim.Muon` takes single matrices; these parameters are stacks of them, (..., rows, columns), one for each
    node of a tree. The factor is Newton and Schulz's (K. Jordan et al., Muon, 2024). A step has the same size in all
    directions of a matrix, however small their gradients.

    Args:
        params: stacks of matrices.
        lr: root mean square of a step, times the square root of the number of columns.
        momentum: weight of earlier gradients.
        iterations: of Newton and Schulz.

    Raises:
        InputError: a value out of range, or a parameter that is no matrix.
    """

    @checked_settings
    def __init__(
        self,
        params: Iterable[Any],
        lr: float | int = 0.02,
        momentum: float | int = 0.9,
        iterations: int = 5,
    ):
        if not 0 <= momentum < 1:
            raise InputError(f"optimizer.momentum={momentum}: must be from 0 to below 1")
        if iterations < 1:
            raise InputError(f"optimizer.iterations={iterations}: must be at least 1")
        super().__init__(params, {"lr": lr, "momentum": momentum, "iterations": iterations})
        for parameter in (one for group in self.param_groups for one in group["params"]):
            if parameter.ndim < 2:
                raise InputError(
                    f"optimizer=muon is for matrices, and a parameter has the shape {tuple(parameter.shape)}"
                )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take a step; `closure`, if there is one, computes cost and gradients before."""
        cost = None
        if closure is not None:
            with torch.enable_grad():
                cost = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(parameter)
                momentum = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                # Nesterov's: the momentum of the next step.
                ahead = momentum.lerp(parameter.grad, 1 - group["momentum"])
                rows, columns = parameter.shape[-2:]
                factors = orthogonal_factors(ahead.reshape(-1, rows, columns), group["iterations"])
                size = group["lr"] * max(1.0, rows / columns) ** 0.5
                parameter.sub_(factors.view_as(parameter), alpha=size)
        return cost


def orthogonal_factors(
    matrices: Float[Tensor, "matrices rows columns"], iterations: int = 5
) -> Float[Tensor, "matrices rows columns"]:
    """Return U V^T for every matrix U S V^T, up to singular values between 0.7 and 1.2.

    Args:
        matrices: of any size; singular values below 0.002 of the norm come out smaller.
        iterations: of Newton and Schulz.
    """
    if matrices.device.type == "cpu" and matrices.dtype in (torch.float32, torch.float64):
        try:
            operators = load_operators()
        except UnavailableError:
            pass
        else:
            factors: Tensor = operators.orthogonal_factors(matrices.contiguous(), [*COEFFICIENTS] * iterations)
            return factors
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    size = torch.linalg.matrix_norm(x, keepdim=True)
    x = x / torch.where(size > 0, size, 1)
    a, b, c = COEFFICIENTS
    for _ in range(iterations):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x
