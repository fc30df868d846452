"""A figure in a page: its words stay words, and its curves can be read off again."""

import re
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

from qcnn_lightning.report.layout import wrapped
from qcnn_lightning.report.svg import PAGE_STYLE, chart_of

SHAPES = {"svg", "g", "path", "defs", "use", "rect", "clipPath"}
TEXT = "{http://www.w3.org/2000/svg}text"


def figure_with(title, x=(0, 1), y=(0, 1), **look):
    with mpl.rc_context(PAGE_STYLE):
        figure = Figure(figsize=(4, 3))
        axes = figure.subplots()
        axes.plot(x, y, gid="r7", **look)
        axes.set_title(wrapped(title, 10.0))
    return figure


@pytest.mark.parametrize(
    "title",
    [
        "</svg><script>alert(1)</script>",
        'style="font: 8px serif',
        '<g id="a"> <!-- b --> <style>*{}</style>',
        r"$\frac{1}{0}$ and $ alone",
        "&amp; &lt; \" '",
        "{{ script }} %(x)s \\1",
    ],
)
def test_words_stay_words(title):
    # In a page, HTML's parser knows both names.
    names = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    drawn = ElementTree.fromstring(chart_of(figure_with(title)).svg.replace("<svg", names, 1))
    assert title in ["".join(text.itertext()).strip() for text in drawn.iter(TEXT)]
    assert {element.tag.rpartition("}")[2] for element in drawn.iter()} <= SHAPES | {"text"}


def test_a_marked_curve_is_a_path_of_its_own_with_all_its_finite_points():
    x, y = np.arange(50.0), np.sin(np.arange(50.0))
    y[10] = np.nan
    chart = chart_of(figure_with("", x, y, linestyle="--", marker="o"))
    assert chart.marks == {"r7"}
    line, dots = (re.search(rf'class="r7 {kind}" d="([^"]*)"', chart.svg)[1] for kind in ("dashed", "dots"))
    assert len(re.findall(r"-?\d+", line)) == 2 * 49
    assert dots.count("h0") == 49
    width, height = map(float, re.search(r'class="data".*?viewBox="0 0 (\d+) (\d+)"', chart.svg).groups())
    low, high = map(float, re.search(r'data-y="(\S+) (\S+) linear"', chart.svg).groups())
    steps = np.array(re.findall(r"-?\d+", line), dtype=float).reshape(-1, 2).cumsum(axis=0)
    assert low + (high - low) * (1 - steps[:, 1] / height) == pytest.approx(y[np.isfinite(y)], abs=0.002)
    assert width > 0


def test_the_same_figure_gives_the_same_text_and_names_no_address():
    first, second = (chart_of(figure_with("a")).svg for _ in range(2))
    assert first == second
    assert "http" not in first
