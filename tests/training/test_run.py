import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from hydra.errors import InstantiationException
from small_runs import file_size_limit
from torch import nn

from qcnn_lightning import QCNN, NetworkState
from qcnn_lightning.costs import SquaredDistance
from qcnn_lightning.data.datamodule import ImageDataModule
from qcnn_lightning.errors import InputError, NonFiniteCostError
from qcnn_lightning.files import replace_atomically
from qcnn_lightning.training.module import Classifier, entropies_of
from qcnn_lightning.training.run import train


def summary_of(config):
    return json.loads(Path(config.run_dir, "summary.json").read_text())


def trained_network(config):
    checkpoint = torch.load(f"{config.run_dir}/checkpoints/last.ckpt", weights_only=True)
    network = QCNN(64, 10, d=config.model.d, sharing=config.model.sharing)
    network.load_state_dict(
        {name.removeprefix("network."): value for name, value in checkpoint["state_dict"].items() if "network" in name}
    )
    return network.eval()


def test_every_number_of_the_last_row_belongs_to_the_network_in_the_checkpoint(composed):
    config = composed("model.sharing=sibling")
    record = train(config)
    table = pd.read_csv(f"{config.run_dir}/metrics.csv")
    assert list(table["epoch"]) == [-1, 0, 1]
    sometimes = table.filter(regex="^(learning_rate|cost/batch|profile/|spectrum/)").columns
    assert table.drop(columns=sometimes).notna().all(axis=None)
    network = trained_network(config)
    data = ImageDataModule(**config.data)
    data.setup()
    row = table.iloc[-1]
    for split, (images, labels) in data.splits.items():
        with torch.no_grad():
            alpha = network(images)
        assert row[f"cost/{split}"] == pytest.approx(SquaredDistance()(alpha, labels).mean().item(), rel=1e-5)
        right = (alpha.abs().argmax(1) == labels).float()
        assert row[f"accuracy/{split}"] == pytest.approx(right.mean().item())
        if split == "test":
            recall = [right[labels == label].mean().item() for label in range(10)]
            assert row[[f"recall/class_{label}" for label in range(10)]].to_numpy(float) == pytest.approx(recall)
    entropies = NetworkState.from_network(network).entanglement_entropy()
    assert row[[f"ee/class_{label}" for label in range(10)]].to_numpy(float) == pytest.approx(
        entropies.detach().numpy(), rel=1e-6
    )
    assert row["ee/mean"] == pytest.approx(entropies.mean().item(), rel=1e-6)
    assert record.rows[-1]["ee/mean"] == pytest.approx(row["ee/mean"])


def test_what_is_not_measured_in_every_epoch_stands_where_it_was_measured(composed):
    config = composed("trainer.max_epochs=5", "callbacks.entanglement.profile_every_n_epochs=2")
    train(config)
    table = pd.read_csv(f"{config.run_dir}/metrics.csv", index_col="epoch")
    sometimes = table.filter(regex="^(profile/|spectrum/)")
    assert list(sometimes.dropna(how="all").index) == [-1, 1, 3, 4]
    assert sometimes.loc[[-1, 1, 3, 4]].notna().all(axis=None)


def test_subnormal_numbers_are_zero_while_training_and_only_then(composed, monkeypatch):
    smallest = torch.tensor(torch.finfo(torch.float32).tiny)
    halves = []
    monkeypatch.setattr(Classifier, "on_train_start", lambda self: halves.append((smallest / 2).item()))
    train(composed())
    assert halves == [0]
    assert smallest / 2 > 0


def test_training_learns(composed):
    config = composed("experiment=quickstart", "trainer.max_epochs=4")
    record = train(config)
    assert record.rows[-1]["cost/test"] < 0.5 < 0.8 < record.rows[0]["cost/test"]
    assert record.rows[-1]["accuracy/test"] > 0.8


def test_summary_tells_what_was_run(composed):
    config = composed("seed=3")
    train(config)
    summary = summary_of(config)
    table = pd.read_csv(f"{config.run_dir}/metrics.csv")
    assert summary["status"] == "finished"
    assert summary["seed"] == 3
    assert summary["num_parameters"] == sum(p.numel() for p in trained_network(config).parameters())
    assert summary["best"]["accuracy/test"] == table["accuracy/test"].max()
    assert summary["best"]["cost/train"] == table["cost/train"].min()
    assert summary["final"]["epoch"] == 1
    assert summary["versions"]["torch"] == torch.__version__.split("+")[0]


