"""Trained trees with fewer channels, from the command line."""

import json
from pathlib import Path

import pandas as pd
import pytest

import qcnn_lightning as ql
from commands import command, evaluate_command
from qcnn_lightning import DenseTreeState, NetworkState

NETWORK = Path(__file__).parents[2] / "reproduction" / "networks" / "digits_sibling.ckpt"


def compress(*arguments, folder):
    return command("qcnn_lightning.compress", f"checkpoint={NETWORK}", *arguments, folder=folder)


def test_half_of_the_parameters_are_trained_to_the_accuracy_of_all(tmp_path):
    done = compress("parameters=0.5", "epochs=8", "out=half", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    numbers = json.loads((tmp_path / "half" / "compressed.json").read_text())
    assert numbers["parameters"]["retrained"] == numbers["parameters"]["after"] <= numbers["parameters"]["before"] / 2
    accuracy = numbers["accuracy"]
    assert accuracy["after"] > accuracy["before"] - 0.08
    assert accuracy["retrained"] > accuracy["before"] - 0.015
    assert f"before {accuracy['before']:.2%}, after {accuracy['after']:.2%}, retrained" in done.stdout
    state = NetworkState.load(tmp_path / "half" / "state.safetensors")
    assert [channels + 1 for channels in state.channels] == numbers["channels"]["after"]
    assert len(state.class_names) == 10
    # Before any further training, the new network is the compressed state.
    (retrained,) = (tmp_path / "half").glob("retrained-*")
    table = pd.read_csv(retrained / "metrics.csv")
    assert table["accuracy/test"].iloc[0] == pytest.approx(accuracy["after"], abs=1e-6)
    # It is a run like any other, also where the state's file is gone.
    (tmp_path / "half" / "state.safetensors").unlink()
    evaluated = evaluate_command(f"run={retrained}", "figures=[]", folder=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr


def test_schmidt_truncation_keeps_the_fidelity_that_is_asked_for(tmp_path):
    done = compress("tree=dense", "fidelity=0.99", "epochs=0", "out=dense", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    numbers = json.loads((tmp_path / "dense" / "compressed.json").read_text())
    assert 0.99 <= numbers["fidelity"] < 1
    assert numbers["accuracy"]["retrained"] is None
    assert abs(numbers["accuracy"]["after"] - numbers["accuracy"]["before"]) < 0.02
    state = DenseTreeState.load(tmp_path / "dense" / "state.safetensors")
    assert list(state.channels) == numbers["channels"]["after"]
    assert all(one <= other for one, other in zip(state.channels, numbers["channels"]["before"], strict=True))


def test_complex_weights_stay_complex_and_count_twice(tmp_path):
    run = tmp_path / "run"
    complex_tree = ("model=ttn", "model.d=2", "model.bond=4", "model.dtype=complex", "data.white=0.75")
    ql.train("data=digits", *complex_tree, "logger=none", max_epochs=1, run_dir=str(run), quiet=True)
    goal = ("tree=dense", "channels=[3,3,3,3,3,3]", "epochs=1")
    done = command("qcnn_lightning.compress", f"run={run}", *goal, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    numbers = json.loads((run / "compressed" / "compressed.json").read_text())
    assert numbers["parameters"]["after"] == numbers["parameters"]["retrained"] == 2 * (6 * 3**3 + 10 * 3)
    (retrained,) = (run / "compressed").glob("retrained-*")
    table = pd.read_csv(retrained / "metrics.csv")
    assert table["accuracy/test"].iloc[0] == pytest.approx(numbers["accuracy"]["after"], abs=1e-6)


def test_what_has_no_such_tree_is_told(tmp_path):
    run = tmp_path / "run"
    ql.train("data=digits", "model=mps", "model.bond=2", "logger=none", max_epochs=1, run_dir=str(run), quiet=True)
    done = command("qcnn_lightning.compress", f"run={run}", "parameters=0.5", folder=tmp_path)
    assert done.returncode == 2
    assert "MPS has no states that tree=product compresses; it takes model=qcnn, and model=convac" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give one of parameters, fidelity and channels"),
        (("fidelity=0.9",), "tree=product takes parameters=0.5 or channels"),
        (("tree=dense", "parameters=0.5"), "tree=dense takes fidelity=0.999 or channels"),
        (("tree=oak", "parameters=0.5"), "tree=oak: choose product or dense"),
        (("parameters=0.5", "epochs=-1"), "epochs=-1: must be a whole number"),
        (("parameters=0.001",), "fewer than a tree with one channel a level"),
        (("parameters=2",), "parameters=2: must be a number above 0, at most 1"),
        (("parameters=half",), "parameters=half: must be a number"),
        (("tree=dense", "fidelity=1.5"), "fidelity=1.5: must be a number above 0, at most 1"),
        (("channels=5",), "channels=5: must be a list of whole numbers"),
        (("channels=[5,5,5,5,5,5.5]",), "must be a list of whole numbers, 1 or more"),
        (("parameters=0.5", "images=-5"), "images=-5: must be a whole number, 1 or more"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(arguments, message, tmp_path):
    done = compress(*arguments, folder=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert message in done.stderr
