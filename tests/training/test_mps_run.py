"""Matrix product states through the commands: training, resuming, evaluation, predictions, samples."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from small_runs import EPOCHS, compose_small, summary_of, table_of

import qcnn_lightning as ql
from commands import command, train_command
from composing import composed, data_module, evaluation_of, ready
from qcnn_lightning.data.flattening import PADDING
from qcnn_lightning.evaluation.evaluate import evaluate
from qcnn_lightning.training.run import train

# Digits on 6x6 pixels stand at 64 sites, of which 28 have no pixel.
SETTINGS = ("data=digits", "data.size=6", "data.flatten=z_left_right", "model=mps", "model.bond=6", "model.d=2")
TRAIN = (*SETTINGS, "logger=none", "callbacks.states.every_n_epochs=1", "hydra.run.dir=run")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a run of three epochs, interrupted after two."""
    folder = tmp_path_factory.mktemp("mps")
    for epochs in ("trainer.max_epochs=2", EPOCHS):
        done = train_command(*TRAIN, epochs, folder=folder)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
    return folder


def test_a_run_learns_and_measures_entropies_and_no_likelihoods(trained):
    table = table_of(trained / "run")
    assert table["epoch"].tolist() == [-1, 0, 1, 2]
    assert table["accuracy/test"].iloc[-1] > 0.7
    assert table["ee/mean"].iloc[0] < table["ee/mean"].iloc[-1] < math.log(6)
    assert not [column for column in table.columns if column.startswith(("nats", "profile"))]
    assert summary_of(trained / "run")["status"] == "finished"


def test_a_resumed_run_is_the_uninterrupted_one(trained):
    done = train_command(*TRAIN[:-1], EPOCHS, "hydra.run.dir=straight", folder=trained)
    assert done.returncode == 0, done.stderr
    # Spectra are logged after the last epoch of a training.
    straight, resumed = (table_of(trained / name).filter(regex="^(?!spectrum)") for name in ("straight", "run"))
    pd.testing.assert_frame_equal(straight, resumed, rtol=1e-4)


def test_an_evaluation_has_the_numbers_of_the_training_and_a_file_of_the_states(trained):
    done = command("qcnn_lightning.evaluate", "run=run", folder=trained)
    assert done.returncode == 0, done.stderr
    assert (trained / "run" / "evaluation" / "schmidt_spectra.png").is_file()
    evaluation, folder = evaluation_of(f"run={trained / 'run'}", f"out={trained / 'again'}")
    last = table_of(trained / "run").iloc[-1]
    assert evaluation.classification.accuracy == pytest.approx(last["accuracy/test"], abs=1e-6)
    assert evaluation.classification.disagreement < 1e-3
    assert evaluation.entanglement.entropy.mean().item() == pytest.approx(last["ee/mean"], abs=1e-4)
    state = ql.MPSState.load(folder / "state.safetensors")
    found = ql.load(trained / "run").state()
    assert isinstance(found, ql.MPSState)
    assert found.class_names == state.class_names == tuple("0123456789")
    assert found.layout == state.layout
    assert torch.equal(torch.tensor(state.layout.pixel_order) == PADDING, state.padding)
    module = ready(data_module("digits", "data.size=6", "data.flatten=z_left_right"))
    images, labels = module.splits["test"]
    assert torch.equal(state.amplitude(images), found.amplitude(images))
    right = (state.conditional_probability(images).argmax(1) == labels).double().mean().item()
    assert right == pytest.approx(last["accuracy/test"], abs=1e-6)


def test_several_runs_are_one_state(trained):
    done = train_command(*TRAIN[:-1], "seed=1", "trainer.max_epochs=1", "hydra.run.dir=other", folder=trained)
    assert done.returncode == 0, done.stderr
    evaluation, folder = evaluate(composed("evaluate", f"runs=['{trained}/run','{trained}/other']", "figures=[]"))
    states = [ql.load(trained / name).state() for name in ("run", "other")]
    images, labels = ready(data_module("digits", "data.size=6", "data.flatten=z_left_right")).splits["test"]
    amplitudes = sum(state.amplitude(images) for state in states) / 2
    stored = ql.MPSState.load(folder / "state.safetensors")
    torch.testing.assert_close(stored.amplitude(images), amplitudes, rtol=1e-9, atol=1e-12)
    right = (amplitudes.abs().argmax(1) == labels).double().mean().item()
    assert evaluation.classification.accuracy == pytest.approx(right, abs=1e-6)
    torch.testing.assert_close(evaluation.entanglement.entropy, ql.MPSState.sum(states).entanglement_entropy())


