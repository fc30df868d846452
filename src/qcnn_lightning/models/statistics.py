"""The statistics of batch normalisation: of the batch, running averages, or of the population.

Training uses the batch's. Evaluation and states need fixed ones: PyTorch's running averages, or *population
statistics*, measured level by level on a fixed sample, each level with those below it
(`QCNN.fix_population_statistics`).
"""

from typing import Any, NamedTuple

import torch
import torch.distributed
from jaxtyping import Float
from torch import Tensor, nn


class ChannelStatistics(NamedTuple):
    """Mean and biased variance of every channel, over `num_values` values a channel."""

    mean: Float[Tensor, "*networks channels"]
    var: Float[Tensor, "*networks channels"]
    num_values: int


class SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over all processes. Its gradient is the sum of all processes' gradients."""

    @staticmethod
    def forward(ctx: Any, summand: Tensor) -> Tensor:
        """Return the sum."""
        total = summand.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Return the sum of the gradients."""
        return SumOverProcesses.forward(ctx, gradients[0])


def batch_statistics(features: Float[Tensor, "*networks batch sites channels"]) -> ChannelStatistics:
    """Measure mu_b = (1/n) sum zeta and v_b = (1/n) sum (zeta - mu_b)^2 of every channel (eq. 4); differentiable.

    The sums run over images and sites, in a distributed run over those of all processes.
    """
    num_values = features.shape[-3] * features.shape[-2]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        counted = torch.cat((features.new_tensor([num_values]), features.sum((0, 1))))
        counted = SumOverProcesses.apply(counted)
        mean = counted[1:] / counted[0]
        # Not mean(zeta^2) - mu^2, which would cancel.
        squares = SumOverProcesses.apply((features - mean).square().sum((0, 1)))
        return ChannelStatistics(mean, squares / counted[0], int(counted[0]))
    var, mean = torch.var_mean(features, (-3, -2), correction=0)
    return ChannelStatistics(mean, var, num_values)


class FixedStatistics(nn.Module):
    """The statistics of one level in evaluation: running averages until population statistics are fixed.

    Args:
        channels: d_l.
        momentum: weight of a new batch in the running averages; 0.1 is PyTorch's default.
    """

    population_fixed: Tensor
    running_mean: Tensor
    running_var: Tensor
    population_mean: Tensor
    population_var: Tensor

    def __init__(self, channels: int, momentum: float = 0.1):
        super().__init__()
        self.momentum = momentum
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("population_mean", torch.zeros(channels))
        self.register_buffer("population_var", torch.ones(channels))
        self.register_buffer("population_fixed", torch.tensor(False))

    @torch.no_grad()
    def update_running(self, batch: ChannelStatistics) -> None:
        """Set mu = mu + m (mu_b - mu), v = v + m (v_b n / (n - 1) - v), m the momentum (theory.md, eq. S1).

        These are the averages of PyTorch's batch norm: its variances are unbiased.
        """
        self.running_mean.lerp_(batch.mean, self.momentum)
        self.running_var.lerp_(batch.var * (batch.num_values / max(batch.num_values - 1, 1)), self.momentum)

    @property
    def measured(self) -> bool:
        """Whether there are statistics of the population or of at least one batch."""
        begun = self.running_mean.any() or (self.running_var != 1).any()
        return bool(self.population_fixed or begun)

    @torch.no_grad()
    def fix_population(self, population: ChannelStatistics) -> None:
        """Use these statistics from now on (theory.md, eq. S2)."""
        self.population_mean.copy_(population.mean)
        self.population_var.copy_(population.var)
        self.population_fixed.fill_(True)

    def forward(self) -> tuple[Float[Tensor, "*networks channels"], Float[Tensor, "*networks channels"]]:
        """Return mean and variance: the population's if fixed, else the running averages."""
        # No `if`: a compiler follows tensors, not their values.
        return (
            torch.where(self.population_fixed, self.population_mean, self.running_mean),
            torch.where(self.population_fixed, self.population_var, self.running_var),
        )