def test_the_summary_of_a_run_on_some_classes_is_json_to_the_letter(composed):
    def refuse(number: str) -> None:
        raise ValueError(f"{number} is no JSON")

    config = composed("data.classes=[3,8]", "trainer.max_epochs=1")
    train(config)
    summary = json.loads(Path(config.run_dir, "summary.json").read_text(), parse_constant=refuse)
    assert "recall/class_3" in summary["final"]
    assert "recall/class_4" not in summary["final"]


def test_a_seed_gives_the_same_run_to_the_last_bit_and_another_seed_another(composed):
    runs = {name: composed(f"seed={seed}", folder=name) for name, seed in (("a", 1), ("b", 1), ("c", 2))}
    tables = {}
    for name, config in runs.items():
        train(config)
        tables[name] = pd.read_csv(f"{config.run_dir}/metrics.csv").filter(regex="cost|accuracy|ee/")
    weights = {name: trained_network(config).state_dict() for name, config in runs.items()}
    assert tables["a"].equals(tables["b"])
    assert all(torch.equal(weights["a"][key], weights["b"][key]) for key in weights["a"])
    assert not tables["a"].equals(tables["c"])


def test_a_cost_that_turns_non_finite_stops_the_run_and_keeps_the_last_checkpoint(composed):
    config = composed("scheduler.scheduler.step_size=1", "scheduler.scheduler.gamma=1e30")
    with pytest.raises(NonFiniteCostError, match=r"in epoch 1, after \d+ steps, first in .*level \d"):
        train(config)
    summary = summary_of(config)
    assert summary["status"] == "failed"
    assert "NonFiniteCostError" in summary["error"]
    assert list(pd.read_csv(f"{config.run_dir}/metrics.csv")["epoch"]) == [-1, 0]
    assert all(parameter.isfinite().all() for parameter in trained_network(config).parameters())


def test_validation_images_select_a_best_checkpoint(composed):
    config = composed("data.val_size=200", "trainer.max_epochs=3")
    train(config)
    table = pd.read_csv(f"{config.run_dir}/metrics.csv")
    best = torch.load(f"{config.run_dir}/checkpoints/best.ckpt", weights_only=True)
    assert best["epoch"] == table.loc[table["epoch"] >= 0, "accuracy/val"].idxmax() - 1


