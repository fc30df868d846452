"""What runs left on disk, read as data: nothing in a run folder is executed, and no path in it is followed out of it.

A run is a folder with `metrics.csv` (a row per epoch), `summary.json` and `.hydra/`. Whatever is damaged, missing or
strange is left out and named, so that one bad run never hides the others.
"""

import io
import json
import math
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from qcnn_lightning.command_line import config_dir
from qcnn_lightning.errors import InputError
from qcnn_lightning.files import inside
from qcnn_lightning.first_epoch import first_epoch_of
from qcnn_lightning.runs.run_folder import (
    FREE_TO_CHANGE,
    LAST,
    PREVIOUS,
    TRACEBACK,
    is_running,
    read_summary,
    read_yaml,
    refuse_pickled_objects,
    settings_of,
)

MARKS_OF_A_RUN = ("metrics.csv", "summary.json", ".hydra/config.yaml", TRACEBACK)
MEASURED = ("accuracy/train", "accuracy/test", "cost/train", "cost/test", "ee/mean")
# The train cost of results, where it was recorded: the mean over the epoch's batches, what was minimised and, in all
# likelihood, what the paper shows. With fixed statistics, one image in 60000 can outweigh all others.
BATCH_COST = "cost/batch"
NOT_IN_EVERY_EPOCH = ("profile/level_", "spectrum/p_")
# Two runs that differ in nothing else are the same experiment, repeated with another seed or in another place.
NOT_A_SETTING = (*FREE_TO_CHANGE, "data.seed", "seed")
BIPARTITIONS = {"left_right": "left/right", "up_down": "up/down"}


@dataclass(frozen=True)
class LeftOut:
    """Something that is not in the results, and why.

    Attributes:
        what: the run's name, or what is not drawn.
        why: the reason, for people.
    """

    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.what}: {self.why}"


@dataclass(frozen=True, eq=False)
class Run:
    """One run, as its folder tells it.

    Attributes:
        name: the folder, relative to where runs were looked for.
        folder: the run's folder.
        metrics: a row per epoch, indexed by the epoch (-1: before training); finite numbers or NaN.
        settings: the configuration, flattened: `settings["model.d"]`.
        overrides: what was given on the command line.
        options: of that command, besides: where its configs are.
        summary: `summary.json`.
        status: as `status_of` returns it.
    """

    name: str
    folder: Path
    metrics: pd.DataFrame
    settings: Mapping[str, Any] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    summary: Mapping[str, Any] = field(default_factory=dict)
    status: str = "interrupted"

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
        """What the entropies part: "left/right", "up/down" or, for other pixel orders, the order's name."""
        return BIPARTITIONS.get(self.flatten.removeprefix("z_"), self.flatten)

    @property
    def command(self) -> str:
        """The command that repeats this run."""
        return shlex.join(["python", "-m", "qcnn_lightning.train", *self.options, *self.overrides])

    @property
    def num_parameters(self) -> float:
        """Number of trained parameters; NaN if unknown."""
        return as_number(self.summary.get("num_parameters"))

    @property
    def last_epoch(self) -> int:
        """The last epoch there is a row for; -1 before the first one has ended."""
        return int(self.metrics.index[-1]) if len(self.metrics) else -1

    @property
    def planned_epochs(self) -> float:
        """`trainer.max_epochs`; NaN if unknown."""
        return as_number(self.settings.get("trainer.max_epochs"))

    def first_epoch(self, chosen: int | None = None) -> int:
        """Return the first epoch at which entropy and cost are compared: the chosen one, or by the run's length."""
        epochs = self.last_epoch + 1 if math.isnan(self.planned_epochs) else int(self.planned_epochs)
        return first_epoch_of(epochs, chosen)

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

    def column(self, name: str) -> pd.Series:
        """Return a metric where it was measured, indexed by epoch; empty if the run has no such column."""
        if name not in self.metrics:
            return pd.Series(dtype=float, index=pd.Index([], dtype=int, name="epoch"))
        return self.metrics[name].dropna()

    def entropy_trend(self, window: int) -> pd.Series:
        """Return the mean entropy of the classes, averaged over each epoch and the `window - 1` before it, in nats."""
        return self.column("ee/mean").rolling(window, min_periods=1).mean()


