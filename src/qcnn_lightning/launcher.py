"""`hydra/launcher=together`, as Hydra sees it."""

import sys
from collections.abc import Sequence
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

PLUGIN = "hydra_plugins.qcnn_lightning"
"""Hydra takes plug-ins from its namespace alone, and finds no editable installation there: this module is named so."""


class TogetherLauncher(Launcher):
    """Trains the jobs of a sweep whose networks have one shape as one batched network; `training/launching.py` does it.

    Args:
        most: jobs at a time; the memory of all of them is needed.
    """

    __module__ = PLUGIN

    def __init__(self, most: Any = 32) -> None:
        self.most = most

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra gives to every launcher."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Carry out the jobs, and return how they ended, in their order."""
        # Imported only now: --help and --cfg answer at once.
        from qcnn_lightning.training.launching import launch

        context, task, config = self.hydra_context, self.task_function, self.config
        return launch(context, task, config, job_overrides, initial_job_idx, self.most)


def register() -> None:
    """Let Hydra know the launcher."""
    sys.modules[PLUGIN] = sys.modules[__name__]
    Plugins.instance().register(TogetherLauncher)
