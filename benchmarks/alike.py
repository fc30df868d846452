"""Which runs of sweeps differ in one setting alone."""

from pathlib import Path

from qcnn_lightning.runs.find import find_runs
from qcnn_lightning.runs.settings import is_free
from qcnn_lightning.trained_run import TrainedRun


def runs_alike(folders: list[Path], setting: str) -> list[list[TrainedRun]]:
    """Return the finished runs of sweeps, those together that learned by the same settings but this one."""
    together: dict[str, list[TrainedRun]] = {}
    for found in find_runs(folders):
        if found.status == "finished":
            others = {
                key: value
                for key, value in found.settings.items()
                if key != setting and key not in found.repeating_settings and not is_free(key)
            }
            together.setdefault(repr(sorted(others.items())), []).append(TrainedRun(found.folder))
    return list(together.values())
