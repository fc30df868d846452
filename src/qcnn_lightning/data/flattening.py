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

Images need not be square: where the columns, or the rows, of a block have run out, every cut goes across the others. A
chain is an image of one row, and every flattening leaves it as it is.

Padding. N is the smallest power of two that holds all pixels, and padding sites are black (grey level 0).
If the enclosing rectangle whose sides are powers of two has N sites (squares of size 12 to 16, 23 to 32, ...), the
image stands in its middle and the order is that of the rectangle: padding is a black frame. Otherwise (squares of size
9 to 11, 17 to 22, ...) no such frame exists; the image's own pixels are halved, the larger part first where the number
is odd, and each block is filled up with the padding sites it has room for, so that padding is spread evenly over the
tree and the halves of the tree are still the halves of the image, to within half a column or row.

Orders of one's own. A function of (height, width), or a `.npy` file, may give any other order.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, Real, Shaped
from torch import Tensor

from qcnn_lightning.errors import InputError
from qcnn_lightning.own_parts import own_part

PADDING = -1
"""What `pixel_order` holds at a site that shows no pixel."""

_CUTS_COLUMNS: dict[str, Callable[[int], bool]] = {
    "left_right": lambda level: True,
    "up_down": lambda level: False,
    "z_left_right": lambda level: level % 2 == 0,
    "z_up_down": lambda level: level % 2 == 1,
}
FLATTENINGS = tuple(_CUTS_COLUMNS)
"""Our own values of `data.flatten`."""


def padded_num_sites(height: int, width: int) -> int:
    """N: the smallest power of two that is at least the number of pixels of a `height` x `width` image."""
    return 1 << (height * width - 1).bit_length()


def pixel_order(flatten: str, height: int, width: int) -> Int64[Tensor, " sites"]:
    """The pixel shown at each site of the tree.

    Args:
        flatten: one of `FLATTENINGS`; the dotted path of a function of one's own, (height, width) -> order; or a
            `.npy` file that holds an order. See `checked_order` for what an order is.
        height: of the image, in pixels.
        width: of the image, in pixels.

    Returns:
        For each site of the chain the index of its pixel in the row-major image (row * width + column), or `PADDING`.

    Raises:
        InputError: `flatten` is no such thing, or the image has fewer than two pixels.
    """
    if min(height, width) < 1 or height * width < 2:
        raise InputError(f"an image of {height} x {width} pixels is too small; it needs at least 2 pixels.")
    if flatten in _CUTS_COLUMNS:
        return _halved(_CUTS_COLUMNS[flatten], height, width)
    if flatten.endswith(".npy"):
        return checked_order(_read_order(Path(flatten).expanduser()), height, width, f"data.flatten={flatten}")
    if "." in flatten:
        order = own_part(flatten, "data.flatten")(height, width)
        return checked_order(order, height, width, f"data.flatten={flatten}")
    raise InputError(
        f"data.flatten={flatten} is not a pixel order; choose one of {', '.join(FLATTENINGS)}, or the dotted path of a "
        "function of your own, such as mine.my_order, or a .npy file."
    )


def checked_order(order: Any, height: int, width: int, origin: str) -> Int64[Tensor, " sites"]:
    """Check an order of one's own: N integers, site -> row-major pixel, each pixel once.

    Args:
        order: array or list; entries that are -1, or height * width and more, are padding sites.
        height: of the image, in pixels.
        width: of the image, in pixels.
        origin: where the order comes from, for the message.

    Returns:
        The same order, with `PADDING` at all padding sites.

    Raises:
        InputError: it is no such order.
    """
    num_sites, num_pixels = padded_num_sites(height, width), height * width
    sites = np.asarray(order)
    counts = np.zeros(num_pixels, dtype=np.int64)
    if sites.shape != (num_sites,) or sites.dtype.kind not in "iu":
        problem = f"it has shape {sites.shape} and dtype {sites.dtype}"
    elif (sites < PADDING).any():
        problem = f"it holds {sites.min()}"
    else:
        sites = np.where(sites < num_pixels, sites, PADDING).astype(np.int64)
        counts = np.bincount(sites[sites != PADDING], minlength=num_pixels)
        wrong = int(np.abs(counts - 1).argmax())
        problem = f"pixel {wrong} stands at {counts[wrong]} sites" if counts[wrong] != 1 else ""
    if problem:
        raise InputError(
            f"{origin} is no order of the pixels of a {height} x {width} image: {problem}; expected {num_sites} "
            f"integers, site -> row-major pixel, each of 0 to {num_pixels - 1} once, and -1 at padding sites."
        )
    return torch.from_numpy(sites)


def lay_on_chain(
    images: Real[Tensor, "images height width"], order: Int64[Tensor, " sites"]
) -> Real[Tensor, "images sites"]:
    """Lay the images' pixels on the chain in the given order, black where the order says `PADDING`."""
    pixels = images.flatten(1)
    chain = pixels[:, order.clamp(min=0)]
    chain[:, order == PADDING] = 0
    return chain


def lay_on_image(
    chain: Shaped[Tensor, "*shape sites"], order: Int64[Tensor, " sites"], image_shape: tuple[int, int]
) -> Shaped[Tensor, "*shape height width"]:
    """Lay what stands at the sites of the chain back on the image, whatever it is; padding sites are dropped.

    For pixels this is the inverse of `lay_on_chain`.

    Args:
        chain: what stands at the sites.
        order: site -> pixel of the row-major image, or `PADDING`.
        image_shape: (height, width).
    """
    shown = order != PADDING
    image = chain.new_empty(*chain.shape[:-1], int(shown.sum()))
    image[..., order[shown]] = chain[..., shown]
    return image.unflatten(-1, image_shape)


def _halved(cuts_columns: Callable[[int], bool], height: int, width: int) -> Int64[Tensor, " sites"]:
    """The order that halving all pixels level by level makes, from the top of the tree down."""
    num_sites = padded_num_sites(height, width)
    row, column, pixel = _canvas(height, width, num_sites)

    block = np.zeros_like(pixel)
    for level in range(num_sites.bit_length() - 1):
        across, along = (column, row) if cuts_columns(level) else (row, column)
        by_block = np.lexsort((along, across, block))
        members = np.bincount(block, minlength=2**level)
        first_of_block = np.cumsum(members) - members
        rank = np.empty_like(block)
        rank[by_block] = np.arange(len(block)) - first_of_block[block[by_block]]
        block = 2 * block + (rank >= (members[block] + 1) // 2)

    order = np.full(num_sites, PADDING, dtype=np.int64)
    order[block] = pixel
    return torch.from_numpy(order)


def _canvas(height: int, width: int, num_sites: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, column and row-major pixel index (or `PADDING`) of all that the halving distributes."""
    rows, columns = 1 << (height - 1).bit_length(), 1 << (width - 1).bit_length()
    if rows * columns != num_sites:
        rows, columns = height, width
    top, left = (rows - height) // 2, (columns - width) // 2
    image = np.full((rows, columns), PADDING, dtype=np.int64)
    image[top : top + height, left : left + width] = np.arange(height * width).reshape(height, width)
    row, column = np.indices(image.shape)
    return row.ravel(), column.ravel(), image.ravel()


def _read_order(path: Path) -> np.ndarray:
    """Read an order from a `.npy` file, which is never unpickled."""
    try:
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except FileNotFoundError as error:
        raise InputError(f"data.flatten={path}: no such file.") from error
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"data.flatten={path} cannot be read as a .npy file of integers: {error}.") from error
