"""Seconds until the test accuracy that the paper reports is reached: 97% on MNIST, 89% on Fashion-MNIST.

Ours is a whole run of `qcnn_lightning.train`: training, evaluation of training and test images with population
statistics and entropies after every epoch, all on the clock. The opponent is the paper's recipe (d = 18, AdamW,
learning rate 0.01 halved every ten epochs, batches of 50, PyTorch's start and running statistics) in the textbook's
loop, which evaluates the test images alone. One after the other on the same machine. Both are also asked for lower
accuracies, since the opponent may never get to the highest.

    python benchmarks/time_to_accuracy.py
    python benchmarks/time_to_accuracy.py --data mnist --limit 600
"""

import argparse
import tempfile
import time
from typing import Any

import torch
from hydra import compose, initialize_config_module
from rich.console import Console
from rich.table import Table

from machine import RESULTS, write_results
from qcnn_lightning import command_line  # noqa: F401  the configs use its resolvers
from qcnn_lightning.costs import SquaredDistance
from qcnn_lightning.data.datamodule import ImageDataModule
from qcnn_lightning.models.model import num_parameters
from qcnn_lightning.training.run import train
from textbook import TextbookQCNN

TARGETS = {"mnist": (0.90, 0.95, 0.96, 0.97), "fmnist": (0.80, 0.85, 0.87, 0.89)}
OURS = {
    "mnist": ("model.d=6", "trainer.max_epochs=2"),
    "fmnist": ("model.d=10", "trainer.max_epochs=8"),
}
FOR_BOTH = ("model.sharing=sibling", "data.flatten=z_left_right", "scheduler=one_cycle")
PAPER_EPOCHS, PAPER_D, PAPER_BATCH = 90, 18, 50
EVALUATION_BATCH = 1000

Curve = list[tuple[float, float]]


def configuration(data: str, arguments: argparse.Namespace, folder: str) -> Any:
    """Compose our fast run."""
    settings = [*FOR_BOTH, *OURS[data], f"seed={arguments.seed}", *arguments.set]
    with initialize_config_module("qcnn_lightning.conf", version_base="1.3"):
        return compose(
            "train",
            [f"data={data}", f"data.root={arguments.data_root}", "logger=none", f"run_dir={folder}", *settings],
        )


def ours(data: str, arguments: argparse.Namespace) -> tuple[Curve, int]:
    """Train ours; return seconds and test accuracy after every epoch, and the number of parameters."""
    with tempfile.TemporaryDirectory() as folder:
        record = train(configuration(data, arguments, folder))
    curve, seconds = [], 0.0
    for row in record.rows[1:]:
        seconds += row["time/epoch_s"]
        curve.append((seconds, row["accuracy/test"]))
    return curve, record.facts["num_parameters"]


def textbook(data: str, arguments: argparse.Namespace) -> tuple[Curve, int]:
    """Train the paper's recipe, until its last target, its last epoch or the limit; return the same."""
    with initialize_config_module("qcnn_lightning.conf", version_base="1.3"):
        config = compose("train", [f"data={data}", f"data.root={arguments.data_root}"])
    datamodule = ImageDataModule(**config.data)
    datamodule.prepare_data()
    datamodule.setup()
    splits = {split: (images.float() / 255, labels) for split, (images, labels) in datamodule.splits.items()}
    images, labels = splits["train"]
    torch.manual_seed(arguments.seed)
    network = TextbookQCNN(images.shape[1], datamodule.num_classes, PAPER_D)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=10, gamma=0.5)
    curve: Curve = []
    began = time.perf_counter()
    for _ in range(PAPER_EPOCHS):
        network.train()
        for chosen in torch.randperm(len(images)).split(PAPER_BATCH):
            optimizer.zero_grad()
            SquaredDistance()(network(images[chosen]), labels[chosen]).mean().backward()
            optimizer.step()
        schedule.step()
        accuracy = textbook_accuracy(network, *splits["test"])
        seconds = time.perf_counter() - began
        curve.append((seconds, accuracy))
        print(f"textbook, {data}: {seconds:.0f} s, {accuracy:.2%}", flush=True)
        if accuracy >= TARGETS[data][-1] or seconds > arguments.limit:
            break
    return curve, num_parameters(network)


@torch.no_grad()
def textbook_accuracy(network: TextbookQCNN, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the accuracy, with PyTorch's running statistics."""
    network.eval()
    scores = torch.cat([network(part) for part in images.split(EVALUATION_BATCH)])
    return (scores.abs().argmax(1) == labels).float().mean().item()


def first_reached(curve: Curve, target: float) -> float | None:
    """Return the seconds at which a curve first gets to an accuracy; None if it never does."""
    return next((seconds for seconds, accuracy in curve if accuracy >= target), None)


def main() -> None:
    """Train both, print a table, write the numbers."""
    parser = argparse.ArgumentParser(description="Time both until the paper's accuracy.")
    parser.add_argument("--data", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--who", nargs="+", choices=("ours", "textbook"), default=["ours", "textbook"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--limit", type=float, default=3600, help="seconds after which the textbook's epoch is its last"
    )
    parser.add_argument("--data-root", default="data")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="further settings of ours")
    parser.add_argument("--out", default=RESULTS / "time_to_accuracy.json", type=type(RESULTS))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    table = Table(box=None)
    for title in ("data", "who", "target", "seconds", "best"):
        table.add_column(title, justify="left" if title in ("data", "who") else "right")
    for data in arguments.data:
        for who in arguments.who:
            curve, parameters = (ours if who == "ours" else textbook)(data, arguments)
            reached = {f"{target:.0%}": first_reached(curve, target) for target in TARGETS[data]}
            rows.append(
                {
                    "data": data,
                    "who": who,
                    "threads": arguments.threads,
                    "seed": arguments.seed,
                    "parameters": parameters,
                    "settings": [*FOR_BOTH, *OURS[data], *arguments.set] if who == "ours" else [],
                    "seconds_to": reached,
                    "curve": curve,
                }
            )
            write_results(arguments.out, rows)
            for target, seconds in reached.items():
                best = max(accuracy for _, accuracy in curve)
                table.add_row(data, who, target, "never" if seconds is None else f"{seconds:.0f}", f"{best:.2%}")
    Console().print(table)


if __name__ == "__main__":
    main()
