"""How a model is computed: forward to the scores and a tape, backward from the scores' gradient to the parameters'.

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
    """A way to compute a model's scores in training, and the gradients of its parameters."""

    def forward(self, x: Tensor) -> tuple[Float[Tensor, "batch classes"], Any]:
        """Return the scores of a batch, by the batch's own statistics where a model has any, and a tape for `backward`.

        The scores are part of no graph: whoever wants a gradient through them takes it with respect to them.

        Args:
            x: (batch, N) images.
        """

    def backward(self, tape: Any, gradient: Float[Tensor, "batch classes"]) -> None:
        """Replace the gradient of every parameter by sum_by gradient_by d score_by / d parameter.

        Args:
            tape: what `forward` returned with the scores; it serves once.
            gradient: of a cost with respect to the scores.
        """

    def backpropagate(self, cost: Cost, x: Tensor, labels: Tensor) -> float:
        """Return the mean cost of a batch; its gradient replaces that of every parameter.

        Where a kernel has no faster way for a cost, that is the function `backpropagate`.
        """

    def around_training(self) -> AbstractContextManager[None]:
        """Return the context that a whole training shall run in."""


def backpropagate(kernel: Kernel, cost: Cost, x: Tensor, labels: Tensor, weight: float | Tensor = 1.0) -> float:
    """Go forward to the scores, take the cost's gradient with respect to them, and go back with it.

    Args:
        kernel: of the model.
        cost: of an image.
        x: (batch, N) images.
        labels: (batch,), their classes.
        weight: of the batch's mean cost in what is minimised.

    Returns:
        The batch's mean cost.
    """
    scores, tape = kernel.forward(x)
    mean, gradient = mean_and_gradient(cost, scores, labels)
    kernel.backward(tape, gradient * weight)
    return mean.item()


class AutogradKernel:
    """PyTorch's own operators and gradients: works for every model, on every device.

    Args:
        model: takes images, returns scores.
        backward: `Tensor.backward`, or what stands for it in Lightning.
    """

    def __init__(self, model: nn.Module, backward: Callable[[Tensor, Tensor], None] = Tensor.backward):
        self.model = model
        self._backward = backward

    def forward(self, x: Tensor) -> tuple[Float[Tensor, "batch classes"], Tensor]:
        """Return the scores, and the scores with their graph as the tape."""
        scores: Tensor = self.model(x)
        return scores.detach(), scores

    def backward(self, tape: Tensor, gradient: Float[Tensor, "batch classes"]) -> None:
        """Go back through the graph."""
        self.model.zero_grad()
        self._backward(tape, gradient)

    def backpropagate(self, cost: Cost, x: Tensor, labels: Tensor) -> float:
        """Return the mean cost of a batch; its gradient replaces that of every parameter."""
        return backpropagate(self, cost, x, labels)

    def around_training(self) -> AbstractContextManager[None]:
        """Return a context that changes nothing."""
        return nullcontext()
