"""A sweep whose jobs are trained together leaves what the jobs leave one by one."""

import signal
import time
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from small_runs import assert_same_run, checkpoint_of, compose_small, summary_of, table_of
from wandb_tools import wandb_records

from commands import TIMEOUT_S, Command, train_command
from composing import composed
from qcnn_lightning.errors import InputError
from qcnn_lightning.training.launching import advice, checked_most, groups_of, has_hook_of_a_step, reason_against
from qcnn_lightning.training.run import train
from qcnn_lightning.training.together import Alone, Company, Group

QUICK = ("data=digits", "model.d=4", "logger=none", "trainer.precision=64-true", "trainer.max_epochs=3")
SIX = (*QUICK, "seed=0,1", "optimizer.lr=0.003,0.01,0.03")
TOGETHER = ("hydra/launcher=together",)


def sweep(folder: Path, name: str, *arguments: str) -> tuple[str, list[Path]]:
    """Run a sweep to its end, and return its output and its run folders."""
    done = train_command("-m", *arguments, f"sweep.name={name}", folder=folder)
    assert not done.stderr, done.stderr
    return done.stdout, sorted((folder / "multirun" / name).iterdir())


def assert_same_runs(runs: list[Path], others: list[Path]) -> None:
    assert [run.name for run in runs if run.is_dir()] == [run.name for run in others if run.is_dir()]
    for run, other in zip(runs, others, strict=True):
        if run.is_dir():
            assert_same_run(run, other)
            assert summary_of(run)["status"] == "finished"
            steps, others_steps = (checkpoint_of(folder)["loops"]["fit_loop"] for folder in (run, other))
            assert steps == others_steps


@pytest.fixture(scope="module")
def one_by_one(tmp_path_factory) -> list[Path]:
    return sweep(tmp_path_factory.mktemp("alone"), "alone", *SIX)[1]


def test_six_jobs_together_are_the_six_alone_to_the_last_bit(tmp_path, one_by_one):
    told, runs = sweep(tmp_path, "together", *SIX, *TOGETHER)
    assert "6 jobs together" in told
    assert told.count(": finished, test accuracy") == 6
    assert_same_runs(runs, one_by_one)
    logs = [(run / "train.log").read_text() for run in runs if run.is_dir()]
    assert all(log.count("run folder") == 1 for log in logs)


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_killed_jobs_go_on_in_other_groups_as_if_nothing_had_happened(tmp_path, one_by_one, signum):
    arguments = ("-m", *SIX, *TOGETHER, "sweep.name=killed")
    process = Command("qcnn_lightning.train", *arguments, "hydra.launcher.most=4", folder=tmp_path)
    while len(list(tmp_path.rglob("last.ckpt"))) < 3:
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signum)
    process.communicate(timeout=TIMEOUT_S)
    folders = [run for run in (tmp_path / "multirun" / "killed").iterdir() if (run / "checkpoints").is_dir()]
    assert {summary_of(run)["status"] for run in folders} == {"interrupted"}
    if signum == signal.SIGTERM:
        assert process.returncode == 128 + signum
    _, runs = sweep(tmp_path, "killed", *SIX, *TOGETHER, "hydra.launcher.most=5")
    assert_same_runs(runs, one_by_one)


def test_a_job_whose_cost_is_not_finite_fails_and_the_others_go_on(tmp_path, one_by_one):
    done = train_command("-m", *QUICK, "seed=0", "optimizer.lr=0.003,1e30,0.03", *TOGETHER, folder=tmp_path)
    assert done.returncode == 1
    assert done.stdout.count(": failed:") == 1
    by_rate = {run.name.split("optimizer.lr=")[1].split(",")[0]: run for run in tmp_path.glob("multirun/*/*seed*")}
    alone = {run.name.split("optimizer.lr=")[1].split(",")[0]: run for run in one_by_one if "seed=0" in run.name}
    for rate in ("0.003", "0.03"):
        assert_same_run(by_rate[rate], alone[rate])
    (failed,) = (run for rate, run in by_rate.items() if rate not in alone)
    summary = summary_of(failed)
    assert summary["status"] == "failed"
    single = train_command(*QUICK, "seed=0", "optimizer.lr=1e30", "hydra.run.dir=single", folder=tmp_path)
    assert single.returncode == 1
    assert summary_of(tmp_path / "single")["error"] == summary["error"]


