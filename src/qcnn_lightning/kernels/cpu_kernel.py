"""A whole q-CNN as two C++ operators: the mathematics of `qcnn.py`, several times faster.

`cpu/operator.cpp` and its headers tell how. The operators take uint8 images, whose grey levels are 256, on the CPU, and
measure no statistics across processes.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from qcnn_lightning.costs import Cost, SquaredDistance
from qcnn_lightning.kernels.build import UnavailableError, load_operators
from qcnn_lightning.kernels.kernel import backpropagate


def obstacle(x: Tensor, dtype: torch.dtype) -> str | None:
    """Say why the operators cannot take these images with weights of this type; None if they can."""
    if x.dtype != torch.uint8:
        return f"it requires uint8 images, and these are {x.dtype}"
    if x.device.type != "cpu":
        return f"it runs on the CPU, and this network is on {x.device}"
    if dtype not in (torch.float32, torch.float64):
        return f"it computes in float32 or float64, and these weights are {dtype}"
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return "the statistics of a batch span all processes of a distributed run"
    try:
        load_operators()
    except UnavailableError as error:
        return str(error)
    return None


@dataclass(frozen=True)
class CpuKernel:
    """A q-CNN as the operators take it: lists of every level, of which the last is the classification.

    Attributes:
        table: (256, d_0), f_1 .. f_{d_0} of every grey level.
        gamma: (d_l,) each.
        beta: (d_l,) each.
        weight: (1 or 2, d_{l+1}, d_l) each.
        epsilon: added to the variances.
        running_mean: (d_l,) each, which move towards the batch's statistics when `forward` is called.
        running_var: (d_l,) each.
        momentum: how far they move.
        split_products: take float32 products as three of bfloat16 where the processor has matrix units (PyTorch's
            float32 matmul precision "high").
    """

    table: Float[Tensor, "256 d_0"]
    gamma: Sequence[Tensor]
    beta: Sequence[Tensor]
    weight: Sequence[Tensor]
    epsilon: Sequence[float]
    running_mean: Sequence[Tensor]
    running_var: Sequence[Tensor]
    momentum: float
    split_products: bool

    @property
    def parameters(self) -> list[Tensor]:
        """Parameters in the order in which the operators take them."""
        return [*self.gamma, *self.beta, *self.weight]

    def forward(self, x: UInt8[Tensor, "batch sites"]) -> tuple[Float[Tensor, "batch classes"], Any]:
        """Return the scores by the batch's statistics, and the tape; running averages move."""
        return self.run(x, moving=True, keep=True)

    def backward(self, tape: Any, gradient: Float[Tensor, "batch classes"]) -> None:
        """Replace the gradient of every parameter that has one."""
        for parameter, of_parameter in zip(self.parameters, self.gradients(tape, gradient), strict=True):
            if parameter.requires_grad:
                parameter.grad = of_parameter

    def backpropagate(self, cost: Cost, x: UInt8[Tensor, "batch sites"], labels: Int64[Tensor, " batch"]) -> float:
        """Return the mean cost of a batch; its gradient replaces that of every parameter."""
        if type(cost) is not SquaredDistance:
            return backpropagate(self, cost, x, labels)
        mean: float = load_operators().squared_distance(
            x.contiguous(),
            labels,
            self.table,
            self.parameters,
            self.running_mean,
            self.running_var,
            self.momentum,
            self.epsilon,
            self.split_products,
        )
        return mean

    @contextmanager
    def around_training(self) -> Iterator[None]:
        """Let PyTorch's other operators compute in one thread meanwhile; this kernel keeps all.

        They are small. OpenMP's threads would spin for milliseconds after each of them, where other processes, or this
        kernel's own threads, need the cores.
        """
        threads = torch.get_num_threads()
        operators = load_operators()
        operators.set_num_threads(threads)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            operators.set_num_threads(0)

    @property
    def arithmetic(self) -> str:
        """By what products are computed: results depend on it, beyond the last digits of float32."""
        if self.table.dtype == torch.float64:
            return "float64"
        return "three of bfloat16" if self.split_products and load_operators().has_matrix_units() else "float32"

    def run(
        self,
        x: UInt8[Tensor, "batch sites"],
        fixed: Sequence[tuple[Tensor, Tensor]] = (),
        moving: bool = False,
        keep: bool = False,
    ) -> tuple[Float[Tensor, "batch classes"], Any]:
        """Return the scores and the tape, which has `mean()` and `var()`, (d_l,) of every level.

        Args:
            x: images in tree order.
            fixed: mean and variance, (d_l,) each, of every level to normalise by; without them, those of the batch.
            moving: whether the running averages shall move towards the batch's statistics.
            keep: whether the tape shall serve for gradients, not for its statistics alone.
        """
        scores, tape = load_operators().forward(
            x.contiguous(),
            self.table,
            self.parameters,
            [mean for mean, _ in fixed],
            [var for _, var in fixed],
            self.running_mean if moving else [],
            self.running_var if moving else [],
            self.momentum,
            self.epsilon,
            self.split_products,
            keep,
        )
        return scores, tape

    def gradients(self, tape: Any, gradient: Float[Tensor, "batch classes"]) -> list[Tensor]:
        """Return the gradient of every parameter."""
        return load_operators().backward(gradient, self.parameters, tape, self.epsilon, self.split_products)

    def statistics_of(self, x: UInt8[Tensor, "batch sites"]) -> tuple[list[Tensor], list[Tensor]]:
        """Measure mean and variance of every level on these images, normalised by them level by level."""
        _, tape = self.run(x)
        return tape.mean(), tape.var()

    def differentiable(
        self, x: UInt8[Tensor, "batch sites"], fixed: Sequence[tuple[Tensor, Tensor]] = ()
    ) -> Float[Tensor, "batch classes"]:
        """Return the scores as part of autograd's graph; by the batch's statistics, which then move, unless fixed."""
        if torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self.parameters):
            return _Scores.apply(self, x, fixed, *self.parameters)
        return self.run(x, fixed, moving=not fixed)[0]


class _Scores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kernel: CpuKernel, x: Tensor, fixed: Sequence[tuple[Tensor, Tensor]], *_: Tensor) -> Tensor:
        scores, tape = kernel.run(x, fixed, moving=not fixed, keep=True)
        ctx.kernel, ctx.tape = kernel, tape
        # So that a parameter that has changed meanwhile is told.
        ctx.save_for_backward(*kernel.parameters)
        return scores

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        _ = ctx.saved_tensors
        return (None, None, None, *ctx.kernel.gradients(ctx.tape, gradient))
