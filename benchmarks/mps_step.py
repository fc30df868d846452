"""One training step of a matrix product state: ours against TensorKrowch's MPSLayer and a plain sweep with autograd.

256 sites, 3 local functions, bond 20, ten classes in the middle, batches of 50: 309 000 and 311 000 parameters.
Forward, squared distance, backward, AdamW. All take turns in one process, a few steps each, so what else the machine
does slows all of them; the ratio is of medians.

    pip install tensorkrowch
    python benchmarks/mps_step.py [--threads 1 2] [--rounds 10]
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import tensorkrowch as tk
import torch
from torch import Tensor, nn

from machine import RESULTS, write_results
from qcnn_lightning import MPS
from qcnn_lightning.costs import NegativeLogLikelihood, SquaredDistance
from qcnn_lightning.models.model import num_parameters

SITES, LOCAL, BOND, CLASSES, BATCH = 256, 3, 20, 10, 50


class PlainSweep(nn.Module):
    """The same network as `MPS`, an operation of PyTorch's after the other, with autograd."""

    def __init__(self, network: MPS):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores."""
        ends, sites = self.network._tensors()
        features = self.network.represent(x)
        vector = features[0] @ ends
        for functions, site in zip(features[1:], sites, strict=True):
            vector = torch.einsum("abk,abo,akoi->abi", functions, vector, site)
        return torch.einsum("bl,lyr,br->by", vector[0], self.network._classes(), vector[1])


class TensorKrowch(nn.Module):
    """TensorKrowch's layer on the same local functions; traced, as its manual says."""

    def __init__(self, network: MPS):
        super().__init__()
        self.represent = network.represent
        self.layer = tk.models.MPSLayer(
            n_features=SITES + 1, in_dim=LOCAL, out_dim=CLASSES, bond_dim=BOND, out_position=SITES // 2,
            init_method="randn_eye", std=1e-3,
        )  # fmt: skip
        self.layer.auto_stack, self.layer.auto_unbind = True, False
        self.layer.trace(torch.zeros(1, SITES, LOCAL))

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores."""
        left, right = self.represent(x).unbind(1)
        return self.layer(torch.cat((left, right.flip(0))).transpose(0, 1))


def step_of(network: nn.Module, scores: Callable[[Tensor], Tensor], cost: Any) -> Callable[[], None]:
    """Return a training step on a batch of random images."""
    images = torch.randint(256, (BATCH, SITES), dtype=torch.uint8)
    labels = torch.randint(CLASSES, (BATCH,))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        cost(scores(images), labels).mean().backward()
        optimizer.step()

    return step


def measure(threads: int, rounds: int, steps: int) -> list[dict[str, Any]]:
    """Let all take turns; return a row for each."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    ours, density = (MPS(SITES, CLASSES, bond=BOND, d=LOCAL - 1) for _ in range(2))
    plain, theirs = PlainSweep(MPS(SITES, CLASSES, bond=BOND, d=LOCAL - 1)), TensorKrowch(ours)
    taking_turns = {
        "qcnn_lightning.MPS": (ours, step_of(ours, ours, SquaredDistance())),
        "qcnn_lightning.MPS, negative log likelihood": (
            density,
            step_of(density, density.log_joint, NegativeLogLikelihood()),
        ),
        "a plain sweep with autograd": (plain, step_of(plain, plain, SquaredDistance())),
        "tensorkrowch.MPSLayer": (theirs.layer, step_of(theirs, theirs, SquaredDistance())),
    }
    elapsed: dict[str, list[float]] = {name: [] for name in taking_turns}
    processor: dict[str, list[float]] = {name: [] for name in taking_turns}
    for _ in range(rounds + 1):
        for name, (network, step) in taking_turns.items():
            around = network.around_training() if isinstance(network, MPS) else nullcontext()
            start, used = time.perf_counter(), time.process_time()
            with around:
                for _ in range(steps):
                    step()
            elapsed[name].append((time.perf_counter() - start) / steps)
            processor[name].append((time.process_time() - used) / steps)
    # The first round warms up.
    medians = {name: statistics.median(seconds[1:]) for name, seconds in elapsed.items()}
    used_up = {name: statistics.median(seconds[1:]) for name, seconds in processor.items()}
    first = next(iter(medians))
    return [
        {
            "name": name,
            "threads": threads,
            "parameters": num_parameters(network),
            "step_s": medians[name],
            "processor_s": used_up[name],
            "times_ours": medians[name] / medians[first],
            "processor_times_ours": used_up[name] / used_up[first],
        }
        for name, (network, _) in taking_turns.items()
    ]


def main() -> None:
    """Measure, print a table, write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", default=RESULTS / "mps_step.json", type=type(RESULTS))
    given = parser.parse_args()
    rows = [row for threads in given.threads for row in measure(threads, given.rounds, given.steps)]
    for row in rows:
        print(
            f"{row['name']:44s}{row['threads']} threads, {row['parameters']} parameters: {1e3 * row['step_s']:.1f} ms, "
            f"{row['times_ours']:.1f} times ours; {1e3 * row['processor_s']:.1f} ms of processor time, "
            f"{row['processor_times_ours']:.1f} times ours"
        )
    print(f"load {os.getloadavg()[0]:.1f}")
    write_results(given.out, rows)


if __name__ == "__main__":
    main()
