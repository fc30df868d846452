"""A run's folder as one object: training writes it; sweeps, tables, the report and evaluations read it.

Whatever a folder holds is data: nothing in it is executed, and no link in it is followed out of it.
"""

import json
import logging
import math
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from qcnn_lightning.command_line import command_of, config_dir
from qcnn_lightning.errors import InputError, RefusedRunError, message_of
from qcnn_lightning.files import inside, replace_atomically
from qcnn_lightning.runs import BEST, LAST, PREVIOUS
from qcnn_lightning.runs.checksums import checksum, checksums_of_files, has_agreeing_lines, is_whole, sealed
from qcnn_lightning.runs.lock import LOCK, FolderLock
from qcnn_lightning.runs.metrics import (
    as_number,
    first_epoch_of,
    lines_of,
    numbered_columns,
    read_lines,
    read_table,
    summary_of,
)
from qcnn_lightning.runs.settings import (
    CLASSES,
    MAX_EPOCHS,
    differences,
    is_longer,
    repeating,
    settings_of,
    with_values,
)
from qcnn_lightning.runs.untrusted import MOST_BYTES_OF_SETTINGS, parse_yaml, read_json, read_text

if TYPE_CHECKING:
    from qcnn_lightning.runs.checkpoint import StoredCheckpoint

log = logging.getLogger(__name__)

METRICS = "metrics.csv"
NOWHERE = pd.Series(dtype=float, index=pd.Index([], dtype=int, name="epoch"))
SUMMARY = "summary.json"
LOG = "train.log"
TRACEBACK = "traceback.txt"
"""Why the last attempt failed: the message, an empty line, the traceback."""
STATES = "states.safetensors"
COMPOSED, ABOUT_HYDRA, OVERRIDES = HYDRA_FILES = (".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml")
MARKS_OF_A_RUN = (METRICS, SUMMARY, COMPOSED, TRACEBACK)
# What a run writes, the loggers' folders included.
WRITTEN = (
    *(LOCK, LOG, METRICS, SUMMARY, TRACEBACK, STATES, *HYDRA_FILES),
    *(LAST, PREVIOUS, BEST, "wandb", "tensorboard/hparams.yaml"),
)
STATUSES = ("finished", "running", "failed", "interrupted")
BIPARTITIONS = {"left_right": "left/right", "up_down": "up/down"}


