"""How much faster is a sweep of four jobs, two at a time with joblib, than one after the other?

    python benchmarks/parallel_sweep.py

On a machine with nothing else to do: two cores must need at most 0.6 times the time of one job after the other. Each
job has one thread in both, so that no speed-up of a single job is counted.
"""

import os
import subprocess
import sys
import tempfile
import time

ARGUMENTS = ("data=digits", "model.d=12", "trainer.max_epochs=600", "logger=none", "seed=0,1,2,3")
BAR = 0.6


def seconds(*launcher: str) -> float:
    """Return how long the sweep takes, from the command to its end."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "qcnn_lightning.train", "-m", *ARGUMENTS, *launcher],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        return time.perf_counter() - start


if __name__ == "__main__":
    serial = seconds()
    parallel = seconds("hydra/launcher=joblib")
    print(f"serial {serial:.1f} s, two at a time {parallel:.1f} s: {parallel / serial:.2f} times (at most {BAR})")
    sys.exit(parallel > BAR * serial)