@dataclass(frozen=True, eq=False)
class Experiment:
    """Runs that differ in nothing but the seed.

    Attributes:
        data: the data set.
        bipartition: what the entropies part.
        variant: the settings that vary among all experiments of a data set, as text: "d=18, sharing=sibling".
        runs: one per seed.
    """

    data: str
    bipartition: str
    variant: str
    runs: tuple[Run, ...]

    @property
    def d(self) -> Any:
        """The channel multiplier."""
        return self.runs[0].d

    @property
    def label(self) -> str:
        """The data set and the variant."""
        return ", ".join(part for part in (self.data, self.variant) if part)

    @property
    def complete_runs(self) -> tuple[Run, ...]:
        """The runs that got as far as the one that got furthest: only these can be compared by their last epoch."""
        last_epoch = max(run.last_epoch for run in self.runs)
        return tuple(run for run in self.runs if run.last_epoch == last_epoch)

    def table(self, name: str) -> pd.DataFrame:
        """Return one metric of all runs: a row per epoch, a column per run."""
        return pd.DataFrame({run.name: run.column(name) for run in self.runs})

    def entropy_trends(self, window: int) -> pd.DataFrame:
        """Return the entropy trends of all runs: a row per epoch, a column per run."""
        return pd.DataFrame({run.name: run.entropy_trend(window) for run in self.runs})


@dataclass(frozen=True, eq=False)
class Collection:
    """All runs that were found, and what could not be used.

    Attributes:
        runs: sorted by data set, d and seed.
        left_out: what is missing and why.
    """

    runs: tuple[Run, ...]
    left_out: tuple[LeftOut, ...] = ()

    @property
    def data_sets(self) -> list[str]:
        """The data sets, each once."""
        return sorted({run.data for run in self.runs})

    @cached_property
    def varying_settings(self) -> list[str]:
        """Settings, seed aside, that differ between runs of one data set; d and the pixel order first."""
        varying = set()
        for data in self.data_sets:
            runs = [run for run in self.runs if run.data == data]
            for key in {key for run in runs for key in run.settings if not is_excluded(key)}:
                if len({run.settings.get(key) for run in runs}) > 1:
                    varying.add(key)
        first = ["model.d", "data.flatten"]
        others = varying.difference(first)
        # A scheduler of another class has other settings: its name says it all, unless they vary by themselves.
        classes = {key.split(".")[0]: key for key in sorted(others) if key.endswith("._target_")}
        implied = {
            key for key in others if (name := classes.get(key.split(".")[0], key)) != key and self.determines(name, key)
        }
        return [key for key in first if key in varying] + sorted(others - implied)

    def determines(self, key: str, other: str) -> bool:
        """Return whether runs with the same value of one setting have the same value of the other."""
        pairs = {(run.settings.get(key), run.settings.get(other)) for run in self.runs}
        return len(pairs) == len({value for value, _ in pairs})

    @cached_property
    def experiments(self) -> list[Experiment]:
        """The runs, grouped by everything but the seed."""
        groups: dict[tuple, list[Run]] = {}
        for run in self.runs:
            values = tuple(run.settings.get(key) for key in self.varying_settings)
            groups.setdefault((run.data, run.bipartition, values), []).append(run)
        return [
            Experiment(data, bipartition, self.describe_variant(runs[0]), tuple(runs))
            for (data, bipartition, _), runs in groups.items()
        ]

    def describe_variant(self, run: Run, without: str = "") -> str:
        """Name the settings in which a run differs from others of its data set, the bipartition and the seed aside.

        Args:
            run: the run.
            without: a setting that is not to be named.
        """
        parts = []
        for key in self.varying_settings:
            if key == without:
                continue
            value = run.settings.get(key)
            if key == "data.flatten":
                orders = {str(other.flatten).startswith("z_") for other in self.runs}
                if len(orders) > 1:
                    parts.append("z order" if run.flatten.startswith("z_") else "raster order")
            elif key.endswith("._target_"):
                parts.append(f"{setting_label(key)}={str(value).rpartition('.')[2]}")
            else:
                parts.append(f"{setting_label(key)}={value}")
        return ", ".join(parts)


def describe_first_epoch(runs: Iterable[Run], chosen: int | None = None) -> str:
    """Say from where on entropy and cost of these runs are compared: "from epoch 30"."""
    first = sorted({run.first_epoch(chosen) for run in runs})
    if len(first) == 1:
        return f"from epoch {first[0]}"
    return f"from epoch {first[0]} to {first[-1]}, depending on the run's length"


