"""The whole network as one C++ operator and its gradient: the plain path's mathematics, several times faster.

How it is done is told at the top of `fused.cpp`; here it is compiled, and bound to autograd. It takes uint8 images on
the CPU, since it rests on there being 256 grey levels, and measures no statistics across processes.
"""

import functools
import hashlib
import logging
import os
import platform
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ninja
import torch
import torch.distributed
from filelock import FileLock
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from qcnn_lightning.network.statistics import ChannelStatistics, FixedStatistics

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_suffix(".cpp")
HEADERS = tuple(Path(__file__).with_name(name) for name in ("products.h", "workers.h"))
COMPILER_FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fopenmp")
COMPILE_SECONDS = 20


class UnavailableError(RuntimeError):
    """The operator cannot be had on this machine; the message says why."""


def build_directory() -> Path:
    """Return the folder of the compiled operator: one for each source, PyTorch, processor and set of flags.

    It lies where PyTorch keeps its compiled extensions; the environment variable TORCH_EXTENSIONS_DIR moves it.
    """
    from torch.utils.cpp_extension import get_default_build_root

    source = [path.read_text() for path in (SOURCE, *HEADERS)]
    built_from = (source, COMPILER_FLAGS, torch.__version__, sys.version_info[:2], processor())
    key = hashlib.sha256(repr(built_from).encode()).hexdigest()[:16]
    return Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root()) / f"qcnn_lightning_fused_{key}"


def processor() -> str:
    """Return what the compiler may build for under -march=native: the instruction sets, where the system tells them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


@functools.cache
def load_operator() -> Any:
    """Return the operator's namespace, compiled at the first call ever and loaded from the cache after that.

    Jobs that start together wait for the one that compiles. One that is killed while compiling leaves nothing that
    stops the next.

    Raises:
        UnavailableError: no compiler, or it failed.
    """
    # PyTorch would warn, when that is imported, that it finds no CUDA, which this does not need.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    directory = build_directory()
    library = directory / "qcnn_lightning_fused.so"
    try:
        if not library.exists():
            compile_operator(directory, library)
        torch.ops.load_library(library)
    except UnavailableError:
        raise
    except (OSError, RuntimeError) as error:
        lines = str(error).splitlines()
        cause = next((line for line in lines if "error:" in line), lines[0] if lines else type(error).__name__)
        raise UnavailableError(f"making it in {directory} failed: {cause}") from error
    return torch.ops.qcnn_lightning


def compile_operator(directory: Path, library: Path) -> None:
    """Compile the operator; the library appears under its name once it is complete, so whoever sees it may load it.

    Raises:
        UnavailableError: no compiler.
        OSError: the directory cannot be written.
        RuntimeError: the compiler failed.
    """
    from torch.utils import cpp_extension

    if shutil.which("ninja") is None:  # installed with us, but its folder need not be in PATH
        os.environ["PATH"] = os.pathsep.join((os.environ.get("PATH", os.defpath), ninja.BIN_DIR))
    compiler = cpp_extension.get_cxx_compiler()
    if shutil.which(compiler) is None:
        raise UnavailableError(f"no C++ compiler ({compiler}) on this machine")
    directory.mkdir(parents=True, exist_ok=True)
    log.info("compiling the fused kernel, once, about %d s; cached in %s", COMPILE_SECONDS, directory)
    start = time.perf_counter()
    with FileLock(directory / "compiling.lock"):
        if library.exists():  # another job was first
            return
        building = directory / "building"
        shutil.rmtree(building, ignore_errors=True)  # of a job that was killed
        building.mkdir()
        cpp_extension.load(
            "qcnn_lightning_fused",
            [str(SOURCE)],
            extra_cflags=list(COMPILER_FLAGS),
            build_directory=str(building),
            is_python_module=False,
        )
        (building / library.name).replace(library)
        shutil.rmtree(building, ignore_errors=True)
    log.info("compiled the fused kernel in %.0f s", time.perf_counter() - start)


def obstacle(x: Tensor, dtype: torch.dtype) -> str | None:
    """Say why the operator cannot take these images with weights of this type; None if it can."""
    if x.dtype != torch.uint8:
        return f"it rests on there being 256 grey levels, and these images are {x.dtype}, not uint8"
    if x.device.type != "cpu":
        return f"it runs on the CPU, and this network is on {x.device}"
    if dtype not in (torch.float32, torch.float64):
        return f"it computes in float32 or float64, and these weights are {dtype}"
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return "the statistics of a batch span all processes of a distributed run"
    try:
        load_operator()
    except UnavailableError as error:
        return str(error)
    return None


@dataclass(frozen=True)
class Network:
    """What the operator takes of a network: lists of every level, of which the last is the classification.

    Attributes:
        table: (256, d_0), f_1 .. f_{d_0} of every grey level.
        gamma: (d_l,) each.
        beta: (d_l,) each.
        weight: (1 or 2, d_{l+1}, d_l) each.
        epsilon: added to the variances.
        split_products: take float32 products as three of bfloat16 where the processor has matrix units (PyTorch's
            float32 matmul precision "high").
    """

    table: Float[Tensor, "256 d_0"]
    gamma: Sequence[Tensor]
    beta: Sequence[Tensor]
    weight: Sequence[Tensor]
    epsilon: Sequence[float]
    split_products: bool

    @property
    def parameters(self) -> list[Tensor]:
        """Parameters in the order in which the operator takes them."""
        return [*self.gamma, *self.beta, *self.weight]


def forward(
    network: Network,
    x: UInt8[Tensor, "batch sites"],
    fixed: Sequence[tuple[Tensor, Tensor]] = (),
    running: Sequence[FixedStatistics] = (),
) -> tuple[Float[Tensor, "batch classes"], list[ChannelStatistics]]:
    """Return the scores and the statistics of every level.

    Args:
        network: the network.
        x: images in tree order.
        fixed: mean and variance, (d_l,) each, of every level to normalise by; without them, those of the batch,
            through which gradients then flow.
        running: of every level, whose running averages shall move towards the batch's statistics.
    """
    alpha, means, variances = load_operator().alpha(
        x.contiguous(),
        network.table,
        network.parameters,
        [mean for mean, _ in fixed],
        [var for _, var in fixed],
        *averages(running),
        network.epsilon,
        network.split_products,
    )
    return alpha, [
        ChannelStatistics(mean, var, x.numel() >> level)
        for level, (mean, var) in enumerate(zip(means, variances, strict=True))
    ]


def backpropagate_cost(
    network: Network,
    x: UInt8[Tensor, "batch sites"],
    labels: Int64[Tensor, " batch"],
    running: Sequence[FixedStatistics],
) -> float:
    """Return the cost of a batch (eq. 48), by its own statistics; its gradient replaces that of every parameter.

    Forward and backward in one go: without autograd, whose share of a step of a small network is half.

    Args:
        network: the network.
        x: images in tree order.
        labels: their classes.
        running: of every level, whose running averages shall move towards the batch's statistics.
    """
    cost: float = load_operator().backpropagate_cost(
        x.contiguous(),
        labels,
        network.table,
        network.parameters,
        *averages(running),
        network.epsilon,
        network.split_products,
    )
    return cost


def averages(running: Sequence[FixedStatistics]) -> tuple[list[Tensor], list[Tensor], float]:
    """Return running means and variances of every level, and how far they move."""
    return (
        [level.running_mean for level in running],
        [level.running_var for level in running],
        running[0].momentum if running else 0.0,
    )
