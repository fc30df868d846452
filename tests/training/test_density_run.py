"""Densities through a whole run: metrics of every epoch, checkpoints, evaluation."""

import math
from pathlib import Path

import pandas as pd
import pytest
from small_runs import compose_small, summary_of

from composing import data_module, evaluation_of, ready
from qcnn_lightning.errors import InputError
from qcnn_lightning.evaluation.evaluate import last_checkpoint
from qcnn_lightning.runs.rebuild import cost_of, network_of
from qcnn_lightning.states import DensityState
from qcnn_lightning.trained_run import TrainedRun
from qcnn_lightning.training.run import train

DENSITY = ("model=density", "cost=negative_log_likelihood", "data.levels=2", "model.d=8", "optimizer.lr=0.01")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("density") / "run"
    train(compose_small(folder, *DENSITY, "data.val_size=100", "callbacks.states.every_n_epochs=1"), quiet=True)
    return folder


def test_every_epoch_has_nats_and_bits_of_every_split_beside_the_entropies(run):
    table = pd.read_csv(run / "metrics.csv")
    assert table["epoch"].tolist() == [-1, 0, 1]
    for split in ("train", "val", "test"):
        assert table[f"nats/{split}"].notna().all()
        assert table[f"bits_per_pixel/{split}"].tolist() == pytest.approx(
            (table[f"nats/{split}"] / (64 * math.log(2))).tolist(), rel=1e-5
        )
    # Of a joint density, p(y, x) is at most p(x).
    assert (table["cost/test"] >= table["nats/test"]).all()
    assert table["nats/test"].iloc[-1] < table["nats/test"].iloc[0]
    assert table["ee/mean"].notna().all()
    assert summary_of(run)["status"] == "finished"


def test_the_network_of_the_checkpoint_has_the_likelihood_that_was_measured(run):
    checkpoint = last_checkpoint(run)
    network = network_of(checkpoint)
    images, labels = ready(data_module("digits", "data.levels=2", "data.val_size=100")).splits["test"]
    state = network.state()
    last = pd.read_csv(run / "metrics.csv").iloc[-1]
    assert -state.log_probability(images).mean().item() == pytest.approx(last["nats/test"], abs=1e-3)
    costs = cost_of(checkpoint)(state.log_joint(images), labels)
    assert costs.mean().item() == pytest.approx(last["cost/test"], abs=1e-3)
    right = (state.conditional_probability(images).argmax(1) == labels).double().mean().item()
    assert right == pytest.approx(last["accuracy/test"], abs=1e-6)


def test_states_of_all_epochs_are_kept_and_those_of_the_last_evaluated(run, tmp_path):
    table = pd.read_csv(run / "metrics.csv").set_index("epoch")
    kept = DensityState.load_epochs(run / "states.safetensors")
    assert list(kept) == [-1, 0, 1]
    for epoch, state in kept.items():
        assert state.entanglement_entropy().mean().item() == pytest.approx(table["ee/mean"][epoch], rel=1e-5)
    evaluation_of(f"run={run}", f"out={tmp_path}", figures="[png]")
    last = DensityState.load(tmp_path / "state.safetensors")
    assert last == kept[1]
    assert last.layout is not None
    assert last.class_names == tuple("0123456789")
    assert (tmp_path / "epoch_fidelity.png").is_file()
    assert TrainedRun(run).state(epoch=0) == kept[0]


def test_a_density_is_evaluated(run, tmp_path):
    evaluation, _ = evaluation_of(f"run={run}", f"out={tmp_path}")
    last = pd.read_csv(run / "metrics.csv").iloc[-1]
    assert evaluation.classification.accuracy == pytest.approx(last["accuracy/test"], abs=1e-6)
    assert evaluation.classification.disagreement < 1e-3
    assert evaluation.entanglement.entropy.mean().item() == pytest.approx(last["ee/mean"], abs=1e-3)


def test_a_density_of_dequantised_pixels_learns_and_its_run_is_evaluated(tmp_path):
    settings = ("data.levels=17", "data.rounding=dequantised", "data.redraw=true", "model.basis=legendre")
    train(compose_small(tmp_path / "run", *DENSITY, *settings), quiet=True)
    table = pd.read_csv(tmp_path / "run/metrics.csv")
    assert table["nats/test"].iloc[-1] < table["nats/test"].iloc[0]
    evaluation, _ = evaluation_of(f"run={tmp_path / 'run'}", f"out={tmp_path / 'evaluation'}")
    assert evaluation.classification.cost == pytest.approx(table["cost/test"].iloc[-1], abs=1e-3)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("cost=negative_log_likelihood",), r"needs log p\(y, x\), and QCNN is no density: say model=density"),
        ((*DENSITY, "model.levels=3"), r"data\.levels=2, and model\.basis=levels has 3 grey levels"),
        ((*DENSITY, "data.levels=null", "model.levels=2"), r"grey level .* none of the 2 .*say data\.levels=2"),
        ((*DENSITY, "data.rounding=dequantised"), r"data\.rounding=dequantised: model\.basis=levels has grey levels"),
        ((*DENSITY, "cost.discriminative_weight=-1"), r"cost\.discriminative_weight=-1: must be from 0 to 1"),
        ((*DENSITY, "+model.start_gamma=0.3"), r"model\.start_gamma.*Density has no such setting"),
    ],
)
def test_what_does_not_fit_is_told(overrides, message, tmp_path):
    with pytest.raises(InputError, match=message):
        train(compose_small(tmp_path / "run", *overrides), quiet=True)
