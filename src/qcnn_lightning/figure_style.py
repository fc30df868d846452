"""How every figure looks, and how it is written: colours, letters, formats.

Colours are Okabe and Ito's, and viridis where there is an order: both are told apart with any colour vision and survive
a grey printer. The same figure always gives the same files, to the byte.
"""

import io
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import font_manager
from matplotlib.colors import Normalize, to_hex
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, get_font
from matplotlib.font_manager import findfont as find_font
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter, FixedLocator, LogFormatter, NullFormatter

from qcnn_lightning.errors import InputError
from qcnn_lightning.files import replace_atomically

FORMATS = ("png", "svg", "pdf")
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DATA_COLOURS = {"mnist": OKABE_ITO[0], "fmnist": OKABE_ITO[1], "digits": OKABE_ITO[2]}
MARKERS = "osD^vP*X"
ORDERED = mpl.colormaps["viridis"]
STYLE: dict[Any, Any] = {
    "axes.grid": True,
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9,
    "figure.constrained_layout.use": True,
    "font.size": 8.5,
    "grid.alpha": 0.35,
    "grid.linewidth": 0.5,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.3,
    # Names of classes and of runs are text.
    "text.parse_math": False,
    "pdf.fonttype": 42,
    # Otherwise the SVG's internal names are drawn at random.
    "svg.hashsalt": "qcnn_lightning",
}
# Without a date, and without the version of the program that wrote it.
METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def checked_formats(formats: Any) -> tuple[str, ...]:
    """Return the formats of figures; none draws none.

    Raises:
        InputError: one is unknown, or this is no list.
    """
    if isinstance(formats, str) or not isinstance(formats, Sequence):
        raise InputError(f"figures={formats}: give a list, like figures=[png], or [] for no figures")
    if unknown := [str(one) for one in formats if one not in FORMATS]:
        raise InputError(f"figures={','.join(unknown)}: choose from {', '.join(FORMATS)}")
    return tuple(formats)


@contextmanager
def styled(style: dict[Any, Any] = STYLE) -> Iterator[None]:
    """Draw in a style; glyphs that a font lacks are no matter for warnings, since `make_drawable` finds them others."""
    with mpl.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from")
        yield


def make_drawable(figure: Figure) -> None:
    """Give every letter of a figure a font that has it, of those installed, or else write its Unicode number.

    Powers of ten at logarithmic axes become plain numbers: matplotlib writes formulas there, and no text here is one.
    """
    axes = [axis for of_axes in figure.axes for axis in (of_axes.xaxis, of_axes.yaxis)]
    for axis in axes:
        if isinstance(axis.get_major_formatter(), LogFormatter):
            axis.set_major_formatter(lambda value, _: f"{value:g}")
        if isinstance(axis.get_minor_formatter(), LogFormatter):
            axis.set_minor_formatter(NullFormatter())
    texts = [found for found in figure.findobj(Text) if isinstance(found, Text)]
    # Words at ticks become texts when they are drawn.
    at_ticks = {axis: axis.get_major_formatter().format_ticks(axis.get_majorticklocs().tolist()) for axis in axes}
    words = [*(text.get_text() for text in texts), *(word for labels in at_ticks.values() for word in labels)]
    usual = find_font(FontProperties())
    missing = {letter for word in words for letter in word if ord(letter) > 127} - letters_of(usual)
    if not missing:
        return
    families = [get_font(usual).family_name]
    for entry in font_manager.fontManager.ttflist:
        if missing and "Last Resort" not in entry.name and not missing.isdisjoint(letters_of(entry.fname)):
            families.append(entry.name)
            missing -= letters_of(entry.fname)
    codes = {ord(letter): letter.encode("ascii", "backslashreplace").decode() for letter in missing}
    for text in texts:
        text.set_fontfamily(families)
        text.set_text(text.get_text().translate(codes))
    for axis, labels in at_ticks.items():
        axis.set_tick_params(labelfontfamily=families)
        if not "".join(labels).isascii() and isinstance(axis.get_major_locator(), FixedLocator):
            axis.set_major_formatter(FixedFormatter([label.translate(codes) for label in labels]))


@lru_cache(maxsize=1000)
def letters_of(path: str) -> frozenset[str]:
    """Return the letters that a font file has."""
    return frozenset(map(chr, get_font(path).get_charmap()))


def save(figure: Figure, stem: Path, formats: Iterable[str]) -> None:
    """Write a figure to `<stem>.<format>`; the same figure always gives the same bytes."""
    make_drawable(figure)
    # The layout is the same in all formats, and takes longer than drawing.
    if layout := figure.get_layout_engine():
        layout.execute(figure)
    figure.set_layout_engine("none")
    for suffix in formats:
        drawn = io.BytesIO()
        # Packing a picture as small as it gets takes longer than drawing it.
        packed: dict[str, Any] = {"pil_kwargs": {"compress_level": 2}} if suffix == "png" else {}
        figure.savefig(drawn, format=suffix, dpi=200, metadata=METADATA[suffix], **packed)
        replace_atomically(stem.with_name(f"{stem.name}.{suffix}"), drawn.getvalue())


def colour_of(data: str) -> str:
    """Return a data set's colour, the same in all figures."""
    return DATA_COLOURS.get(data) or OKABE_ITO[3 + sum(data.encode()) % 4]


def ordered_colour(index: int, number: int) -> str:
    """Return a colour of an ordered scale, without its lightest end, which paper swallows."""
    return to_hex(ORDERED(Normalize(0, max(1, number - 1))(index) * 0.88))
