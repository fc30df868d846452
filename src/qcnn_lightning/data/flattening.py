"""Pixel orders: which pixels stand under which node of the tree.

The network pools neighbouring sites of a chain. The order of the pixels therefore decides which block is which, and
which two halves of the image meet at the top: the bipartition (U, U-bar) of the entanglement entropy (eq. 37-45).

One rule makes every order (theory.md, eq. O1). Halve the set of all pixels L times, each time across the columns (left
from right) or across the rows (up from down). The flattening says which:

============== =========================================================== ==================
flattening     cuts, from the top of the tree down                         the same as
============== =========================================================== ==================
left_right     columns while there are any, then rows                      column-major order
up_down        rows while there are any, then columns                      row-major order
z_left_right   columns, rows, columns, rows, ...                           Morton (z) order
z_up_down      rows, columns, rows, columns, ...                           Morton (z) order
============== =========================================================== ==================

In the z orders every aligned block of 4^k sites is a square of 2^k x 2^k pixels.

Images need not be square: once a block has one column left, rows are cut, and vice versa. A chain is an image of one
row: every flattening leaves it as it is.

Padding. N is the smallest power of two that holds all pixels; padding sites are black (grey level 0). Take the smallest
rectangle around the image whose sides are powers of two. If it has N sites (squares of size 12 to 16, 23 to 32, ...),
the image stands in its middle, in a black frame, and the rectangle is halved. Otherwise (squares of size 9 to 11, 17 to
22, ...) the image itself is halved, the larger part first, and padding fills each block up: it is spread evenly over
the tree, and the halves of the tree are the halves of the image up to half a column or row.

A user's own function of (height, width), or a `.npy` file, may give any other order.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, Real
from torch import Tensor

from qcnn_lightning.errors import InputError
from qcnn_lightning.own_parts import own_part
from qcnn_lightning.pixels import PADDING as PADDING
from qcnn_lightning.pixels import lay_on_image as lay_on_image

_CUTS_COLUMNS: dict[str, Callable[[int], bool]] = {
    "left_right": lambda level: True,
    "up_down": lambda level: False,
    "z_left_right": lambda level: level % 2 == 0,
    "z_up_down": lambda level: level % 2 == 1,
}
FLATTENINGS = tuple(_CUTS_COLUMNS)
"""Names of our own pixel orders."""


def padded_num_sites(height: int, width: int) -> int:
    """Return N, the smallest power of two with N >= height * width."""
    return 1 << (height * width - 1).bit_length()


def pixel_order(flatten: str, height: int, width: int) -> Int64[Tensor, " sites"]:
    """Return the pixel at each site of the tree.

    From the top down, the pixel of rank r among the c pixels of block b goes to block 2b + [r >= ceil(c / 2)]. Ranks
    sort by the coordinate that is cut, then by the other. The last block is the site (theory.md, eq. O1).

    Args:
        flatten: one of `FLATTENINGS`, the dotted path of the user's own function (height, width) -> order, or a `.npy`
            file of an order. `checked_order` says what an order is.
        height: of the image, pixels.
        width: of the image, pixels.

    Returns:
        (N,): row * width + column of the site's pixel, or `PADDING`.

    Raises:
        InputError: `flatten` is none of these, or the image has fewer than two pixels.
    """
    if min(height, width) < 1 or height * width < 2:
        raise InputError(f"an image of {height} x {width} pixels is too small: it needs at least 2 pixels.")
    if flatten in _CUTS_COLUMNS:
        return _halved(_CUTS_COLUMNS[flatten], height, width)
    if flatten.endswith(".npy"):
        return checked_order(_read_order(Path(flatten).expanduser()), height, width, f"data.flatten={flatten}")
    if "." in flatten:
        order = own_part(flatten, "data.flatten")(height, width)
        return checked_order(order, height, width, f"data.flatten={flatten}")
    raise InputError(
        f"data.flatten={flatten} is not a pixel order; choose {', '.join(FLATTENINGS)}, the dotted path of your own "
        "function, like mine.my_order, or a .npy file."
    )


def checked_order(order: Any, height: int, width: int, origin: str) -> Int64[Tensor, " sites"]:
    """Check a user's own order: N integers, site -> row-major pixel, each pixel once.

    Args:
        order: array or list; -1, or height * width and more, marks padding.
        height: of the image, pixels.
        width: of the image, pixels.
        origin: where the order comes from, for messages.

    Returns:
        (N,): the same order, with `PADDING` at all padding sites.

    Raises:
        InputError: another shape, dtype or range, or a pixel that stands at no site or at several.
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
            f"{origin} is not an order of the pixels of a {height} x {width} image: {problem}; expected {num_sites} "
            f"integers, site -> row-major pixel, each of 0 to {num_pixels - 1} once, and -1 at padding sites."
        )
    return torch.from_numpy(sites)


def lay_on_chain(
    images: Real[Tensor, "images height width"], order: Int64[Tensor, " sites"]
) -> Real[Tensor, "images sites"]:
    """Return chain[s] = image[order[s]] of every image, 0 (black) where order[s] is `PADDING`."""
    pixels = images.flatten(1)
    # Several times faster than indexing.
    chain = pixels.gather(1, order.clamp(min=0).expand(len(pixels), -1))
    return chain.masked_fill_(order == PADDING, 0)


def mirror_levels(order: Int64[Tensor, " sites"], height: int, width: int) -> list[int]:
    """Return the levels of the tree at which exchanging all left and right children mirrors the image, left to right.

    Args:
        order: the pixel at each site, or `PADDING`.
        height: of the image, pixels.
        width: of the image, pixels.

    Raises:
        InputError: that does not mirror it; all of `FLATTENINGS` do for sides that are powers of two, or in a frame.
    """
    pixels = torch.arange(height * width).view(height, width)
    sites = torch.empty(height * width, dtype=torch.int64)
    sites[order[order != PADDING]] = torch.arange(len(order))[order != PADDING]
    exchanged = sites ^ sites[pixels.flip(1).flatten()]
    if (exchanged != exchanged[0]).any():
        raise InputError(
            f"the mirror image of {height} x {width} pixels in this order is no exchange of the tree's children: "
            f"choose another data.size, or data.flatten from {', '.join(FLATTENINGS)}"
        )
    return [level for level in range(len(order).bit_length() - 1) if int(exchanged[0]) >> level & 1]


def _halved(cuts_columns: Callable[[int], bool], height: int, width: int) -> Int64[Tensor, " sites"]:
    """Return the order of halving all pixels level by level, from the top of the tree down (theory.md, eq. O1)."""
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
    """Return row, column and row-major pixel (or `PADDING`) of everything to be halved."""
    rows, columns = 1 << (height - 1).bit_length(), 1 << (width - 1).bit_length()
    if rows * columns != num_sites:
        rows, columns = height, width
    top, left = (rows - height) // 2, (columns - width) // 2
    image = np.full((rows, columns), PADDING, dtype=np.int64)
    image[top : top + height, left : left + width] = np.arange(height * width).reshape(height, width)
    row, column = np.indices(image.shape)
    return row.ravel(), column.ravel(), image.ravel()


def _read_order(path: Path) -> np.ndarray:
    """Read an order from a `.npy` file, without unpickling."""
    try:
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except FileNotFoundError as error:
        raise InputError(f"data.flatten={path}: no such file.") from error
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"data.flatten={path} cannot be read as a .npy file of integers: {error}.") from error
