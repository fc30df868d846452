"""A sweep on a real Slurm of one node, started for the test; skipped where that cannot be."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

START = Path(__file__).with_name("start.sh")
EPOCHS = 40
# One of them fails.
SEEDS = (0, 1, -1, 2)
JOBS = (
    *("data=digits", "model.d=4", "model.kernel=plain", "logger=none", f"trainer.max_epochs={EPOCHS}"),
    f"seed={','.join(map(str, SEEDS))}",
)

LAUNCHER = ("hydra/launcher=slurm", "hydra.launcher.mem_gb=1")


@pytest.fixture
def slurm(tmp_path):
    missing = [name for name in ("slurmctld", "slurmd", "munged", "sbatch", "setpriv") if shutil.which(name) is None]
    if os.geteuid() != 0:
        pytest.skip("a Slurm of its own needs root")
    if missing:
        pytest.skip(f"no {', '.join(missing)}; on Debian: tests/slurm/start.sh --install FOLDER, or apt-get install")
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="the extra slurm is not installed")
    folder = tmp_path / "slurm"
    folder.mkdir()
    started = subprocess.run([START, folder], capture_output=True, text=True, timeout=300)
    try:
        if started.returncode != 0:
            pytest.skip(f"Slurm cannot be started here: {started.stderr}")
        yield {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "OMP_NUM_THREADS": "1"}
    finally:
        for name in ("slurmd.pid", "slurmctld.pid"):
            if (folder / name).exists():
                subprocess.run(["kill", (folder / name).read_text().strip()], check=False)


@pytest.mark.timeout(900)
def test_a_requeued_job_resumes_from_its_checkpoint(slurm, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "qcnn_lightning.train", "-m", *JOBS, "sweep.name=s", *LAUNCHER],
        cwd=tmp_path,
        env=slurm,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    sweep = tmp_path / "multirun" / "s"
    while process.poll() is None:
        (begun,) = list(sweep.glob("*seed=0*/metrics.csv")) or [None]
        if begun is not None and begun.read_text().count("\n") > 3:
            break
        time.sleep(0.05)
    job = subprocess.run(["squeue", "--noheader", "--format=%i"], env=slurm, capture_output=True, text=True, check=True)
    first = sorted(job.stdout.split())[0]
    subprocess.run(["scontrol", "requeue", first], env=slurm, check=True)
    # Slurm would let it wait for two minutes.
    while process.poll() is None:
        at_once = ["scontrol", "update", f"JobId={first}", "StartTime=now"]
        subprocess.run(at_once, env=slurm, capture_output=True, check=False)
        time.sleep(1)
    output, _ = process.communicate(timeout=800)
    assert process.returncode == 1, output
    assert "1 of 4 jobs have not finished" in output
    runs = {seed: next(sweep.glob(f"*seed={seed}*")) for seed in SEEDS}
    for seed, run in runs.items():
        if seed == -1:
            assert json.loads((run / "summary.json").read_text())["status"] == "failed"
            continue
        assert json.loads((run / "summary.json").read_text())["status"] == "finished"
        assert list(pd.read_csv(run / "metrics.csv")["epoch"]) == list(range(-1, EPOCHS))
    # It was stopped, and went on from an epoch that it had completed.
    log = (runs[0] / "train.log").read_text()
    assert "interrupted in epoch" in log
    assert int(log.split("resuming after epoch ")[1].split(",")[0]) >= 1
