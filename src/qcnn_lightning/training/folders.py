"""What Hydra would write and make itself: a run does so, once it holds its folder's lock."""

from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from qcnn_lightning.command_line import exit_at_errors
from qcnn_lightning.errors import InputError
from qcnn_lightning.files import check_writable, inside
from qcnn_lightning.runs.run import HYDRA_FILES

# What a sweep writes beside its jobs.
WRITTEN_BY_A_SWEEP = ("multirun.yaml", "optimization_results.yaml", ".submitit")


class FolderCheck(Callback):
    """Hydra's callback before it makes a folder: exits with 2 where nothing can, or should, be written there."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check a run's folder."""
        with exit_at_errors():
            check_run_folder(config)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check a sweep's folder."""
        folder = Path(config.hydra.sweep.dir)
        with exit_at_errors():
            leave_hydra_files_to_us(config)
            for name in WRITTEN_BY_A_SWEEP:
                inside(folder, name)
            check_writable(folder)


def check_run_folder(config: DictConfig) -> None:
    """Check that a run's folder can be written to, and that Hydra leaves it to the run.

    Raises:
        InputError: it cannot, or Hydra would write to it.
    """
    leave_hydra_files_to_us(config)
    check_writable(Path(config.hydra.run.dir))


def leave_hydra_files_to_us(config: DictConfig) -> None:
    """Refuse that Hydra itself writes `.hydra/`: it would do so before the folder's lock is tried.

    Raises:
        InputError: `hydra.output_subdir` is not null.
    """
    if config.hydra.output_subdir is not None:
        raise InputError(
            f"hydra.output_subdir={config.hydra.output_subdir}: must be null; a run writes .hydra/ by itself, once "
            "nobody else trains in its folder"
        )


def hydra_files(config: DictConfig) -> dict[str, str]:
    """Return what Hydra knows about this job, as it would write it: name -> text; nothing outside of its jobs."""
    if not HydraConfig.initialized():
        return {}
    hydra = HydraConfig.instance().cfg
    parts = (config, hydra, HydraConfig.get().overrides.task)
    return {name: OmegaConf.to_yaml(part) for name, part in zip(HYDRA_FILES, parts, strict=True)}
