import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from small_runs import SMALL

from commands import TIMEOUT_S, Command, pasted, train_command
from qcnn_lightning.errors import message_of
from qcnn_lightning.report.groups import read_collection
from qcnn_lightning.runs.lock import LOCK
from qcnn_lightning.runs.run import Run
from qcnn_lightning.training.sweep import in_one_line, read_job

SEARCHED = ("data=digits", "model.kernel=plain", "logger=none", "trainer.max_epochs=1", "sweep.name=test")
QUICK = (*SMALL, "model.kernel=plain", "logger=none", "trainer.max_epochs=1")


def summaries(sweep: Path) -> dict[int, dict]:
    """Read the summaries of a sweep's jobs by their seeds."""
    found = [json.loads(path.read_text()) for path in sweep.glob("*/summary.json")]
    seeds = [int(path.parent.name.split("seed=")[1].split(",")[0]) for path in sweep.glob("*/summary.json")]
    return dict(zip(seeds, found, strict=True))


def begin(*arguments: str, folder: Path, jobs: int) -> Command:
    """Start `python -m qcnn_lightning.train` in a folder; wait until so many jobs have a checkpoint to resume from."""
    process = Command("qcnn_lightning.train", *arguments, folder=folder)
    while len(list(folder.rglob("last.ckpt"))) < jobs:
        assert process.poll() is None
        time.sleep(0.01)
    return process


def holder(lock: Path) -> int:
    """The process that holds a run folder's lock."""
    inode = f":{lock.stat().st_ino}"
    held = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    (process,) = {int(fields[4]) for fields in held if fields[1] == "FLOCK" and fields[5].endswith(inode)}
    return process


