"""Training steps of several networks, timed in turns: what else the machine does slows all of them."""

import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

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


def told(row: Mapping[str, Any]) -> str:
    """Return a row in words."""
    return (
        f"{row['name']:44s}{row['threads']} threads, {row['parameters']} parameters: {1e3 * row['step_s']:.1f} ms, "
        f"{row['times_ours']:.1f} times ours; {1e3 * row['processor_s']:.1f} ms of processor time, "
        f"{row['processor_times_ours']:.1f} times ours"
    )
