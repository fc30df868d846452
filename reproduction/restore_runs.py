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
from qcnn_lightning.errors import RefusedRunError
from qcnn_lightning.runs import LAST, PREVIOUS
from qcnn_lightning.runs.checkpoint import RECORD
from qcnn_lightning.runs.checksums import CHECKSUM_KEYS
from qcnn_lightning.runs.find import find_runs
from qcnn_lightning.runs.run import ABOUT_HYDRA, COMPOSED, METRICS, OVERRIDES, Run
from qcnn_lightning.runs.untrusted import read_yaml
from qcnn_lightning.training.checkpoints import AtomicCheckpoints
from reproduction.archives import study_of, unpack

# Of summary.json, what is taken from the rows; the rest are the run's facts.
FROM_ROWS = ("status", "final", "best", "seconds", *CHECKSUM_KEYS)
# Where a run is; of another machine, and not a setting.
PLACES = ("run_dir", "sweep")
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
        for found in find_runs(stored):
            run = Run(out / stored.name / found.name)
            try:
                with run.held():
                    if (run.folder / LAST).exists() or (run.folder / PREVIOUS).exists():
                        left += 1
                        continue
                    restore_run(found, run)
                    restored += 1
            except RefusedRunError:
                left += 1
    return restored, left


def restore_run(stored: Run, run: Run) -> None:
    """Write a stored run as a run folder."""
    summary = stored.summary
    rows = rows_of(stored)
    # With its entries in their own order.
    rows[-1] = summary["final"]
    facts = {name: value for name, value in summary.items() if name not in FROM_ROWS}
    checkpoint = {
        "state_dict": {},
        "hyper_parameters": config_of(stored),
        "callbacks": {RECORD: {"rows": rows, "facts": facts}},
    }
    about = {"hydra": {"runtime": {"cwd": ".", "config_sources": [CONFIG_DIR]}}}
    as_stored = {name: (stored.folder / name).read_text() for name in (COMPOSED, OVERRIDES)}
    run.write_hydra_files(as_stored | {ABOUT_HYDRA: OmegaConf.to_yaml(about)})
    run.write(rows, summary["status"], facts)
    AtomicCheckpoints().save_checkpoint(checkpoint, run.folder / LAST)


def rows_of(stored: Run) -> list[dict[str, float | int]]:
    """Return the rows of a stored run, to the last digit, without what was not measured."""
    with (stored.folder / METRICS).open(newline="") as file:
        return [{name: number(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def number(text: str) -> float | int:
    """Return a number as it was before it was written."""
    return int(text) if text.lstrip("-").isdigit() else float(text)


def config_of(stored: Run) -> dict[str, Any]:
    """Return the configuration of a stored run, resolved, but for where it was."""
    config = read_yaml(stored.folder / COMPOSED)
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
