import json
import os
import shlex
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from small_runs import SMALL

from commands import TIMEOUT_S, train_command
from qcnn_lightning.command_line import LONGEST_FOLDER_NAME, job_folder


def test_a_run_from_any_folder_says_where_its_results_are(tmp_path):
    # Everything as users do it, imports included.
    started = [sys.executable, "-W", "error", "-m", "qcnn_lightning.train", *SMALL, "hydra.run.dir=here"]
    done = subprocess.run(started, cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    run = tmp_path / "here"
    assert len(pd.read_csv(run / "metrics.csv")) == 3
    assert json.loads((run / "summary.json").read_text())["status"] == "finished"
    assert (run / "checkpoints" / "last.ckpt").is_file()
    assert (run / ".hydra" / "config.yaml").is_file()
    assert list((run / "wandb").glob("offline-run-*/*.wandb"))
    assert str(run) in done.stdout
    assert "wandb sync" in done.stdout
    # One line per epoch in a pipe: no bar, no cursor movements.
    assert "\x1b" not in done.stdout
    assert sum(line.startswith(("   -1", "    0", "    1")) for line in done.stdout.splitlines()) == 3


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("model.d=3", "even model.d"),
        ("model.d=two", "'two'"),
        ("data.batches_at_a_time=3", "data.batches_at_a_time is now called data.batches_per_item"),
    ],
)
def test_a_mistake_ends_in_one_message(tmp_path, override, told):
    failed = train_command(*SMALL, override, folder=tmp_path)
    assert failed.returncode == 2
    assert len(failed.stderr.splitlines()) == 1
    assert failed.stderr.startswith("error: ")
    assert told in failed.stderr


def test_an_unknown_data_set_is_told_with_the_known_ones(tmp_path):
    failed = train_command("data=cifar", folder=tmp_path)
    assert failed.returncode == 2
    assert "Traceback" not in failed.stderr
    assert all(name in failed.stderr for name in ("cifar", "digits", "fmnist", "folder", "mnist"))


def test_an_output_folder_that_cannot_be_is_told(tmp_path):
    (tmp_path / "file").touch()
    failed = train_command(*SMALL, "hydra.run.dir=file/run", folder=tmp_path)
    assert failed.returncode != 0
    assert "Traceback" not in failed.stderr
    assert "file/run" in failed.stderr


def test_what_a_folders_configuration_names_is_never_executed(tmp_path):
    composed = tmp_path / "run" / ".hydra" / "config.yaml"
    composed.parent.mkdir(parents=True)
    composed.write_text(f"callbacks: [{{_target_: os.system, command: touch {tmp_path}/harm}}]")
    done = train_command(*SMALL, "logger=none", "trainer.max_epochs=1", "hydra.run.dir=run", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "os.system" not in composed.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("name", [".hydra/overrides.yaml", "train.log"])
def test_what_hydra_would_write_through_a_link_is_refused(tmp_path, name):
    link = tmp_path / "run" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "outside")
    refused = train_command(*SMALL, "hydra.run.dir=run", folder=tmp_path)
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
    assert f"{name} leads out of" in refused.stderr
    assert not (tmp_path / "outside").exists()


def test_a_folder_whose_name_looks_like_markup_is_named_as_it_is(tmp_path):
    done = train_command(*SMALL, "logger=none", "trainer.max_epochs=1", "hydra.run.dir='run[/b]:x:'", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"results   {tmp_path}/run[/b]:x:\n" in done.stdout


def test_hydra_itself_may_not_write_about_a_run(tmp_path):
    refused = train_command(*SMALL, "hydra.output_subdir=.hydra", folder=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: hydra.output_subdir=.hydra: must be null")
    assert not list(tmp_path.iterdir())


def test_a_log_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "run" / "train.log").mkdir(parents=True)
    failed = train_command(*SMALL, "hydra.run.dir=run", folder=tmp_path)
    assert failed.returncode == 1
    assert len(failed.stderr.splitlines()) == 1
    assert "run/train.log" in failed.stderr


@pytest.mark.parametrize("arguments", [("hydra.run.dir=run",), ("-m", "hydra.sweep.dir=run")])
def test_a_full_disk_is_told_before_anything_is_overwritten(tmp_path, arguments):
    failed = train_command(*arguments, *SMALL, folder=tmp_path, largest_file=4096)
    assert failed.returncode == 2
    assert failed.stderr == "error: cannot write to run: File too large\n"
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize("arguments", [("--help",), ("--cfg", "job")])
def test_help_shows_choices_and_settings(tmp_path, arguments):
    shown = train_command(*arguments, folder=tmp_path)
    assert shown.returncode == 0
    assert "start_gamma" in shown.stdout
    assert not list(tmp_path.iterdir())


def test_the_folder_of_a_job_is_one_name():
    assert job_folder("") == "defaults"
    assert job_folder("data.root=/a/b,seed=1") == "data.root=-a-b,seed=1"
    long = job_folder("x" * 500)
    assert len(long) == LONGEST_FOLDER_NAME
    assert long != job_folder("x" * 501)
    assert len(job_folder("é" * 200).encode()) <= LONGEST_FOLDER_NAME
    assert job_folder("""+note='a "b/c\\'""") == "+note=a b-c"


def test_training_goes_on_when_nobody_reads_its_output_any_more(tmp_path):
    settings = shlex.join([*SMALL, "logger=none", "hydra.run.dir=run", "trainer.max_epochs=3"])
    line = f"{shlex.quote(sys.executable)} -m qcnn_lightning.train {settings} | head -1"
    ended = subprocess.run(["bash", "-o", "pipefail", "-c", line], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "finished"


def test_text_that_a_terminal_cannot_show_is_shown_by_its_code(tmp_path):
    settings = (*SMALL, "logger=none", "hydra.run.dir=größe-猫", "trainer.max_epochs=1")
    started = [sys.executable, "-m", "qcnn_lightning.train", *settings]
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(started, cwd=tmp_path, env=ascii_only, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert r"gr\xf6\xdfe-\u732b" in done.stdout
    assert (tmp_path / "größe-猫" / "summary.json").exists()


@pytest.mark.parametrize("place", [("hydra.run.dir=run",), ("-m", "hydra.sweep.dir=.", "hydra.sweep.subdir=run")])
def test_paths_are_meant_as_they_were_given_wherever_a_job_runs(tmp_path, place):
    for label, name in enumerate(("cat", "dog")):
        for number in range(6):
            path = tmp_path / "photos" / "train" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((4, 4), 40 + 20 * number + 100 * label, dtype=np.uint8)).save(path)
    images = ("data=folder", "data.root=photos", "data.size=4", "data.batch_size=4", "model.d=2", "model.kernel=plain")
    np.save(tmp_path / "order.npy", np.arange(16)[::-1])
    (tmp_path / "product_state").mkdir()  # a choice of model.start, too
    settings = (*images, "data.flatten=order.npy", "logger=none", "trainer.max_epochs=1", "hydra.job.chdir=true")
    done = train_command(*place, *settings, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["class_names"] == ["cat", "dog"]
    assert list((tmp_path / "data" / "cache").glob("folder-4x4-*"))


@pytest.mark.slow
def test_a_value_of_the_wrong_type_is_told_where_python_checks_nothing(tmp_path):
    wrong = [sys.executable, "-O", "-m", "qcnn_lightning.train", "data=digits", "model.d=two", "logger=none"]
    done = subprocess.run(wrong, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "Parameter d: value 'two'" in line
