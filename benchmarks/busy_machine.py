"""Seconds of an epoch on a machine whose cores are idle, or each busy with another process, by one thread and by all.

    python benchmarks/busy_machine.py                        # digits
    python benchmarks/busy_machine.py data=fmnist model.d=18

Prints the median over the epochs after the first; arguments are the training's own.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

EPOCHS = 6


@contextmanager
def busy_cores(processes: int) -> Iterator[None]:
    """Keep so many processes computing."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def epoch_seconds(arguments: list[str], environment: dict[str, str]) -> float:
    """Train; return the median seconds of an epoch."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        subprocess.run(
            [sys.executable, "-m", "qcnn_lightning.train", *arguments, f"hydra.run.dir={run}"],
            env=os.environ | environment,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return float(pd.read_csv(run / "metrics.csv")["time/epoch_s"].iloc[2:].median())


def main() -> None:
    """Measure and print."""
    cores = os.cpu_count() or 1
    arguments = [f"trainer.max_epochs={EPOCHS}", "logger=none", *(sys.argv[1:] or ["data=digits"])]
    for name, others in (("idle", 0), ("busy", cores)):
        with busy_cores(others):
            for threads in (1, cores):
                seconds = epoch_seconds(arguments, {"OMP_NUM_THREADS": str(threads)})
                print(f"{name}, {threads} threads: {seconds:.2f} s")


if __name__ == "__main__":
    main()
