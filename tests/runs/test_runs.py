import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from filelock import FileLock
from scipy import stats
from synthetic import curves, write_run, write_sweep

from qcnn_lightning.errors import InputError
from qcnn_lightning.report.console import show_runs
from qcnn_lightning.report.groups import read_collection
from qcnn_lightning.runs.metrics import read_lines, read_table
from qcnn_lightning.runs.run import Run


class Exploit:
    """Creates a folder when it is unpickled."""

    def __init__(self, created):
        self.created = created

    def __reduce__(self):
        return os.mkdir, (str(self.created),)


def reasons(collection, what):
    return "; ".join(item.why for item in collection.left_out if item.what == what)


def test_a_sweep_is_read_as_it_was_written(tmp_path):
    write_sweep(tmp_path / "sweep", d=(2, 18), seeds=(0, 1), epochs=3)
    collection = read_collection(tmp_path)
    assert collection.left_out == ()
    assert len(collection.runs) == 8
    assert collection.varying_settings == ["model.d"]
    run = next(run for run in collection.runs if (run.data, run.d, run.seed) == ("mnist", 18, 1))
    written = curves("mnist", 18, 1, epochs=3)
    np.testing.assert_allclose(run.column("ee/mean"), written["ee/mean"])
    assert list(run.metrics.index) == [-1, 0, 1, 2]
    assert run.num_parameters == 81_000
    assert run.command == "python -m qcnn_lightning.train data=mnist model.d=18 seed=1 data.flatten=left_right"


def test_experiments_differ_in_more_than_the_seed(tmp_path):
    write_sweep(tmp_path, d=(2, 18), seeds=(0, 1, 2), flatten=("left_right", "up_down"), epochs=1)
    groups = read_collection(tmp_path).groups
    assert {len(group.runs) for group in groups} == {3}
    assert {(item.data, item.variant, item.bipartition) for item in groups} == {
        (data, d, cut) for data in ("mnist", "fmnist") for d in ("d = 2", "d = 18") for cut in ("left/right", "up/down")
    }


def test_a_setting_that_refers_to_others_has_the_value_that_the_run_had(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "of now")
    for size, lr in ((4, 0.01), (8, 0.02)):
        folder = write_run(tmp_path / f"{size}", epochs=1)
        config = yaml.safe_load((folder / ".hydra/config.yaml").read_text())
        config["sweep"] |= {"size": f"{size}k", "widths": {"4k": 4, "8k": 8}}
        config["optimizer"] |= {"lr": lr}
        config["scheduler"] = {"max_lr": "${optimizer.lr}", "up": "${scheduler.down}", "down": "${scheduler.up}"}
        config["data"] |= {"levels": 2, "cache": "${data.name}/cache", "root": "${oc.env:SECRET}"}
        config["model"] |= {
            "d": "${sweep.widths.${sweep.size}}",
            "levels": "${oc.select:data.levels,null}",
            "spread": "${no}",
        }
        (folder / ".hydra/config.yaml").write_text(yaml.safe_dump(config))
    collection = read_collection(tmp_path)
    settings = collection.runs[0].settings
    assert settings["model.d"] == 4
    assert settings["scheduler.max_lr"] == 0.01
    assert settings["model.levels"] == 2
    assert settings["data.cache"] == "mnist/cache"
    assert settings["data.root"] == "${oc.env:SECRET}"
    assert settings["model.spread"] == "${no}"
    # A setting that only repeats another one is no difference of its own.
    assert collection.varying_settings == ["model.d", "optimizer.lr"]
    assert [group.variant for group in collection.groups] == [
        "d = 4, learning rate = 0.01",
        "d = 8, learning rate = 0.02",
    ]


@pytest.mark.parametrize("paths", [["one"], ["sweep/a", "sweep/b"], [""]])
def test_a_run_a_list_or_a_folder_of_sweeps(tmp_path, paths):
    for folder in ("one", "sweep/a", "sweep/b"):
        write_run(tmp_path / folder, epochs=1)
    found = read_collection([tmp_path / path for path in paths])
    assert len(found.runs) == {1: 1 if paths[0] else 3, 2: 2}[len(paths)]
    assert len({run.name for run in found.runs}) == len(found.runs)


def test_the_same_run_given_twice_is_one_run(tmp_path):
    write_run(tmp_path / "run", epochs=1)
    assert len(read_collection([tmp_path, tmp_path / "run"]).runs) == 1


