"""A training step of a density against its operations, PyTorch's operators, and other people's circuits on the CPU.

Binarised MNIST, 28x28, one tree of binary splits, the same width, ten components, batches of 100, float32, Adam. Ways
take turns. Seconds are the processor's, of all threads, in the fastest of all rounds: other load on the machine changes
them little.

The other code is no dependency of ours, since cirkit holds SciPy back:

    pip install --no-deps --target peers libcirkit==0.3.1 pyjuice==2.6.3 einops graphviz
    PYTHONPATH=peers python benchmarks/density_step.py
    PYTHONPATH=peers python benchmarks/density_step.py --width 64 --threads 2

cirkit's circuit is a quad tree of CP layers, squared: the same linear maps and products (28 = 4 x 7, so its tree has
784 leaves, ours 1024 with 240 of them constant). pyjuice's kernels are all Triton's: without a GPU it refuses.
"""

import argparse
import importlib
import importlib.util
import itertools
import time
from collections.abc import Callable
from typing import Any

import torch
from hydra import compose, initialize_config_module
from torch import Tensor

from machine import RESULTS, write_results
from qcnn_lightning import Density
from qcnn_lightning.data.datamodule import ImageDataModule
from qcnn_lightning.data.flattening import PADDING, lay_on_image
from qcnn_lightning.models import density as density_module
from qcnn_lightning.models.model import num_parameters

CLASSES = 10


def binary_images() -> tuple[Tensor, Tensor]:
    """Return training images in tree order, and the pixel at every site."""
    with initialize_config_module(config_module="qcnn_lightning.conf", version_base="1.3"):
        data = compose("train", overrides=["experiment=density_binary_mnist"]).data
    module = ImageDataModule(**data)
    module.prepare_data()
    module.setup()
    return module.splits["train"][0], module.pixel_order


def operations(channels: tuple[int, ...], batch: int) -> dict[str, float]:
    """Return the floating-point operations of a step: of images, each counted, and of norms; a factor 3 for both ways.

    Args:
        channels: d_0 .. d_L.
        batch: images of a batch.
    """
    sites, images, norms = 2 ** (len(channels) - 1), 0, 0
    for level, (states, mapped) in enumerate(itertools.pairwise(channels)):
        nodes = sites >> level
        images += nodes * batch * 2 * states * mapped
        norms += nodes * 2 * (mapped * states * states + mapped * mapped * states)
    return {"images": 3.0 * images, "norms": 3.0 * norms}


def step_of(parameters: Any, cost: Callable[[Tensor], Tensor]) -> Callable[[Tensor], float]:
    """Return a training step."""
    optimizer = torch.optim.Adam(parameters, lr=1e-3, fused=True)

    def step(x: Tensor) -> float:
        optimizer.zero_grad()
        value = cost(x)
        value.backward()
        optimizer.step()
        return value.item()

    return step


def ours(
    width: int, padding: Tensor, fast: bool = True, everywhere: bool = False
) -> tuple[Callable[[Tensor], float], int, tuple[int, ...]]:
    """Return a step of our density, with its operators or PyTorch's; its parameters; its channels.

    Args:
        width: most channels.
        padding: sites without a pixel.
        fast: use our operators.
        everywhere: as many channels at every level, not only as many as a block has states.
    """
    torch.manual_seed(0)
    channels = [width] * (len(padding).bit_length() - 1) if everywhere else None
    model = Density(len(padding), CLASSES, d=width, levels=2, channels=channels)
    model.mark_padding(padding)
    step = step_of(model.parameters(), lambda x: -model.log_probability(x).mean())

    def chosen(x: Tensor) -> float:
        kept = density_module.can_compute
        if not fast:
            density_module.can_compute = lambda *_: False
        try:
            return step(x)
        finally:
            density_module.can_compute = kept

    return chosen, num_parameters(model), model.channels


