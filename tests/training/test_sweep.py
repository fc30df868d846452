import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from conftest import SMALL, command
from omegaconf import OmegaConf

SEARCHED = ("data=digits", "model.kernel=plain", "logger=none", "trainer.max_epochs=1", "sweep.name=test")
QUICK = (*SMALL, "model.kernel=plain", "logger=none", "trainer.max_epochs=1")


def summaries(sweep: Path) -> dict[int, dict]:
    """Read the summaries of a sweep's jobs by their seeds."""
    found = [json.loads(path.read_text()) for path in sweep.glob("*/summary.json")]
    seeds = [int(path.parent.name.split("seed=")[1].split(",")[0]) for path in sweep.glob("*/summary.json")]
    return dict(zip(seeds, found, strict=True))


def test_a_sweep_with_a_failing_and_a_killed_job_is_completed_by_the_same_command(tmp_path):
    # Epochs enough that the job that is seen to begin is killed before its end.
    arguments = ("-m", *QUICK, "trainer.max_epochs=8", "seed=0,1,-1,2,3,4,5,6")
    sweep = tmp_path / "multirun" / "test"
    process = subprocess.Popen(
        [sys.executable, "-m", "qcnn_lightning.train", *arguments],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )
    while process.poll() is None and not list(sweep.glob("*seed=3*/metrics.csv")):
        time.sleep(0.01)
    process.kill()
    process.wait()
    before = summaries(sweep)
    assert [seed for seed, summary in before.items() if summary["status"] == "interrupted"] == [3]
    assert before[-1]["status"] == "failed"
    written = {path: path.stat().st_mtime_ns for path in sweep.glob("*seed=[012],*/checkpoints/last.ckpt")}
    assert len(written) == 3

    done = command(*arguments, folder=tmp_path)
    assert done.returncode == 1
    after = summaries(sweep)
    assert {seed: summary["status"] for seed, summary in after.items()} == {
        seed: "failed" if seed == -1 else "finished" for seed in (*range(-1, 7),)
    }
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert done.stdout.count("finished already") == 3
    table = [line for line in done.stdout.splitlines() if line.startswith("data=digits") and "seed=" in line]
    assert sum("finished" in line for line in table) == 7
    assert sum("failed" in line for line in table) == 1
    assert "1 of 8 jobs" in done.stdout
    assert "python -m qcnn_lightning.train" in done.stdout.split("to run it again: ")[1]
    assert "seed=-1" in done.stdout.split("to run it again: ")[1]
    (failed,) = sweep.glob("*seed=-1*")
    assert "seed=-1" in (failed / "traceback.txt").read_text()
    assert "Traceback" in (failed / "traceback.txt").read_text()


def test_jobs_in_parallel_are_told_a_line_each(tmp_path):
    done = command("-m", *QUICK, "seed=0,1,-1", "hydra/launcher=joblib", folder=tmp_path)
    assert done.returncode == 1
    ended = [line for line in done.stdout.splitlines() if ": finished, test accuracy" in line or ": failed:" in line]
    assert len(ended) == 3
    assert "epoch  cost train" not in done.stdout
    assert {seed: summary["status"] for seed, summary in summaries(tmp_path / "multirun" / "test").items()} == {
        -1: "failed",
        0: "finished",
        1: "finished",
    }


def test_two_processes_train_as_one_does(tmp_path):
    # 1437 images in batches of 48: the last batch, of 45, is not shared out evenly.
    arguments = (*QUICK, "trainer.max_epochs=3", "trainer.precision=64-true", "trainer.accelerator=cpu")
    tables = {}
    for folder, devices in (("one", ()), ("two", ("trainer.devices=2", "trainer.strategy=ddp"))):
        done = command(*arguments, *devices, "data.batch_size=48", f"hydra.run.dir={folder}", folder=tmp_path)
        assert done.returncode == 0, done.stderr
        tables[folder] = pd.read_csv(tmp_path / folder / "metrics.csv").filter(regex="^(?!time)")
    assert list(tables["two"]["epoch"]) == [-1, 0, 1, 2]
    pd.testing.assert_frame_equal(tables["one"], tables["two"], rtol=0, atol=1e-6)


def test_a_search_finds_its_best_trial(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="the extra optuna is not installed")
    few = ("hydra.sweeper.n_trials=2", "model.d=range(2,7,step=2)")
    # Optuna's own imports warn.
    done = command("-m", *SEARCHED, "hydra/sweeper=search", *few, folder=tmp_path, warnings="default")
    assert done.returncode == 0, done.stderr
    accuracies = [json.loads(path.read_text())["final"]["accuracy/test"] for path in tmp_path.rglob("summary.json")]
    best = OmegaConf.load(tmp_path / "multirun" / "test" / "optimization_results.yaml")
    assert best.best_value == pytest.approx(max(accuracies))
