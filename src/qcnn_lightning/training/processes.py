"""Several processes for one run: Lightning starts the others by repeating the command line, so that must be this job's.

Of a sweep's command line the others must take one job alone, and they must train in its folder; and what Lightning
leaves behind, in the environment and in threads, must not reach the sweep's next job.
"""

import os
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

SCRIPT = "qcnn_lightning.train"
SECONDS_TO_END = 60


@contextmanager
def other_processes(trainer: pl.Trainer, folder: Path) -> Iterator[None]:
    """Let Lightning start the other processes of a run, and end them with it.

    Args:
        trainer: which starts them.
        folder: the run's folder.

    Raises:
        InputError: they cannot be started from here.
    """
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _MultiProcessingLauncher):
        raise InputError(
            "trainer.strategy: several processes need a strategy that starts the script again, such as ddp"
        )
    if not isinstance(launcher, _SubprocessScriptLauncher) or launcher.cluster_environment.creates_processes_externally:
        yield
        return
    main: Any = sys.modules["__main__"]
    if getattr(main.__spec__, "name", None) != SCRIPT or not HydraConfig.initialized():
        raise InputError(
            f"trainer.devices={trainer.num_devices}: several processes can be started by python -m {SCRIPT} alone, not "
            "inside another launcher's; on Slurm let it start them: hydra.launcher.tasks_per_node, as docs/clusters.md "
            "shows"
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
            process.wait(SECONDS_TO_END)
        # Or Lightning's observer of the list would take their end for a failure, and kill this process.
        launcher.procs.clear()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        sys.argv = arguments
        os.environ.clear()
        os.environ.update(environment)
