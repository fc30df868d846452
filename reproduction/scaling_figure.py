"""Time and memory of training against the size of the problem: a figure of what `benchmarks/scaling.py` measured."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

PAPER = {"num_sites": 256, "d": 18, "batch_size": 50, "num_classes": 10}
"""The paper's network: where the curves cross."""
TITLES = {"num_sites": "pixels N", "d": "channel multiplier d", "batch_size": "batch size", "num_classes": "classes"}


def scaling_figure(rows: Sequence[dict[str, Any]]) -> Figure:
    """Draw milliseconds of a training step, logarithmically, and MiB of peak memory along every curve.

    Proportionality through the paper's point is a dotted line.

    Args:
        rows: of every point: `curve`, the quantity of `TITLES` that varies along it; all four quantities; `step_ms` and
            `peak_mib`.
    """
    curves = list(dict.fromkeys(row["curve"] for row in rows))
    figure = Figure(figsize=(9, 4.6))
    axes = figure.subplots(2, len(curves), sharex="col", sharey="row", squeeze=False)
    for column, variable in enumerate(curves):
        points = [row for row in rows if row["curve"] == variable]
        values = [row[variable] for row in points]
        for axis, quantity in zip(axes[:, column], ("step_ms", "peak_mib"), strict=True):
            axis.plot(values, [row[quantity] for row in points], "o-")
            axis.set_xscale("log")
            axis.set_xticks(values, [f"{value}" for value in values])
            axis.set_xticks([], minor=True)
        own = next(row["step_ms"] for row in points if row[variable] == PAPER[variable])
        axes[0, column].plot(values, [own * value / PAPER[variable] for value in values], ":", color="gray")
        axes[0, column].set_yscale("log")
        axes[1, column].set_xlabel(TITLES[variable])
    axes[1, 0].set_ylim(0, 1.1 * max(row["peak_mib"] for row in rows))
    axes[0, 0].set_ylabel("training step, ms")
    axes[1, 0].set_ylabel("peak memory of the process, MiB")
    return figure
