"""The C++ operators of `kernels/cpu`: compiled once per machine, then loaded from a cache."""

import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
LOCK, BUILDING = "compiling.lock", "building"


class UnavailableError(RuntimeError):
    """This machine cannot have the operators; the message says why."""


def build_directory() -> Path:
    """Return the folder of the compiled operators, one for each source, PyTorch, Python, processor and set of flags.

    It lies where PyTorch keeps compiled extensions; the environment variable TORCH_EXTENSIONS_DIR moves it.
    """
    from torch.utils.cpp_extension import get_default_build_root

    sources = [
        (path.name, path.read_text(encoding="utf-8"))
        for path in sorted(SOURCES.iterdir())
        if path.suffix in (".h", ".cpp")
    ]
    built_from = (sources, COMPILER_FLAGS, torch.__version__, sys.version_info[:2], processor())
    key = hashlib.sha256(repr(built_from).encode()).hexdigest()[:16]
    return Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root()) / f"{LIBRARY}_{key}"


def processor() -> str:
    """Return what -march=native depends on: the processor's instruction sets, if the system lists them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def load_operators() -> Any:
    """Return the operators' namespace; compile them if the cache does not hold them.

    Jobs that start together wait for the one that compiles. A job killed while compiling does not block the next. A
    process tries once, whatever comes of it: every step of a training asks.

    Raises:
        UnavailableError: there is no compiler, or it failed.
    """
    operators, reason = first_attempt()
    if operators is None:
        raise UnavailableError(reason)
    return operators


@functools.cache
def first_attempt() -> tuple[Any, str]:
    """Return the operators' namespace, or None and why this machine cannot have them."""
    # At import it would warn that there is no CUDA, which we do not need.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    directory = build_directory()
    library = directory / f"{LIBRARY}.so"
    try:
        if not library.exists():
            compile_operators(directory, library)
        else:
            remove_left_build(directory)
        torch.ops.load_library(library)
    except UnavailableError as error:
        return None, str(error)
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        lines = str(error).splitlines()
        cause = next((line for line in lines if "error:" in line), lines[0] if lines else type(error).__name__)
        return None, f"compiling it in {directory} failed: {cause}"
    return torch.ops.qcnn_lightning, ""


@contextmanager
def said_every(seconds: float, doing: str) -> Iterator[None]:
    """Log what is being done, and for how long, every so many seconds until it is done."""
    start, done = time.perf_counter(), threading.Event()

    def say() -> None:
        while not done.wait(seconds):
            log.info("%s: %.0f s", doing, time.perf_counter() - start)

    threading.Thread(target=say, daemon=True).start()
    try:
        yield
    finally:
        done.set()


@contextmanager
def one_word_compiler(compiler: str, script: Path) -> Iterator[None]:
    """Let CXX be one word, as PyTorch needs it, also where it is a command like "ccache g++".

    Args:
        compiler: the command.
        script: the file to write, which runs that command.
    """
    if len(compiler.split()) == 1:
        yield
        return
    script.write_text(f'#!/bin/sh\nexec {compiler} "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    os.environ["CXX"] = str(script)
    try:
        yield
    finally:
        os.environ["CXX"] = compiler


def remove_left_build(directory: Path) -> None:
    """Remove what a job left that was killed between compiling and cleaning up, unless another compiles just now."""
    if (directory / BUILDING).exists():
        with suppress(OSError), FileLock(directory / LOCK, timeout=0):
            shutil.rmtree(directory / BUILDING, ignore_errors=True)


def compile_operators(directory: Path, library: Path) -> None:
    """Compile the operators. The library gets its name once it is complete, so it can be loaded as soon as it is there.

    Raises:
        UnavailableError: there is no compiler.
        OSError: the directory cannot be written.
        RuntimeError: the compiler failed.
        subprocess.SubprocessError: it does not even tell its version.
    """
    from torch.utils import cpp_extension

    if shutil.which("ninja") is None:  # installed with us, but perhaps not in PATH
        os.environ["PATH"] = os.pathsep.join((os.environ.get("PATH", os.defpath), ninja.BIN_DIR))
    compiler = cpp_extension.get_cxx_compiler()
    if shutil.which(compiler.split()[0]) is None:
        raise UnavailableError(f"no C++ compiler ({compiler}) on this machine")
    directory.mkdir(parents=True, exist_ok=True)
    log.info("compiling the C++ kernel (about %d s, once per machine) in %s", COMPILE_SECONDS, directory)
    start = time.perf_counter()
    with said_every(5.0, "compiling"), FileLock(directory / LOCK):
        if library.exists():  # another job compiled it
            return
        building = directory / BUILDING
        shutil.rmtree(building, ignore_errors=True)  # left by a killed job
        building.mkdir()
        with one_word_compiler(compiler, building / "compiler"):
            cpp_extension.load(
                LIBRARY,
                [str(path) for path in sorted(SOURCES.glob("*.cpp"))],
                extra_cflags=list(COMPILER_FLAGS),
                build_directory=str(building),
                is_python_module=False,
            )
        (building / library.name).replace(library)
        shutil.rmtree(building, ignore_errors=True)
    log.info("compiled the C++ kernel in %.0f s", time.perf_counter() - start)


@torch.compiler.assume_constant_result
def is_available() -> bool:
    """Return whether there are operators on this machine; a compiler takes the answer as it is."""
    try:
        load_operators()
    except UnavailableError:
        return False
    return True