def cirkit(width: int) -> tuple[Callable[[Tensor], float], int]:
    """Return a step of cirkit's squared circuit on (batch, 784) levels 0 and 1; its parameters."""
    pipeline, functional, utils, graphs = (
        importlib.import_module(f"cirkit.{name}")
        for name in ("pipeline", "symbolic.functional", "templates.utils", "templates.region_graph")
    )
    weights = utils.parameterization_to_factory(utils.Parameterization(activation="none", initialization="normal"))
    circuit = graphs.QuadTree((1, 28, 28), num_patch_splits=2).build_circuit(
        input_factory=utils.name_to_input_layer_factory("embedding", num_states=2, weight_factory=weights),
        sum_product="cp",
        sum_weight_factory=weights,
        num_input_units=width,
        num_sum_units=width,
        num_classes=CLASSES,
    )
    context = pipeline.PipelineContext(backend="torch", semiring="complex-lse-sum", fold=True, optimize=True)
    with context:
        amplitude = context.compile(circuit)
        partition = context.compile(functional.integrate(functional.multiply(circuit, circuit)))

    def cost(x: Tensor) -> Tensor:
        # Of components y: log sum_y alpha_y(x)^2, and log Z = log of the trace of <Psi_y|Psi_y'>.
        alpha = amplitude(x).real.squeeze(1)
        norms = partition().real.reshape(CLASSES, CLASSES).diagonal()
        return norms.logsumexp(0) - (2 * alpha).logsumexp(-1).mean()

    return step_of(amplitude.parameters(), cost), sum(one.numel() for one in amplitude.parameters())


def pyjuice_refusal(width: int) -> str:
    """Return why pyjuice computes nothing here, or "" if it does."""
    try:
        pyjuice = importlib.import_module("pyjuice")
        pixel = pyjuice.distributions.Categorical(2)
        leaves = [pyjuice.inputs(v, num_node_blocks=1, block_size=width, dist=pixel) for v in (0, 1)]
        root = pyjuice.summate(pyjuice.multiply(*leaves), num_node_blocks=1, block_size=1)
        pyjuice.compile(root)(torch.zeros(4, 2, dtype=torch.long))
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return ""


def main() -> None:
    """Time all ways in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    images, order = binary_images()
    padding = order == PADDING
    flat = lay_on_image(images[: 100 * arguments.batch], order, (28, 28)).flatten(1).div(255).round().long()

    fast, parameters, channels = ours(arguments.width, padding)
    plain, _, _ = ours(arguments.width, padding, fast=False)
    wide, of_wide, _ = ours(arguments.width, padding, everywhere=True)
    ways = [
        ("ours", fast, images, parameters),
        ("ours, PyTorch's operators", plain, images, parameters),
        ("ours, as wide everywhere", wide, images, of_wide),
    ]
    if importlib.util.find_spec("cirkit"):
        theirs, of_theirs = cirkit(arguments.width)
        ways.append(("cirkit", theirs, flat, of_theirs))
    seconds: dict[str, list[float]] = {name: [] for name, *_ in ways}
    for number in range(arguments.rounds + 1):
        for name, step, x, _ in ways:
            batch = x[number * arguments.batch : (number + 1) * arguments.batch].contiguous()
            start = time.process_time()
            step(batch)
            if number:  # the first is a warm-up
                seconds[name].append(time.process_time() - start)
    count = operations(channels, arguments.batch)
    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "parameters": number,
            "seconds_best": min(seconds[name]),
            "seconds_median": sorted(seconds[name])[len(seconds[name]) // 2],
        }
        for name, _, _, number in ways
    ]
    settings = {"width": arguments.width, "batch": arguments.batch, "threads": arguments.threads}
    for row in rows:
        row |= settings | {"times_ours": row["seconds_best"] / rows[0]["seconds_best"]}
        print(
            f"{row['name']:>28}  {1e3 * row['seconds_best']:9.2f} ms  {row['times_ours']:7.2f}  {row['parameters']:>9}"
        )
    rows[0] |= {
        "operations_of_images": count["images"],
        "operations_of_norms": count["norms"],
        "gflops_best": sum(count.values()) / rows[0]["seconds_best"] / 1e9,
    }
    if importlib.util.find_spec("pyjuice"):
        rows.append({"name": "pyjuice", "refused": pyjuice_refusal(arguments.width)})
        print(rows[-1])
    of_threads = "" if arguments.threads == 1 else f"_{arguments.threads}_threads"
    write_results(RESULTS / f"density_step_d{arguments.width}{of_threads}.json", rows)


if __name__ == "__main__":
    main()
