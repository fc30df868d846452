"""Several processes for one run: Lightning starts the others by repeating the command line.

In a sweep, the repeated command line must name this job alone, and its folder. What Lightning leaves in the environment
and in threads must not reach the sweep's next job.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch.distributed
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from pytorch_lightning.strategies.launchers import _MultiProcessingLauncher, _SubprocessScriptLauncher

from qcnn_lightning.command_line import config_dir, quoted
from qcnn_lightning.errors import InputError

MODULE, SCRIPT = "qcnn_lightning.train", "qcnn-train"
SECONDS_TO_END = 60


@contextmanager
def other_processes(trainer: pl.Trainer, folder: Path) -> Iterator[None]:
    """Let Lightning start a run's other processes, and end them with it.

    Args:
        trainer: starts them.
        folder: the run's folder.

    Raises:
        InputError: they cannot be started from here.
    """
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _MultiProcessingLauncher):
        raise InputError("trainer.strategy: several processes need a strategy that starts the script again, like ddp")
    if not isinstance(launcher, _SubprocessScriptLauncher) or launcher.cluster_environment.creates_processes_externally:
        yield
        return
    main: Any = sys.modules["__main__"]
    by_command = getattr(main.__spec__, "name", None) == MODULE or Path(sys.argv[0]).name == SCRIPT
    if not by_command or not HydraConfig.initialized():
        raise InputError(
            f"trainer.devices={trainer.num_devices}: only {SCRIPT} or python -m {MODULE} can start several processes, "
            "not a launcher's job; Slurm itself can: hydra.launcher.tasks_per_node, see docs/clusters.md"
        )
    environment, arguments = dict(os.environ), sys.argv
    hydra = HydraConfig.get()
    if hydra.mode == RunMode.MULTIRUN:
        sys.argv = [arguments[0], *config_dir(hydra), *hydra.overrides.task, f"run_dir={quoted(folder)}"]
    succeeded = False
    try:
        yield
        succeeded = True
    finally:
        for process in launcher.procs:
            if not succeeded:
                process.kill()
            try:
                process.wait(SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                # What the run leaves has been written by the first process.
                process.kill()
                process.wait()
        # Or Lightning's observer of the list would take their end for a failure and kill this process.
        launcher.procs.clear()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        sys.argv = arguments
        os.environ.clear()
        os.environ.update(environment)
