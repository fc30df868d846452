"""Many runs side by side: which of their settings vary, and which runs differ in the seed alone."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from qcnn_lightning.errors import InputError, message_of
from qcnn_lightning.labels import caption, data_name, setting
from qcnn_lightning.runs.find import describe, find_runs
from qcnn_lightning.runs.run import Run, as_number
from qcnn_lightning.runs.settings import CLASSES, FREE_TO_CHANGE, is_free

# Runs that differ in nothing else are repetitions, with another seed or in another place.
NOT_A_SETTING = (*FREE_TO_CHANGE, "data.seed", "seed")


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
class Group:
    """Runs that differ in nothing but the seed.

    Attributes:
        data: the data set.
        bipartition: the two parts of the entropies.
        variant: the settings that vary among the groups of a data set, as text: "d = 18, sibling sharing".
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

    @cached_property
    def data_sets(self) -> list[str]:
        """The data sets, each once."""
        return sorted({run.data for run in self.runs})

    @cached_property
    def varying_settings(self) -> list[str]:
        """Settings, seed aside, that differ between runs of one data set; d and the pixel order first."""
        varying = set()
        for data in self.data_sets:
            runs = [run for run in self.runs if run.data == data]
            # Other folders of images are other data.
            free = [key for key in NOT_A_SETTING if (data, key) != ("folder", "data.root")]
            there = {key for run in runs for key in run.settings.keys() - run.repeating_settings}
            for key in {key for key in there if not is_free(key, free)}:
                # Older runs do not tell their classes.
                told = [run for run in runs if key != CLASSES or CLASSES in run.settings]
                if len({run.settings.get(key) for run in told}) > 1:
                    varying.add(key)
        first = ["model.d", "data.flatten"]
        others = varying.difference(first)
        # A scheduler of another class has other settings: its name says it all, unless they vary by themselves.
        classes = {key.split(".")[0]: key for key in sorted(others) if key.endswith("._target_")}
        implied = {
            key for key in others if (name := classes.get(key.split(".")[0], key)) != key and self.determines(name, key)
        }
        if "data.root" in others and self.determines("data.root", CLASSES):
            implied.add(CLASSES)
        return [key for key in first if key in varying] + sorted(others - implied)

    def determines(self, key: str, other: str) -> bool:
        """Return whether runs with the same value of one setting have the same value of the other."""
        pairs = {(run.settings.get(key), run.settings.get(other)) for run in self.runs}
        return len(pairs) == len({value for value, _ in pairs})

    @cached_property
    def groups(self) -> list[Group]:
        """The runs, grouped by everything but the seed."""
        groups: dict[tuple, list[Run]] = {}
        for run in self.runs:
            values = tuple(run.settings.get(key) for key in self.varying_settings)
            groups.setdefault((run.data, run.bipartition, values), []).append(run)
        return [
            Group(data, bipartition, self.describe_variant(runs[0]), tuple(runs))
            for (data, bipartition, _), runs in groups.items()
        ]

    @cached_property
    def has_several_orders(self) -> bool:
        """Whether there are runs in z order and runs that are not."""
        return len({run.flatten.startswith("z_") for run in self.runs}) > 1

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
                if self.has_several_orders:
                    parts.append("z order" if run.flatten.startswith("z_") else "raster order")
            else:
                parts.append(setting(key, value))
        return ", ".join(parts)

    @cached_property
    def run_names(self) -> dict[Run, str]:
        """Names for people, each once: "Fashion-MNIST, d = 18, seed 1", and whatever else varies."""
        several = len({run.bipartition for run in self.runs}) > 1
        found = {}
        for run in self.runs:
            d = setting("model.d", run.d) if run.d is not None else ""
            others = self.describe_variant(run, without="model.d")
            halves = run.bipartition if several else ""
            found[run] = caption(data_name(run.data), d, halves, others, setting("seed", run.seed))
        alike = Counter(found.values())
        return {run: f"{name} ({run.name})" if alike[name] > 1 else name for run, name in found.items()}


def read_collection(paths: str | Path | Iterable[str | Path]) -> Collection:
    """Read every run at or below these folders.

    A run that cannot be read is left out and named, whatever is wrong with it, so that it never hides the others.

    Args:
        paths: runs, sweeps, or folders of sweeps.

    Raises:
        InputError: a path is no folder, or there is no run that can be read.
    """
    runs, left_out = [], []
    for run in find_runs(paths):
        try:
            run.read()
        except Exception as error:
            left_out.append(LeftOut(run.name, message_of(error)))
        else:
            runs.append(run)
            left_out += [LeftOut(run.name, note) for note in run.notes]
    if not runs:
        reasons = "".join(f"\n  {item}" for item in left_out)
        raise InputError(f"no run that can be read in {describe(paths)}:{reasons}")
    runs.sort(key=lambda run: (run.data, rank(run.d), run.flatten, rank(run.seed), run.name))
    return Collection(tuple(runs), tuple(left_out))


def describe_first_epoch(runs: Iterable[Run], chosen: int | None = None) -> str:
    """Say from where on entropy and cost of these runs are compared: "from epoch 30"."""
    first = sorted({run.first_epoch(chosen) for run in runs})
    if len(first) == 1:
        return f"from epoch {first[0]}"
    return f"from epoch {first[0]} to {first[-1]}, depending on the run's length"


def rank(value: Any) -> float:
    """Return what to sort by: numbers by their value, everything else after them."""
    number = as_number(value)
    return math.inf if math.isnan(number) else number
