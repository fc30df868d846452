"""`python scripts/keep_runs.py multirun/<sweep>... docs/runs`: keep what figures and tables need of finished runs.

Kept are the metrics (compressed, to the last digit), the summary, the configuration and the overrides; not checkpoints.
Reports read the copy as they read the original: `python -m qcnn_lightning.report runs=docs/runs/<sweep>`.
"""

import argparse
import gzip
from pathlib import Path

from qcnn_lightning.command_line import one_message
from qcnn_lightning.files import inside, replace_atomically
from qcnn_lightning.results.runs import find_run_folders
from qcnn_lightning.run_folder import read_summary

KEPT_AS_THEY_ARE = ("summary.json", ".hydra/config.yaml", ".hydra/overrides.yaml")


def keep_sweep(sweep: Path, out: Path) -> tuple[int, int]:
    """Copy the finished runs of a sweep to `out/<sweep's name>/<job>/`, replacing earlier copies.

    Returns:
        How many have finished and are kept, and how many have not.

    Raises:
        InputError: there is no run, or a file cannot be written.
    """
    kept = left = 0
    for name, folder in find_run_folders(sweep):
        if read_summary(folder).get("status") != "finished":
            left += 1
            continue
        copy = out / sweep.resolve().name / name
        # Without the time of day, so that the same metrics are the same file.
        compressed = gzip.compress(inside(folder, "metrics.csv").read_bytes(), mtime=0)
        replace_atomically(copy / "metrics.csv.gz", compressed)
        for file in KEPT_AS_THEY_ARE:
            replace_atomically(copy / file, inside(folder, file).read_bytes())
        kept += 1
    return kept, left


def main() -> None:
    """Keep the runs of the sweeps named on the command line."""
    parser = argparse.ArgumentParser(description="Keep the metrics of finished runs.")
    parser.add_argument("sweeps", nargs="+", type=Path, metavar="sweep", help="multirun/<sweep>")
    parser.add_argument("out", type=Path, help="folder of the copies, one folder per sweep")
    given = parser.parse_args()
    for sweep in given.sweeps:
        kept, left = keep_sweep(sweep, given.out)
        print(f"{sweep}: {kept} finished runs in {given.out / sweep.resolve().name}, {left} others left out")


if __name__ == "__main__":
    with one_message():
        main()
