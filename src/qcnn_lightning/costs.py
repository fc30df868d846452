"""Costs: what training minimises, a number for every image.

A cost is a callable `cost(scores, labels) -> (batch,)`. With an attribute `of_log_joint = True` its scores are
log p(y, x) of a density, otherwise alpha_y(x). With `of_ratios = True` it depends on ratios of an image's scores alone:
a model may then leave out a factor of every image (`relative_scores`), so that nothing over- or underflows. A method
`mean_and_gradient(scores, labels)` may give the batch's mean and its gradient in closed form; otherwise autograd
differentiates the cost.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

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
            scores: alpha_y(x), or log p(y, x).
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
        flat = difference.flatten()
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

    of_ratios = True

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


class NegativeLogLikelihood:
    """-log p(l(x), x), nats, or -log p(x), blended with a cost of p(y|x) (eq. 33).

    (1 - w) g + w c; g = -log p(l(x), x) with labels, g = -log sum_y p(y, x) without: the class is then a mixture's
    index. c = -log p(l(x)|x), or eq. 48 for the amplitudes sqrt(p(y|x)): 2 - 2 sqrt(p(l(x)|x)). An image of
    probability 0 costs infinity.

    Args:
        labels: whether to learn the joint density of images and labels.
        discriminative_weight: w, from 0 to 1.
        discriminative: c: "cross_entropy" or "squared_distance".

    Raises:
        InputError: a value out of range.
    """

    of_log_joint = True

    @checked_settings
    def __init__(
        self,
        labels: bool = True,
        discriminative_weight: float | int = 0.0,
        discriminative: str = "cross_entropy",
    ):
        if not 0 <= discriminative_weight <= 1:
            raise InputError(f"cost.discriminative_weight={discriminative_weight}: must be from 0 to 1")
        if discriminative not in ("cross_entropy", "squared_distance"):
            raise InputError(f"cost.discriminative={discriminative}: choose one of cross_entropy, squared_distance")
        self.labels, self.discriminative_weight, self.discriminative = labels, discriminative_weight, discriminative

    def __call__(
        self, scores: Float[Tensor, "batch classes"], labels: Int64[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        """Return the cost of every image from log p(y, x), nats."""
        of_label = scores.gather(1, labels.unsqueeze(1)).squeeze(1)
        if self.labels and not self.discriminative_weight:
            return -of_label
        of_image = scores.logsumexp(-1)
        generative = -of_label if self.labels else -of_image
        if not self.discriminative_weight:
            return generative
        conditional = of_label - of_image
        cost = -conditional if self.discriminative == "cross_entropy" else 2 - 2 * (conditional / 2).exp()
        return (1 - self.discriminative_weight) * generative + self.discriminative_weight * cost


def scores_for(cost: Cost, model: Any) -> Callable[[Tensor], Float[Tensor, "batch classes"]]:
    """Return the function of images whose scores a cost takes: the model, its `relative_scores`, or its `log_joint`.

    Raises:
        InputError: the cost needs a density, and the model is none.
    """
    if not getattr(cost, "of_log_joint", False):
        return getattr(model, "relative_scores", model) if getattr(cost, "of_ratios", False) else model
    if not hasattr(model, "log_joint"):
        raise InputError(
            f"cost={type(cost).__name__} needs log p(y, x), and {type(model).__name__} is no density: say "
            "model=density or model=mps"
        )
    return model.log_joint


def most_probable(cost: Cost, scores: Float[Tensor, "batch classes"]) -> Int64[Tensor, " batch"]:
    """Return the class with the largest |alpha_y(x)|, or log p(y, x) (eq. 35)."""
    return (scores if getattr(cost, "of_log_joint", False) else scores.abs()).argmax(-1)


OURS: tuple[type[Cost], ...] = (SquaredDistance, CrossEntropy, NegativeLogLikelihood)
COSTS: dict[str, type[Cost]] = {f"{__name__}.{cost.__name__}": cost for cost in OURS}
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
