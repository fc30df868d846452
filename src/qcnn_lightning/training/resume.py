"""Resuming by repeating: what a run folder holds already, and whether it is this very run."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from qcnn_lightning.errors import InputError
from qcnn_lightning.files import check_writable, replace_atomically
from qcnn_lightning.run_folder import (
    LAST,
    LOCK,
    inside,
    read_last_checkpoint,
    read_summary,
    read_yaml,
    refuse_foreign_targets,
    settings_of,
    targets,
)

# Settings, and whole groups of them, that do not change what is learned; all others must stay as they were.
FREE_TO_CHANGE = (
    "callbacks",
    "data.batches_at_a_time",
    "data.cache",
    "data.evaluation_batch_size",
    "data.root",
    "data.system_folders",
    "logger",
    "model.kernel",
    "run_dir",
    "sweep",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.log_every_n_steps",
    "trainer.num_nodes",
    "trainer.strategy",
)
COMPOSED = ".hydra/config.yaml"
HYDRA_FILES = (COMPOSED, ".hydra/hydra.yaml", ".hydra/overrides.yaml")
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
    """Hydra's callback before it writes anything: exits with 2 where that is not possible, or should not be.

    Hydra would write over what is there, and leave half a file where there is no space.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check a run's folder, and refuse it if its configuration names a foreign class."""
        folder, own = Path(config.hydra.run.dir), set(targets(OmegaConf.to_container(config)))
        with exit_if_refused():
            composed = inside(folder, COMPOSED)
            if composed.is_file():
                refuse_foreign_targets(read_yaml(composed), composed, trusted=own)
            check_writable(folder)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check a sweep's folder."""
        with exit_if_refused():
            check_writable(Path(config.hydra.sweep.dir))


@contextmanager
def exit_if_refused() -> Iterator[None]:
    """Print an error and exit, where Hydra would make a warning of it."""
    try:
        yield
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


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
    found = read_last_checkpoint(folder, trusted=set(targets(config)))
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
        # Hydra has written the new settings already.
        put_back(folder, checkpoint["callbacks"].get("RunRecord", {}).get("hydra_files", {}))
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
        free.discard("data.batches_at_a_time")
    keys = [key for key in {**olds, **news} if not any(f"{key}.".startswith(f"{setting}.") for setting in free)]
    return {
        key: (olds.get(key, "none"), news.get(key, "none")) for key in keys if olds.get(key, ...) != news.get(key, ...)
    }


def read_hydra_files(folder: Path) -> dict[str, str]:
    """Return what Hydra wrote about this run: name -> text."""
    return {name: (folder / name).read_text() for name in HYDRA_FILES if (folder / name).is_file()}


def put_back(folder: Path, files: Mapping[str, str]) -> None:
    """Write back files that Hydra has overwritten."""
    now = read_hydra_files(folder)
    for name in HYDRA_FILES:
        if name in files and (folder / name).parent.is_dir() and now.get(name) != files[name]:
            replace_atomically(folder / name, files[name])
