"""The other processes of a run, when they do not end."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
from hydra.types import RunMode

from qcnn_lightning.training import processes


@pytest.fixture
def sleeping():
    """A process that has nothing in mind."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    yield process
    process.kill()
    process.wait()


def test_a_process_that_does_not_end_with_a_finished_run_is_ended(monkeypatch, tmp_path, sleeping):
    trainer = pl.Trainer(accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_checkpointing=False)
    trainer.strategy.launcher.procs = [sleeping]
    hydra = SimpleNamespace(initialized=lambda: True, get=lambda: SimpleNamespace(mode=RunMode.RUN))
    monkeypatch.setattr(processes, "HydraConfig", hydra)
    monkeypatch.setattr(processes, "SECONDS_TO_END", 0.1)
    monkeypatch.setattr(sys, "argv", [processes.SCRIPT])
    with processes.other_processes(trainer, tmp_path):
        os.environ["LEFT_BY_THE_RUN"] = "1"
    assert sleeping.poll() is not None
    assert trainer.strategy.launcher.procs == []
    assert "LEFT_BY_THE_RUN" not in os.environ