def test_runs_of_sweeps_with_one_name_are_told_apart(tmp_path):
    for machine, seed in (("here", 0), ("there", 0), ("there", 1)):
        write_run(tmp_path / machine / "paper" / f"seed={seed}", seed=seed, epochs=6)
    collection = read_collection([tmp_path / "here" / "paper", tmp_path / "there" / "paper"])
    assert {run.name for run in collection.runs} == {
        str(tmp_path / "here" / "paper" / "seed=0"),
        str(tmp_path / "there" / "paper" / "seed=0"),
        "paper/seed=1",
    }
    (group,) = collection.groups
    assert group.table("accuracy/test").shape[1] == 3


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
def test_where_no_run_is_one_message_says_so(tmp_path, make):
    make(tmp_path / "nothing")
    with pytest.raises(InputError, match="nothing"):
        read_collection(tmp_path / "nothing")


def test_the_trend_averages_two_epochs(tmp_path):
    write_run(tmp_path, table=curves(epochs=3).assign(**{"ee/mean": [1.0, 2.0, 4.0, 8.0]}))
    (run,) = read_collection(tmp_path).runs
    assert list(run.entropy_trend(2)) == [1.0, 1.5, 3.0, 6.0]
    assert list(run.entropy_trend(1)) == [1.0, 2.0, 4.0, 8.0]


def test_a_cut_off_last_row_is_left_out_and_named(tmp_path):
    folder = write_run(tmp_path / "run", epochs=5)
    text = (folder / "metrics.csv").read_text()
    # Cut within a number: what is left would still parse.
    (folder / "metrics.csv").write_text(text[: text.rstrip("\n").rindex(",") - 1])
    collection = read_collection(tmp_path)
    assert collection.runs[0].last_epoch == 3
    assert "middle of a row" in reasons(collection, "run")


def test_values_that_are_no_numbers_are_left_out_and_named(tmp_path):
    table = curves(epochs=6).astype({"cost/test": object})
    table.loc[2, "ee/mean"] = np.nan
    table.loc[3, "ee/mean"] = np.inf
    table.loc[4, "cost/test"] = "broken"
    write_run(tmp_path / "run", table=table.drop(columns="accuracy/test"))
    collection = read_collection(tmp_path)
    (run,) = collection.runs
    assert list(run.column("ee/mean").index) == [-1, 0, 3, 4, 5]
    assert list(run.column("cost/test").index) == [-1, 0, 1, 2, 4, 5]
    why = reasons(collection, "run")
    assert "ee/mean is not a finite number in 2 of 6 epochs" in why
    assert "cost/test is not a finite number in 1 of 6 epochs" in why
    assert "no column accuracy/test" in why


def test_empty_epochs_of_the_profile_are_no_complaint(tmp_path):
    write_run(tmp_path, epochs=12, profile_levels=4)
    collection = read_collection(tmp_path)
    assert collection.left_out == ()
    assert collection.runs[0].profile_columns == [f"profile/level_{level}" for level in range(4)]


def test_repeated_profiles_are_those_of_earlier_epochs(tmp_path):
    (tmp_path / "metrics.csv").write_text(
        "epoch,profile/level_0,profile/level_1\n-1,0.1,0.2\n0,0.1,0.2\n1,0.1,0.2\n2,0.1,0.3\n3,0.1,0.3\n"
    )
    table, _ = read_table(read_lines(tmp_path / "metrics.csv"))
    assert list(table["profile/level_1"].dropna().index) == [-1, 2]
    assert list(table["profile/level_0"].dropna().index) == [-1, 2]


