"""Whole epochs of the project's training against the textbook's loop and the matrix-product floor.

One process, one run, alternating: Lightning's real loop trains a whole epoch with data, logging, evaluation and
entropies, and every few steps is interrupted, off its clock, to time some steps of the textbook, some of the bare loop
(the same network without Lightning) and a large matrix product. What else the machine does slows all of them.

    python benchmarks/throughput.py                                   # d = 2, 18, 40, both sharings, 1 and 2 threads
    python benchmarks/throughput.py --d 18 --sharing full --threads 2 --data fmnist mnist
    python benchmarks/throughput.py --precision highest --output benchmarks/results/throughput_highest.json

With --precision highest the matrix units are not used: the figures are those of a processor that has none.
"""

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_module
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from machine import RESULTS, write_results
from qcnn_lightning import QCNN, command_line  # noqa: F401  the configs use its resolvers
from qcnn_lightning.costs import SquaredDistance
from qcnn_lightning.kernels.kernel import AutogradKernel
from qcnn_lightning.training.module import Classifier
from qcnn_lightning.training.run import train
from textbook import TextbookQCNN

ROWS: list[dict[str, Any]] = []
EVALUATION_BATCH = 1000
MATRIX = 1024


def floor_flop(network: QCNN, batch: int) -> int:
    """Floating-point operations of the matrix products of levels 1 .. L - 1, forward and twice backward."""
    sites = [network.num_sites >> level for level in range(network.num_levels)]
    widths = list(pairwise(network.channels))
    return 6 * batch * sum(n * a * b for n, (a, b) in list(zip(sites, widths, strict=True))[1:])


class Slice:
    """A loop that is run a few steps at a time, and its clock.

    Args:
        steps: endless; every `next` does one step.
    """

    def __init__(self, steps: Iterator[None]):
        self.steps = steps
        self.seconds: list[float] = []
        next(steps)

    def run(self, count: int) -> None:
        """Do some steps and note the seconds of one."""
        start = time.perf_counter()
        for _ in range(count):
            next(self.steps)
        self.seconds.append((time.perf_counter() - start) / count)


def plain_loop(
    network: nn.Module, images: Tensor, labels: Tensor, batch: int, optimizer: torch.optim.Optimizer
) -> Iterator[None]:
    """Train without end: the loop that PyTorch's tutorials write."""
    while True:
        for chosen in torch.randperm(len(images)).split(batch):
            optimizer.zero_grad()
            SquaredDistance()(network(images[chosen]), labels[chosen]).mean().backward()
            optimizer.step()
            yield


def bare_loop(
    network: QCNN, images: Tensor, labels: Tensor, batch: int, optimizer: torch.optim.Optimizer
) -> Iterator[None]:
    """Train without end, as the project does, but without Lightning."""
    while True:
        for chosen in torch.randperm(len(images)).split(batch):
            kernel = network.fast_kernel(images[chosen]) or AutogradKernel(network)
            kernel.backpropagate(SquaredDistance(), images[chosen], labels[chosen])
            optimizer.step()
            yield


@torch.no_grad()
def evaluation_loop(network: nn.Module, images: Tensor) -> Iterator[None]:
    """Score without end."""
    while True:
        for part in images.split(EVALUATION_BATCH):
            network.eval()
            network(part)
            network.train()
            yield


def matrix_products() -> Iterator[None]:
    """Multiply without end."""
    a, b = torch.rand(2, MATRIX, MATRIX)
    c = torch.empty(MATRIX, MATRIX)
    while True:
        torch.mm(a, b, out=c)
        yield