def from_the_beginning(*arguments: str, folder: Path, warnings: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m qcnn_lightning.train` in a folder, in a new interpreter."""
    command = [sys.executable, "-W", warnings, "-m", "qcnn_lightning.train", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S)


@pytest.mark.slow
def test_a_sweep_with_a_failing_and_a_killed_job_is_completed_by_the_same_command(tmp_path):
    # Epochs enough that the job that is seen to begin is killed before its end.
    arguments = ("-m", *QUICK, "trainer.max_epochs=8", "seed=0,1,-1,2,3,4,5,6")
    sweep = tmp_path / "multirun" / "test"
    process = Command("qcnn_lightning.train", *arguments, folder=tmp_path)
    while process.poll() is None and not list(sweep.glob("*seed=3*/metrics.csv")):
        time.sleep(0.01)
    process.kill()
    process.wait()
    before = summaries(sweep)
    assert [seed for seed, summary in before.items() if summary["status"] == "interrupted"] == [3]
    assert before[-1]["status"] == "failed"
    written = {path: path.stat().st_mtime_ns for path in sweep.glob("*seed=[012],*/checkpoints/last.ckpt")}
    assert len(written) == 3

    done = train_command(*arguments, folder=tmp_path)
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


@pytest.mark.slow
def test_jobs_in_parallel_are_told_a_line_each(tmp_path):
    done = train_command("-m", *QUICK, "seed=0,1,-1", "hydra/launcher=joblib", folder=tmp_path)
    assert done.returncode == 1
    ended = [line for line in done.stdout.splitlines() if ": finished, test accuracy" in line or ": failed:" in line]
    assert len(ended) == 3
    assert "epoch  cost train" not in done.stdout
    assert {seed: summary["status"] for seed, summary in summaries(tmp_path / "multirun" / "test").items()} == {
        -1: "failed",
        0: "finished",
        1: "finished",
    }


@pytest.mark.slow
def test_a_job_in_parallel_that_is_killed_resumes_with_the_others(tmp_path):
    arguments = ("-m", *QUICK, "trainer.max_epochs=20", "seed=0,1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    process = begin(*arguments, folder=tmp_path, jobs=2)
    runs = sorted((tmp_path / "multirun" / "test").glob("*seed=*"))
    os.kill(holder(runs[0] / LOCK), signal.SIGKILL)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0
    assert "a job's process was killed" in output
    for run in runs:
        assert list(pd.read_csv(run / "metrics.csv")["epoch"]) == list(range(-1, 20))
    assert "resuming after epoch" in (runs[0] / "train.log").read_text()


@pytest.mark.parametrize("launcher", [(), ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")])
def test_a_sweep_ends_with_its_jobs_when_it_is_told_to(tmp_path, launcher):
    arguments = ("-m", *QUICK, "trainer.max_epochs=200", "seed=0,1", *launcher)
    process = begin(*arguments, folder=tmp_path, jobs=2 if launcher else 1)
    process.terminate()
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 128 + signal.SIGTERM
    assert "the same command resumes it" in output
    runs = list((tmp_path / "multirun" / "test").glob("*seed=*"))
    assert len(runs) == (2 if launcher else 1)
    assert not any(Run(run).is_running for run in runs)
    assert {summary["status"] for summary in summaries(tmp_path / "multirun" / "test").values()} == {"interrupted"}


@pytest.mark.slow
def test_jobs_end_with_a_sweep_that_is_killed_and_the_same_command_resumes_them(tmp_path):
    arguments = ("-m", *QUICK, "seed=0,1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    process = begin(*arguments, "trainer.max_epochs=1000", folder=tmp_path, jobs=2)
    runs = [Run(folder) for folder in (tmp_path / "multirun" / "test").glob("*seed=*")]
    process.kill()
    process.wait()
    end = time.monotonic() + TIMEOUT_S
    while any(run.is_running for run in runs):
        assert time.monotonic() < end, "the jobs go on"
        time.sleep(0.1)
    assert all(run.status == "interrupted" for run in runs)
    assert all(run.last_epoch < 900 for run in runs)


@pytest.mark.slow
def test_a_failed_job_is_run_again_by_the_command_that_is_told(tmp_path):
    (tmp_path / "mine" / "sweep").mkdir(parents=True)
    (tmp_path / "mine" / "sweep" / "ours.yaml").write_text("# @package _global_\nseed: 7\n")
    place = ("--config-dir", "mine")
    (tmp_path / "a b").mkdir()
    np.save(tmp_path / "a b" / "c.npy", np.arange(64))
    arguments = (*place, "-m", *QUICK, "sweep=ours", "data.flatten='a b/c.npy'", "hydra.sweep.dir=studies/first")
    # A disk that is full before the first checkpoint, of 40 kB, is written.
    failed = train_command(*arguments, folder=tmp_path, largest_file=16 * 1024)
    assert failed.returncode == 1
    (run,) = (tmp_path / "studies" / "first").glob("*data.flatten=a b-c.npy*")
    assert f"cannot write {run}/checkpoints/last.ckpt" in failed.stdout
    told = failed.stdout.split("to run it again: ")[1].splitlines()[0]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    again = subprocess.run(told, shell=True, cwd=tmp_path, env={**os.environ, "PATH": path}, timeout=TIMEOUT_S)
    assert again.returncode == 0
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["status"], summary["seed"]) == ("finished", 7)
    assert [path.name for path in (tmp_path / "studies").glob("*/*/")] == [run.name]
    # the report tells a command that finds the same configs
    assert "--config-dir mine" in read_collection(run).runs[0].command


def test_an_error_without_a_message_is_a_failure_as_well(tmp_path):
    note = {"folder": str(tmp_path / "job"), "status": "failed", "error": message_of(MemoryError())}
    (tmp_path / "0.json").write_text(json.dumps(note | {"overrides": [], "max_epochs": 1}))
    assert in_one_line(read_job(tmp_path / "0.json", tmp_path)).startswith("job: failed: MemoryError")


# A callback of Hydra's that meddles with what a job has left.
MEDDLER = """
import os
from pathlib import Path
from hydra.experimental.callback import Callback

class Meddler(Callback):
    def __init__(self, how):
        self.how = how

    def on_multirun_end(self, config, **kwargs):
        for path in Path(config.hydra.sweep.dir).rglob("*"):
            exec(self.how)
"""


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("os.utime(path, (0, 0))", "1 of 2 jobs have not finished"),
        ("path.unlink() if path.parent.name.startswith('.jobs') else None", "no job was run"),
        ("path.write_text('') if path.parent.name.startswith('.jobs') else None", "JSONDecodeError"),
    ],
)
def test_a_sweep_never_takes_what_it_cannot_know_for_success(tmp_path, how, told):
    (tmp_path / "meddling.py").write_text(MEDDLER)
    meddler = f'+hydra.callbacks.meddler={{_target_: meddling.Meddler, how: "{how}"}}'
    done = train_command("-m", *QUICK, "seed=0,-1", meddler, folder=tmp_path)
    assert done.returncode == 1, done.stderr
    assert told in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "names"),
    [
        ((), ["data.flatten=left_right", "data.flatten=[-b]"]),
        (("hydra.sweep.subdir=${hydra.job.num}",), ["0", "1"]),
        (("hydra.sweep.subdir=runs/${hydra.job.num}/run", "hydra.output_subdir=null"), ["runs/0/run", "runs/1/run"]),
        (("hydra.sweep.dir='a b/[/c]'", "hydra.sweep.subdir=${hydra.job.num}", "hydra/launcher=joblib"), ["0", "1"]),
    ],
)
def test_every_job_is_in_the_table_wherever_it_is_and_whatever_its_error_says(tmp_path, place, names):
    done = train_command("-m", *QUICK, "data.flatten=left_right,'[/b]'", *place, folder=tmp_path)
    assert done.returncode == 1, done.stderr
    table = done.stdout[done.stdout.index("job  ") :].splitlines()[1:3]
    for name, line, status in zip(names, table, ("finished", "failed"), strict=True):
        assert line.startswith(name)
        assert status in line
    assert "data.flatten=[/b] is not a pixel order" in done.stdout
    assert "1 of 2 jobs have not finished" in done.stdout
    assert not list(tmp_path.rglob(".jobs*"))
    # What is told runs the same job in the same folder.
    folders = set(tmp_path.rglob("summary.json"))
    pasted(done.stdout.split("to run it again: ")[1].splitlines()[0], folder=tmp_path)
    assert set(tmp_path.rglob("summary.json")) == folders


def test_only_the_job_whose_folder_leads_out_of_the_sweep_is_refused(tmp_path):
    sweep, outside = tmp_path / "sweep", tmp_path / "outside"
    outside.mkdir()
    sweep.mkdir()
    (sweep / "0").symlink_to(outside)
    (sweep / "1" / ".hydra").mkdir(parents=True)
    for name in (".hydra/config.yaml", "train.log"):
        (sweep / "1" / name).symlink_to(outside / "victim")
    place = ("hydra.sweep.dir=sweep", "hydra.sweep.subdir=${hydra.job.num}")
    done = train_command("-m", *QUICK, "seed=0,1,2", *place, folder=tmp_path)
    assert done.returncode == 1
    assert "2 of 3 jobs have not finished" in done.stdout
    assert done.stdout.count("leads out of") == 4
    assert not list(outside.iterdir())
    (sweep / "multirun.yaml").unlink()
    (sweep / "multirun.yaml").symlink_to(outside / "victim")
    refused = train_command("-m", *QUICK, "seed=0,1,2", *place, folder=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: sweep/multirun.yaml")
    assert not list(outside.iterdir())


@pytest.mark.slow
def test_two_processes_train_as_one_does(tmp_path):
    # 1437 images in batches of 48: the last batch, of 45, is not shared out evenly.
    settings = (
        *QUICK,
        "trainer.max_epochs=3",
        "trainer.precision=64-true",
        "trainer.accelerator=cpu",
        "data.batch_size=48",
    )
    two = ("trainer.devices=2", "trainer.strategy=ddp")
    tables = {}
    for folder, done in (
        ("one", train_command(*settings, "hydra.run.dir=one", folder=tmp_path)),
        ("two", from_the_beginning(*settings, *two, "hydra.run.dir=two", folder=tmp_path, warnings="error")),
    ):
        assert done.returncode == 0, done.stderr
        tables[folder] = pd.read_csv(tmp_path / folder / "metrics.csv").filter(regex="^(?!time)")
    assert list(tables["two"]["epoch"]) == [-1, 0, 1, 2]
    pd.testing.assert_frame_equal(tables["one"], tables["two"], rtol=0, atol=1e-6)


@pytest.mark.slow
def test_a_search_finds_its_best_trial_and_is_resumed_by_the_same_command(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="the extra optuna is not installed")
    few = ("hydra.sweeper.n_trials=2", "model.d=range(2,7,step=2)")
    # Optuna's own imports warn.
    done = from_the_beginning("-m", *SEARCHED, "hydra/sweeper=search", *few, folder=tmp_path, warnings="default")
    assert done.returncode == 0, done.stderr
    accuracies = [json.loads(path.read_text())["final"]["accuracy/test"] for path in tmp_path.rglob("summary.json")]
    best = OmegaConf.load(tmp_path / "multirun" / "test" / "optimization_results.yaml")
    assert best.best_value == pytest.approx(max(accuracies))
    again = from_the_beginning("-m", *SEARCHED, "hydra/sweeper=search", *few, folder=tmp_path, warnings="default")
    assert again.stdout.count("finished already") == 2


def test_a_worker_whose_sweep_died_while_it_started_ends_at_once(tmp_path):
    code = (
        "from qcnn_lightning.training.interruption import end_with_parent; end_with_parent(1 << 22); print('goes on')"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (128 + signal.SIGTERM, "")
