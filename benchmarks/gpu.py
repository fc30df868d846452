"""Many networks at once on a GPU: are the numbers right, and how far is a step from what the hardware allows?

    python benchmarks/gpu.py                                       # one GPU, under eight minutes
    python benchmarks/gpu.py --device cpu --d 2 --networks 1 4 --images 500 --steps 3 --modes plain   # a trial

1. Costs, gradients and ten steps in float32 on the device, against float64 on the CPU.
2. The rates of a large matrix product and of a large copy.
3. A step of 1, 4, 16, 32, 64 networks: PyTorch's operators (plain); the same as one CUDA graph (captured); operators
   fused by torch.compile, as one CUDA graph (compiled). Long trainings are compiled, short ones captured.
   The floor is the larger of operations over the matrix rate and bytes over the copy rate.
4. An epoch: all steps, population statistics, evaluation of all images, entropies.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from machine import RESULTS, write_results
from qcnn_lightning import QCNN, NetworkState
from qcnn_lightning.costs import SquaredDistance
from qcnn_lightning.models.networks import Networks
from qcnn_lightning.training.captured import CapturedStep
from qcnn_lightning.training.row_optimizers import AdamOfRows, settings_of
from qcnn_lightning.training.together import changed_by_step, schmidt_spectra, whole_step

CLASSES = 10
COST = SquaredDistance()
REPEATS = 5
EVALUATION_BATCH = 5000
POPULATION = 2048


def seconds_of(device: torch.device, work: Callable[[], Any], repeats: int = REPEATS) -> float:
    """Return the median time of some work, which has been done once before."""
    work()
    taken = []
    for _ in range(repeats):
        synchronise(device)
        start = time.perf_counter()
        work()
        synchronise(device)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def synchronise(device: torch.device) -> None:
    """Wait until the device has done everything."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rates(device: torch.device) -> dict[str, float]:
    """Return floating-point operations a second of a float32 product, and bytes a second read and written by a copy."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = torch.rand(2, size, size, device=device)
    c = torch.empty_like(a)
    product = seconds_of(device, lambda: torch.mm(a, b, out=c))
    numbers = torch.rand(2**28 if device.type == "cuda" else 2**22, device=device)
    other = torch.empty_like(numbers)
    copy = seconds_of(device, lambda: other.copy_(numbers))
    return {"flop_per_s": 2 * size**3 / product, "bytes_per_s": 2 * numbers.nbytes / copy}


def floor_of(network: QCNN, batch: int, networks: int) -> dict[str, float]:
    """Return the operations of a step's matrix products, and the bytes of its features.

    Forward, every level reads its features, writes what it maps, reads that and writes the products; backward takes
    twice as much of both.
    """
    channels = [*network.channels, network.num_classes]
    sites = [network.num_sites >> level for level in range(len(channels) - 1)]
    levels = list(zip(sites, pairwise(channels), strict=True))
    flop = 6 * batch * networks * sum(n * a * b for n, (a, b) in levels)
    numbers = 3 * batch * networks * sum(n * (a + 2.5 * b) for n, (a, b) in levels)
    return {"flop": flop, "bytes": 4 * numbers}


class Trainer:
    """Several networks in training, on random images.

    Args:
        networks: how many.
        d: channel multiplier.
        options: of the command line.
        device: to train on.
        dtype: of the weights.
        mode: "plain", "captured" or "compiled".
    """

    def __init__(
        self, networks: int, d: int, options: argparse.Namespace, device: torch.device, dtype: torch.dtype, mode: str
    ):
        torch.manual_seed(0)
        settings: dict[str, Any] = {"d": d, "kernel": "plain"}
        members = [QCNN(options.sites, CLASSES, **settings).to(device, dtype) for _ in range(networks)]
        self.networks = Networks(members)
        optimizers = [torch.optim.AdamW(network.parameters(), lr=0.01) for network in members]
        self.networks.attach_gradients()
        self.optimizer = AdamOfRows(optimizers, self.networks)
        self.settings = [settings_of(optimizer) for optimizer in optimizers]
        if mode == "compiled":
            self.networks.compile()
            self.optimizer.compile()
        step = whole_step(self.networks, self.optimizer, COST)
        self.step = step if mode == "plain" else CapturedStep(step, changed_by_step(self.networks, self.optimizer))
        generator = torch.Generator().manual_seed(1)
        shape = (options.images, options.sites)
        self.images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(device)
        self.labels = torch.randint(0, CLASSES, shape[:1], generator=generator).to(device)
        self.batch, self.device = options.batch, device

    def batches(self, most: int | None = None) -> list[tuple[Tensor, Tensor]]:
        """Return the first batches of an epoch, other ones for every network; the order is drawn and moved at once."""
        generator = torch.Generator().manual_seed(2)
        orders = [torch.randperm(len(self.labels), generator=generator) for _ in range(len(self.networks))]
        parts = torch.stack(orders).to(self.device).split(self.batch, dim=1)[:most]
        return [(self.images[chosen], self.labels[chosen]) for chosen in parts if chosen.shape[1] == self.batch]

    def train(self, given: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """Take a step with each of these batches, and return the costs before each."""
        self.optimizer.begin([[of_network] * len(given) for of_network in self.settings])
        pairs = zip(given, self.optimizer.numbers, strict=True)
        return [self.step(images, labels, numbers) for (images, labels), numbers in pairs]

    def evaluate(self) -> None:
        """Fix statistics, score all images, and compute the entropies."""
        number = len(self.networks)
        self.networks.fix_population_statistics([self.images[:POPULATION]] * number)
        for part in self.images.split(EVALUATION_BATCH):
            self.networks.evaluate([part] * number)
        with torch.no_grad():
            states = [NetworkState.from_network(network) for network in self.networks.networks]
        schmidt_spectra(states, self.device)


def check(options: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """Compare ten steps of three networks in float32 on the device, every way, with float64 on the CPU."""
    rows = []
    for d, mode in itertools.product(options.d, options.modes):
        judge = Trainer(3, d, options, torch.device("cpu"), torch.float64, "plain")
        judged = Trainer(3, d, options, device, torch.float32, mode)
        judge.networks.weights.copy_(judged.networks.weights)
        expected, found = (torch.stack(each.train(each.batches(10))).cpu().double() for each in (judge, judged))
        error = ((found - expected).abs() / expected).amax(1)
        rows.append({"part": "check", "d": d, "mode": mode, "first": error[0].item(), "tenth": error[-1].item()})
    return rows


@contextmanager
def peak_memory(device: torch.device) -> Iterator[dict[str, int]]:
    """Yield a dictionary that gets the most bytes of the device that were taken meanwhile."""
    peak: dict[str, int] = {}
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    yield peak
    if device.type == "cuda":
        peak["peak_bytes"] = torch.cuda.max_memory_allocated(device)


def measure(
    networks: int, d: int, mode: str, options: argparse.Namespace, device: torch.device, rate: dict[str, float]
) -> dict[str, Any]:
    """Time a step, and an epoch where the steps leave time for it."""
    with peak_memory(device) as peak:
        trainer = Trainer(networks, d, options, device, torch.float32, mode)
        batches = trainer.batches(options.steps)
        step = seconds_of(device, lambda: trainer.train(batches), repeats=3) / len(batches)
        row: dict[str, Any] = {"part": "step", "networks": networks, "d": d, "mode": mode, "step_s": step}
        needed = floor_of(trainer.networks.batched, options.batch, networks)
        row |= needed
        row["floor_s"] = max(needed["flop"] / rate["flop_per_s"], needed["bytes"] / rate["bytes_per_s"])
        if step * (options.images // options.batch) < options.longest_epoch:
            row["evaluation_s"] = seconds_of(device, trainer.evaluate, repeats=1)
            synchronise(device)
            start = time.perf_counter()
            trainer.train(trainer.batches())
            trainer.evaluate()
            synchronise(device)
            row["epoch_s"] = time.perf_counter() - start
    return row | peak


def show(rows: list[dict[str, Any]]) -> None:
    """Print the measurements."""
    table = Table("d", "networks", "mode", "step (ms)", "of floor", "epoch (s)", "of it evaluation", "peak (GB)")
    for row in rows:
        if row["part"] == "step" and "step_s" in row:
            table.add_row(
                str(row["d"]),
                str(row["networks"]),
                row["mode"],
                f"{1e3 * row['step_s']:.3f}",
                f"{row['step_s'] / row['floor_s']:.1f}",
                f"{row['epoch_s']:.2f}" if "epoch_s" in row else "",
                f"{row['evaluation_s']:.2f}" if "evaluation_s" in row else "",
                f"{row['peak_bytes'] / 1e9:.2f}" if "peak_bytes" in row else "",
            )
    Console().print(table)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--d", type=int, nargs="+", default=[2, 18, 40])
    parser.add_argument("--networks", type=int, nargs="+", default=[1, 4, 16, 32, 64])
    parser.add_argument("--modes", nargs="+", default=["plain", "captured", "compiled"])
    parser.add_argument("--images", type=int, default=60000)
    parser.add_argument("--sites", type=int, default=256)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--longest-epoch", type=float, default=8.0, help="seconds of an epoch that is still timed")
    parser.add_argument("--seconds", type=float, default=420.0, help="after which nothing more is begun")
    parser.add_argument("--output", type=Path, default=RESULTS / "gpu.json")
    options = parser.parse_args()
    began, device = time.perf_counter(), torch.device(options.device)
    if device.type != "cuda":
        options.modes = ["plain"]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU"
    rate = rates(device)
    rows: list[dict[str, Any]] = [{"part": "device", "name": name, **rate}]
    print(f"{name}: {rate['flop_per_s'] / 1e12:.2f} TFLOP/s of a float32 product, {rate['bytes_per_s'] / 1e9:.0f} GB/s")
    for row in check(options, device):
        rows.append(row)
        print(f"d = {row['d']}, {row['mode']}: costs off by {row['first']:.1e}, after ten steps {row['tenth']:.1e}")
    # What matters most comes first.
    modes = sorted(options.modes, key=["compiled", "captured", "plain"].index)
    for mode, d, networks in itertools.product(modes, options.d, options.networks):
        row = {"part": "step", "networks": networks, "d": d, "mode": mode}
        if time.perf_counter() - began > options.seconds:
            rows.append(row | {"left_out": "no time"})
            continue
        try:
            rows.append(measure(networks, d, mode, options, device, rate))
        except torch.OutOfMemoryError as error:
            rows.append(row | {"left_out": str(error).splitlines()[0]})
            print(f"d = {d}, {networks} networks, {mode}: {rows[-1]['left_out']}")
    show(rows)
    write_results(options.output, rows)


if __name__ == "__main__":
    main()
