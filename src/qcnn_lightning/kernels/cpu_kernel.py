"""A whole q-CNN as C++ operators: the function of `models/qcnn.py`, several times faster (eq. 1-10).

`cpu/operator.cpp` and its headers explain how. The operators need uint8 images on the CPU, and one process.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from qcnn_lightning.costs import Cost, SquaredDistance
from qcnn_lightning.kernels.build import UnavailableError, load_operators
from qcnn_lightning.kernels.kernel import backpropagate


def reason_against(x: Tensor, dtype: torch.dtype) -> str | None:
    """Return why the operators cannot take these images with weights of this dtype; None if they can."""
    if x.dtype != torch.uint8:
        return f"it needs uint8 images, and these are {x.dtype}"
    if x.device.type != "cpu":
        return f"it runs on the CPU, and this network is on {x.device}"
    if dtype not in (torch.float32, torch.float64):
        return f"it computes in float32 or float64, and these weights are {dtype}"
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return "it measures a batch's statistics in one process, and this run is distributed"
    try:
        load_operators()
    except UnavailableError as error:
        return str(error)
    return None


@contextmanager
def with_all_threads() -> Iterator[None]:
    """Give the operators all threads and PyTorch's others one.

    Those are small, and OpenMP's threads spin for milliseconds after each: the operators and other processes need the
    cores.
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


@torch.library.custom_op("qcnn_lightning::scores", mutates_args=())
def evaluated_scores(
    x: Tensor,
    table: Tensor,
    parameters: Sequence[Tensor],
    mean: Sequence[Tensor],
    var: Sequence[Tensor],
    epsilon: Sequence[float],
    bfloat16_products: bool,
) -> Tensor:
    """Return the scores by fixed statistics, as `CpuKernel.run` does: one operation that `torch.compile` can follow."""
    arguments: Any = (x.contiguous(), table, parameters, mean, var, [], [], 0.0, epsilon, bfloat16_products, False)
    scores: Tensor = load_operators().forward(*arguments)[0]
    return scores


@evaluated_scores.register_fake
def _(x: Tensor, table: Tensor, parameters: Sequence[Tensor], *_: Any) -> Tensor:
    # The last parameter is the matrix of the classification, (1, classes, d_L).
    return table.new_empty(x.shape[0], parameters[-1].shape[1])


@dataclass(frozen=True)
class CpuKernel:
    """A q-CNN as the operators take it: lists over levels 0 .. L; level L is the classification.

    Attributes:
        table: (256, d_0), f_i(g / 255) of the grey levels g = 0 .. 255.
        gamma: (d_l,) each.
        beta: (d_l,) each.
        weight: (1 or 2, d_{l+1}, d_l) each.
        epsilon: added to the variances (eq. 4).
        running_mean: (d_l,) each; `forward` moves them towards the batch's.
        running_var: (d_l,) each; likewise.
        momentum: weight of the batch in the running averages.
        bfloat16_products: compute a float32 product as three bfloat16 ones if the processor has matrix units: 16 of 24
            bits, PyTorch's float32 matmul precision "high".
    """

    table: Float[Tensor, "256 d_0"]
    gamma: Sequence[Tensor]
    beta: Sequence[Tensor]
    weight: Sequence[Tensor]
    epsilon: Sequence[float]
    running_mean: Sequence[Tensor]
    running_var: Sequence[Tensor]
    momentum: float
    bfloat16_products: bool

    @property
    def parameters(self) -> list[Tensor]:
        """The parameters in the operators' order."""
        return [*self.gamma, *self.beta, *self.weight]

    def forward(self, x: UInt8[Tensor, "batch sites"]) -> tuple[Float[Tensor, "batch classes"], Any]:
        """Return the scores by the batch's statistics, and the tape; move the running averages."""
        return self.run(x, moving=True, keep=True)

    def backward(self, tape: Any, gradient: Float[Tensor, "batch classes"]) -> None:
        """Set the gradient of every parameter that requires one."""
        for parameter, of_parameter in zip(self.parameters, self.gradients(tape, gradient), strict=True):
            if parameter.requires_grad:
                parameter.grad = of_parameter

    def backpropagate(self, cost: Cost, x: UInt8[Tensor, "batch sites"], labels: Int64[Tensor, " batch"]) -> float:
        """Return the mean cost of a batch, and set every parameter's gradient to the mean cost's."""
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
            self.bfloat16_products,
        )
        return mean

    def around_training(self) -> AbstractContextManager[None]:
        """Return the context `with_all_threads`."""
        return with_all_threads()

    @property
    def arithmetic(self) -> str:
        """The arithmetic of products: "float64", "float32" or "three of bfloat16"; results depend on it."""
        if self.table.dtype == torch.float64:
            return "float64"
        return "three of bfloat16" if self.bfloat16_products and load_operators().has_matrix_units() else "float32"

    def run(
        self,
        x: UInt8[Tensor, "batch sites"],
        fixed: Sequence[tuple[Tensor, Tensor]] = (),
        moving: bool = False,
        keep: bool = False,
    ) -> tuple[Float[Tensor, "batch classes"], Any]:
        """Return the scores (eq. 1-10) and the tape, with `mean()` and `var()`, (d_l,) for every level.

        Args:
            x: images in tree order.
            fixed: mean and variance, (d_l,) each, of levels 0 .. L to normalise by; empty for those of the batch.
            moving: move the running averages towards the batch's statistics.
            keep: let the tape serve `gradients`, not only its statistics.
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
            self.bfloat16_products,
            keep,
        )
        return scores, tape

    def gradients(self, tape: Any, gradient: Float[Tensor, "batch classes"]) -> list[Tensor]:
        """Return sum_{x,y} gradient_{x,y} d alpha_y(x) / d parameter of every parameter."""
        return load_operators().backward(gradient, self.parameters, tape, self.epsilon, self.bfloat16_products)

    def statistics_of(self, x: UInt8[Tensor, "batch sites"]) -> tuple[list[Tensor], list[Tensor]]:
        """Measure mean and biased variance of zeta^(0) .. zeta^(L) on these images, as training does (eq. 4)."""
        _, tape = self.run(x)
        return tape.mean(), tape.var()

    def differentiable(
        self, x: UInt8[Tensor, "batch sites"], fixed: Sequence[tuple[Tensor, Tensor]] = ()
    ) -> Float[Tensor, "batch classes"]:
        """Return the scores as part of autograd's graph: by fixed statistics, or by the batch's, as in training."""
        if torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self.parameters):
            return _Scores.apply(self, x, fixed, *self.parameters)
        return self.run(x, fixed, moving=not fixed)[0]


class _Scores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kernel: CpuKernel, x: Tensor, fixed: Sequence[tuple[Tensor, Tensor]], *_: Tensor) -> Tensor:
        scores, tape = kernel.run(x, fixed, moving=not fixed, keep=True)
        ctx.kernel, ctx.tape = kernel, tape
        # Autograd then refuses parameters that were changed in between.
        ctx.save_for_backward(*kernel.parameters)
        return scores

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        _ = ctx.saved_tensors
        return (None, None, None, *ctx.kernel.gradients(ctx.tape, gradient))
