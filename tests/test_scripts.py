"""The commands as scripts, `qcnn-train`, beside `python -m qcnn_lightning.train`."""

import importlib
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from commands import clean_environment, command
from qcnn_lightning.__main__ import COMMANDS
from qcnn_lightning.command_line import way_to_start

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
FOLDER = Path(sys.executable).parent
# The scripts are found first, and are this environment's.
ENVIRONMENT = clean_environment() | {"PATH": f"{FOLDER}:/usr/bin:/bin", "OMP_NUM_THREADS": "1"}

COMPLETION = """
eval "$(qcnn-train --shell-completion install=bash)"
for line in 'qcnn-train data=f' 'qcnn-train model.shar' 'qcnn-train -m data=digits model.sharing='; do
    COMP_LINE=$line COMP_POINT=${#line} COMP_WORDS=($line) COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    hydra_bash_completion
    echo "${COMPREPLY[@]}"
done
"""


def test_every_command_of_the_overview_is_a_script_and_a_module():
    assert [f"qcnn-{name}" for name in COMMANDS] == list(PROJECT["scripts"])
    for script, place in PROJECT["scripts"].items():
        module, _, function = place.partition(":")
        assert callable(getattr(importlib.import_module(module), function))
        assert module.removesuffix(".__main__") == f"qcnn_lightning.{script.removeprefix('qcnn-')}"


def test_the_package_itself_says_what_there_is_to_type(tmp_path):
    told = command("qcnn_lightning", folder=tmp_path)
    assert told.returncode == 0
    assert all(f"qcnn-{name} " in told.stdout for name in COMMANDS)
    refused = command("qcnn_lightning", "train", "data=digits", folder=tmp_path)
    assert refused.returncode == 2
    assert "type qcnn-train, or python -m qcnn_lightning.train" in refused.stderr


@pytest.mark.parametrize(
    ("started", "printed"),
    [
        ("/project/src/qcnn_lightning/train.py", ["python", "-m", "qcnn_lightning.train"]),
        (str(FOLDER / "qcnn-report"), ["qcnn-train"]),
        ("/elsewhere/bin/qcnn-report", ["/elsewhere/bin/qcnn-train"]),
    ],
)
def test_commands_are_printed_the_way_that_the_process_was_started(started, printed, monkeypatch):
    monkeypatch.setenv("PATH", ENVIRONMENT["PATH"])
    monkeypatch.setattr(sys, "argv", [started])
    assert way_to_start("train") == printed


def test_the_shell_completes_choices_settings_and_their_values(tmp_path):
    done = subprocess.run(
        ["bash", "-c", COMPLETION], env=ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["data=fmnist data=folder", "model.sharing=", "model.sharing=full"]


@pytest.mark.slow
def test_a_script_finds_own_parts_here_and_prints_commands_that_work(tmp_path):
    (tmp_path / "mine.py").write_text("from pytorch_lightning import Callback\n\nclass Mine(Callback):\n    pass\n")
    settings = ["experiment=quickstart", "trainer.max_epochs=1", "logger=none", "+callbacks.mine._target_=mine.Mine"]

    def start(*line):
        return subprocess.run(line, env=ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True)

    swept = start("qcnn-train", "-m", "seed=0,-1", *settings, "sweep.name=s")
    assert swept.returncode == 1
    again = shlex.split(swept.stdout.split("to run it again: ")[1].splitlines()[0])
    assert again[0] == "qcnn-train"
    done = start(*("seed=1" if argument == "seed=-1" else argument for argument in again))
    assert done.returncode == 0, done.stderr
    look = shlex.split(done.stdout.split("look ")[1])
    assert start(*look, "figures=[]").returncode == 0
    assert start("qcnn-runs", "multirun").stdout.count("finished") >= 2
