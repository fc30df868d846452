"""Pixel orders: which pixels stand under which node of the tree.

The network sees an image as a chain of N = 2^L sites and pools neighbours, so the order in which pixels are laid on the
chain decides what every aligned block is, and above all which two halves of the image meet at the top pooling: the
bipartition (U, U-bar) whose entanglement entropy eq. 37-45 measure.

One rule makes every order. Start from all pixels and halve the set L times; each halving cuts across the columns (left
from right) or across the rows (up from down), and the flattening only says which:

============== =========================================================== ==================
flattening     cuts, from the top of the tree down                         is the same as
============== =========================================================== ==================
left_right     columns while there are any, then rows                      column-major order
up_down        rows while there are any, then columns                      row-major order
z_left_right   columns, rows, columns, rows, ...                           Morton (z) order
z_up_down      rows, columns, rows, columns, ...                           Morton (z) order
============== =========================================================== ==================

In the z orders every aligned block of 4^k sites is a patch of 2^k x 2^k pixels.

Padding. N is the smallest power of two that holds all pixels, and padding sites are black (grey level 0).
If the enclosing square whose side is a power of two has N sites (size 12 to 16, 23 to 32, ...), the image stands in its
middle and the order is that of the square: padding is a black frame. Otherwise (size 9 to 11, 17 to 22, ...) no such
frame exists; the image's own pixels are halved, the larger part first where the number is odd, and each block is filled
up with the padding sites it has room for, so that padding is spread evenly over the tree and the halves of the
tree are still the halves of the image, to within half a column or row.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Int64, Shaped, UInt8
from torch import Tensor

from qcnn_lightning.errors import InputError

PADDING = -1
"""What `pixel_order` holds at a site that shows no pixel."""

_CUTS_COLUMNS: dict[str, Callable[[int], bool]] = {
    "left_right": lambda level: True,
    "up_down": lambda level: False,
    "z_left_right": lambda level: level % 2 == 0,
    "z_up_down": lambda level: level % 2 == 1,
}
FLATTENINGS = tuple(_CUTS_COLUMNS)
"""The values of `data.flatten`."""


def padded_num_sites(size: int) -> int:
    """N: the smallest power of two that is at least the number of pixels of a `size` x `size` image."""
    return 1 << (size * size - 1).bit_length()


def pixel_order(flatten: str, size: int) -> Int64[Tensor, " sites"]:
    """The pixel shown at each site of the tree.

    Args:
        flatten: one of `FLATTENINGS`.
        size: height and width of the image, in pixels.

    Returns:
        For each site of the chain the index of its pixel in the row-major image (row * size + column), or `PADDING`.

    Raises:
        InputError: `flatten` is not one of `FLATTENINGS`, or `size` is less than 2.
    """
    if flatten not in _CUTS_COLUMNS:
        raise InputError(f"data.flatten={flatten} is not a pixel order; choose one of {', '.join(FLATTENINGS)}.")
    if size < 2:
        raise InputError(f"data.size={size} is too small; an image needs at least 2 x 2 pixels.")
    num_sites = padded_num_sites(size)
    row, column, pixel = _canvas(size, num_sites)

    block = np.zeros_like(pixel)
    for level in range(num_sites.bit_length() - 1):
        across, along = (column, row) if _CUTS_COLUMNS[flatten](level) else (row, column)
        by_block = np.lexsort((along, across, block))
        members = np.bincount(block, minlength=2**level)
        first_of_block = np.cumsum(members) - members
        rank = np.empty_like(block)
        rank[by_block] = np.arange(len(block)) - first_of_block[block[by_block]]
        block = 2 * block + (rank >= (members[block] + 1) // 2)

    order = np.full(num_sites, PADDING, dtype=np.int64)
    order[block] = pixel
    return torch.from_numpy(order)


def lay_on_chain(
    images: UInt8[Tensor, "images height width"], order: Int64[Tensor, " sites"]
) -> UInt8[Tensor, "images sites"]:
    """Lay the images' pixels on the chain in the given order, black where the order says `PADDING`."""
    pixels = images.flatten(1)
    chain = pixels[:, order.clamp(min=0)]
    chain[:, order == PADDING] = 0
    return chain


def lay_on_image(
    chain: Shaped[Tensor, "*shape sites"], order: Int64[Tensor, " sites"]
) -> Shaped[Tensor, "*shape height width"]:
    """Lay what stands at the sites of the chain back on the image, whatever it is; padding sites are dropped.

    For pixels this is the inverse of `lay_on_chain`.
    """
    shown = order != PADDING
    image = chain.new_empty(*chain.shape[:-1], int(shown.sum()))
    image[..., order[shown]] = chain[..., shown]
    size = math.isqrt(image.shape[-1])
    return image.unflatten(-1, (size, size))


def _canvas(size: int, num_sites: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, column and row-major pixel index (or `PADDING`) of all that the halving distributes."""
    enclosing = 1 << (size - 1).bit_length()
    side = enclosing if enclosing**2 == num_sites else size
    margin = (side - size) // 2
    image = np.full((side, side), PADDING, dtype=np.int64)
    image[margin : margin + size, margin : margin + size] = np.arange(size * size).reshape(size, size)
    row, column = np.indices(image.shape)
    return row.ravel(), column.ravel(), image.ravel()