def caption(*parts: str) -> str:
    """Name a run or a group of them: join the parts that are not empty."""
    return ", ".join(part for part in parts if part)


def read_collection(paths: str | Path | Iterable[str | Path]) -> Collection:
    """Read every run at or below these folders.

    Args:
        paths: runs, sweeps, or folders of sweeps.

    Raises:
        InputError: a path is no folder, or there is no run that can be read.
    """
    runs, left_out = [], []
    for name, folder in find_run_folders(paths):
        try:
            run, notes = read_run(folder, name)
        except InputError as error:
            left_out.append(LeftOut(name, str(error)))
        else:
            runs.append(run)
            left_out += notes
    if not runs:
        reasons = "".join(f"\n  {item}" for item in left_out)
        raise InputError(f"no run that can be read in {describe(paths)}:{reasons}")
    runs.sort(key=lambda run: (run.data, rank(run.d), run.flatten, rank(run.seed), run.name))
    return Collection(tuple(runs), tuple(left_out))


def find_run_folders(paths: str | Path | Iterable[str | Path]) -> Iterator[tuple[str, Path]]:
    """Find the run folders at or below these folders, each once, with short names.

    Raises:
        InputError: a path is no folder, or no run was found.
    """
    given = [Path(paths)] if isinstance(paths, str | Path) else [Path(path) for path in paths]
    found: dict[Path, str] = {}
    for path in given:
        if not path.is_dir():
            raise InputError(f"{path}: no such folder; give a run, a sweep, or a folder of sweeps")
        for folder, subfolders, _ in os.walk(path):
            if any((Path(folder) / mark).is_file() for mark in MARKS_OF_A_RUN):
                inner = Path(folder).relative_to(path)
                name = path.resolve().name if inner == Path() else str(inner if len(given) == 1 else path.name / inner)
                found.setdefault(Path(folder).resolve(), name)
                subfolders.clear()
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
    if not found:
        raise InputError(f"{describe(paths)}: no run found (no metrics.csv there or in any folder below)")
    yield from ((name, folder) for folder, name in found.items())


def read_run(folder: Path, name: str | None = None) -> tuple[Run, list[LeftOut]]:
    """Read one run, and what had to be left out of it.

    Raises:
        InputError: there is nothing to show, or a checkpoint holds pickled objects.
    """
    name = name or folder.name
    notes = []
    config: Any = {}
    overrides: tuple[str, ...] = ()
    composed, given = inside(folder, ".hydra/config.yaml"), inside(folder, ".hydra/overrides.yaml")
    if composed.is_file():
        config = read_yaml(composed)
    else:
        notes.append(LeftOut(name, "no .hydra/config.yaml: data set, d and seed are unknown"))
    for checkpoint in (LAST, PREVIOUS):
        refuse_pickled_objects(inside(folder, checkpoint))
    if given.is_file():
        overrides = tuple(str(override) for override in read_yaml(given) or ())
    summary = read_summary(folder)
    if not summary:
        notes.append(LeftOut(name, "no summary.json that can be read: parameter count and status are unknown"))
    metrics, reasons = read_metrics(inside(folder, "metrics.csv"))
    notes += [LeftOut(name, reason) for reason in reasons]
    settings = {key: as_text_if_list(value) for key, value in settings_of(config).items()}
    return Run(name, folder, metrics, settings, overrides, options_of(folder), summary, status_of(folder)), notes


def options_of(folder: Path) -> tuple[str, ...]:
    """Return the options of a run's command that are no settings; none if `.hydra/hydra.yaml` does not tell."""
    try:
        return tuple(config_dir(read_yaml(inside(folder, ".hydra/hydra.yaml"))["hydra"]))
    except (InputError, KeyError, TypeError):
        return ()