def test_a_repeated_epoch_counts_once(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,ee/mean\n-1,0\n0,1\n0,2\n")
    table, why = read_table(read_lines(tmp_path / "metrics.csv"))
    assert list(table["ee/mean"]) == [0, 2]
    assert any("repeats" in reason for reason in why)


@pytest.mark.parametrize("text", ["", "\n", "epoch,ee/mean\n", "a,b\n1,2\n", "epoch,ee/mean\nx,y\n"])
def test_a_table_without_epochs_leaves_the_run_out_and_not_the_others(tmp_path, text):
    write_run(tmp_path / "good", epochs=1)
    (write_run(tmp_path / "bad", epochs=1) / "metrics.csv").write_text(text)
    collection = read_collection(tmp_path)
    assert [run.name for run in collection.runs] == ["good"]
    assert "metrics.csv" in reasons(collection, "bad")


def test_a_configuration_with_somebodys_own_class_is_text_and_not_executed(tmp_path):
    write_run(tmp_path / "good", epochs=1)
    bad = write_run(tmp_path / "bad", epochs=1)
    harm = tmp_path / "harm"
    (bad / ".hydra/config.yaml").write_text(f"callbacks: [{{_target_: os.system, command: touch {harm}}}]")
    collection = read_collection(tmp_path)
    assert {run.name for run in collection.runs} == {"good", "bad"}
    assert not harm.exists()


@pytest.mark.parametrize("name", ["last", "previous"])
@pytest.mark.parametrize("checkpoint", ["good", "truncated", "hostile"])
def test_altered_metrics_are_mended_from_the_checkpoint_of_which_nothing_is_executed(tmp_path, name, checkpoint):
    harm = tmp_path / "harm"
    folder = tmp_path / "sweep" / "run"
    rows = curves(epochs=3).to_dict("records")
    write_run(folder, epochs=3)
    path = folder / "checkpoints" / f"{name}.ckpt"
    path.parent.mkdir()
    more = {"more": Exploit(harm)} if checkpoint == "hostile" else {}
    record = {"RunRecord": {"rows": rows, "facts": {}}}
    torch.save({"state_dict": {}, "hyper_parameters": {}, "callbacks": record, **more}, path)
    if checkpoint == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    Run(folder).write(rows, "finished", {})
    whole = read_collection(tmp_path)
    assert not whole.left_out, "no checkpoint is looked at while the metrics are whole"

    metrics = folder / "metrics.csv"
    lines = metrics.read_text().splitlines(keepends=True)
    lines[2] = lines[2].replace(".", ".9", 1)
    metrics.write_text("".join(lines))
    collection = read_collection(tmp_path)
    (run,) = collection.runs
    mended = run.metrics.equals(whole.runs[0].metrics)
    assert mended == (checkpoint == "good")
    assert "metrics.csv was altered" in reasons(collection, "sweep/run")
    if checkpoint == "hostile":
        assert f"{name}.ckpt holds pickled objects (posix.mkdir)" in reasons(collection, "sweep/run")
    assert not harm.exists()


def test_interpolations_stay_text(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "treasure")
    folder = write_run(tmp_path, epochs=1)
    (folder / ".hydra/config.yaml").write_text("data: {name: '${oc.env:SECRET}'}")
    assert read_collection(tmp_path).runs[0].data == "${oc.env:SECRET}"


def test_a_link_out_of_the_run_folder_is_not_followed(tmp_path):
    elsewhere = write_run(tmp_path / "elsewhere", epochs=1)
    write_run(tmp_path / "runs/good", epochs=1)
    linked = write_run(tmp_path / "runs/linked", epochs=1)
    (linked / "metrics.csv").unlink()
    (linked / "metrics.csv").symlink_to(elsewhere / "metrics.csv")
    collection = read_collection(tmp_path / "runs")
    assert [run.name for run in collection.runs] == ["good"]
    assert "link" in reasons(collection, "linked")


def test_a_run_without_its_configuration_is_still_drawn(tmp_path):
    folder = write_run(tmp_path / "run", epochs=2)
    shutil.rmtree(folder / ".hydra")
    (folder / "summary.json").write_text("{")
    collection = read_collection(tmp_path)
    assert collection.runs[0].data == "unknown"
    assert "config.yaml" in reasons(collection, "run")
    assert "summary.json" in reasons(collection, "run")


def test_a_run_is_running_while_another_process_holds_its_lock(tmp_path):
    assert not Run(tmp_path).is_running
    hold = "import filelock, sys\nwith filelock.FileLock(sys.argv[1]): print('held', flush=True); input()"
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, tmp_path / ".lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    holder.stdout.readline()
    try:
        assert Run(tmp_path).is_running
    finally:
        holder.communicate(b"\n")
    assert not Run(tmp_path).is_running
    with FileLock(tmp_path / ".lock", timeout=0):
        pass


def test_looking_at_a_run_leaves_nothing_in_it(tmp_path):
    folder = write_run(tmp_path / "run", epochs=1)
    before = sorted(os.walk(folder))
    read_collection(tmp_path)
    assert sorted(os.walk(folder)) == before


def test_the_table_of_jobs(tmp_path, capsys):
    write_run(tmp_path / "done", epochs=40)
    write_run(tmp_path / "short", epochs=2, status="interrupted")
    (write_run(tmp_path / "broken", epochs=1, status="failed") / "metrics.csv").unlink()
    (write_run(tmp_path / "unreadable", epochs=1, status="interrupted") / "traceback.txt").write_text("damaged\n\n")
    with FileLock(write_run(tmp_path / "at_work", epochs=3, status="interrupted") / ".lock"):
        show_runs([tmp_path])
    printed = capsys.readouterr().out
    rows = {line.split()[0]: line for line in printed.splitlines() if line}
    assert "finished" in rows["done"]
    assert "40/40" in rows["done"]
    done = read_collection(tmp_path / "done").runs[0].metrics
    late = done[done.index >= 13]
    assert f"{stats.spearmanr(late['ee/mean'], late['cost/train'])[0]:+.2f}" in rows["done"]
    assert "from epoch 0 to 13, depending on the run's length" in printed
    assert "interrupted" in rows["short"]
    assert "failed" in rows["broken"]
    assert "failed" in rows["unreadable"]
    assert "running" in rows["at_work"]
    assert "5 jobs: 1 finished, 1 running, 2 failed, 1 interrupted" in printed
