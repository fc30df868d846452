"""`python -m reproduction.restore_runs reproduction/metrics/<study>.tar.xz... multirun`: let a sweep find stored runs.

The way back of `keep_runs`. What is stored of a run, its rows, facts and settings, is written as a run folder whose
checkpoint has all but the weights: the sweep finds it finished, and refuses it if a setting has changed since, as it
does with every run. Only what needs the weights, such as an evaluation, has to train it again. Run folders that have a
checkpoint, or that are being trained, are left as they are.
"""

import argparse
import csv
import tempfile
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from qcnn_lightning import command_line
from qcnn_lightning.runs.run import find_run_folders
from qcnn_lightning.runs.run_folder import HYDRA_FILES, LAST, PREVIOUS, read_summary, read_yaml
from qcnn_lightning.training.checkpoints import AtomicCheckpoints
from qcnn_lightning.training.record import RunRecord
from qcnn_lightning.training.resume import RefusedRunError, sole_owner, write_files
from reproduction.archives import study_of, unpack

# Of summary.json, what is taken from the rows; the rest are the run's facts.
FROM_ROWS = ("status", "final", "best", "seconds")
# Where a run is; of another machine, and not a setting.
PLACES = ("run_dir", "sweep")
COMPOSED, ABOUT_THE_COMMAND, OVERRIDES = HYDRA_FILES
# From the project's root, where `make studies` finds the studies.
CONFIG_DIR = {"path": "reproduction/conf", "schema": "file", "provider": "command-line"}


def restore_study(archive: Path, out: Path) -> tuple[int, int]:
    """Restore the stored runs of a study to `out/<study>/<job>/`.

    Returns:
        How many were restored, and how many left as they are.

    Raises:
        InputError: there is no stored run, or a file cannot be read or written.
    """
    restored = left = 0
    with tempfile.TemporaryDirectory() as unpacked:
        stored = unpack(archive, Path(unpacked))
        for job, folder in find_run_folders(stored):
            run = out / stored.name / job
            try:
                with sole_owner(run):
                    if (run / LAST).exists() or (run / PREVIOUS).exists():
                        left += 1
                        continue
                    restore_run(folder, run)
                    restored += 1
            except RefusedRunError:
                left += 1
    return restored, left


def restore_run(stored: Path, folder: Path) -> None:
    """Write a stored run as a run folder."""
    summary = read_summary(stored)
    record = RunRecord(folder, max_epochs=0)
    record.rows = rows_of(stored)
    # With its entries in their own order.
    record.rows[-1] = summary["final"]
    record.facts = {name: value for name, value in summary.items() if name not in FROM_ROWS}
    checkpoint = {
        "state_dict": {},
        "hyper_parameters": settings_of(stored),
        "callbacks": {record.state_key: record.state_dict()},
    }
    about = {"hydra": {"runtime": {"cwd": ".", "config_sources": [CONFIG_DIR]}}}
    as_stored = {name: (stored / name).read_text() for name in (COMPOSED, OVERRIDES)}
    write_files(folder, as_stored | {ABOUT_THE_COMMAND: OmegaConf.to_yaml(about)})
    record.write(summary["status"])
    AtomicCheckpoints().save_checkpoint(checkpoint, folder / LAST)


def rows_of(stored: Path) -> list[dict[str, float | int]]:
    """Return the rows of a stored run, to the last digit, without what was not measured."""
    with (stored / "metrics.csv").open(newline="") as file:
        return [{name: number(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def number(text: str) -> float | int:
    """Return a number as it was before it was written."""
    return int(text) if text.lstrip("-").isdigit() else float(text)


def settings_of(stored: Path) -> dict[str, Any]:
    """Return the settings of a stored run, resolved, but for where it was."""
    config = read_yaml(stored / COMPOSED)
    kept = {key: value for key, value in config.items() if key not in PLACES}
    settings: Any = OmegaConf.to_container(OmegaConf.create(kept), resolve=True)
    return settings


def main() -> None:
    """Restore the runs of the archives named on the command line, of those there are."""
    parser = argparse.ArgumentParser(description="Let sweeps find the runs that are stored of them.")
    parser.add_argument("archives", nargs="+", type=Path, metavar="archive", help="reproduction/metrics/<study>.tar.xz")
    parser.add_argument("out", type=Path, help="folder of the sweeps: multirun")
    given = parser.parse_args()
    for archive in given.archives:
        if not archive.is_file():
            print(f"{archive}: nothing stored")
            continue
        restored, left = restore_study(archive, given.out)
        print(f"{archive}: {restored} runs restored in {given.out / study_of(archive)}, {left} left as they are")


if __name__ == "__main__":
    with command_line.one_message():
        main()
