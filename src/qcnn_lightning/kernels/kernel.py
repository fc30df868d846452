"""The protocol of a kernel: forward to scores and a tape, backward from d cost / d scores to the parameters.

The cost stands between the two, so every kernel serves every cost.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from qcnn_lightning.costs import Cost, mean_and_gradient


@runtime_checkable
class Kernel(Protocol):
    """Computes a model's scores in training, and its parameters' gradients."""

    def forward(self, x: Tensor) -> tuple[Float[Tensor, "batch classes"], Any]:
        """Return the scores alpha_y(x) of a batch, by the batch's statistics if the model has any, and a tape.

        The scores are not part of autograd's graph.

        Args:
            x: (batch, N) images.
        """

    def backward(self, tape: Any, gradient: Float[Tensor, "batch classes"]) -> None:
        """Set every parameter's gradient to sum_{x,y} gradient_{x,y} d alpha_y(x) / d parameter.

        Args:
            tape: returned by `forward`; can be used once.
            gradient: d cost / d alpha_y(x).
        """

    def backpropagate(self, cost: Cost, x: Tensor, labels: Tensor) -> float:
        """Return the mean cost of a batch, and set every parameter's gradient to the mean cost's.

        The function `backpropagate` does so for any cost; a kernel may be faster for some.
        """

    def around_training(self) -> AbstractContextManager[None]:
        """Return the context to train in."""


def backpropagate(kernel: Kernel, cost: Cost, x: Tensor, labels: Tensor, weight: float | Tensor = 1.0) -> float:
    """Return the mean cost of a batch, and set every parameter's gradient to `weight` times the mean cost's.

    Args:
        kernel: the model's kernel.
        cost: cost of an image.
        x: (batch, N) images.
        labels: (batch,), their classes.
        weight: factor of the gradient.
    """
    scores, tape = kernel.forward(x)
    mean, gradient = mean_and_gradient(cost, scores, labels)
    kernel.backward(tape, gradient * weight)
    return mean.item()


class AutogradKernel:
    """PyTorch's operators and autograd: any model, any device.

    Args:
        model: maps images to scores.
        backward: `Tensor.backward`, or Lightning's `manual_backward`.
        scores: the function of the model that gives the scores; None for the model itself.
    """

    def __init__(
        self,
        model: nn.Module,
        backward: Callable[[Tensor, Tensor], None] = Tensor.backward,
        scores: Callable[[Tensor], Tensor] | None = None,
    ):
        self.model = model
        self._scores = model if scores is None else scores
        self._backward = backward

    def forward(self, x: Tensor) -> tuple[Float[Tensor, "batch classes"], Tensor]:
        """Return the scores, and as the tape the scores with their graph."""
        scores: Tensor = self._scores(x)
        return scores.detach(), scores

    def backward(self, tape: Tensor, gradient: Float[Tensor, "batch classes"]) -> None:
        """Set every parameter's gradient, through the graph."""
        self.model.zero_grad()
        self._backward(tape, gradient)

    def backpropagate(self, cost: Cost, x: Tensor, labels: Tensor) -> float:
        """Return the mean cost of a batch, and set every parameter's gradient to the mean cost's."""
        return backpropagate(self, cost, x, labels)

    def around_training(self) -> AbstractContextManager[None]:
        """Return the model's context, if it has one."""
        context: AbstractContextManager[None] = getattr(self.model, "around_training", nullcontext)()
        return context
