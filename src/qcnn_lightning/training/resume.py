"""Resuming by repeating: what a run folder holds already, and whether it is this very run."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from qcnn_lightning.command_line import exit_at_errors
from qcnn_lightning.errors import InputError
from qcnn_lightning.files import check_writable, inside, replace_atomically
from qcnn_lightning.runs.run_folder import (
    BEST,
    FREE_TO_CHANGE,
    HYDRA_FILES,
    LAST,
    LOCK,
    LOG,
    METRICS,
    PREVIOUS,
    SUMMARY,
    TRACEBACK,
    read_last_checkpoint,
    read_summary,
    settings_of,
)

# What a run writes, the loggers' folders included, and what a sweep writes beside its jobs.
WRITTEN = (
    *(LOCK, LOG, METRICS, SUMMARY, TRACEBACK, LAST, PREVIOUS, BEST, *HYDRA_FILES),
    *("wandb", "tensorboard/hparams.yaml"),
)
WRITTEN_BY_A_SWEEP = ("multirun.yaml", "optimization_results.yaml", ".submitit")
# Whoever looks at runs tries their locks for a moment.
SECONDS_TO_WAIT_FOR_A_LOCK = 2


class State(NamedTuple):
    """What a run resumes from.

    Attributes:
        path: the checkpoint's file.
        checkpoint: its content.
    """

    path: Path
    checkpoint: dict[str, Any]


class RefusedRunError(InputError):
    """What the folder holds is left as it is: another run, or one that another process trains."""


class FolderCheck(Callback):
    """Hydra's callback before it makes a folder: exits with 2 where nothing can, or should, be written there."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check a run's folder."""
        with exit_at_errors():
            leave_hydra_files_to_us(config)
            check_writable(Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check a sweep's folder."""
        folder = Path(config.hydra.sweep.dir)
        with exit_at_errors():
            leave_hydra_files_to_us(config)
            for name in WRITTEN_BY_A_SWEEP:
                inside(folder, name)
            check_writable(folder)


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


def refuse_links_out(folder: Path) -> None:
    """Refuse a folder in which a run would write elsewhere.

    Raises:
        InputError: a file or folder that the run would write leads out of the folder.
    """
    for name in WRITTEN:
        inside(folder, name)


@contextmanager
def sole_owner(folder: Path) -> Iterator[None]:
    """Hold a run folder's lock.

    Raises:
        RefusedRunError: another process holds it.
        InputError: no lock can be taken there.
    """
    lock = FileLock(folder / LOCK, timeout=SECONDS_TO_WAIT_FOR_A_LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise RefusedRunError(
            f"{folder} is being trained by another process; wait for it, or choose another sweep.name or hydra.run.dir"
        ) from error
    except OSError as error:
        raise InputError(
            f"run_dir={folder}: cannot write {error.filename or folder / LOCK}: {error.strerror}"
        ) from error
    try:
        yield
    finally:
        lock.release()


def read_state(folder: Path, config: Mapping[str, Any]) -> State | None:
    """Read the checkpoint that this configuration's run resumes from.

    Args:
        folder: the run's folder.
        config: the resolved configuration of now.

    Returns:
        What there is; None if there is no checkpoint, and the run begins.

    Raises:
        RefusedRunError: the checkpoint is of another configuration, or the run has finished and its checkpoint is gone.
        InputError: see `read_last_checkpoint`.
    """
    found = read_last_checkpoint(folder)
    if found is None:
        if read_summary(folder).get("status") == "finished":
            raise RefusedRunError(
                f"{folder} has finished, but {folder / LAST} is gone; choose another sweep.name or hydra.run.dir, or "
                "delete the folder to run it again"
            )
        return None
    path, checkpoint = found
    changes = differences(checkpoint["hyper_parameters"], config)
    if changes:
        lines = "".join(f"\n  {key}: {old} -> {new}" for key, (old, new) in changes.items())
        raise RefusedRunError(
            f"{folder} was trained with other settings:{lines}\nGive the old values to resume it; choose another "
            "sweep.name or hydra.run.dir, or delete the folder, to train with the new ones"
        )
    return State(path, checkpoint)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the settings that matter and differ: key -> (old, new); "none" where there is no such setting."""
    olds, news = settings_of(old), settings_of(new)
    free = set(FREE_TO_CHANGE)
    if news.get("data.name") == "folder":
        # Where the images are is what they are.
        free.discard("data.root")
    if news.get("average_decay") or news.get("entropy_weight"):
        # How often the average is brought up to date, and the entropy's gradient measured.
        free.discard("data.batches_per_item")
    keys = [key for key in {**olds, **news} if not any(f"{key}.".startswith(f"{setting}.") for setting in free)]
    return {
        key: (olds.get(key, "none"), news.get(key, "none")) for key in keys if olds.get(key, ...) != news.get(key, ...)
    }


def hydra_files(config: DictConfig) -> dict[str, str]:
    """Return what Hydra knows about this job, as it would write it: name -> text; nothing outside of its jobs."""
    if not HydraConfig.initialized():
        return {}
    hydra = HydraConfig.instance().cfg
    parts = (config, hydra, HydraConfig.get().overrides.task)
    return {name: OmegaConf.to_yaml(part) for name, part in zip(HYDRA_FILES, parts, strict=True)}


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    """Write files, name -> text, into a folder."""
    for name, text in files.items():
        replace_atomically(folder / name, text)
