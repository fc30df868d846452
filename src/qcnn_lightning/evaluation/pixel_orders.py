"""The figure of the pixel orders."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from qcnn_lightning.data.flattening import FLATTENINGS, PADDING, pixel_order
from qcnn_lightning.figure_style import styled
from qcnn_lightning.labels import value_name

# A hue for each half of the tree, darkening along the chain.
_HALVES = (
    LinearSegmentedColormap.from_list("first_half", ["#a9c9e8", "#1c5a99"]),
    LinearSegmentedColormap.from_list("second_half", ["#f6c49b", "#b5430f"]),
)
# Points: borders between halves, quarters, eighths, ... of the tree.
_BORDER_WIDTHS = (3.4, 2.0, 1.1, 0.5, 0.5, 0.5)


def draw_pixel_orders(size: int, path: Path) -> None:
    """Draw every pixel order of a `size` x `size` image side by side.

    Colours mark the two halves of the tree and darken along the chain; a white line follows the chain from the dot.
    Black borders separate the halves, quarters, eighths, ... of the tree, thicker near the top.

    Args:
        size: height and width of the image in pixels.
        path: file to write; its suffix chooses the format.
    """
    with styled():
        figure = Figure(figsize=(12, 3.4))
        for axes, flatten in zip(figure.subplots(1, len(FLATTENINGS)), FLATTENINGS, strict=True):
            _draw_pixel_order(axes, flatten, size)
        figure.savefig(path, dpi=150, bbox_inches="tight")


def _draw_pixel_order(axes: Axes, flatten: str, size: int) -> None:
    order = pixel_order(flatten, size, size).numpy()
    num_sites = len(order)
    sites = np.flatnonzero(order != PADDING)
    row, column = np.divmod(order[sites], size)
    site = np.empty((size, size), dtype=np.int64)
    site[row, column] = sites

    half, place = np.divmod(site, num_sites // 2)
    place = 2 * place / num_sites
    axes.imshow(np.where((half == 0)[..., None], _HALVES[0](place), _HALVES[1](place)))
    axes.plot(column, row, color="white", linewidth=0.9, alpha=0.9)
    axes.plot(column[0], row[0], marker="o", color="white", markersize=4)

    for level, width in reversed(list(enumerate(_BORDER_WIDTHS))):
        borders = _borders(site // max(1, num_sites >> (level + 1)))
        axes.add_collection(LineCollection(borders, colors="black", linewidths=width, capstyle="projecting"))
    axes.set_title(f"{value_name('data.flatten', flatten)} ({flatten})")
    axes.grid(visible=False)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _borders(block: np.ndarray) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Return line segments ((x, y), (x, y)) between neighbouring pixels of different blocks."""
    upright = [((x + 0.5, y - 0.5), (x + 0.5, y + 0.5)) for y, x in np.argwhere(block[:, 1:] != block[:, :-1])]
    level = [((x - 0.5, y + 0.5), (x + 0.5, y + 0.5)) for y, x in np.argwhere(block[1:] != block[:-1])]
    return upright + level
