"""What p(y, x) gives for every state that has it, however it is computed (eq. 33, 34)."""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from qcnn_lightning.errors import InputError
from qcnn_lightning.pixels import Images, check_images


class Likelihood:
    """Methods of a state with `log_joint(x)`, which returns log p(y, x), (batch, classes), nats."""

    log_joint: Callable[[Images], Tensor]

    def log_probability(self, x: Images) -> Float[Tensor, " batch"]:
        """Return log p(x) = log sum_y p(y, x), nats; missing pixels (NaN) are summed over. `log_joint` says what x is.

        Raises:
            InputError: as `log_joint`.
        """
        return self.log_joint(x).logsumexp(-1)

    def conditional_probability(self, x: Images) -> Float[Tensor, "batch classes"]:
        """Return p(y | known pixels), the other pixels summed over exactly (eq. 34).

        Args:
            x: as `log_joint` takes it.

        Raises:
            InputError: as `log_joint`; or the known pixels of an image have probability 0.
        """
        joint = self.log_joint(x)
        check_possible(joint)
        return joint.softmax(-1)


def check_possible(joint: Float[Tensor, "batch classes"]) -> None:
    """Check that the known pixels of every image are possible.

    Args:
        joint: log p(y, known pixels).

    Raises:
        InputError: an image has probability 0.
    """
    impossible = (joint == -math.inf).all(-1)
    if impossible.any():
        raise InputError(
            f"the known pixels of image {int(impossible.nonzero()[0])} have probability 0 (or below 1e-300 of the "
            "largest): nothing can be said given them"
        )


def known_pixels(
    x: Tensor, padding: Bool[Tensor, " sites"], basis: Any
) -> tuple[Float64[Tensor, "batch sites"], Bool[Tensor, "batch sites"]]:
    """Return the grey levels in [0, 1] of images, 0 where none is known, and which are: all but NaN, and padding.

    Args:
        x: (batch, N) grey levels: uint8, or floats in [0, 1] where NaN is a missing pixel.
        padding: which sites have no pixel; x may hold anything there.
        basis: the local basis; `LevelsBasis` allows its own grey levels alone.

    Raises:
        InputError: x has another shape, dtype or range, or grey levels that the basis does not have.
    """
    x = x.to(padding.device)
    if x.ndim != 2 or x.shape[1] != len(padding):
        check_images(x, len(padding))
    known = padding | ~x.isnan()
    seen = torch.where(known & ~padding, x, torch.zeros_like(x))
    check_images(seen, len(padding), basis)
    return seen.double() / (255 if x.dtype == torch.uint8 else 1), known


def observed_images(
    observed: Images | None, num_samples: int, num_sites: int, white: float
) -> Float[Tensor, "images sites"]:
    """Return what is known of the images to draw, one for all or one for each; NaN where to draw.

    Raises:
        InputError: no samples, another number of images, or a `white` below 1: the density then also covers what is
            whiter than white.
    """
    if white != 1:
        raise InputError(f"data.white={white}: samples would be whiter than white; they need data.white=1")
    if num_samples < 1:
        raise InputError(f"n={num_samples}: the number of samples must be at least 1")
    pixels = torch.full((1, num_sites), math.nan) if observed is None else torch.as_tensor(observed)
    pixels = pixels.unsqueeze(0) if pixels.ndim == 1 else pixels
    if len(pixels) not in (1, num_samples):
        raise InputError(f"observed has {len(pixels)} images: expected 1, or n={num_samples}")
    return pixels
