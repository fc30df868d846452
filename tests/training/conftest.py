import json
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from qcnn_lightning import command_line  # noqa: F401  the configs use its resolvers

SMALL = ("data=digits", "model.d=4", "trainer.max_epochs=2", "sweep.name=test")
# Of what hangs; a busy machine may take a while.
TIMEOUT_S = 600


@pytest.fixture
def composed(tmp_path: Path) -> Callable[..., DictConfig]:
    """Compose the configuration of a small run on the digits, with a folder of its own."""

    def compose_run(*overrides: str, folder: str = "run") -> DictConfig:
        run_dir = tmp_path / folder
        run_dir.mkdir(exist_ok=True)
        return compose_small(run_dir, *overrides)

    return compose_run


def compose_small(run_dir: Path, *overrides: str) -> DictConfig:
    """Compose the configuration of a small run on the digits in this folder."""
    with initialize_config_module("qcnn_lightning.conf", version_base="1.3"):
        return compose("train", [*SMALL, "logger=none", f"run_dir={run_dir}", *overrides])


def command(*arguments: str, folder: Path, warnings: str = "error") -> subprocess.CompletedProcess[str]:
    """Run `python -m qcnn_lightning.train` in a folder, as a user without a W&B account does."""
    return subprocess.run(
        [sys.executable, "-W", warnings, "-m", "qcnn_lightning.train", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


def wandb_records(offline_run: Path) -> list[dict]:
    """Read back what W&B wrote for a run, with W&B's own tool."""
    printed = subprocess.run(
        [Path(sys.executable).with_name("wandb"), "leet", "inspect", "--json", offline_run],
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in printed.stdout.splitlines()]


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let writing fail half-way, as on a full disk, when a file gets larger than this many bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
