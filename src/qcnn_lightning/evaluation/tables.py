"""An evaluation on the terminal: its numbers as tables, and the folder of its files."""

import math
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from qcnn_lightning.evaluation.measure import LARGEST_DISAGREEMENT, Evaluation
from qcnn_lightning.job_table import plain_console

# In a file or a pipe rich would fold lines to 80 columns.
WIDTH_IN_A_PIPE = 400
MOST_CLASSES = 25


def show_evaluation(evaluation: Evaluation, folder: Path, console: Console | None = None) -> None:
    """Print the tables of an evaluation.

    Args:
        evaluation: what was measured.
        folder: its folder.
        console: where to print; None for the standard output.
    """
    if console is None:
        console = plain_console()
        if not console.is_terminal:
            console.width = WIDTH_IN_A_PIPE
    classification, entanglement = evaluation.classification, evaluation.entanglement
    names = evaluation.class_names
    console.print(
        f"{len(classification.labels)} {evaluation.split} images: cost {classification.cost:.4f}, "
        f"accuracy {classification.accuracy:.2%}",
        style="bold",
        soft_wrap=True,
    )
    if not classification.disagreement <= LARGEST_DISAGREEMENT:
        console.print(
            f"warning: scores and amplitudes differ by {classification.disagreement:.2g} of the largest amplitude: the "
            "network classifies by round-off, which its states do not have, so their entropies say nothing about it",
            style="bold red",
            soft_wrap=True,
        )
    if entanglement is not None:
        console.print(f"mean entanglement entropy {entanglement.entropy.mean():.4f} nats")
    spearman, p_value = evaluation.entropy_and_error
    if math.isfinite(spearman):
        console.print(f"Spearman's correlation of entropies and error rates {spearman:.2f} (p = {p_value:.2g})")
    columns = {
        "images": [f"{value}" for value in classification.class_sizes.tolist()],
        "accuracy": [f"{value:.2%}" for value in classification.class_accuracies.tolist()],
        "mean p(y|x)": [f"{value:.4f}" for value in classification.class_probabilities.tolist()],
    }
    if entanglement is not None:
        columns |= {
            "EE (nats)": [f"{value:.6f}" for value in entanglement.entropy.tolist()],
            "Rényi-2 (nats)": [f"{value:.6f}" for value in entanglement.renyi_2.tolist()],
            "effective rank": [f"{value:.3f}" for value in entanglement.effective_schmidt_rank.tolist()],
            "log norm": [f"{value:.4f}" for value in entanglement.log_norm.tolist()],
        }
        if entanglement.mean_order is not None:
            columns["pixels in a term"] = [f"{value:.3f}" for value in entanglement.mean_order.tolist()]
    tables = [table("class", names, columns)]
    if entanglement is not None and entanglement.block_entropies:
        profile = {
            f"{size}": [f"{value:.4f}" for value in entropies]
            for size, entropies in zip(entanglement.block_sizes, entanglement.profile.T.tolist(), strict=True)
        }
        tables.append(table("entropy (nats) of blocks of ... sites", names, profile))
    if len(names) <= MOST_CLASSES:
        matrices = {
            "images taken for": [[f"{value}" for value in row] for row in classification.confusion.T.tolist()],
        }
        if entanglement is not None:
            overlaps = [[f"{value:.3f}" for value in row] for row in entanglement.overlaps.T.tolist()]
            matrices = {"overlap": overlaps} | matrices
        for title, rows in matrices.items():
            tables.append(table(title, names, dict(zip(names, rows, strict=True))))
    for shown in tables:
        console.print()
        console.print(shown)
    console.print()
    console.print(Text(f"numbers and figures: {folder}"), soft_wrap=True)


def table(title: str, names: Sequence[str], columns: dict[str, list[str]]) -> Table:
    """Return a table with a row for every class."""
    result = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    result.add_column(Text(title), no_wrap=True)
    for heading in columns:
        result.add_column(Text(heading), justify="right", no_wrap=True)
    for name, *cells in zip(names, *columns.values(), strict=True):
        result.add_row(Text(name), *cells)
    return result
