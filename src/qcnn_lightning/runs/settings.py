"""The settings of a run: which of them its results depend on, and how older runs name them."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

FREE_TO_CHANGE = (
    "callbacks",
    "data.batches_per_item",
    "data.cache",
    "data.evaluation_batch_size",
    "data.root",
    "data.system_folders",
    "hydra",
    "logger",
    "model.kernel",
    "run_dir",
    "sweep",
    "tags",
    "trainer.accelerator",
    "trainer.default_root_dir",
    "trainer.devices",
    "trainer.log_every_n_steps",
    "trainer.num_nodes",
    "trainer.strategy",
)
"""Settings, and whole groups of them, that do not change what is learned; all others must stay as they were."""
CLASSES = "data.classes"
"""What a run's images showed: to readers, of all runs that tell it. Runs of other classes are no repetitions of it."""
MAX_EPOCHS = "trainer.max_epochs"
PATHS_IN_A_CONFIG = {"": ("run_dir",), "data": ("root", "path", "cache", "system_folders")}
ADDED_SINCE = {
    "average_decay": 0.0,
    "cost._target_": "qcnn_lightning.costs.SquaredDistance",
    "data.augment.contrast": 0.0,
    "data.augment.elastic": 0.0,
    "data.augment.erase": 0,
    "data.augment.erase_fraction": 0.5,
    "data.augment.flip": False,
    "data.augment.rotate": 0.0,
    "data.augment.shift": 0,
    "data.augment.shift_fraction": 0.5,
    "data.augment.turn_fraction": 1.0,
    "data.augment.zoom": 0.0,
    CLASSES: None,
    "data.levels": None,
    "data.rounding": "bernoulli",
    "data.redraw": False,
    "data.white": 1.0,
    "entropy_of": "halves",
    "entropy_weight": 0.0,
    "model.precision": "high",
    "start_from": None,
}
"""Settings that older runs do not name, and the values by which those runs went."""
RENAMED = {"data.batches_at_a_time": "data.batches_per_item"}
"""The old name of a setting, which older runs have -> its name now."""
REFERENCE = re.compile(r"\$\{(?:oc\.select:)?([\w.]+)(?:,null)?\}")
"""A setting that stands for another one. Other resolvers stay text: they would read the environment of now."""
DEEPEST_REFERENCE, LONGEST_PART = 5, 100


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a run as {"model.d": 18, ...}, including those that came after it."""
    settings = ADDED_SINCE | {RENAMED.get(key, key): value for key, value in flattened(config)}
    if settings.get("model._target_") == "qcnn_lightning.network.QCNN":
        settings["model._target_"] = "qcnn_lightning.QCNN"
    if settings.get("model.kernel") == "fused_float32":  # once the name of both settings
        settings |= {"model.kernel": "fused", "model.precision": "highest"}
    return settings


def flattened(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the settings of a nested configuration as ("model.d", 18), ...; a list is one setting."""
    if isinstance(config, Mapping):
        for key, value in config.items():
            yield from flattened(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, config


def with_values(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings in which those that refer to others, as `${sweep.widths.${sweep.size}}` does, have the values."""
    return {key: _value(written, settings) for key, written in settings.items()}


def _value(written: Any, settings: Mapping[str, Any]) -> Any:
    value = written
    for _ in range(DEEPEST_REFERENCE):
        reference = REFERENCE.search(value) if isinstance(value, str) else None
        if reference is None or reference[1] not in settings:
            break
        meant = settings[reference[1]]
        if reference[0] == value:
            value = meant
        elif len(str(meant)) <= LONGEST_PART:
            value = value.replace(reference[0], str(meant), 1)
        else:
            break
    return value


def repeating(settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield the settings that have the value of another one, which is told anyway, as `${optimizer.lr}`."""
    for key, written in settings.items():
        reference = REFERENCE.fullmatch(written) if isinstance(written, str) else None
        if reference and not is_free(reference[1]):
            yield key


def is_free(key: str, free: Iterable[str] = FREE_TO_CHANGE) -> bool:
    """Return whether a setting, or the group that it is in, is one of those that may change."""
    return any(f"{key}.".startswith(f"{setting}.") for setting in free)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the settings that change results and differ: key -> (old, new); "none" where there is no such setting."""
    olds, news = settings_of(old), settings_of(new)
    free = set(FREE_TO_CHANGE)
    if news.get("data.name") == "folder":
        # Where the images are says which images they are.
        free.discard("data.root")
    if news.get("average_decay") or news.get("entropy_weight"):
        # The average of the weights is updated, and the entropy's gradient measured, once per item of the loader.
        free.discard("data.batches_per_item")
    keys = [key for key in {**olds, **news} if not is_free(key, free)]
    return {
        key: (olds.get(key, "none"), news.get(key, "none")) for key in keys if olds.get(key, ...) != news.get(key, ...)
    }


def is_longer(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Return whether the new settings ask for more epochs, by a schedule that does not know how many there will be."""
    olds, news = settings_of(old), settings_of(new)
    before, now = olds.get(MAX_EPOCHS), news.get(MAX_EPOCHS)
    more = isinstance(before, int) and isinstance(now, int) and now > before
    return more and news.get("scheduler.interval") == "epoch"


def without_paths(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration without its paths, which are of another machine, and with its data settings' new names."""
    kept = {key: value for key, value in config.items() if key not in PATHS_IN_A_CONFIG[""]}
    if isinstance(kept.get("data"), dict):
        kept["data"] = {
            RENAMED.get(f"data.{key}", f"data.{key}").removeprefix("data."): value
            for key, value in kept["data"].items()
            if key not in PATHS_IN_A_CONFIG["data"]
        }
    return kept
