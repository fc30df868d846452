"""How networks, states and runs look in a notebook: facts, a diagram of the tree, charts. All text is escaped."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from qcnn_lightning.figure_style import METADATA, OKABE_ITO, make_drawable, ordered_colour, styled

MOST_NODES = 64
"""Of a row of the diagram."""
ROW, WIDTH, RADIUS = 26, 520, 4.0


def facts_html(title: str, facts: Mapping[str, Any]) -> str:
    """Return a title and a table of two columns."""
    rows = "".join(
        f'<tr><th style="text-align:left">{escape(str(name))}</th>'
        f'<td style="text-align:left">{escape(str(value))}</td></tr>'
        for name, value in facts.items()
    )
    return (f"<b>{escape(title)}</b>" if title else "") + f"<table>{rows}</table>"


def tree_svg(channels: Sequence[int], num_classes: int, sharing: str) -> str:
    """Draw a tree tensor network: a row per level, from the pixels to the classes, with its nodes and its channels.

    Left and right children have two colours if each side has a matrix of its own. Rows of more than `MOST_NODES` nodes
    show that many, without lines.

    Args:
        channels: d_0 .. d_L, without the constant one.
        num_classes: how many states.
        sharing: "full", "sibling" or "mixed".
    """
    num_levels = len(channels) - 1
    there = [2 ** (num_levels - level) for level in range(num_levels + 1)]
    shown = [min(number, MOST_NODES) for number in there]
    height = ROW * (num_levels + 2)
    colours = (OKABE_ITO[0], OKABE_ITO[1] if sharing != "full" else OKABE_ITO[0])

    def x(level: int, node: int) -> float:
        return (node + 0.5) * WIDTH / shown[level]

    def y(level: int) -> float:
        return height - ROW * (level + 0.5)

    lines, nodes, words = [], [], []
    for level, number in enumerate(shown):
        radius = RADIUS if number < 32 else RADIUS / 2
        for node in range(number):
            if level < num_levels and number == there[level]:
                lines.append(
                    f'<line x1="{x(level, node):.1f}" y1="{y(level)}" x2="{x(level + 1, node // 2):.1f}" '
                    f'y2="{y(level + 1)}" stroke="{colours[node % 2]}"/>'
                )
            nodes.append(f'<circle cx="{x(level, node):.1f}" cy="{y(level)}" r="{radius}"/>')
        kind = "pixels" if level == 0 else "nodes" if number > 1 else "node"
        some = "" if number == there[level] else f" ({number} drawn)"
        told = f"{there[level]} {kind}, d{level} = {channels[level]}{some}"
        words.append(f'<text x="{WIDTH + 12}" y="{y(level) + 4}">{told}</text>')
    top = ROW / 2
    lines.append(f'<line x1="{WIDTH / 2}" y1="{y(num_levels)}" x2="{WIDTH / 2}" y2="{top}" stroke="{OKABE_ITO[2]}"/>')
    words.append(f'<text x="{WIDTH + 12}" y="{top + 4}">{num_classes} classes</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH + 220}" height="{height}" '
        f'viewBox="0 0 {WIDTH + 220} {height}" role="img" aria-label="tree of {2**num_levels} pixels" '
        f'font-family="sans-serif" font-size="11" fill="currentColor">{"".join(lines + nodes + words)}</svg>'
    )


def network_html(title: str, facts: Mapping[str, Any], channels: Sequence[int], num_classes: int, sharing: str) -> str:
    """Return the facts and the diagram of a tree tensor network."""
    return f"{facts_html(title, facts)}<div>{tree_svg(channels, num_classes, sharing)}</div>"


def state_html(state: Any) -> str:
    """Return a `NetworkState`'s facts, its diagram, its spectra and its pixels' entropies."""
    facts = state.facts() | {"mean EE (nats)": f"{state.entanglement_entropy().mean().item():.4g}"}
    tree = network_html("NetworkState", facts, state.channels, state.num_classes, state.sharing)
    return tree + figure_html(state_figure(state))


def state_figure(state: Any) -> Figure:
    """Draw a state: the Schmidt spectrum of every class, and the entropy of every pixel with the rest on the image.

    Args:
        state: a `NetworkState`. Without a layout, the pixels are drawn along the chain.
    """
    names = state.class_names or tuple(map(str, range(state.num_classes)))
    spectra = state.schmidt_spectrum().detach().cpu().numpy()
    pixels = state.block_entropies(0).detach().cpu()
    with styled():
        figure = Figure(figsize=(7.2, 2.9))
        left, right = figure.subplots(1, 2)
        for label, spectrum in enumerate(spectra):
            colour = ordered_colour(label, len(spectra))
            # Zeros, which were round-off, have no place on this axis.
            k = range(1, len(spectrum) + 1)
            left.semilogy(k, np.where(spectrum > 0, spectrum, np.nan), ".-", color=colour, label=names[label])
        left.set(xlabel="k", ylabel="Schmidt probability p_k", title="between the halves", ylim=(1e-16, 2))
        if len(names) <= 10:
            left.legend(fontsize=6, ncols=2)
        mean = pixels.mean(0)
        if state.layout is None:
            right.plot(mean.numpy(), linewidth=0.8)
            right.set(xlabel="site", ylabel="EE (nats)")
        else:
            picture = right.imshow(state.layout.on_image(mean).numpy(), cmap="viridis", vmin=0)
            figure.colorbar(picture, label="EE (nats)")
            right.set_axis_off()
        right.set_title("one pixel with the rest, mean of the classes")
    return figure


def png_of(figure: Figure) -> bytes:
    """Return a figure as PNG."""
    make_drawable(figure)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110, metadata=METADATA["png"])
    return drawn.getvalue()


def figure_html(figure: Figure) -> str:
    """Return a figure as an image inside a page."""
    return f'<div><img src="data:image/png;base64,{base64.b64encode(png_of(figure)).decode()}"></div>'
