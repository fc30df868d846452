"""A sweep on a Ray cluster that is started for the test; skipped where the launcher is not installed (extra `ray`)."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

EPOCHS = 30
# One of them fails.
SEEDS = (0, -1, 1, 2, 3, 4, 5, 6)
JOBS = (
    *("data=digits", "model.d=4", "model.kernel=plain", "logger=none", f"trainer.max_epochs={EPOCHS}"),
    f"seed={','.join(map(str, SEEDS))}",
)


def holder(lock: Path) -> int:
    """The process that holds a run folder's lock."""
    inode = f":{lock.stat().st_ino}"
    held = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    (process,) = {int(fields[4]) for fields in held if fields[1] == "FLOCK" and fields[5].endswith(inode)}
    return process


@pytest.mark.timeout(900)
def test_a_job_whose_process_is_killed_is_tried_again_and_resumes(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="the extra ray is not installed")
    process = subprocess.Popen(
        [sys.executable, "-m", "qcnn_lightning.train", "-m", *JOBS, "sweep.name=s", "hydra/launcher=ray"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    sweep = tmp_path / "multirun" / "s"
    while process.poll() is None:
        (begun,) = list(sweep.glob("*seed=0*/metrics.csv")) or [None]
        if begun is not None and begun.read_text().count("\n") > 3:
            os.kill(holder(begun.with_name(".lock")), signal.SIGKILL)
            break
        time.sleep(0.02)
    output, _ = process.communicate(timeout=800)
    assert process.returncode == 1, output
    assert "1 of 8 jobs have not finished" in output
    runs = {seed: next(sweep.glob(f"*seed={seed}*")) for seed in SEEDS}
    status = {seed: json.loads((run / "summary.json").read_text())["status"] for seed, run in runs.items()}
    assert status == {seed: "failed" if seed == -1 else "finished" for seed in SEEDS}
    for seed in set(SEEDS) - {-1}:
        assert list(pd.read_csv(runs[seed] / "metrics.csv")["epoch"]) == list(range(-1, EPOCHS))
    assert "resuming after epoch" in (runs[0] / "train.log").read_text()
