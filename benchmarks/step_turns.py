"""Training steps of several networks, timed in turns: what else the machine does slows all of them."""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from machine import write_results
from qcnn_lightning.models.model import Model, num_parameters


def step_of(
    network: nn.Module, scores: Callable[[Tensor], Tensor], cost: Any, sites: int, classes: int, batch: int
) -> Callable[[], None]:
    """Return a training step on a batch of random images: forward, cost, backward, AdamW."""
    images = torch.randint(256, (batch, sites), dtype=torch.uint8)
    labels = torch.randint(classes, (batch,))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        cost(scores(images), labels).mean().backward()
        optimizer.step()

    return step


def time_in_turns(
    steps_of: Mapping[str, tuple[nn.Module, Callable[[], None]]], threads: int, rounds: int, steps: int
) -> list[dict[str, Any]]:
    """Let all take some steps each, again and again; return a row for each: medians over the rounds, times the first's.

    Args:
        steps_of: name -> the network and its step.
        threads: of PyTorch.
        rounds: that count; one more before them warms up.
        steps: of a network in a round.
    """
    torch.set_num_threads(threads)
    elapsed: dict[str, list[float]] = {name: [] for name in steps_of}
    processor: dict[str, list[float]] = {name: [] for name in steps_of}
    for _ in range(rounds + 1):
        for name, (network, step) in steps_of.items():
            around = network.around_training() if isinstance(network, Model) else nullcontext()
            start, used = time.perf_counter(), time.process_time()
            with around:
                for _ in range(steps):
                    step()
            elapsed[name].append((time.perf_counter() - start) / steps)
            processor[name].append((time.process_time() - used) / steps)
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
        for name, (network, _) in steps_of.items()
    ]


def measure_and_write(
    description: str | None, measure: Callable[[int, int, int], list[dict[str, Any]]], out: Path, steps: int
) -> None:
    """Read the command line, measure, print a line for each row, write the numbers.

    Args:
        description: of the script.
        measure: from threads, rounds and steps to rows of `time_in_turns`.
        out: where to write, unless the command line says so.
        steps: of a network in a round, unless the command line says so.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--out", default=out, type=Path)
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
