"""Small runs on the digits, and what they leave in their folders."""

import json
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from qcnn_lightning import command_line  # noqa: F401  the configs use its resolvers
from qcnn_lightning.training.checkpoints import Checkpoints
from qcnn_lightning.training.interruption import Interrupted
from qcnn_lightning.training.run import train

SMALL = ("data=digits", "model.d=4", "trainer.max_epochs=2", "sweep.name=test")
EPOCHS = "trainer.max_epochs=3"


def compose_small(run_dir: Path, *overrides: str) -> DictConfig:
    """Compose the configuration of a small run on the digits in this folder."""
    with initialize_config_module("qcnn_lightning.conf", version_base="1.3"):
        return compose("train", [*SMALL, "logger=none", f"run_dir={run_dir}", *overrides])


def table_of(run: str | Path) -> pd.DataFrame:
    return pd.read_csv(f"{run}/metrics.csv").filter(regex="^(?!time)")


def summary_of(run: str | Path) -> dict:
    return json.loads(Path(run, "summary.json").read_text())


def checkpoint_of(run: str | Path, name: str = "last") -> dict:
    return torch.load(f"{run}/checkpoints/{name}.ckpt", weights_only=True)


def assert_same_run(one: str | Path, other: str | Path) -> None:
    """Check that two runs are the same to the last bit, timings aside."""
    assert table_of(one).equals(table_of(other))
    first, second = checkpoint_of(one), checkpoint_of(other)
    assert all(torch.equal(first["state_dict"][key], second["state_dict"][key]) for key in first["state_dict"])
    moments, others = first["optimizer_states"][0]["state"], second["optimizer_states"][0]["state"]
    assert all(torch.equal(moments[key][name], others[key][name]) for key in moments for name in moments[key])
    assert first["lr_schedulers"] == second["lr_schedulers"]


def train_until_a_signal(config: DictConfig, after_epoch: int = 1, signum: int = signal.SIGTERM) -> None:
    """Train, in this process, until a signal comes at the end of an epoch."""
    save = Checkpoints.on_train_epoch_end

    def save_and_signal(self, trainer, pl_module):
        save(self, trainer, pl_module)
        if trainer.current_epoch == after_epoch:
            signal.raise_signal(signum)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "on_train_epoch_end", save_and_signal)
        with pytest.raises(Interrupted) as raised:
            train(config)
    assert raised.value.code == 128 + signum
    assert summary_of(config.run_dir)["status"] == "interrupted"
    assert len(table_of(config.run_dir)) == after_epoch + 2


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
