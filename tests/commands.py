"""`python -m` in a process of its own, without the five seconds that importing PyTorch and Lightning takes each time.

A server imports the libraries once, as `python -W error` does, and forks for every command. The package itself is not
among them: every process imports it anew, and sees its own arguments, folder, environment and output.
"""

import atexit
import functools
import gc
import importlib
import json
import logging
import os
import resource
import runpy
import select
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

LIBRARIES = (
    *("hydra", "hydra.core.override_parser.overrides_visitor", "rich.live", "rich.table"),
    *("pandas", "scipy.stats", "sklearn.datasets", "safetensors.torch"),
    *("torch", "torch.utils.cpp_extension", "torchmetrics", "pytorch_lightning", "pytorch_lightning.loggers"),
    "matplotlib.pyplot",
)
# Of what hangs; a busy machine may take a while.
TIMEOUT_S = 600


class Command:
    """`python -W error -m MODULE ARGUMENTS`, started in a folder; the methods are those of `subprocess.Popen`.

    Args:
        module: what to run.
        arguments: its command line.
        folder: the working directory.
        environment: what the environment has that this process's has not.
        largest_file: the size, in bytes, at which writing a file fails, as on a full disk.
    """

    def __init__(
        self,
        module: str,
        *arguments: str,
        folder: Path,
        environment: Mapping[str, str] | None = None,
        largest_file: int = resource.RLIM_INFINITY,
    ):
        self.args = ["python", "-m", module, *map(str, arguments)]
        self.returncode: int | None = None
        self._output, self._errors = TemporaryFile(), TemporaryFile()  # noqa: SIM115  closed at the end
        self._status, status = os.pipe()
        environment = {**clean_environment(), **(environment or {})}
        request = [module, self.args[3:], str(folder), environment, largest_file]
        files = [self._output.fileno(), self._errors.fileno(), status]
        socket.send_fds(server(), [json.dumps(request).encode()], files)
        os.close(status)
        self.pid = self._told(TIMEOUT_S)
        assert self.pid is not None

    def _told(self, timeout: float) -> int | None:
        """The next number that the process's parent tells: the process's, and then its exit code."""
        if not select.select([self._status], [], [], timeout)[0]:
            return None
        return int(os.read(self._status, 32))

    def poll(self) -> int | None:
        return self.returncode if self.returncode is not None else self._end(0)

    def wait(self, timeout: float = TIMEOUT_S) -> int:
        if self.returncode is None and self._end(timeout) is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def _end(self, timeout: float) -> int | None:
        self.returncode = self._told(timeout)
        if self.returncode is not None:
            os.close(self._status)
            self.stdout, self.stderr = (content_of(file) for file in (self._output, self._errors))
        return self.returncode

    def communicate(self, timeout: float = TIMEOUT_S) -> tuple[str, str]:
        self.wait(timeout)
        return self.stdout, self.stderr

    def send_signal(self, signum: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, signum)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def command(module: str, *arguments: str, folder: Path, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run `python -W error -m MODULE ARGUMENTS` in a folder to its end; `more` is what `Command` takes."""
    process = Command(module, *arguments, folder=folder, **more)
    output, errors = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


train_command = functools.partial(command, "qcnn_lightning.train")
evaluate_command = functools.partial(command, "qcnn_lightning.evaluate")


def pasted(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command that was printed, `python -m MODULE ARGUMENTS`, as a shell understands it."""
    python, option, module, *arguments = shlex.split(line)
    assert (python, option) == ("python", "-m")
    return command(module, *arguments, folder=folder)


def clean_environment() -> dict[str, str]:
    """The environment of the tests, without the W&B service of their own process, which others would share."""
    return {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}


def content_of(file) -> str:
    with file:
        file.seek(0)
        return file.read().decode()


@functools.cache
def server() -> socket.socket:
    """Start the server of this process; what is sent to it begins a command."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", __file__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=clean_environment() | threads,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def serve(requests: socket.socket) -> tuple | None:
    """Fork for every request, and return, in the command's process, what it shall become; None if no more can come."""
    # Importing this tells that there is no CUDA, which nobody asked for.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parents: list[int] = []
    while True:
        message, files, _, _ = socket.recv_fds(requests, 1 << 20, 3)
        parents = [parent for parent in parents if os.waitpid(parent, os.WNOHANG)[0] == 0]
        if not message:
            return None
        parent = os.fork()
        if parent == 0:
            break
        parents.append(parent)
        for file in files:
            os.close(file)
    *output, status = files
    process = os.fork()
    if process != 0:
        # The command's parent, which tells how it ends.
        os.write(status, f"{process}\n".encode())
        _, end = os.waitpid(process, 0)
        os.write(status, f"{os.waitstatus_to_exitcode(end)}\n".encode())
        os._exit(0)
    os.close(status)
    return *json.loads(message), *output


def become(
    module: str,
    arguments: list[str],
    folder: str,
    environment: dict[str, str],
    largest_file: int,
    output: int,
    errors: int,
) -> None:
    """Make this process the one that `python -m` starts, and run what it runs."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for file, number in ((output, 1), (errors, 2)):
        os.dup2(file, number)
        os.close(file)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0] = folder
    sys.argv = ["-m", *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        begun = serve(requests)
    if begun is not None:
        become(*begun)