@pytest.mark.parametrize(
    "overrides",
    [
        ("model.kernel=plain", "seed=0,1", "entropy_weight=0,0.1"),
        pytest.param(
            ("model.kernel=plain", "seed=0,1", "optimizer=sgd", "scheduler=one_cycle", "model.sharing=sibling"),
            marks=pytest.mark.slow,
        ),
        (
            "data.flatten=left_right,z_up_down",
            "entropy_weight=0.1",
            "scheduler=one_cycle",
            "data.augment.shift=1",
            "average_decay=0.9",
        ),
        pytest.param(("seed=0,1", "cost=cross_entropy", "optimizer=adam", "data.val_size=100"), marks=pytest.mark.slow),
    ],
)
def test_whatever_a_run_may_be_it_is_the_same_together(tmp_path, overrides):
    arguments = (*QUICK[:-1], "trainer.max_epochs=2", *overrides)
    _, alone = sweep(tmp_path, "alone", *arguments)
    told, together = sweep(tmp_path, "together", *arguments, *TOGETHER)
    assert "jobs together" in told
    for run, other in zip(together, alone, strict=True):
        if not run.is_dir():
            continue
        differences = (table_of(run) - table_of(other)).abs().max()
        # All but the batches' costs are measured in float32, where a digit of numbers from 1 to 2 is 1.2e-7.
        assert differences.max() <= 2e-7
        assert differences["cost/batch"] <= 1e-9
        for key, weights in checkpoint_of(run)["state_dict"].items():
            torch.testing.assert_close(weights, checkpoint_of(other)["state_dict"][key], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("overrides", [(), ("optimizer=adam", "scheduler=one_cycle", "data.augment.flip=true")])
def test_a_run_alone_in_a_group_is_the_run(tmp_path, overrides):
    quick = ("trainer.precision=64-true", "model.kernel=plain", *overrides)
    alone, grouped = (compose_small(tmp_path / folder, *quick) for folder in ("alone", "grouped"))
    group = Group()
    train(alone)
    train(grouped, company=Company(Alone(group), group))
    difference = (table_of(grouped.run_dir) - table_of(alone.run_dir)).abs()
    assert difference.filter(regex="cost").max().max() <= 1e-9
    assert difference.max().max() <= 1e-7


def test_jobs_that_cannot_go_together_are_told_why(tmp_path):
    told, runs = sweep(tmp_path, "mixed", *QUICK[:-1], "trainer.max_epochs=1", "model.d=2,4", "seed=0,1", *TOGETHER)
    assert told.count("2 jobs together") == 2
    arguments = ("data=digits", "logger=none", "trainer.max_epochs=1", "data.levels=2", "model.levels=2")
    density = ("model=density", "cost=negative_log_likelihood", "model.d=2", "seed=0,1")
    told, _ = sweep(tmp_path, "density", *arguments, *density, *TOGETHER)
    assert told.count("by itself, for model._target_=qcnn_lightning.Density has no batched form") == 2
    assert len([run for run in runs if run.is_dir()]) == 4


def test_large_networks_on_a_cpu_are_told_of_joblib():
    small, large = jobs("model.d=6 trainer=cpu", "model.d=18 trainer=cpu")
    assert advice(small) == ""
    assert "hydra/launcher=joblib" in advice(large)


@pytest.mark.slow
def test_every_job_has_a_run_of_its_own_in_wandb(tmp_path):
    arguments = ("data=digits", "model.d=2", "trainer.max_epochs=2", "seed=0,1,2", "logger.offline=true")
    _, runs = sweep(tmp_path, "tracked", *arguments, *TOGETHER)
    ids = set()
    for run in filter(Path.is_dir, runs):
        (offline,) = (run / "wandb").glob("offline-run-*")
        kept = [record for record in wandb_records(offline) if record["type"] == "history"]
        assert len(kept) >= len(table_of(run))
        ids.add(summary_of(run)["wandb_run_id"])
        assert offline.name.endswith(summary_of(run)["wandb_run_id"])
    assert len(ids) == 3


def jobs(*settings: str) -> list:
    return [composed("train", "data=digits", *setting.split()) for setting in settings]


def test_groups_hold_jobs_of_one_shape_and_no_more_than_most():
    given = jobs("seed=0", "seed=1 model.d=2", "optimizer.lr=0.1", "seed=2 model.d=2", "scheduler=one_cycle", "seed=4")
    alone = "no other job has its model, data and batches"
    assert list(groups_of(given, 3)) == [([0, 2, 4], ""), ([5], alone), ([1, 3], "")]


def test_data_sets_with_as_many_images_of_as_many_classes_are_one_shape():
    given = [
        composed("train", *setting.split()) for setting in ("data=mnist", "data=fmnist data.root=there", "data=digits")
    ]
    assert [group for group, _ in groups_of(given, 32)] == [[0, 1], [2]]


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("trainer.devices=2", "several devices"),
        ("trainer.strategy=ddp", "several devices"),
        ("model=own model._target_=mine.Model", "mine.Model has no batched form"),
    ],
)
def test_a_job_by_itself_has_a_reason(setting, reason):
    (job,) = jobs(setting)
    assert reason in reason_against(job)


class EveryStep(pl.Callback):
    def on_before_optimizer_step(self, *arguments):
        """Nothing."""


def test_a_callback_that_is_called_at_every_step_is_known():
    assert has_hook_of_a_step(f"{__name__}.EveryStep")
    assert not has_hook_of_a_step("qcnn_lightning.training.entanglement.EntanglementMonitor")
    assert not has_hook_of_a_step("no.such.Class")


@pytest.mark.parametrize("most", [0, 1.5, "all"])
def test_the_number_of_jobs_at_a_time_is_a_number(most):
    with pytest.raises(InputError, match=rf"hydra\.launcher\.most={most}: must be a whole number"):
        checked_most(most)
