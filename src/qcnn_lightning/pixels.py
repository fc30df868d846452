"""Images as models and states take them: (batch, N) grey levels, uint8 or floats in [0, 1]."""

from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from qcnn_lightning.basis import LevelsBasis
from qcnn_lightning.errors import InputError

Images: TypeAlias = Tensor | np.ndarray
"""(batch, N) grey levels in tree order, uint8 or floats in [0, 1]."""

PADDING = -1
"""Entry of a pixel order at a site without a pixel."""


def check_images(x: Tensor, num_sites: int, basis: Any = None) -> None:
    """Check the shape, dtype and range of images.

    Args:
        x: (batch, N) grey levels in tree order: uint8, where 255 stands for 1, or floats in [0, 1].
        num_sites: N.
        basis: the local basis; `LevelsBasis` allows its own grey levels alone.

    Raises:
        InputError: x has another shape, dtype or range, other grey levels than the basis, or holds no image.
    """
    if x.ndim != 2 or x.shape[1] != num_sites or not len(x):
        raise InputError(
            f"x has shape {tuple(x.shape)}: expected (batch, {num_sites}), at least one image, pixels in tree order"
        )
    if x.dtype != torch.uint8:
        check_floats(x)
    if isinstance(basis, LevelsBasis):
        basis.check(x)


def check_floats(x: Tensor) -> None:
    """Check the dtype and range of images that are not uint8.

    Raises:
        InputError: as `check_images`.
    """
    if not x.is_floating_point():
        raise InputError(f"x has dtype {x.dtype}: expected uint8 grey levels or floats in [0, 1]")
    if not ((x >= 0) & (x <= 1)).all():
        raise InputError(
            f"x has entries from {x.min():g} to {x.max():g}: expected grey levels in [0, 1], or 0 to 255 as uint8"
        )


def checked_white(white: int | float) -> float:
    """Return where white lies in a basis's interval [0, 1]: grey level x lies at white x, black at 0.

    In the Fourier basis 0 and 1 are the same point: with white = 1, black and white are the same state.

    Raises:
        InputError: it is not greater than 0 and at most 1.
    """
    if not 0 < white <= 1:
        raise InputError(f"data.white={white}: must be greater than 0, and at most 1, which is the paper's")
    return float(white)


def lay_on_image(
    chain: Shaped[Tensor, "*shape sites"], order: Int64[Tensor, " sites"], image_shape: tuple[int, int]
) -> Shaped[Tensor, "*shape height width"]:
    """Return image[order[s]] = chain[s], without padding sites: the inverse of `lay_on_chain`.

    Args:
        chain: values at the sites: pixels, or anything else.
        order: site -> pixel of the row-major image, or `PADDING`.
        image_shape: (height, width).
    """
    shown = order != PADDING
    site_of_pixel = order.new_empty(int(shown.sum()))
    site_of_pixel[order[shown]] = shown.nonzero().squeeze(1)
    # Several times faster than indexing.
    return chain.gather(-1, site_of_pixel.expand(*chain.shape[:-1], -1)).unflatten(-1, image_shape)