class Run:
    """One run, as its folder tells it; what was read stays as it was read, until this object writes.

    Args:
        folder: the run's folder.
        name: what to call the run; by default as its folder is called.

    Attributes:
        lock: of the folder.
        notes: what is missing or was left out, and why; it grows as parts are read.
        altered: those of the notes that tell of files which are not as they were written.
    """

    def __init__(self, folder: str | Path, name: str | None = None):
        self.folder = Path(folder)
        self.name = name or self.folder.resolve().name
        self.lock = FolderLock(self.folder)
        self.notes: list[str] = []
        self.altered: list[str] = []
        self._checksums_of_files: dict[str, int] = {}
        self._columns: dict[str, pd.Series] = {}

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    def read(self) -> None:
        """Read everything but checkpoints, so that what is wrong with the folder is known.

        Raises:
            InputError: there is nothing to show, or a file leads out of the folder.
        """
        for part in ("summary", "settings", "overrides", "command", "metrics"):
            getattr(self, part)

    # What was asked for.

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The configuration, flattened: `settings["model.d"]`; a list is text, so that settings can be compared.

        Settings that refer to others have their values.
        """
        settings = with_values(self._written_settings)
        chosen = settings.pop(CLASSES, None)
        names = chosen or self.summary.get("class_names")
        settings |= {CLASSES: list(map(str, names))} if isinstance(names, list) else {}
        return {
            key: json.dumps(value, default=str, ensure_ascii=False) if isinstance(value, list) else value
            for key, value in settings.items()
        }

    @cached_property
    def repeating_settings(self) -> frozenset[str]:
        """The settings that only repeat another one, such as `scheduler.max_lr`, which is `optimizer.lr`."""
        return frozenset(repeating(self._written_settings))

    @cached_property
    def _written_settings(self) -> dict[str, Any]:
        config = self._asked(COMPOSED, "data set, d and seed are unknown")
        return settings_of(config if isinstance(config, Mapping) else {})

    @cached_property
    def overrides(self) -> tuple[str, ...]:
        """What was given on the command line."""
        read = self._asked(OVERRIDES, "the command is unknown" if checksums_of_files(self.summary) else None)
        return tuple(str(override) for override in read) if isinstance(read, list) else ()

    def _asked(self, name: str, lost: str | None = None) -> Any:
        """Return what one of Hydra's files holds; None if there is none. Say what is lost, and alterations."""
        path, written = inside(self.folder, name), checksums_of_files(self.summary).get(name)
        if path.is_file():
            text = read_text(path, MOST_BYTES_OF_SETTINGS)
            if written not in (None, checksum([text])):
                self._tell(f"{name} was altered since the run wrote it")
            return parse_yaml(text, path)
        if lost is not None:
            self._tell(f"no {name}: {lost}")
        return None

    def _tell(self, alteration: str) -> None:
        self.notes.append(alteration)
        self.altered.append(alteration)

    @cached_property
    def command(self) -> str:
        """The command that repeats this run."""
        try:
            options = config_dir(self._asked(ABOUT_HYDRA)["hydra"])
        except (InputError, KeyError, TypeError, AttributeError):
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
        return self.lock.is_taken()

    @cached_property
    def summary(self) -> dict[str, Any]:
        """`summary.json`; empty if that is missing or damaged."""
        try:
            summary = read_json(inside(self.folder, SUMMARY))
        except InputError:
            summary = None
        if isinstance(summary, dict) and is_whole(summary):
            return summary
        self._tell(f"no {SUMMARY} as the run wrote it: parameter count and status are unknown")
        return {}

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """A row per epoch, indexed by the epoch (-1: before training); finite numbers or NaN.

        Rows that were altered since they were written are those of the checkpoint.

        Raises:
            InputError: there is no complete row.
        """
        lines = read_lines(inside(self.folder, METRICS))
        if not has_agreeing_lines(lines, self.summary):
            lines = self._mended(lines)
        table, reasons = read_table(lines)
        self.notes += reasons
        return table

    def _mended(self, lines: list[str]) -> list[str]:
        """Return the lines of `metrics.csv` with those that the checkpoint holds in their place."""
        try:
            checkpoint, error = self.checkpoint(), "there is none"
        except InputError as unreadable:
            checkpoint, error = None, str(unreadable)
        if checkpoint is None or not checkpoint.record["rows"]:
            self._tell(f"{METRICS} was altered, and no checkpoint can be read to mend it: {error}")
            return lines
        stored = lines_of(checkpoint.record["rows"])
        if lines == stored:
            return lines
        self._tell(f"{METRICS} was altered: the rows of the checkpoint are used, up to its epoch")
        return stored

    def has_the_rows_of(self, checkpoint: "StoredCheckpoint") -> bool:
        """Return whether `metrics.csv` has a checkpoint's rows: all of them, and until the run has finished more."""
        stored, lines = lines_of(checkpoint.record["rows"]), read_lines(inside(self.folder, METRICS))
        return lines == stored if self.summary.get("status") == "finished" else lines[: len(stored)] == stored

    def column(self, name: str) -> pd.Series:
        """Return a metric where it was measured, indexed by epoch; empty if the run has no such column."""
        if name not in self._columns:
            self._columns[name] = self.metrics.get(name, NOWHERE).dropna()
        return self._columns[name]

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
        if not found.record["rows"]:
            raise InputError(f"{found.path} has no rows of epochs: it is no checkpoint of a run")
        changes = differences(found.config, config)
        if is_longer(found.config, config):
            del changes[MAX_EPOCHS]
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
        with self.lock.held():
            yield

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
            InputError: a file cannot be written, and what it held is still there; or the folder was deleted.
        """
        self.lock.check()
        lines = [*lines_of(rows), *later_lines] if rows else []
        if lines:
            replace_atomically(self.folder / METRICS, "".join(lines))
        files = self._checksums_of_files or checksums_of_files(self.summary)
        summary = {"status": status, **facts, **summary_of(rows), **more}
        replace_atomically(self.folder / SUMMARY, sealed(summary, lines, files))
        for name in ("summary", "metrics"):
            self.__dict__.pop(name, None)
        self._columns.clear()

    def write_hydra_files(self, files: Mapping[str, str]) -> None:
        """Write what was asked for: name (one of `HYDRA_FILES`) -> text."""
        for name, text in files.items():
            replace_atomically(self.folder / name, text)
        self._checksums_of_files = {name: checksum([text]) for name, text in files.items()}

    def write_traceback(self, error: BaseException) -> None:
        """Write an error's message and, below it, its traceback, if that can be written."""
        try:
            self.lock.check()
            told = f"{message_of(error)}\n\n{''.join(traceback.format_exception(error))}"
            replace_atomically(self.folder / TRACEBACK, told)
        except InputError as further:
            if str(further) != str(error):
                log.warning("%s", further)
