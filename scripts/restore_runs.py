"""`python scripts/restore_runs.py docs/runs/<sweep>... multirun`: let a sweep find the runs that were kept of it.

The way back of `keep_runs.py`. What a kept run has, its rows, facts and settings, is written as a run folder whose
checkpoint has all but the weights: the sweep finds it finished, and refuses it if a setting has changed since, as it
does with every run. Only what needs the weights, such as an evaluation, has to train it again. Run folders that have a
checkpoint, or that are being trained, are left as they are.
"""

import argparse
import csv
import gzip
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from qcnn_lightning import command_line
from qcnn_lightning.files import inside
from qcnn_lightning.results.runs import find_run_folders
from qcnn_lightning.run_folder import HYDRA_FILES, LAST, PREVIOUS, read_summary, read_yaml
from qcnn_lightning.training.checkpoints import AtomicCheckpoints
from qcnn_lightning.training.record import RunRecord
from qcnn_lightning.training.resume import RefusedRunError, sole_owner, write_files

# Of summary.json, what is taken from the rows; the rest are the run's facts.
FROM_ROWS = ("status", "final", "best", "seconds")
# Where a run is; of another machine, and not a setting.
PLACES = ("run_dir", "sweep")


def restore_sweep(kept: Path, out: Path) -> tuple[int, int]:
    """Restore the kept runs of a sweep to `out/<sweep's name>/<job>/`.

    Returns:
        How many were restored, and how many left as they are.

    Raises:
        InputError: there is no kept run, or a file cannot be read or written.
    """
    restored = left = 0
    for name, folder in find_run_folders(kept):
        run = out / kept.resolve().name / name
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


def restore_run(kept: Path, folder: Path) -> None:
    """Write a kept run as a run folder."""
    summary = read_summary(kept)
    record = RunRecord(folder, max_epochs=0)
    record.rows = rows_of(kept)
    # With its entries in their own order.
    record.rows[-1] = summary["final"]
    record.facts = {name: value for name, value in summary.items() if name not in FROM_ROWS}
    checkpoint = {
        "state_dict": {},
        "hyper_parameters": settings_of(kept),
        "callbacks": {record.state_key: record.state_dict()},
    }
    write_files(folder, {name: inside(kept, name).read_text() for name in HYDRA_FILES if (kept / name).is_file()})
    record.write(summary["status"])
    AtomicCheckpoints().save_checkpoint(checkpoint, folder / LAST)


def rows_of(kept: Path) -> list[dict[str, float | int]]:
    """Return the rows of a kept run, to the last digit, without what was not measured."""
    compressed = inside(kept, "metrics.csv.gz")
    if compressed.is_file():
        text = gzip.decompress(compressed.read_bytes()).decode()
    else:
        text = inside(kept, "metrics.csv").read_text()
    return [{name: number(value) for name, value in row.items() if value} for row in csv.DictReader(text.splitlines())]


def number(text: str) -> float | int:
    """Return a number as it was before it was written."""
    return int(text) if text.lstrip("-").isdigit() else float(text)


def settings_of(kept: Path) -> dict[str, Any]:
    """Return the settings of a kept run, resolved, but for where it was."""
    config = read_yaml(inside(kept, ".hydra/config.yaml"))
    return OmegaConf.to_container(
        OmegaConf.create({key: value for key, value in config.items() if key not in PLACES}), resolve=True
    )


def main() -> None:
    """Restore the runs of the sweeps named on the command line, of those there are."""
    parser = argparse.ArgumentParser(description="Let sweeps find the runs that were kept of them.")
    parser.add_argument("sweeps", nargs="+", type=Path, metavar="sweep", help="docs/runs/<sweep>")
    parser.add_argument("out", type=Path, help="folder of the sweeps: multirun")
    given = parser.parse_args()
    for sweep in given.sweeps:
        if not sweep.is_dir():
            print(f"{sweep}: nothing kept")
            continue
        restored, left = restore_sweep(sweep, given.out)
        print(f"{sweep}: {restored} kept runs restored in {given.out / sweep.resolve().name}, {left} left as they are")


if __name__ == "__main__":
    with command_line.one_message():
        main()
