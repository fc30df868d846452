"""A run's folder as one object: training writes it; sweeps, tables, the report and evaluations read it.

Whatever a folder holds is data: nothing in it is executed, and no link in it is followed out of it.
"""

import json
import logging
import math
import shlex
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from filelock import FileLock, Timeout

from qcnn_lightning.command_line import config_dir
from qcnn_lightning.errors import InputError, RefusedRunError
from qcnn_lightning.files import inside, replace_atomically
from qcnn_lightning.runs import BEST, LAST, PREVIOUS
from qcnn_lightning.runs.metrics import (
    agrees,
    checksum,
    first_epoch_of,
    lines_of,
    numbered_columns,
    read_lines,
    read_table,
    summary_of,
)
from qcnn_lightning.runs.settings import differences, settings_of
from qcnn_lightning.runs.untrusted import read_json, read_yaml

if TYPE_CHECKING:
    from qcnn_lightning.runs.checkpoint import StoredCheckpoint

log = logging.getLogger(__name__)

METRICS = "metrics.csv"
SUMMARY = "summary.json"
LOG = "train.log"
TRACEBACK = "traceback.txt"
"""Why the last attempt failed: the message, an empty line, the traceback."""
STATES = "states.safetensors"
LOCK = ".lock"
"""Held by the process that trains."""
COMPOSED, ABOUT_HYDRA, OVERRIDES = HYDRA_FILES = (".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml")
MARKS_OF_A_RUN = (METRICS, SUMMARY, COMPOSED, TRACEBACK)
LOGGERS = ("wandb", "tensorboard/hparams.yaml")
WRITTEN = (LOCK, LOG, METRICS, SUMMARY, TRACEBACK, STATES, *HYDRA_FILES, LAST, PREVIOUS, BEST, *LOGGERS)
STATUSES = ("finished", "running", "failed", "interrupted")
SECONDS_TO_WAIT_FOR_A_LOCK = 2
BIPARTITIONS = {"left_right": "left/right", "up_down": "up/down"}


