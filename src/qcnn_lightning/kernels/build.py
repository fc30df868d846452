"""The C++ operators of `kernels/cpu`, compiled once on every machine and loaded from a cache after that."""

import functools
import hashlib
import logging
import os
import platform
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import ninja
import torch
from filelock import FileLock

log = logging.getLogger(__name__)

SOURCES = Path(__file__).with_name("cpu")
COMPILER_FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fopenmp")
COMPILE_SECONDS = 20
LIBRARY = "qcnn_lightning_cpu"


class UnavailableError(RuntimeError):
    """The operators cannot be had on this machine; the message says why."""


def build_directory() -> Path:
    """Return the folder of the compiled operators: one for each source, PyTorch, processor and set of flags.

    It lies where PyTorch keeps its compiled extensions; the environment variable TORCH_EXTENSIONS_DIR moves it.
    """
    from torch.utils.cpp_extension import get_default_build_root

    sources = [(path.name, path.read_text()) for path in sorted(SOURCES.iterdir()) if path.suffix in (".h", ".cpp")]
    built_from = (sources, COMPILER_FLAGS, torch.__version__, sys.version_info[:2], processor())
    key = hashlib.sha256(repr(built_from).encode()).hexdigest()[:16]
    return Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root()) / f"{LIBRARY}_{key}"


def processor() -> str:
    """Return what the compiler may build for under -march=native: the instruction sets, where the system tells them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


@functools.cache
def load_operators() -> Any:
    """Return the operators' namespace, compiled at the first call ever and loaded from the cache after that.

    Jobs that start together wait for the one that compiles. One that is killed while compiling leaves nothing that
    stops the next.

    Raises:
        UnavailableError: no compiler, or it failed.
    """
    # PyTorch would warn, when that is imported, that it finds no CUDA, which this does not need.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    directory = build_directory()
    library = directory / f"{LIBRARY}.so"
    try:
        if not library.exists():
            compile_operators(directory, library)
        torch.ops.load_library(library)
    except UnavailableError:
        raise
    except (OSError, RuntimeError) as error:
        lines = str(error).splitlines()
        cause = next((line for line in lines if "error:" in line), lines[0] if lines else type(error).__name__)
        raise UnavailableError(f"making it in {directory} failed: {cause}") from error
    return torch.ops.qcnn_lightning


def compile_operators(directory: Path, library: Path) -> None:
    """Compile the operators; the library appears under its name once it is complete, so whoever sees it may load it.

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
    log.info("compiling the C++ kernel, once, about %d s; cached in %s", COMPILE_SECONDS, directory)
    start = time.perf_counter()
    with FileLock(directory / "compiling.lock"):
        if library.exists():  # another job was first
            return
        building = directory / "building"
        shutil.rmtree(building, ignore_errors=True)  # of a job that was killed
        building.mkdir()
        cpp_extension.load(
            LIBRARY,
            [str(SOURCES / "operator.cpp")],
            extra_cflags=list(COMPILER_FLAGS),
            build_directory=str(building),
            is_python_module=False,
        )
        (building / library.name).replace(library)
        shutil.rmtree(building, ignore_errors=True)
    log.info("compiled the C++ kernel in %.0f s", time.perf_counter() - start)
