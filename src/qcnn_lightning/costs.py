"""Costs: what training minimises, a number for every image.

A cost is a callable `cost(scores, labels) -> (batch,)`. A method `mean_and_gradient(scores, labels)` may give the
batch's mean and its gradient in closed form; otherwise autograd differentiates the cost.
"""

import functools
import math
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from qcnn_lightning.errors import InputError, checked_settings


@runtime_checkable
class Cost(Protocol):
    """A cost of every image of a batch."""

    def __call__(
        self, scores: Float[Tensor, "batch classes"], labels: Int64[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        """Return the cost of every image.

        Args:
            scores: alpha_y(x).
            labels: l(x).
        """


class SquaredDistance:
    """sum_y (alpha_y(x) - delta_{y, l(x)})^2, with the label l(x): eq. 48 before the mean over the batch."""

    def __call__(
        self, scores: Float[Tensor, "batch classes"], labels: Int64[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        """Return sum_y (alpha_y(x) - delta_{y, l(x)})^2 of every image."""
        return self._difference(scores, labels).square().sum(-1)

    def mean_and_gradient(
        self, scores: Float[Tensor, "batch classes"], labels: Int64[Tensor, " batch"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "batch classes"]]:
        """Return the mean over the batch, and its gradient 2 (alpha_y(x) - delta_{y, l(x)}) / |B| (eq. 48)."""
        difference = self._difference(scores, labels)
        flat = difference.view(-1)
        return flat.dot(flat).div_(len(scores)), difference.mul_(2 / len(scores))

    def _difference(self, scores: Tensor, labels: Tensor) -> Tensor:
        return scores - identity(scores.shape[-1], scores.dtype, scores.device).index_select(0, labels)


@functools.cache
def identity(size: int, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "size size"]:
    """Return the identity matrix delta_{y, y'}."""
    with torch.inference_mode(False):
        return torch.eye(size, dtype=dtype, device=device)


class CrossEntropy:
    """-log((1 - u) p(l(x)|x) + u / classes) with p(y|x) = alpha_y(x)^2 / sum_y' alpha_y'(x)^2, nats (eq. 34).

    Computed from log |alpha|, so that squares neither over- nor underflow. With u = 0, an image costs infinity where
    its own score vanishes, and the gradient there grows as 1 / alpha; u > 0 bounds both.

    Args:
        uniform: u, the weight of the uniform distribution over the classes; from 0 to below 1.

    Raises:
        InputError: u is out of range.
    """

    @checked_settings
    def __init__(self, uniform: float | int = 0.0):
        if not 0 <= uniform < 1:
            raise InputError(f"cost.uniform={uniform}: must be a number from 0 to below 1")
        self.uniform = uniform

    def __call__(
        self, scores: Float[Tensor, "batch classes"], labels: Int64[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        """Return the cost of every image."""
        size = scores.abs()
        # Without a gradient, rather than an undefined one, where a score is 0.
        log_size = torch.where(size > 0, size.clamp_min(torch.finfo(size.dtype).tiny).log(), -math.inf)
        cost = functional.cross_entropy(2 * log_size, labels, reduction="none")
        if self.uniform == 0:
            return cost
        mixed = math.log(self.uniform / scores.shape[-1])
        return -torch.logaddexp(math.log1p(-self.uniform) - cost, torch.full_like(cost, mixed))


COSTS: dict[str, type[Cost]] = {f"{__name__}.{cost.__name__}": cost for cost in (SquaredDistance, CrossEntropy)}
"""Our costs, by the names that configurations use."""


def mean_and_gradient(
    cost: Cost, scores: Float[Tensor, "batch classes"], labels: Tensor
) -> tuple[Float[Tensor, ""], Float[Tensor, "batch classes"]]:
    """Return the mean cost of a batch, and its gradient with respect to the scores.

    Args:
        cost: cost of an image.
        scores: alpha_y(x).
        labels: (batch,), int64.

    Raises:
        InputError: the numbers of images, labels and costs differ.
    """
    if labels.shape != scores.shape[:1]:
        raise InputError(f"labels have shape {tuple(labels.shape)}: expected ({len(scores)},), one per image")
    closed_form = getattr(cost, "mean_and_gradient", None)
    if closed_form is not None:
        return closed_form(scores, labels)
    with torch.enable_grad():
        scores = scores.detach().requires_grad_()
        costs = cost(scores, labels)
        if costs.shape != labels.shape:
            raise InputError(
                f"the cost {type(cost).__name__} returned shape {tuple(costs.shape)}: expected ({len(scores)},), one "
                "number per image"
            )
        mean = costs.mean()
        (gradient,) = torch.autograd.grad(mean, scores)
    return mean.detach(), gradient
