"""How much entropies and accuracy depend on the training images whose statistics fix the network.

    python benchmarks/population_sample.py "multirun/reproduction/data=mnist,model.d=18,seed=2" ...

fixes the statistics of each run's last network with samples of several sizes, drawn several times, and measures the
mean entropy over classes of half the image against the other half, and the test accuracy.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from rich.console import Console
from rich.table import Table
from torch import Tensor

from machine import RESULTS, write_results
from qcnn_lightning import QCNN, NetworkState
from qcnn_lightning.data.datamodule import ImageDataModule
from qcnn_lightning.evaluation.evaluate import last_checkpoint
from qcnn_lightning.runs.rebuild import network_of
from qcnn_lightning.runs.settings import without_paths
from qcnn_lightning.training.run import ignore_hints

SIZES = (512, 2048, 8192, 32768)
IMAGES_AT_A_TIME = 1000


@torch.no_grad()
def measure(folder: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row per size of the sample: entropies (nats), accuracies and largest scores, one of each draw."""
    checkpoint = last_checkpoint(folder)
    network, settings = network_of(checkpoint), without_paths(checkpoint.config)
    places = {"root": arguments.data_root, "cache": f"{arguments.data_root}/cache"}
    datamodule = ImageDataModule(**settings["data"], **places)
    datamodule.prepare_data()
    datamodule.setup()
    (images, _), (test_images, labels) = datamodule.splits["train"], datamodule.splits["test"]
    rows = []
    for size in SIZES:
        of_draws: dict[str, list[float]] = {"ee": [], "accuracy": [], "largest_score": []}
        for draw in range(arguments.draws):
            chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(draw))[:size]
            network.fix_population_statistics(images[chosen])
            of_draws["ee"].append(NetworkState.from_network(network).entanglement_entropy().mean().item())
            right = scores(network, test_images).abs().argmax(1) == labels
            of_draws["accuracy"].append(right.double().mean().item())
            of_draws["largest_score"].append(scores(network, images).abs().max().item())
        rows.append({"data": settings["data"]["name"], "run": folder.name, "size": size, **of_draws})
    return rows


def scores(network: QCNN, images: UInt8[Tensor, "images sites"]) -> Float[Tensor, "images classes"]:
    """Return the scores of all images."""
    return torch.cat([network(part) for part in images.split(IMAGES_AT_A_TIME)])


def main() -> None:
    """Measure every run, print a table, write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders with a checkpoint")
    parser.add_argument("--draws", type=int, default=10, help="samples of each size")
    parser.add_argument("--data-root", default="data")
    arguments = parser.parse_args()
    ignore_hints()
    rows = [row for folder in arguments.runs for row in measure(folder, arguments)]
    write_results(RESULTS / "population_sample.json", rows)
    table = Table("data", "images", "EE (nats)", "sd", "test accuracy", "sd", "largest train score", box=None)
    for row in rows:
        entropies, accuracies = row["ee"], row["accuracy"]
        table.add_row(
            row["data"],
            f"{row['size']}",
            f"{statistics.mean(entropies):.3f}",
            f"{statistics.stdev(entropies):.3f}",
            f"{statistics.mean(accuracies):.2%}",
            f"{statistics.stdev(accuracies):.2%}",
            f"{max(row['largest_score']):.3g}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
