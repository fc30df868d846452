"""What training, evaluation and tables ask of a model, and what they take where a model does not answer."""

from types import MethodType
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from qcnn_lightning.kernels.kernel import Kernel
from qcnn_lightning.states.state import State


class Model(nn.Module):
    """A classifier of images: `Model(num_sites, num_classes, **settings)`.

    `forward` is all that a model must have; its settings are those below `model` in the configuration. A model of one's
    own may be any `nn.Module`: `completed` gives it the answers below where it has none.
    """

    def forward(self, x: Tensor) -> Float[Tensor, "batch classes"]:
        """Return the score of every class.

        Args:
            x: (batch, N) pixels, uint8 grey levels or floats in [0, 1].
        """
        raise NotImplementedError

    def state(self, statistics: Any = None) -> State | None:
        """Return the states whose amplitudes are the scores in evaluation; None for a model without.

        Args:
            statistics: what to normalise by; what evaluation uses if None.
        """
        return None

    def fix_population_statistics(self, x: Tensor) -> None:
        """Fix what evaluation normalises by, from a sample of images; does nothing where nothing is normalised."""

    def statistics_of(self, x: Tensor) -> Any:
        """Measure what training normalises these images by, differentiable; None where nothing is normalised."""
        return None

    @property
    def fixed_statistics(self) -> Any:
        """What evaluation normalises by."""
        return None

    def fast_kernel(self, x: Tensor) -> Kernel | None:
        """Return a faster way to compute this model than PyTorch's operators, if there is one for images like these."""
        return None

    def arithmetic(self, x: Tensor) -> str:
        """Say by what training on images like these computes products: results depend on it."""
        return "PyTorch"

    def first_non_finite(self, x: Tensor) -> str:
        """Say where in the model, for these images, something is first infinite or NaN."""
        return "the scores of the classes"


def completed(model: nn.Module) -> nn.Module:
    """Give a module that is no `Model` the answers of one that it does not have itself."""
    for name, answer in vars(Model).items():
        if not name.startswith("_") and not hasattr(model, name):
            object.__setattr__(model, name, MethodType(answer, model) if callable(answer) else None)
    return model


def num_parameters(model: nn.Module) -> int:
    """Return the number of trained parameters, real numbers all."""
    return sum(parameter.numel() for parameter in model.parameters())
