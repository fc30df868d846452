"""A matplotlib figure as part of a page: inline SVG in the page's colours and letters, with every marked artist apart.

matplotlib writes axes, words and whatever has no mark. Marked artists (`gid`, see `panels`) become paths of whole
tenths of a point in an SVG of their own, which lies over the axes and ends where they end. Those are a tenth of the
size that matplotlib would write, and carry their mark as a class, which a style sheet hides and colours.
"""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from qcnn_lightning.figure_style import METADATA, STYLE, ordered_colour, styled

INK = "#123456"
"""Stands for the colour of the page's text, which is dark or light."""

PAGE_STYLE: dict[Any, Any] = STYLE | {
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "axes.labelcolor": INK,
    "figure.constrained_layout.use": False,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}
TENTHS = 720
"""Of a point, in an inch."""


@dataclass(frozen=True)
class Chart:
    """A figure of a page.

    Attributes:
        svg: its text.
        marks: the marks of all artists that have one.
    """

    svg: str
    marks: frozenset[str]


def chart_of(figure: Figure) -> Chart:
    """Return a figure, drawn in `PAGE_STYLE`, as inline SVG."""
    with styled(PAGE_STYLE):
        marked = {
            axes: [artist for artist in axes.get_children() if artist.get_gid() is not None] for axes in figure.axes
        }
        over = "".join(data_layer(axes, artists) for axes, artists in marked.items() if artists)
        for artist in (artist for artists in marked.values() for artist in artists):
            artist.set_visible(False)
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata=METADATA["svg"])
    text = drawn.getvalue()
    text = text[text.index("<svg") : text.rindex("</svg>")]
    # Its style sheet would be the whole page's, and its metadata name addresses.
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    # Only within a tag: the words of a chart may be anything.
    text = re.sub(r'(<text style="font: (?:\d+ )?[\d.]+px) [^;"<]*', r"\1 system-ui, sans-serif", text)
    text = re.sub(r'(<svg) [^>]*?(viewBox="[^"]*")[^>]*>', r"\1 \2>", text, count=1)
    text = re.sub(r"\s*\n\s*", "\n", text).replace(INK, "currentColor")
    # On a dark page the first of ordered colours could not be seen.
    text = text.replace(ordered_colour(0, 2), "var(--darkest)")
    marks = frozenset(str(artist.get_gid()) for artists in marked.values() for artist in artists)
    return Chart(f"{text}{over}</svg>", marks)


def data_layer(axes: Axes, artists: list[Artist]) -> str:
    """Return the marked artists of a panel, and all that is needed to read numbers off their paths again."""
    width, height = axes.figure.get_size_inches() * TENTHS  # type: ignore[union-attr]
    box = axes.get_position()
    left, top = box.x0 * width, (1 - box.y1) * height
    wide, high = box.width * width, box.height * height
    # The limits first: asking for them settles them.
    scale = {
        f"data-{axis}": f"{low:.9g} {high:.9g} {kind}"
        for axis, (low, high), kind in (
            ("x", axes.get_xlim(), axes.get_xscale()),
            ("y", axes.get_ylim(), axes.get_yscale()),
        )
    }
    paths = "".join(path for artist in artists for path in paths_of(axes, artist, left, height - top))
    names = {"data-x-label": axes.get_xlabel(), "data-y-label": axes.get_ylabel()}
    attributes = " ".join(f'{key}="{escape(text)}"' for key, text in (scale | names).items())
    return (
        f'<svg class="data" x="{left / 10:.1f}" y="{top / 10:.1f}" width="{wide / 10:.1f}" height="{high / 10:.1f}" '
        f'viewBox="0 0 {wide:.0f} {high:.0f}" {attributes}>{paths}</svg>'
    )


def paths_of(axes: Axes, artist: Artist, left: float, bottom: float) -> Iterator[str]:
    """Yield the paths of an artist: its line, its markers as dots, or its area.

    Args:
        axes: the panel.
        artist: with a mark.
        left: edge of the panel in the figure, in tenths of a point.
        bottom: upper edge of the panel, counted from the figure's lower edge.
    """

    def whole_tenths(points: np.ndarray) -> np.ndarray:
        tenths = artist.get_transform().transform(points) * TENTHS / axes.figure.dpi
        tenths = tenths[np.isfinite(tenths).all(axis=1)]
        return np.rint((tenths - (left, bottom)) * (1, -1)).astype(int)

    mark = str(artist.get_gid())
    if isinstance(artist, Line2D):
        points = whole_tenths(np.asarray(artist.get_xydata(), dtype=float))
        if not len(points):
            return
        if artist.get_linestyle() != "None":
            dashed = " dashed" if artist.get_linestyle() == "--" else ""
            yield f'<path class="{mark}{dashed}" d="{polyline(points)}"/>'
        if artist.get_marker() not in ("", "None", None):
            yield f'<path class="{mark} dots" d="{polyline(points, "h0m")}"/>'
    elif isinstance(artist, LineCollection):
        lines = "".join(polyline(whole_tenths(np.array(segment))) for segment in artist.get_segments())
        yield f'<path class="{mark}" d="{lines}"/>'
    elif isinstance(artist, PolyCollection):
        areas = "".join(polyline(whole_tenths(np.asarray(path.vertices))) for path in artist.get_paths())
        yield f'<path class="{mark} band" d="{areas}z"/>'
    else:
        raise TypeError(f"{type(artist).__name__} cannot have a mark")


def polyline(points: np.ndarray, between: str = "l") -> str:
    """Return a path through points, by steps from each to the next; "h0m" between them makes it dots."""
    (x, y), steps = points[0].tolist(), np.diff(points, axis=0).tolist()
    if between == "l":
        line = "l" + " ".join(f"{dx} {dy}" for dx, dy in steps) if steps else "h0"
        return f"M{x} {y}" + line.replace(" -", "-")
    return f"M{x} {y}" + "".join(f"{between}{dx} {dy}" for dx, dy in steps) + "h0"
