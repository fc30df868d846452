"""Time of a training step and peak memory against pixels, channel multiplier, batch size and number of classes.

Every point is a process of its own, without Lightning, so that its peak memory is its own. Images are Fashion-MNIST's,
enlarged or reduced, since how many blocks of pixels are equal depends on the pictures.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --threads 2 --curves num_sites d
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional

from machine import RESULTS, write_results
from qcnn_lightning import QCNN
from qcnn_lightning.costs import SquaredDistance
from qcnn_lightning.kernels.kernel import AutogradKernel
from qcnn_lightning.models.model import num_parameters

# The paper's network, where the curves cross.
PAPER = {"num_sites": 256, "d": 18, "batch_size": 50, "num_classes": 10}
CURVES = {
    "num_sites": [64, 256, 1024, 4096],
    "d": [2, 6, 10, 18, 28, 40],
    "batch_size": [10, 25, 50, 100, 200, 400],
    "num_classes": [2, 10, 30, 100],
}
NUM_IMAGES = 2000
MEBIBYTE = 2**20


def peak_memory() -> float:
    """Return the most memory that this process ever had, in MiB."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / MEBIBYTE if sys.platform == "darwin" else peak / 1024
    # Linux counts in ru_maxrss what the parent had when it started this process.
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def images_of(num_sites: int, data_root: str) -> torch.Tensor:
    """Return Fashion-MNIST's first test images, brought to this size, in tree order."""
    # Not needed, nor to be counted, where the memory is measured.
    from qcnn_lightning.data.datamodule import ImageDataModule
    from qcnn_lightning.data.flattening import lay_on_chain, pixel_order

    data = ImageDataModule(
        name="fmnist",
        root=data_root,
        cache=f"{data_root}/cache",
        size=16,
        flatten="left_right",
        val_size=0,
        batch_size=50,
        seed=0,
    )
    data.prepare_data()
    data.setup()
    on_chain = data.splits["test"][0][:NUM_IMAGES]
    pictures = torch.empty_like(on_chain)
    pictures[:, data.pixel_order] = on_chain
    side = round(num_sites**0.5)
    resized = functional.interpolate(pictures.reshape(-1, 1, 16, 16).float(), (side, side), mode="bilinear")
    return lay_on_chain(resized.round().to(torch.uint8).squeeze(1), pixel_order("left_right", side, side))


def measure(point: dict[str, int], arguments: argparse.Namespace) -> dict[str, Any]:
    """Train for some steps; return the seconds of one, and the memory."""
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    images = torch.load(arguments.images)
    labels = torch.randint(point["num_classes"], (len(images),))
    network = QCNN(point["num_sites"], point["num_classes"], point["d"], kernel=arguments.kernel)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    before = peak_memory()
    seconds = []
    while len(seconds) < arguments.steps:
        for chosen in torch.randperm(len(images)).split(point["batch_size"]):
            start = time.perf_counter()
            kernel = network.fast_kernel(images[chosen]) or AutogradKernel(network)
            kernel.backpropagate(SquaredDistance(), images[chosen], labels[chosen])
            optimizer.step()
            seconds.append(time.perf_counter() - start)
    return {
        "step_ms": 1e3 * statistics.median(seconds[3:]),
        "peak_mib": peak_memory(),
        "peak_of_training_mib": peak_memory() - before,
        "parameters": num_parameters(network),
    }


def measure_apart(point: dict[str, int], arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure a point in a process of its own."""
    options = ["--steps", arguments.steps, "--threads", arguments.threads, "--kernel", arguments.kernel]
    with tempfile.NamedTemporaryFile() as images:
        torch.save(images_of(point["num_sites"], arguments.data_root), images.name)
        options += ["--images", images.name, "--point", json.dumps(point)]
        finished = subprocess.run([sys.executable, __file__, *map(str, options)], stdout=subprocess.PIPE, check=True)
    return point | json.loads(finished.stdout.splitlines()[-1])


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print the rows; "to linear" is the time's growth from the paper's point over that of the variable."""
    table = Table("curve", "value", "step, ms", "to linear", "peak, MiB", "of it training", "parameters")
    for row in rows:
        variable = row["curve"]
        own = next(other for other in rows if other["curve"] == variable and other[variable] == PAPER[variable])
        to_linear = row["step_ms"] / own["step_ms"] / (row[variable] / PAPER[variable])
        table.add_row(
            variable,
            str(row[variable]),
            f"{row['step_ms']:.2f}",
            f"{to_linear:.2f}",
            f"{row['peak_mib']:.0f}",
            f"{row['peak_of_training_mib']:.0f}",
            str(row["parameters"]),
        )
    Console(width=120).print(table)


def main() -> None:
    """Measure all curves, or the one point that another process asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", nargs="+", choices=CURVES, default=list(CURVES))
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--kernel", default="auto")
    parser.add_argument("--data-root", default="data")
    parser.add_argument("--output", type=Path, default=RESULTS / "scaling.json")
    parser.add_argument("--point", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--images", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.point is not None:
        print(json.dumps(measure(arguments.point, arguments)))
        return
    rows = []
    for curve in arguments.curves:
        for value in CURVES[curve]:
            rows.append({"curve": curve} | measure_apart(PAPER | {curve: value}, arguments))
            print(f"{curve} {value}: {rows[-1]['step_ms']:.2f} ms", flush=True)
    print_table(rows)
    write_results(arguments.output, rows)


if __name__ == "__main__":
    main()
