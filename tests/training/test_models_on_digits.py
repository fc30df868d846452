"""The models of docs/models.md through the commands: trained, evaluated, asked for classes, and in one report."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from commands import command, evaluate_command, train_command

MODELS = {
    "convac": ("model.d=4", "model.sharing=sibling", "data.white=0.75"),
    "ttn": ("model.bond=8", "data.white=0.75", "model.dtype=complex", "callbacks.states.every_n_epochs=1"),
    "density": ("model.d=8", "model.basis=legendre", "model.levels=4", "model.dtype=complex"),
    "mps": ("model.bond=4", "model.dtype=complex", "optimizer.lr=0.03"),
    "linear": ("cost=cross_entropy",),
    "cnn": ("model.width=4", "cost=cross_entropy"),
}
WITHOUT_STATE = ("linear", "cnn")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a run of every model, and photographs."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "photos").mkdir()
    random = np.random.default_rng(0)
    for number in range(3):
        Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / "photos" / f"{number}.png")
    return folder


def run_of(model, folder):
    """Train as the command line does, three epochs, unless that is done."""
    run = folder / "multirun" / model
    if not run.exists():
        settings = ("data=digits", f"model={model}", *MODELS[model], "trainer.max_epochs=3", "logger=csv")
        done = train_command(*settings, "data.batch_size=20", f"hydra.run.dir={run}", folder=folder)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr == ""
    return run


@pytest.mark.parametrize("model", MODELS)
def test_a_model_learns_and_logs_entropies_if_it_has_states(model, folder):
    table = pd.read_csv(run_of(model, folder) / "metrics.csv")
    assert table["epoch"].tolist() == [-1, 0, 1, 2]
    assert table["cost/test"].iloc[-1] < table["cost/test"].iloc[0]
    assert table["accuracy/test"].iloc[-1] > (0.4 if model == "density" else 0.7)
    entropies = [name for name in table if name.startswith(("ee/", "renyi_2/", "profile/", "spectrum/"))]
    if model in WITHOUT_STATE:
        assert entropies == []
    else:
        assert {"ee/mean", "ee/class_9"} <= set(entropies)
        assert ("profile/level_0" in entropies) == (model != "mps")
        assert table["ee/mean"].notna().all()


@pytest.mark.parametrize("model", MODELS)
def test_a_model_is_evaluated_with_the_numbers_of_its_last_epoch(model, folder):
    run = run_of(model, folder)
    done = evaluate_command(f"run={run}", folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in done.stdout.lower()
    numbers = json.loads((run / "evaluation" / "evaluation.json").read_text())
    last = pd.read_csv(run / "metrics.csv").iloc[-1]
    assert numbers["accuracy"] == pytest.approx(last["accuracy/test"], abs=1e-6)
    assert numbers["cost"] == pytest.approx(last["cost/test"], rel=1e-4)
    assert numbers["disagreement"] < 1e-3
    assert (
        (run / "states.safetensors").exists()
        == (run / "evaluation" / "epoch_fidelity.png").exists()
        == (model == "ttn")
    )
    if model not in WITHOUT_STATE:
        assert numbers["mean_entanglement_entropy"] == pytest.approx(last["ee/mean"], abs=1e-4)


@pytest.mark.parametrize("model", MODELS)
def test_a_model_says_what_photographs_show(model, folder):
    out = folder / f"{model}.csv"
    done = command(
        "qcnn_lightning.predict", f"run={run_of(model, folder)}", "images=photos", f"out={out}", folder=folder
    )
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(out)
    assert len(table) == 3
    assert table.filter(like="p/").sum(axis=1).tolist() == pytest.approx([1, 1, 1])


def test_all_models_stand_in_one_report(folder):
    for model in MODELS:
        run_of(model, folder)
    done = command("qcnn_lightning.report", "runs=multirun", "out=report", folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "report" / "report.html").is_file() or list((folder / "report").glob("*.html"))