def test_the_states_of_every_epoch_are_kept_and_compared(trained):
    run = ql.load(trained / "run")
    entropies = table_of(trained / "run").set_index("epoch")["ee/mean"]
    for epoch in (-1, 0, 1, 2):
        assert run.state(epoch).entanglement_entropy().mean().item() == pytest.approx(entropies[epoch], abs=1e-5)
    evaluation_of(f"run={trained / 'run'}", f"out={trained / 'drawn'}", figures="[png]")
    assert (trained / "drawn" / "epoch_fidelity.png").is_file()


def test_images_of_a_folder_are_predicted(trained):
    (trained / "photos").mkdir()
    for number in range(3):
        picture = np.random.default_rng(number).integers(0, 256, (12, 12), dtype=np.uint8)
        Image.fromarray(picture).save(trained / "photos" / f"{number}.png")
    done = command("qcnn_lightning.predict", "run=run", "images=photos", folder=trained)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(trained / "photos-predictions.csv")
    assert table.filter(like="p/").sum(axis=1).tolist() == pytest.approx([1, 1, 1])


def test_a_density_of_binarised_digits_is_learned_and_sampled(tmp_path):
    given = ("data=digits", "data.levels=2", "model=mps", "model.basis=levels", "model.bond=8", "optimizer.lr=0.05")
    cost = ("cost=negative_log_likelihood", "trainer.max_epochs=3", "logger=none", "hydra.run.dir=run")
    done = train_command(*given, *cost, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    table = table_of(tmp_path / "run")
    assert table["nats/test"].iloc[-1] < table["nats/test"].iloc[0] - 5
    assert (table["cost/test"] >= table["nats/test"]).all()
    images, _ = ready(data_module("digits", "data.levels=2")).splits["test"]
    state = ql.load(tmp_path / "run").state()
    assert -state.log_probability(images).mean().item() == pytest.approx(table["nats/test"].iloc[-1], abs=1e-3)
    done = command("qcnn_lightning.sample", "run=run", "n=20", "observed=half", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    drawn = np.load(tmp_path / "run" / "samples.npy")
    shown = (images[:20].reshape(20, 8, 8) / 255).numpy()
    # left_right: the first half of the chain is the left half of the image.
    assert set(np.unique(drawn)) == {0, 1}
    assert (drawn != shown.transpose(0, 2, 1)).any() or (drawn != shown).any()


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (("model.class_site=left",), "model.class_site=left: choose one of middle, end"),
        (("model.basis=fourier", "model.d=3"), "choose an even model.d"),
        (("data.levels=4", "model.basis=levels", "model.d=1"), "model.basis=levels has 2 grey levels"),
        (("model.channels=3",), "channels"),
    ],
)
def test_a_mistake_ends_in_one_message(tmp_path, overrides, told):
    failed = train_command("data=digits", "model=mps", *overrides, "logger=none", folder=tmp_path)
    assert failed.returncode == 2
    (line,) = failed.stderr.splitlines()
    assert told in line


@pytest.mark.parametrize(
    "settings",
    [
        ("cost=cross_entropy",),
        ("cost=negative_log_likelihood", "model.class_site=end"),
        ("data.white=0.5", "model.basis=fourier", "model.d=2"),
        ("entropy_weight=0.1", "model.class_site=end"),
    ],
    ids=str,
)
def test_every_cost_trains_1024_sites_with_finite_numbers(tmp_path, settings):
    folder = tmp_path / "run"
    given = ("data.size=32", "model=mps", "model.bond=4", "model.d=1", "trainer.max_epochs=1", *settings)
    train(compose_small(folder, *given, "optimizer.lr=0.02"), quiet=True)
    after = table_of(folder).select_dtypes("number").iloc[-1]
    assert after["epoch"] == 0
    assert np.isfinite(after.to_numpy()).all()
