"""The states of a run's epochs: those that were evaluated, kept through a resumption, and drawn."""

import pandas as pd
import pytest
import torch
from small_runs import compose_small, train_until_a_signal

from composing import evaluation_of
from qcnn_lightning import NetworkState
from qcnn_lightning.errors import InputError
from qcnn_lightning.evaluation.fidelity import fidelity_between_epochs
from qcnn_lightning.training.kept_states import KeptStates
from qcnn_lightning.training.run import train

EVERY = ("callbacks.states.every_n_epochs=1", "trainer.max_epochs=4", "model.sharing=sibling")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    train(compose_small(folder, *EVERY))
    return folder


def test_every_epochs_states_are_those_that_were_evaluated(run):
    states = NetworkState.load_epochs(run / "states.safetensors")
    rows = pd.read_csv(run / "metrics.csv").set_index("epoch")
    assert list(states) == [-1, 0, 1, 2, 3] == list(rows.index)
    for epoch, state in states.items():
        expected = pytest.approx(rows["ee/mean"][epoch], rel=1e-5, abs=1e-7)
        assert state.entanglement_entropy().mean().item() == expected


def test_an_interrupted_run_keeps_the_same_states(run, tmp_path):
    config = compose_small(tmp_path, *EVERY)
    train_until_a_signal(config)
    train(config)
    ours, theirs = (NetworkState.load_epochs(folder / "states.safetensors") for folder in (tmp_path, run))
    assert ours == theirs


def test_fidelity_between_epochs_is_drawn(run, tmp_path):
    states = NetworkState.load_epochs(run / "states.safetensors")
    fidelity = fidelity_between_epochs(states)
    assert torch.equal(fidelity.diagonal(), torch.ones(5, dtype=torch.float64))
    assert ((fidelity >= 0) & (fidelity <= 1 + 1e-12)).all()
    expected = states[0].overlaps(states[3]).diagonal().square().mean()
    assert fidelity[1, 4].item() == fidelity[4, 1].item() == pytest.approx(expected.item(), rel=1e-12)
    # Neighbours in time are nearer than the beginning and the end.
    assert fidelity.diagonal(1).mean() > fidelity[0, -1]
    evaluation_of(f"run={run}", f"out={tmp_path}", figures="[png]")
    assert (tmp_path / "epoch_fidelity.png").is_file()


def test_only_every_nth_epoch_and_the_last(tmp_path):
    train(compose_small(tmp_path / "two", *EVERY[1:], "callbacks.states.every_n_epochs=3"))
    assert list(NetworkState.load_epochs(tmp_path / "two" / "states.safetensors")) == [-1, 2, 3]
    with pytest.raises(InputError, match="every_n_epochs=-1"):
        KeptStates(-1)


def test_a_file_of_epochs_is_no_file_of_one_state(run):
    with pytest.raises(InputError, match=r"its format is .*epochs"):
        NetworkState.load(run / "states.safetensors")