class Alternation(pl.Callback):
    """Interrupts Lightning's loop to time the others, and writes a row when the epoch is over.

    Args:
        pauses: how often to interrupt it.
        textbook_share: part of an epoch's steps that the textbook does in all.
        bare_share: the same for the bare loop.
    """

    def __init__(self, pauses: int, textbook_share: float, bare_share: float):
        self.pauses, self.textbook_share, self.bare_share = pauses, textbook_share, bare_share
        self.paused = 0.0
        self.own_steps: list[float] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prepare the others, from the same data."""
        assert isinstance(pl_module, Classifier)
        network = pl_module.network
        images, labels = trainer.datamodule.splits["train"]
        (images_of_batch, _), *_ = next(iter(trainer.train_dataloader))
        self.batch = len(images_of_batch)
        self.steps = pl_module.total_steps
        self.every = max(self.steps // self.pauses, 1)
        sharing = "sibling" if len(network.levels[0].weight) == 2 else "full"
        textbook = TextbookQCNN(network.num_sites, network.num_classes, network.channels[0], sharing)
        bare = QCNN(
            network.num_sites,
            network.num_classes,
            network.channels[0],
            sharing=sharing,
            precision=network.precision,
        )
        floats = images.float() / 255
        self.slices = {
            "textbook_step": Slice(
                plain_loop(textbook, floats, labels, self.batch, torch.optim.AdamW(textbook.parameters()))
            ),
            "bare_step": Slice(
                bare_loop(bare, images, labels, self.batch, torch.optim.AdamW(bare.parameters(), fused=True))
            ),
            "textbook_evaluation": Slice(evaluation_loop(textbook, floats)),
            "matrix_product": Slice(matrix_products()),
        }
        self.counts = {
            "textbook_step": max(round(self.every * self.textbook_share), 2),
            "bare_step": max(round(self.every * self.bare_share), 2),
            "textbook_evaluation": 1,
            "matrix_product": 2,
        }

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clocks."""
        self.began = self.resumed = time.perf_counter()
        self.steps_done = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Interrupt."""
        steps = trainer.global_step - self.steps_done
        if steps < self.every:
            return
        stopped = time.perf_counter()
        self.own_steps.append((stopped - self.resumed) / steps)
        self.steps_done = trainer.global_step
        for name, others in self.slices.items():
            others.run(self.counts[name])
        self.resumed = time.perf_counter()
        self.paused += self.resumed - stopped

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note when training ended and evaluation began."""
        self.evaluation_began = time.perf_counter()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the row."""
        assert isinstance(pl_module, Classifier)
        ended = time.perf_counter()
        seconds = {name: statistics.median(others.seconds) for name, others in self.slices.items()}
        evaluated = sum(len(labels) for _, labels in trainer.datamodule.splits.values())
        rate = 2 * MATRIX**3 / seconds["matrix_product"]
        textbook = sum(self.slices["textbook_step"].seconds) / len(self.slices["textbook_step"].seconds)
        own = sum(self.own_steps) / len(self.own_steps)
        training = own * self.steps
        evaluation = ended - self.evaluation_began
        textbook_epoch = textbook * self.steps
        textbook_evaluation = seconds["textbook_evaluation"] * evaluated / EVALUATION_BATCH
        floor = floor_flop(pl_module.network, self.batch) / rate
        ROWS.append(
            {
                "step_ms": 1e3 * own,
                "bare_step_ms": 1e3 * seconds["bare_step"],
                "textbook_step_ms": 1e3 * textbook,
                "floor_step_ms": 1e3 * floor,
                "matrix_product_gflop_per_s": rate / 1e9,
                "epoch_s": ended - self.began - self.paused,
                "evaluation_s": evaluation,
                "textbook_epoch_s": textbook_epoch,
                "textbook_evaluation_s": textbook_evaluation,
                "floor_epoch_s": floor * self.steps,
                "evaluation_to_training": evaluation / training,
                "steps": self.steps,
            }
        )


def measure(data: str, d: int, sharing: str, threads: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train one epoch of one case; return its row."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder, initialize_config_module("qcnn_lightning.conf", version_base="1.3"):
        overrides = [
            f"data={data}",
            f"model.d={d}",
            f"model.sharing={sharing}",
            f"model.precision={arguments.precision}",
            f"logger={arguments.logger}",
            f"run_dir={folder}",
            "sweep.name=throughput",
            "trainer.max_epochs=1",
            "+callbacks.alternation._target_=__main__.Alternation",
            f"+callbacks.alternation.pauses={arguments.pauses}",
            f"+callbacks.alternation.textbook_share={arguments.textbook_share}",
            f"+callbacks.alternation.bare_share={arguments.bare_share}",
        ]
        train(compose("train", overrides))
    return {"data": data, "d": d, "sharing": sharing, "threads": threads} | ROWS[-1]


COLUMNS: dict[str, Callable[[dict[str, Any]], str]] = {
    "data": lambda row: row["data"],
    "d": lambda row: str(row["d"]),
    "sharing": lambda row: row["sharing"],
    "threads": lambda row: str(row["threads"]),
    "step, ms": lambda row: f"{row['step_ms']:.2f}",
    "without Lightning": lambda row: f"{row['bare_step_ms']:.2f}",
    "textbook": lambda row: f"{row['textbook_step_ms']:.2f}",
    "floor": lambda row: f"{row['floor_step_ms']:.2f}",
    "epoch, s": lambda row: f"{row['epoch_s']:.2f}",
    "textbook loop": lambda row: f"{row['textbook_epoch_s']:.2f}",
    "faster": lambda row: f"{row['textbook_epoch_s'] / row['epoch_s']:.2f}x",
    "faster, both evaluating": lambda row: (
        f"{(row['textbook_epoch_s'] + row['textbook_evaluation_s']) / row['epoch_s']:.2f}x"
    ),
    "over floor": lambda row: f"{row['epoch_s'] / row['floor_epoch_s']:.2f}x",
    "evaluation": lambda row: f"{row['evaluation_to_training']:.1%}",
}


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print the rows; "evaluation" is that of all images, statistics and entropies, as part of the training's time."""
    table = Table(*COLUMNS)
    for row in rows:
        table.add_row(*(cell(row) for cell in COLUMNS.values()))
    Console(width=None if os.isatty(1) else 200).print(table)


def main() -> None:
    """Measure all cases that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["fmnist"])
    parser.add_argument("--d", nargs="+", type=int, default=[2, 18, 40])
    parser.add_argument("--sharing", nargs="+", default=["full", "sibling"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--precision", default="high", choices=("high", "highest"))
    parser.add_argument("--pauses", type=int, default=20, help="how often the epoch is interrupted")
    parser.add_argument("--textbook-share", type=float, default=0.25, help="part of an epoch that the textbook does")
    parser.add_argument("--bare-share", type=float, default=0.25, help="part of an epoch that the bare loop does")
    parser.add_argument("--logger", default="wandb", help="as in conf/logger; W&B is kept offline")
    parser.add_argument("--output", type=Path, default=RESULTS / "throughput.json")
    arguments = parser.parse_args()
    os.environ["WANDB_MODE"] = "offline"
    rows = []
    for case in itertools.product(arguments.data, arguments.d, arguments.sharing, arguments.threads):
        rows.append(measure(*case, arguments))
        print_table(rows[-1:])
        write_results(arguments.output, rows)
    print_table(rows)


if __name__ == "__main__":
    main()
