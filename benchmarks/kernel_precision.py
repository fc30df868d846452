"""How exact float32 is: every kernel's scores and gradients of one batch against the plain kernel's in float64.

Errors are norms relative to the norm of what is right. The network is measured at its start and after some steps.

    python benchmarks/kernel_precision.py
"""

import argparse
import itertools
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from machine import RESULTS, write_results
from qcnn_lightning import QCNN
from qcnn_lightning.costs import SquaredDistance
from qcnn_lightning.data.datamodule import ImageDataModule

KERNELS = {
    "plain": {"kernel": "plain"},
    "fused, highest": {"kernel": "fused", "precision": "highest"},
    "fused, high": {"kernel": "fused", "precision": "high"},
}
BATCH = 50


def scores_and_gradients(network: QCNN, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scores of a batch and the gradient of its cost by all parameters, flat, both in float64."""
    network.zero_grad()
    scores = network(images)
    SquaredDistance()(scores, labels).mean().backward()
    gradients = [parameter.grad.flatten() for parameter in network.parameters()]
    return scores.detach().double(), torch.cat(gradients).double()


def errors(trained: QCNN, settings: dict[str, Any], images: Tensor, labels: Tensor) -> dict[str, dict[str, float]]:
    """Return the relative errors of scores and gradient of every kernel in float32."""
    state = trained.state_dict()
    found = {}
    for kernel in ("exact", *KERNELS):
        network = QCNN(256, 10, **KERNELS.get(kernel, KERNELS["plain"]), **settings)
        network.to(torch.float64 if kernel == "exact" else torch.float32).load_state_dict(state)
        found[kernel] = scores_and_gradients(network, images, labels)
    return {
        kernel: {
            name: ((found[kernel][place] - exact).norm() / exact.norm()).item()
            for place, (name, exact) in enumerate(zip(("scores", "gradient"), found["exact"], strict=True))
        }
        for kernel in KERNELS
    }


def main() -> None:
    """Measure, print a table, write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d", type=int, default=18)
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 400])
    parser.add_argument("--data-root", default="data")
    parser.add_argument("--output", type=Path, default=RESULTS / "kernel_precision.json")
    arguments = parser.parse_args()
    data = ImageDataModule(
        name="fmnist",
        root=arguments.data_root,
        cache=f"{arguments.data_root}/cache",
        size=16,
        flatten="left_right",
        val_size=0,
        batch_size=BATCH,
        seed=0,
    )
    data.prepare_data()
    data.setup()
    images, labels = data.splits["train"]
    rows = []
    table = Table(
        "start", "sharing", "steps", *(f"{kernel}: {name}" for kernel in KERNELS for name in ("scores", "gradient"))
    )
    for start, sharing in itertools.product(("product_state", "default"), ("full", "sibling")):
        settings = {"d": arguments.d, "start": start, "sharing": sharing}
        torch.manual_seed(0)
        network = QCNN(256, 10, **settings)
        optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
        done = 0
        for steps in arguments.steps:
            while done < steps:
                chosen = torch.randint(len(images), (BATCH,))
                optimizer.zero_grad()
                SquaredDistance()(network(images[chosen]), labels[chosen]).mean().backward()
                optimizer.step()
                done += 1
            measured = errors(network, settings, images[:BATCH], labels[:BATCH])
            rows.append({"start": start, "sharing": sharing, "steps": steps, "errors": measured})
            cells = (f"{measured[kernel][name]:.0e}" for kernel in KERNELS for name in ("scores", "gradient"))
            table.add_row(start, sharing, str(steps), *cells)
    Console(width=160).print(table)
    write_results(arguments.output, rows)


if __name__ == "__main__":
    main()