@pytest.mark.parametrize("weight", [0.05, -0.05])
def test_the_entropy_is_a_term_of_the_cost(composed, weight):
    one_step = ("data.batch_size=1437", "trainer.max_epochs=1", "model.sharing=sibling", "model.kernel=plain")
    descent = ("optimizer._target_=torch.optim.SGD", "optimizer.weight_decay=0", "optimizer.fused=false")
    config = composed(*one_step, *descent, f"entropy_weight={weight}")
    train(config)
    data = ImageDataModule(**config.data)
    data.setup()
    images, labels = data.splits["train"]
    torch.manual_seed(config.seed)
    network = QCNN(64, 10, d=config.model.d, sharing="sibling", kernel="plain").double()
    state = NetworkState.from_network(network, network.statistics_of(images))
    cost = SquaredDistance()(network(images), labels).mean() + weight * state.entanglement_entropy().mean()
    cost.backward()
    for parameter, trained in zip(network.parameters(), trained_network(config).parameters(), strict=True):
        expected = parameter - config.optimizer.lr * parameter.grad
        torch.testing.assert_close(trained.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("of", [0, 3, "profile"])
def test_the_entropy_in_the_cost_can_be_that_of_any_scale(composed, of):
    means = []
    for weight in (0, 1.0):
        settings = (f"entropy_weight={weight}", f"entropy_of={of}", "trainer.precision=64-true")
        config = composed(*settings, folder=f"run {weight}")
        train(config)
        state = trained_network(config).state()
        means.append(entropies_of(state, of).mean().item())
    assert means[1] < means[0] / 2


def test_an_unknown_entropy_is_refused():
    network = QCNN(16, 3, d=2)
    for of, words in (
        ("all", "choose halves, mixture, profile"),
        (4, "entropy_of=4: level=4: a state of 16 pixels"),
        (True, "choose halves"),
    ):
        with pytest.raises(InputError, match=words):
            Classifier(network, SquaredDistance(), torch.optim.SGD, entropy_weight=0.1, entropy_of=of)


def test_the_weight_of_the_entropy_says_how_entangled_the_network_gets(composed):
    entropies = []
    for weight in (-0.3, 0, 0.3):
        # In float64: so soon the last digits of float32 decide.
        settings = (f"entropy_weight={weight}", "data.batches_per_item=3", "trainer.precision=64-true")
        config = composed(*settings, folder=f"run {weight}")
        entropies.append(train(config).rows[-1]["ee/mean"])
    assert entropies[0] > 2 * entropies[1] > 4 * entropies[2]


def test_a_model_without_a_state_has_no_entropy_to_weigh():
    perceptron = nn.Linear(16, 10)
    assert Classifier(perceptron, SquaredDistance(), torch.optim.SGD).entropy_weight == 0
    with pytest.raises(
        InputError, match=r"entropy_weight=0\.1: Linear has no state.*choose 0, or give the model a state"
    ):
        Classifier(perceptron, SquaredDistance(), torch.optim.SGD, entropy_weight=0.1)


def test_running_statistics_can_be_chosen(composed):
    config = composed("evaluation_statistics=running")
    train(config)
    assert not trained_network(config).levels[0].statistics.population_fixed


def test_the_rate_of_an_epoch_is_the_one_it_began_with(composed):
    config = composed("scheduler.scheduler.step_size=1")
    train(config)
    rates = pd.read_csv(f"{config.run_dir}/metrics.csv")["learning_rate"]
    assert list(rates[1:]) == [0.01, 0.005]


def test_a_step_schedule_spans_the_whole_training(composed):
    config = composed("scheduler=one_cycle")
    train(config)
    rates = pd.read_csv(f"{config.run_dir}/metrics.csv")["learning_rate"]
    # OneCycleLR begins at a 25th of the largest rate, reached after 30 % of the steps, and ends close to 0.
    assert rates[1] == pytest.approx(config.optimizer.lr / 25)
    last = torch.load(f"{config.run_dir}/checkpoints/last.ckpt", weights_only=True)
    assert last["optimizer_states"][0]["param_groups"][0]["lr"] < 2e-3 * config.optimizer.lr


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("model.d=3", "even model.d"),
        ("model.d=0", "model.d=0"),
        ("trainer.max_epochs=0", "trainer.max_epochs=0"),
        ("optimizer.lr=0", "optimizer.lr=0"),
        ("data.batch_size=0", "data.batch_size=0"),
        ("data.batch_size=1438", "1437 training images"),
        ("model.channels=[4,8]", "2 numbers"),
        ("model.channels=steep", "linear, constant"),
        ("model.basis=wavelet", "fourier, legendre"),
        ("model.sharing=some", "full, sibling"),
        ("model.start=warm", "product_state, default"),
        ("data.flatten=spiral", "left_right, up_down, z_left_right, z_up_down"),
        ("data.name=cifar", "arrays, digits, folder, mnist, fmnist"),
        ("trainer.accelerator=cuda", "trainer.accelerator=cuda"),
        ("evaluation_statistics=guessed", "population, running"),
        ("entropy_weight=much", "entropy_weight=much"),
        ("+trainer.gradient_clip_val=1.0", "trainer.gradient_clip_val=1.0"),
        ("+trainer.accumulate_grad_batches=2", "trainer.accumulate_grad_batches=2"),
    ],
)
def test_a_bad_setting_is_told_before_training_starts(composed, override, told):
    if override == "trainer.accelerator=cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    config = composed(override)
    with pytest.raises((InputError, InstantiationException)) as raised:
        train(config)
    error = raised.value if isinstance(raised.value, InputError) else raised.value.__cause__
    assert isinstance(error, InputError)
    assert told in str(error)
    assert summary_of(config)["status"] == "failed"
    assert told in summary_of(config)["error"]
    assert not Path(config.run_dir, "metrics.csv").exists()
    assert not Path(config.run_dir, "checkpoints").exists()


def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "metrics.csv"
    replace_atomically(path, "old")
    with file_size_limit(1024), pytest.raises(InputError, match=r"metrics\.csv"):
        replace_atomically(path, "new" * 1000)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_cost_of_the_batches_is_their_mean_over_the_images(composed):
    # So small a rate that the weights stay what they are.
    config = composed("optimizer.lr=1e-12", "trainer.max_epochs=1")
    train(config)
    data = ImageDataModule(**config.data)
    data.setup()
    network = trained_network(config).train()
    loader = data.train_dataloader()
    loader.sampler.set_epoch(0)
    with torch.no_grad():
        costs = torch.cat(
            [SquaredDistance()(network(images), labels) for batches in loader for images, labels in batches]
        )
    table = pd.read_csv(f"{config.run_dir}/metrics.csv", index_col="epoch")
    assert len(costs) == 1437
    assert table.loc[0, "cost/batch"] == pytest.approx(costs.mean().item(), rel=1e-5)
    assert pd.isna(table.loc[-1, "cost/batch"])
