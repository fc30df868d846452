from pathlib import Path

import pandas as pd
import pytest
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging
from small_runs import EPOCHS, assert_same_run

from qcnn_lightning import NetworkState
from qcnn_lightning.data.datamodule import ImageDataModule
from qcnn_lightning.errors import InputError
from qcnn_lightning.runs.checkpoint import read_checkpoint
from qcnn_lightning.runs.rebuild import network_of
from qcnn_lightning.training.run import train

AVERAGED = "average_decay=0.9"


def last_of(config) -> Path:
    return Path(config.run_dir, "checkpoints", "last.ckpt")


def test_the_network_that_is_kept_is_the_moving_average_of_the_trained_one(composed, monkeypatch):
    trained = []
    update = EMAWeightAveraging.on_train_batch_end

    def note(self, trainer, pl_module, *given):
        trained.append([weight.detach().double() for weight in pl_module.network.parameters()])
        update(self, trainer, pl_module, *given)

    monkeypatch.setattr(EMAWeightAveraging, "on_train_batch_end", note)
    config = composed(AVERAGED, EPOCHS)
    train(config)
    network = network_of(read_checkpoint(last_of(config)))
    current = read_checkpoint(last_of(config)).content["current_model_state"]
    for place, (name, kept) in enumerate(network.named_parameters()):
        average = trained[0][place]
        for weights in trained[1:]:
            average = 0.9 * average + 0.1 * weights[place]
        torch.testing.assert_close(kept.double(), average, rtol=0, atol=1e-6)
        assert torch.equal(current[f"network.{name}"].double(), trained[-1][place])
        assert not torch.equal(current[f"network.{name}"], kept)


def test_every_number_of_the_last_row_is_that_of_the_average(composed):
    config = composed(AVERAGED)
    train(config)
    row = pd.read_csv(f"{config.run_dir}/metrics.csv").iloc[-1]
    network = network_of(read_checkpoint(last_of(config)))
    data = ImageDataModule(**config.data)
    data.setup()
    images, labels = data.splits["test"]
    with torch.no_grad():
        accuracy = (network(images).abs().argmax(1) == labels).float().mean().item()
        entropy = NetworkState.from_network(network).entanglement_entropy().mean().item()
        kept = [level.statistics.population_mean.clone() for level in network.all_levels]
        network.fix_population_statistics(data.population_sample())
    assert row["accuracy/test"] == pytest.approx(accuracy)
    assert row["ee/mean"] == pytest.approx(entropy, rel=1e-6)
    for level, mean in zip(network.all_levels, kept, strict=True):
        # By another kernel than training has measured them.
        torch.testing.assert_close(level.statistics.population_mean, mean, rtol=1e-4, atol=1e-4)


def test_averaging_does_not_change_how_the_network_is_trained(composed):
    plain, averaged = composed(folder="plain"), composed(AVERAGED, folder="averaged")
    for config in (plain, averaged):
        train(config)
    weights = read_checkpoint(last_of(plain)).content["state_dict"]
    current = read_checkpoint(last_of(averaged)).content["current_model_state"]
    for name in weights:
        if "population" not in name:
            assert torch.equal(weights[name], current[name])


def test_an_interrupted_run_goes_on_with_the_weights_and_their_average(composed, interrupted):
    whole = composed(AVERAGED, EPOCHS, folder="whole")
    train(whole)
    stopped = interrupted(AVERAGED, EPOCHS, folder="stopped")
    train(stopped)
    assert_same_run(whole.run_dir, stopped.run_dir)
    one, other = (read_checkpoint(last_of(config)).content for config in (whole, stopped))
    assert one["averaging_state"] == other["averaging_state"]
    for name, weight in one["current_model_state"].items():
        assert torch.equal(weight, other["current_model_state"][name])


@pytest.mark.parametrize("override", ["average_decay=-0.1", "average_decay=1", "average_decay=much"])
def test_a_decay_out_of_range_is_refused(composed, override):
    with pytest.raises(InputError, match=override):
        train(composed(override))


def test_running_statistics_are_not_those_of_the_average(composed):
    with pytest.raises(InputError, match="evaluation_statistics=population"):
        train(composed(AVERAGED, "evaluation_statistics=running"))
