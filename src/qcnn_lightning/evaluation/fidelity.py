"""How training moves the states: their fidelity between epochs (theory.md, eq. E1)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from qcnn_lightning.figure_style import save, styled

FIDELITY = "epoch_fidelity"


def fidelity_between_epochs(
    states: Mapping[int, Any],
) -> Float[Tensor, "epochs epochs"]:
    """Return the mean over the classes of |<Psi_y|Psi'_y>|^2, normalised, for every two epochs in ascending order.

    Args:
        states: of every epoch; their `overlaps(other)` compares them.
    """
    ordered: list[Any] = [states[epoch] for epoch in sorted(states)]
    result = torch.ones(len(ordered), len(ordered), dtype=torch.float64)
    for row, state in enumerate(ordered):
        for column, other in enumerate(ordered[:row]):
            fidelity = state.overlaps(other).diagonal().abs().square().mean()
            result[row, column] = result[column, row] = fidelity
    return result


def draw_fidelity(states: Mapping[int, Any], folder: Path, formats: Sequence[str]) -> None:
    """Draw the fidelity between epochs into a folder."""
    epochs = sorted(states)
    fidelity = fidelity_between_epochs(states).numpy()
    with styled():
        figure = Figure(figsize=(4.4, 3.7))
        axes = figure.subplots()
        image = axes.pcolormesh(
            range(len(epochs) + 1), range(len(epochs) + 1), fidelity, cmap="viridis", vmin=0, vmax=1
        )
        shown = range(0, len(epochs), max(1, len(epochs) // 6))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks([place + 0.5 for place in shown], [str(epochs[place]).replace("-", "−") for place in shown])
        axes.set_aspect("equal")
        axes.grid(visible=False)
        axes.set_xlabel("epoch; −1 is before training" if epochs[0] < 0 else "epoch")
        axes.set_ylabel("epoch")
        figure.colorbar(image, ax=axes, label="fidelity, mean over the classes")
        figure.suptitle("Fidelity of the states between epochs")
        save(figure, folder / FIDELITY, formats)
