"""What the figures of an evaluation share: a panel, a row or a cell for every class, and the network's name."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from qcnn_lightning.evaluation.measure import Evaluation
from qcnn_lightning.labels import caption, class_label, data_name, setting

MOST_CLASSES_WITH_NUMBERS = 20
PANELS_IN_A_ROW = 5


def class_panels(number: int, height: float, **shared: Any) -> tuple[Figure, list[Axes]]:
    """Return a figure with a panel for every class."""
    columns = min(PANELS_IN_A_ROW, number)
    rows = -(-number // columns)
    figure = Figure(figsize=(max(5.2, 1.75 * columns), 1.0 + height * rows))
    panels = list(figure.subplots(rows, columns, squeeze=False, **shared).flat)
    for axes in panels[number:]:
        axes.remove()
    return figure, panels[:number]


def class_rows(names: Sequence[str], columns: int) -> tuple[Figure, list[Axes]]:
    """Return a figure with a row for every class, the first one on top, in one or several columns."""
    figure = Figure(figsize=(3.2 + 2.6 * columns, max(2.2, 1.0 + 0.24 * len(names))))
    panels = list(figure.subplots(1, columns, squeeze=False, sharey=True).flat)
    for axes in panels:
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
    panels[0].set_ylabel("class")
    return figure, panels


def matrix_figure(evaluation: Evaluation) -> tuple[Figure, Axes]:
    """Return a figure for a matrix of classes by classes."""
    names = class_labels(evaluation)
    number = len(names)
    side = max(3.0, 0.42 * number)
    figure = Figure(figsize=(side + 1.6, side + 0.9))
    axes = figure.subplots()
    axes.set_xticks(range(number), names)
    if max(map(len, names)) > 3:
        axes.tick_params(axis="x", labelrotation=45)
        for text in axes.get_xticklabels():
            text.set(ha="right", rotation_mode="anchor")
    axes.set_yticks(range(number), names)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    return figure, axes


def write_numbers(
    axes: Axes, matrix: np.ndarray, form: Callable[[Any], str], dark: np.ndarray, skip: np.ndarray
) -> None:
    """Write the entries of a matrix into its cells, in white on dark ones; none if they are too many."""
    if len(matrix) > MOST_CLASSES_WITH_NUMBERS:
        return
    for (row, column), value in np.ndenumerate(matrix):
        if not skip[row, column]:
            colour = "white" if dark[row, column] else "black"
            axes.text(column, row, form(value), ha="center", va="center", fontsize=6.5, color=colour)


def is_chain(image: np.ndarray) -> bool:
    """Return whether an image is one row or column of pixels; it then has no outline."""
    return min(image.shape) == 1


def aspect_of(image: np.ndarray) -> Literal["auto", "equal"]:
    """Return how to draw pixels: square, but stretched for a chain, which would be a hairline."""
    return "auto" if is_chain(image) else "equal"


def bare(axes: Axes) -> None:
    """Take ticks and grid away from an image."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)


def class_labels(evaluation: Evaluation) -> list[str]:
    """Return the classes' names, short enough to stand beside one another."""
    return [class_label(name) for name in evaluation.class_names]


def subject(evaluation: Evaluation) -> str:
    """Name the network that is shown, with the seed that it was trained from."""
    model, data = evaluation.model, evaluation.data
    return caption(
        data_name(data["name"]),
        setting("data.flatten", data["flatten"]),
        "" if model.get("class") == "QCNN" else model.get("class", ""),
        *(setting(f"model.{name}", model[name]) for name in ("d", "bond", "sharing") if name in model),
        *(setting("seed", data["seed"]) for _ in range(data.get("seed") is not None)),
        "" if evaluation.epoch is None else f"epoch {evaluation.epoch}",
    )
