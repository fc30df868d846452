"""Images as models and states take them: (batch, N) grey levels, uint8 or floats in [0, 1]."""

import torch
from torch import Tensor

from qcnn_lightning.errors import InputError


def check_images(x: Tensor, num_sites: int) -> None:
    """Check the shape, dtype and range of images.

    Args:
        x: (batch, N) grey levels in tree order: uint8, where 255 stands for 1, or floats in [0, 1].
        num_sites: N.

    Raises:
        InputError: x has another shape, dtype or range, or holds no image.
    """
    if x.ndim != 2 or x.shape[1] != num_sites or not len(x):
        raise InputError(
            f"x has shape {tuple(x.shape)}: expected (batch, {num_sites}), at least one image, pixels in tree order"
        )
    if x.dtype == torch.uint8:
        return
    if not x.is_floating_point():
        raise InputError(f"x has dtype {x.dtype}: expected uint8 grey levels or floats in [0, 1]")
    if not ((x >= 0) & (x <= 1)).all():
        raise InputError(
            f"x has entries from {x.min():g} to {x.max():g}: expected grey levels in [0, 1], or 0 to 255 as uint8"
        )