class Run:
    """One run, as its folder tells it; what was read stays as it was read, until this object writes.

    Args:
        folder: the run's folder.
        name: what to call the run; by default as its folder is called.

    Attributes:
        notes: what is missing or was left out, and why; it grows as parts are read.
    """

    def __init__(self, folder: str | Path, name: str | None = None):
        self.folder = Path(folder)
        self.name = name or self.folder.resolve().name
        self.notes: list[str] = []

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    def read(self) -> None:
        """Read everything but checkpoints, so that what is wrong with the folder is known.

        Raises:
            InputError: there is nothing to show, or a file leads out of the folder.
        """
        for part in ("settings", "overrides", "summary", "metrics"):
            getattr(self, part)

    # What was asked for.

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The configuration, flattened: `settings["model.d"]`; a list is text, so that settings can be compared."""
        composed = inside(self.folder, COMPOSED)
        if not composed.is_file():
            self.notes.append(f"no {COMPOSED}: data set, d and seed are unknown")
            return settings_of({})
        config = read_yaml(composed)
        return {
            key: json.dumps(value, default=str) if isinstance(value, list) else value
            for key, value in settings_of(config if isinstance(config, Mapping) else {}).items()
        }

    @cached_property
    def overrides(self) -> tuple[str, ...]:
        """What was given on the command line."""
        given = inside(self.folder, OVERRIDES)
        read = read_yaml(given) if given.is_file() else None
        return tuple(str(override) for override in read) if isinstance(read, list) else ()

    @cached_property
    def command(self) -> str:
        """The command that repeats this run."""
        try:
            options = config_dir(read_yaml(inside(self.folder, ABOUT_HYDRA))["hydra"])
        except (InputError, KeyError, TypeError):
            options = []
        return command_of(options, self.overrides)

    @property
    def data(self) -> str:
        """The data set's name."""
        return str(self.settings.get("data.name", "unknown"))

    @property
    def d(self) -> Any:
        """The channel multiplier; None if the configuration does not say."""
        return self.settings.get("model.d")

    @property
    def seed(self) -> Any:
        """The seed; None if unknown."""
        return self.settings.get("seed", self.summary.get("seed"))

    @property
    def flatten(self) -> str:
        """The pixel order."""
        return str(self.settings.get("data.flatten", "unknown"))

    @property
    def bipartition(self) -> str:
        """The two parts of the entropy: "left/right", "up/down" or, for other pixel orders, the order's name."""
        return BIPARTITIONS.get(self.flatten.removeprefix("z_"), self.flatten)

    @property
    def planned_epochs(self) -> float:
        """`trainer.max_epochs`; NaN if unknown."""
        return as_number(self.settings.get("trainer.max_epochs"))

    # What came of it.

    @property
    def status(self) -> str:
        """Whether the run is running, or has finished, failed or been interrupted."""
        if self.is_running:
            return "running"
        # Until a run has ended its summary says so, too.
        told = self.summary.get("status")
        status = told if told in STATUSES else "interrupted"
        return "failed" if status != "finished" and (self.folder / TRACEBACK).is_file() else status

    @property
    def is_running(self) -> bool:
        """Whether a training process holds the folder's lock."""
        lock = self.folder / LOCK
        if not lock.is_file() or lock.is_symlink():
            return False
        try:
            with FileLock(lock, timeout=0):
                return False
        except Timeout:
            return True
        except OSError:
            return False

    @cached_property
    def summary(self) -> dict[str, Any]:
        """`summary.json`; empty if that is missing or damaged."""
        try:
            summary = read_json(inside(self.folder, SUMMARY))
        except InputError:
            summary = None
        if isinstance(summary, dict) and summary:
            return summary
        self.notes.append(f"no {SUMMARY} that can be read: parameter count and status are unknown")
        return {}

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """A row per epoch, indexed by the epoch (-1: before training); finite numbers or NaN.

        Rows that were altered since they were written are those of the checkpoint.

        Raises:
            InputError: there is no complete row.
        """
        lines = read_lines(inside(self.folder, METRICS))
        if not agrees(lines, self.summary.get("metrics")):
            lines = self._mended(lines)
        table, reasons = read_table(lines)
        self.notes += reasons
        return table

    def _mended(self, lines: list[str]) -> list[str]:
        """Return the lines of `metrics.csv` with those that the checkpoint holds in their place."""
        try:
            checkpoint = self.checkpoint()
        except InputError as error:
            self.notes.append(f"{METRICS} was altered, and no checkpoint can be read to mend it: {error}")
            return lines
        stored = lines_of(checkpoint.record["rows"]) if checkpoint is not None else []
        if not stored:
            self.notes.append(f"{METRICS} was altered, and there is no checkpoint to mend it")
            return lines
        if lines[: len(stored)] == stored:
            return lines
        self.notes.append(f"{METRICS} was altered: the rows of the checkpoint are used, up to its epoch")
        return stored

    def column(self, name: str) -> pd.Series:
        """Return a metric where it was measured, indexed by epoch; empty if the run has no such column."""
        if name not in self.metrics:
            return pd.Series(dtype=float, index=pd.Index([], dtype=int, name="epoch"))
        return self.metrics[name].dropna()

    def entropy_trend(self, window: int) -> pd.Series:
        """Return the mean entropy of the classes, averaged over each epoch and the `window - 1` before it, in nats."""
        return self.column("ee/mean").rolling(window, min_periods=1).mean()

    @property
    def last_epoch(self) -> int:
        """The last epoch there is a row for; -1 before the first one has ended."""
        return int(self.metrics.index[-1]) if len(self.metrics) else -1

    def first_epoch(self, chosen: int | None = None) -> int:
        """Return the first epoch at which entropy and cost are compared: the chosen one, or by the run's length."""
        epochs = self.last_epoch + 1 if math.isnan(self.planned_epochs) else int(self.planned_epochs)
        return first_epoch_of(epochs, chosen)

    @property
    def num_parameters(self) -> float:
        """Number of trained parameters; NaN if unknown."""
        return as_number(self.summary.get("num_parameters"))

    @property
    def seconds(self) -> float:
        """Time taken so far."""
        return float(self.column("time/epoch_s").sum())

    @cached_property
    def class_columns(self) -> list[str]:
        """The columns of the entropies of single classes, in the classes' order."""
        return numbered_columns(self.metrics, "ee/class_")

    @cached_property
    def profile_columns(self) -> list[str]:
        """The columns of the entropy profile, from single pixels to half images."""
        return numbered_columns(self.metrics, "profile/level_")

    @property
    def class_names(self) -> list[str]:
        """Names of the classes; their numbers if unknown."""
        names = self.summary.get("class_names")
        if isinstance(names, list) and len(names) == len(self.class_columns):
            return [str(name) for name in names]
        return [str(label) for label in range(len(self.class_columns))]

    def checkpoint(self) -> "StoredCheckpoint | None":
        """Read the last checkpoint that is whole; None if there is none.

        Raises:
            InputError: it holds pickled objects, or every one is damaged.
        """
        # Only now, for PyTorch takes seconds to import.
        from qcnn_lightning.runs.checkpoint import read_last

        return read_last(self.folder)

    def checkpoint_to_resume(self, config: Mapping[str, Any]) -> "StoredCheckpoint | None":
        """Return the checkpoint that this configuration's run resumes from; None where the run begins.

        Args:
            config: the resolved configuration of now.

        Raises:
            RefusedRunError: the checkpoint is of another configuration, or the run has finished and its checkpoint is
                gone.
            InputError: as `checkpoint`.
        """
        found = self.checkpoint()
        if found is None:
            if self.summary.get("status") == "finished":
                raise RefusedRunError(
                    f"{self.folder} has finished, but its checkpoints are gone; choose another sweep.name or "
                    "hydra.run.dir, or delete the folder to run it again"
                )
            return None
        changes = differences(found.config, config)
        if changes:
            lines = "".join(f"\n  {key}: {old} -> {new}" for key, (old, new) in changes.items())
            raise RefusedRunError(
                f"{self.folder} was trained with other settings:{lines}\nGive the old values to resume it; choose "
                "another sweep.name or hydra.run.dir, or delete the folder, to train with the new ones"
            )
        return found

    # What training writes.

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder's lock, so that no other process trains in it.

        Raises:
            RefusedRunError: another process holds it.
            InputError: no lock can be taken there; or something that the run would write leads out of the folder.
        """
        for name in WRITTEN:
            inside(self.folder, name)
        lock = FileLock(self.folder / LOCK, timeout=SECONDS_TO_WAIT_FOR_A_LOCK)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout as error:
            raise RefusedRunError(
                f"{self.folder} is being trained by another process; wait for it, or choose another sweep.name or "
                "hydra.run.dir"
            ) from error
        except OSError as error:
            raise InputError(
                f"run_dir={self.folder}: cannot write {error.filename or self.folder / LOCK}: {error.strerror}"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def write(
        self,
        rows: list[dict[str, float | int]],
        status: str,
        facts: Mapping[str, Any],
        later_lines: Iterable[str] = (),
        **more: Any,
    ) -> None:
        """Replace `metrics.csv` and `summary.json`.

        Args:
            rows: all so far, epoch -1 first.
            status: "finished", "failed" or "interrupted". Until a run has ended it is "interrupted": the truth, should
                the process be killed now.
            facts: what else `summary.json` holds.
            later_lines: of `metrics.csv`, of epochs that are trained once more; they stay until they have been.
            more: further facts, that come last.

        Raises:
            InputError: a file cannot be written; what it held is still there.
        """
        summary = {"status": status, **facts, **summary_of(rows)}
        if rows:
            lines = [*lines_of(rows), *later_lines]
            replace_atomically(self.folder / METRICS, "".join(lines))
            summary["metrics"] = {"lines": len(lines), "crc32": checksum(lines)}
        replace_atomically(self.folder / SUMMARY, json.dumps(summary | more, indent=2) + "\n")
        for name in ("summary", "metrics"):
            self.__dict__.pop(name, None)

    def write_hydra_files(self, files: Mapping[str, str]) -> None:
        """Write what was asked for: name (one of `HYDRA_FILES`) -> text."""
        for name, text in files.items():
            replace_atomically(self.folder / name, text)

    def write_traceback(self, error: BaseException) -> None:
        """Write an error's message and, below it, its traceback, if that can be written."""
        try:
            told = f"{message_of(error)}\n\n{''.join(traceback.format_exception(error))}"
            replace_atomically(self.folder / TRACEBACK, told)
        except InputError as further:
            log.warning("%s", further)


def command_of(options: Iterable[str], overrides: Iterable[str]) -> str:
    """Return the command that trains with these options, such as --config-dir, and overrides."""
    return shlex.join(["python", "-m", "qcnn_lightning.train", *options, *overrides])


def message_of(error: BaseException) -> str:
    """Return what an error says, and its kind unless its message alone tells the user what to do."""
    # Others say little, or nothing: KeyError, MemoryError.
    return str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"


def as_number(value: Any) -> float:
    """Return a number as it is, NaN for everything else."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf:
        try:
            return float(value)
        except OverflowError:
            pass
    return math.nan
