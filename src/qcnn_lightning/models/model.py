"""The protocol of a model: what training, evaluation and tables ask of it, and the default answers."""

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import MethodType
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from qcnn_lightning.errors import InputError
from qcnn_lightning.kernels.kernel import Kernel
from qcnn_lightning.states.state import State


class Model(nn.Module):
    """A classifier of images: `Model(num_sites, num_classes, **settings)`.

    A model must have `forward`. Its settings stand below `model` in the configuration. Users' own models may be any
    `nn.Module`: `completed` adds the default answers below.

    Attributes:
        normalises_scores: whether scores are amplitudes divided by their norm, so that their squares are p(y|x).
        is_complex: whether scores are the sizes of complex amplitudes.
    """

    normalises_scores: bool = False
    is_complex: bool = False

    def forward(self, x: Tensor) -> Float[Tensor, "batch classes"]:
        """Return alpha_y(x), the score of every class (eq. 10).

        Args:
            x: (batch, N) grey levels in tree order, uint8 or floats in [0, 1].
        """
        raise NotImplementedError

    def state(self, statistics: Any = None) -> State | None:
        """Return the states with <x|Psi_y> = alpha_y(x) in evaluation (eq. 31); None for a model without states.

        Args:
            statistics: what to normalise by; None for what evaluation uses.
        """
        return None

    def fix_population_statistics(self, x: Tensor) -> None:
        """Fix what evaluation normalises by, from a sample of images; nothing to do if nothing is normalised."""

    def statistics_of(self, x: Tensor) -> Any:
        """Measure what training normalises these images by, differentiable; None if nothing is normalised."""
        return None

    @property
    def fixed_statistics(self) -> Any:
        """What evaluation normalises by; None if nothing is normalised."""
        return None

    def mark_padding(self, padding: Tensor) -> None:
        """Note which of the N sites have no pixel; nothing to do where they are black pixels."""

    def mark_order(self, order: Tensor, image_shape: Sequence[int]) -> None:
        """Note the pixel at every site and (height, width); nothing to do where the tree is all that counts."""

    def fast_kernel(self, x: Tensor) -> Kernel | None:
        """Return a kernel faster than PyTorch's operators for images like these; None if there is none."""
        return None

    def around_training(self) -> AbstractContextManager[None]:
        """Return the context to train in without a fast kernel."""
        return nullcontext()

    def arithmetic(self, x: Tensor) -> str:
        """Return the arithmetic of products in training on images like these; results depend on it."""
        return "PyTorch"

    def first_non_finite(self, x: Tensor) -> str:
        """Say where in the model the first infinite or NaN number is, for these images."""
        return "the scores of the classes"


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """Check a setting that is one of some words.

    Raises:
        InputError: it is none of them.
    """
    if value not in choices:
        raise InputError(f"model.{name}={value}: choose one of {', '.join(choices)}")


def check_sites(num_sites: int) -> None:
    """Check that a binary tree may have so many leaves.

    Raises:
        InputError: it is no power of two, or 1.
    """
    if num_sites < 2 or num_sites & (num_sites - 1):
        raise InputError(f"num_sites={num_sites}: must be a power of two, at least 2; pad the images")


def completed(model: nn.Module) -> nn.Module:
    """Give a module the default answers of `Model` for what it does not define itself."""
    for name, answer in vars(Model).items():
        if not name.startswith("_") and not hasattr(model, name):
            value = None if isinstance(answer, property) else answer
            object.__setattr__(model, name, MethodType(answer, model) if callable(answer) else value)
    return model


def num_parameters(model: nn.Module) -> int:
    """Return the number of trained parameters (real numbers), as eq. 46 counts them."""
    return sum(parameter.numel() for parameter in model.parameters())