def read_metrics(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """Read `metrics.csv`: a row per epoch, every value finite or NaN.

    `cost/train` becomes the mean cost of the epoch's batches, where that was recorded.

    Returns:
        The table, indexed by the epoch, and what was left out of it and why.

    Raises:
        InputError: there is no complete row, or no column `epoch`.
    """
    try:
        text = path.read_text()
    except FileNotFoundError as error:
        raise InputError("no metrics.csv: no epoch has been completed") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"metrics.csv cannot be read: {error}") from error
    reasons = []
    if not text.endswith("\n"):
        text = text[: text.rfind("\n") + 1]
        reasons.append("metrics.csv ends in the middle of a row: that row is left out")
    try:
        table = pd.read_csv(io.StringIO(text), dtype=str, on_bad_lines="skip", index_col=False)
    except (pd.errors.EmptyDataError, pd.errors.ParserError) as error:
        raise InputError("metrics.csv holds no epoch") from error
    if "epoch" not in table:
        raise InputError("metrics.csv has no column epoch")
    lines = text.count("\n") - 1
    table = table.apply(pd.to_numeric, errors="coerce").astype(float).replace([np.inf, -np.inf], np.nan)
    table = table[table["epoch"].notna()]
    if table.empty:
        raise InputError("metrics.csv holds no epoch")
    if len(table) < lines:
        reasons.append(f"{lines - len(table)} rows of metrics.csv cannot be read")
    if table["epoch"].duplicated().any():
        repeated = sorted(int(epoch) for epoch in table["epoch"][table["epoch"].duplicated()].unique())
        reasons.append(f"metrics.csv repeats the epochs {repeated}: the last row of each is used")
        table = table.drop_duplicates("epoch", keep="last")
    table = table.astype({"epoch": int}).set_index("epoch").sort_index()
    for prefix in NOT_IN_EVERY_EPOCH:
        if columns := numbered_columns(table, prefix):
            # The first runs repeat them until they were measured again.
            table.loc[(table[columns] == table[columns].shift()).all(axis=1), columns] = np.nan
    if BATCH_COST in table:
        table["cost/train"] = table[BATCH_COST]
    reasons += list(describe_gaps(table))
    return table, reasons


def describe_gaps(metrics: pd.DataFrame) -> Iterator[str]:
    """Say which of the measured columns are missing, or have values that are no finite numbers."""
    for column in MEASURED:
        if column not in metrics:
            yield f"no column {column}: not in the figures that show it"
    trained = metrics[metrics.index >= 0]
    for column in [*(set(MEASURED) & set(metrics)), *numbered_columns(metrics, "ee/class_")]:
        missing = int(trained[column].isna().sum())
        if missing:
            yield f"{column} is not a finite number in {missing} of {len(trained)} epochs: those are left out"
    if len(trained) == 0:
        yield "no epoch of training has been completed"
    elif len(trained) == 1:
        yield "only one epoch of training: points, no curves"


def status_of(folder: Path) -> str:
    """Return whether the run in a folder is running, or has finished, failed or been interrupted."""
    if is_running(folder):
        return "running"
    # Until a run has ended its summary says so, too.
    status = str(read_summary(folder).get("status", "interrupted"))
    return "failed" if status != "finished" and (folder / TRACEBACK).is_file() else status


def as_text_if_list(setting: Any) -> Any:
    """Return a setting that can be compared and counted: a list as text, others as they are."""
    return json.dumps(setting, default=str) if isinstance(setting, list) else setting


def numbered_columns(table: pd.DataFrame, prefix: str) -> list[str]:
    """Return the columns `<prefix>0`, `<prefix>1`, ... that are there, in numerical order."""
    numbers = (str(column).removeprefix(prefix) for column in table if str(column).startswith(prefix))
    return [f"{prefix}{number}" for number in sorted(int(number) for number in numbers if number.isdigit())]


def is_excluded(key: str) -> bool:
    """Return whether two runs of the same experiment may differ in this setting."""
    return any(key == excluded or key.startswith(f"{excluded}.") for excluded in NOT_A_SETTING)


def setting_label(key: str) -> str:
    """Return the short name of a setting: "d" for "model.d", "optimizer" for "optimizer._target_"."""
    return key.removesuffix("._target_").split(".")[-1]


def as_number(value: Any) -> float:
    """Return a number as it is, NaN for everything else."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    return math.nan


def rank(value: Any) -> float:
    """Return what to sort by: numbers by their value, everything else after them."""
    number = as_number(value)
    return math.inf if math.isnan(number) else number


def describe(paths: str | Path | Iterable[str | Path]) -> str:
    """Name the folders that were searched."""
    return str(paths) if isinstance(paths, str | Path) else ", ".join(str(path) for path in paths)
