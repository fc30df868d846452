"""How much faster is a sweep of eight seeds with joblib, or together, than one job after the other?

    python benchmarks/parallel_sweep.py                  # on a machine with nothing else to do: about twenty minutes
    python benchmarks/parallel_sweep.py --cases "data=digits model.d=2 trainer.max_epochs=30" --rounds 3

Whole commands are timed, from start to end. The launchers take turns, so what else the machine does slows all of them.
On two cores joblib must need at most 0.6 times the time of one job after the other; each job has one thread in both, so
that no speed-up of a single job is counted.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from machine import RESULTS, write_results

CASES = (
    "data=digits model.d=2 trainer.max_epochs=40",
    "data=digits model.d=12 trainer.max_epochs=300",
    "data=mnist model.d=2 trainer.max_epochs=8",
    "data=mnist model.d=6 trainer.max_epochs=5",
    "data=mnist model.d=18 trainer.max_epochs=2",
)
LAUNCHERS = ("one by one", "joblib", "together")
BAR = 0.6


def seconds(case: str, launcher: str) -> float:
    """Return how long the sweep takes, from the command to its end."""
    arguments = [*case.split(), "logger=none", "seed=0,1,2,3,4,5,6,7", f"data.root={Path('data').absolute()}"]
    if "data=digits" in case:
        arguments.pop()
    # Together, one process has the threads that joblib's processes have.
    threads = str(os.cpu_count()) if launcher == "together" else "1"
    chosen = [] if launcher == "one by one" else [f"hydra/launcher={launcher}"]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "qcnn_lightning.train", "-m", *arguments, *chosen],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": threads},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        return time.perf_counter() - start


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=CASES)
    parser.add_argument("--launchers", nargs="+", default=LAUNCHERS)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS / "parallel_sweep.json")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    table = Table("eight seeds of", *(f"{launcher} (s)" for launcher in options.launchers))
    for case in options.cases:
        taken: dict[str, list[float]] = {launcher: [] for launcher in options.launchers}
        for _ in range(options.rounds):
            for launcher, of_launcher in taken.items():
                of_launcher.append(seconds(case, launcher))
        medians = {launcher: statistics.median(of_launcher) for launcher, of_launcher in taken.items()}
        rows.append({"case": case, "seconds": taken, "median": medians})
        table.add_row(case, *(f"{median:.1f}" for median in medians.values()))
    Console().print(table)
    write_results(options.output, rows)
    ratios = [row["median"]["joblib"] / row["median"]["one by one"] for row in rows if len(row["median"]) == 3]
    sys.exit(bool(ratios) and min(ratios) > BAR)


if __name__ == "__main__":
    main()
