import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import wandb
from conftest import compose_small, wandb_records
from scipy import stats

from qcnn_lightning.training.checkpoints import Checkpoints
from qcnn_lightning.training.interruption import Interrupted
from qcnn_lightning.training.run import train
from qcnn_lightning.training.tracking import (
    CONFUSION,
    MOST_CURVES,
    PROFILE,
    SPECTRUM,
    EntanglementTracker,
    curve_rows,
    summarise,
)

CURVES = ((PROFILE, "profile/level_"), (SPECTRUM, "spectrum/p_"))
COSTS = ("train", "batch", "test")


def offline_runs(config):
    """The files of every process that trained this run, the last one last."""
    return sorted(Path(config.run_dir, "wandb").glob("offline-run-*"), key=lambda folder: folder.stat().st_mtime_ns)


def of_type(records, kind):
    return [record[kind] for record in records if record["type"] == kind]


def history(records):
    return [item["item"] for item in of_type(records, "history")]


def table(offline_run, item, chart):
    """A table that was logged, from the file that W&B uploads."""
    assert item[f"{chart.table}._type"] == "table-file"
    content = json.loads((offline_run / "files" / item[f"{chart.table}.path"]).read_text())
    assert content["columns"] == list(chart.columns)
    assert len(content["data"]) == item[f"{chart.table}.nrows"]
    return content["data"]


def summary(offline_run):
    """The summary that W&B has in the end."""
    printed = subprocess.run(
        [Path(sys.executable).with_name("wandb"), "leet", "inspect", "--summary", "--json", offline_run],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(printed.stdout)["summary"]


@pytest.fixture(scope="module", autouse=True)
def nobody_logged_in():
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("WANDB_MODE", raising=False)
        patch.setenv("NETRC", "/dev/null")
        yield


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """A run of seven epochs that has been trained with W&B offline."""
    folder = tmp_path_factory.mktemp("tracked") / "run"
    folder.mkdir()
    config = compose_small(
        folder,
        "logger=wandb",
        "logger.tags=[mine]",
        "logger.first_epoch=1",
        "trainer.max_epochs=7",
        "callbacks.entanglement.profile_every_n_epochs=3",
        "seed=5",
    )
    train(config)
    (folder,) = offline_runs(config)
    return config, pd.read_csv(f"{config.run_dir}/metrics.csv"), folder, wandb_records(folder)


def test_wandb_holds_every_metric_at_every_epoch_and_draws_entropy_against_cost(tracked):
    _, metrics, _, records = tracked
    rows = history(records)
    assert [row["_step"] for row in rows] == list(range(8))
    for (_, expected), row in zip(metrics.iterrows(), rows, strict=True):
        told = expected.dropna()
        for name, value in told.items():
            assert row[name] == pytest.approx(value)
        sections = {section: f"cost/{section}" in told for section in COSTS}
        assert sections == {"train": True, "batch": expected["epoch"] >= 0, "test": True}
        for section, drawn in sections.items():
            against = {name: row[name] for name in row if name.startswith(f"ee_vs_cost_{section}/")}
            entropies = {name: value for name, value in told.items() if name.startswith("ee/")} if drawn else {}
            assert against == pytest.approx(
                {name.replace("ee/", f"ee_vs_cost_{section}/"): value for name, value in entropies.items()}
            )
    axes = {
        metric["glob_name"]: metric["step_metric"] for metric in of_type(records, "metric") if "step_metric" in metric
    }
    assert axes == {"*": "epoch", **{f"ee_vs_cost_{section}/*": f"cost/{section}" for section in COSTS}}
    assert next(exit["exit_code"] for exit in of_type(records, "exit")) == 0


def test_wandb_knows_what_runs_are_grouped_by(tracked):
    _, _, _, records = tracked
    logged = {}
    for config in of_type(records, "config"):
        logged |= config["update"]
    assert (logged["data_set"], logged["d"], logged["seed"]) == ("digits", 4, 5)
    assert (logged["data"]["name"], logged["model"]["d"]) == ("digits", 4)
    (run,) = of_type(records, "run")
    assert (run["run_group"], run["job_type"], run["display_name"]) == ("test", "train", "run")
    assert run["tags"] == ["mine", "digits", "d=4", "sharing=full", "start=product_state", "flatten=left_right"]


def test_wandb_draws_profile_and_spectrum_of_several_epochs_and_the_confusion_matrix(tracked):
    config, metrics, folder, records = tracked
    rows = history(records)
    presets = {}
    for logged in of_type(records, "config"):
        presets |= {key: value for key, value in logged["update"].items() if key.startswith("_wandb.visualize.")}
    for chart in (PROFILE, SPECTRUM, CONFUSION):
        panel = presets[f"_wandb.visualize.{chart.key}"]["panel_config"]
        assert panel["panelDefId"] == chart.preset
        assert chart.table in json.dumps(panel["userQuery"])

    # Before training, after every third epoch and after the last one, each time with the epochs so far.
    names = {-1: "before training", **{epoch: f"epoch {epoch}" for epoch in (2, 5, 6)}}
    for chart, prefix in CURVES:
        assert [row["epoch"] for row in rows if f"{chart.table}.path" in row] == list(names)
        for row in rows:
            if f"{chart.table}.path" not in row:
                continue
            so_far = metrics[metrics["epoch"].isin(list(names)) & (metrics["epoch"] <= row["epoch"])]
            expected = {
                (x, names[epoch["epoch"]]): epoch[f"{prefix}{x}"]
                for _, epoch in so_far.iterrows()
                for x in range(9)
                if f"{prefix}{x}" in metrics
            }
            drawn = table(folder, row, chart)
            assert {(x, curve): y for x, curve, y in drawn} == pytest.approx(expected)
            assert len(drawn) == len(expected)

    assert [row["_step"] for row in rows if f"{CONFUSION.table}.path" in row] == [7]
    counts = pd.DataFrame(table(folder, rows[-1], CONFUSION), columns=["actual", "predicted", "count"])
    assert len(counts) == 100
    assert counts["count"].sum() == 360
    correct = counts.loc[counts["actual"] == counts["predicted"], "count"].sum() / 360
    assert correct == pytest.approx(metrics["accuracy/test"].iloc[-1])
    # What was logged waits for its upload beside the run, not in somebody's home.
    staged = [
        content["local_path"] for item in of_type(records, "artifact") for content in item["manifest"]["contents"]
    ]
    assert len(staged) == 9
    assert all(Path(path).is_relative_to(config.run_dir) and Path(path).is_file() for path in staged)
    assert "WANDB_DATA_DIR" not in os.environ


def test_the_summary_has_last_and_best_values_and_correlations(tracked):
    _, metrics, folder, _ = tracked
    told = summary(folder)
    for name, value in metrics.iloc[-1].items():
        assert told[name] == pytest.approx(value)
    for split in ("train", "test"):
        assert told[f"best/accuracy/{split}"] == pytest.approx(metrics[f"accuracy/{split}"].max())
        assert told[f"best/cost/{split}"] == pytest.approx(metrics[f"cost/{split}"].min())
    late = metrics[metrics["epoch"] >= 1]
    for cost in COSTS:
        for name, measure in (("spearman", stats.spearmanr), ("pearson", stats.pearsonr)):
            expected = measure(late["ee/mean"], late[f"cost/{cost}"])[0]
            assert told[f"correlation/{name}_{cost}"] == pytest.approx(expected)


def test_wandb_would_upload_the_run(tracked):
    config, _, folder, _ = tracked
    told = subprocess.run(
        [Path(sys.executable).with_name("wandb"), "sync", "--dry-run", folder],
        capture_output=True,
        text=True,
        check=True,
        cwd=config.run_dir,
    )
    assert "Would sync 1 run(s)" in told.stdout + told.stderr
    assert next(folder.glob("run-*.wandb")).name in told.stdout + told.stderr


def test_a_resumed_run_is_whole_in_its_last_files_and_logs_nothing_twice(composed, monkeypatch):
    config = composed("logger=wandb", "trainer.max_epochs=4", "callbacks.entanglement.profile_every_n_epochs=1")
    save = Checkpoints.on_train_epoch_end

    def save_and_signal(self, trainer, pl_module):
        save(self, trainer, pl_module)
        if trainer.current_epoch == 1:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "on_train_epoch_end", save_and_signal)
        with pytest.raises(Interrupted):
            train(config)
    train(config)
    first, last = (wandb_records(folder) for folder in offline_runs(config))
    assert [row["epoch"] for row in history(first)] == [-1, 0, 1]
    assert [row["epoch"] for row in history(last)] == [-1, 0, 1, 2, 3]
    assert of_type(first, "run")[0]["run_id"] == of_type(last, "run")[0]["run_id"]
    metrics = pd.read_csv(f"{config.run_dir}/metrics.csv")
    for row, (_, expected) in zip(history(last), metrics.iterrows(), strict=True):
        told = expected.dropna()
        assert {name: row[name] for name in told.index} == pytest.approx(told.to_dict())
    drawn = table(offline_runs(config)[-1], history(last)[-1], PROFILE)
    assert {curve for _, curve, _ in drawn} == {"before training", *(f"epoch {epoch}" for epoch in range(4))}
    assert summary(offline_runs(config)[-1])["best/accuracy/test"] == pytest.approx(metrics["accuracy/test"].max())


def test_what_the_server_has_is_not_logged_again(tmp_path):
    logged = []

    class Continued:
        """As W&B continues a run whose first three steps are on the server."""

        def __init__(self, folder):
            self.step, self.dir, self.summary = 3, folder, {}

        def log(self, values, step):
            logged.append((step, values))

    run = Continued(str(tmp_path / "files"))
    tracker = EntanglementTracker(tmp_path, "project", "id", first_epoch=0)
    tracker._experiment = run
    rows = [{"epoch": epoch, "ee/mean": 0.1 * epoch, "cost/test": 1.0 / (epoch + 2)} for epoch in range(-1, 5)]
    rows[0]["profile/level_0"] = rows[5]["profile/level_0"] = 0.2
    tracker.catch_up(rows)
    assert [step for step, _ in logged] == [3, 4, 5]
    # But it counts, in the charts and in the summary.
    assert [row[1] for row in logged[-1][1][PROFILE.key].table.data] == ["before training", "epoch 4"]
    assert run.summary["correlation/spearman_test"] == pytest.approx(-1)


def test_a_chart_shows_so_many_epochs_as_can_be_told_apart():
    rows = [{"epoch": epoch, "profile/level_0": 0.0, "profile/level_1": 1.0} for epoch in range(-1, 100)]
    curves = list(dict.fromkeys(curve for _, curve, _ in curve_rows(rows, "profile/level_")))
    assert len(curves) == MOST_CURVES
    assert (curves[0], curves[1], curves[-1]) == ("before training", "epoch 19", "epoch 99")
    assert sorted(curves) == curves


@pytest.mark.parametrize("entropy", [[0.5] * 9, [0.1 * epoch for epoch in range(4)], [float("nan")] * 9])
def test_no_correlation_is_told_that_says_nothing(entropy):
    rows = [
        {"epoch": epoch, "ee/mean": value, "cost/test": 1.0 / (epoch + 1), "accuracy/test": 0.5}
        for epoch, value in enumerate(entropy)
    ]
    assert summarise(rows, first_epoch=0).keys() == {"best/cost/test", "best/accuracy/test"}


def test_wandb_can_be_switched_off(composed, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    config = composed("logger=wandb")
    assert len(train(config).rows) == 3
    assert not offline_runs(config)


@pytest.fixture
def wandb_forgets():
    """Let W&B read its settings anew in the tests that follow."""
    yield
    wandb.teardown()


@pytest.mark.usefixtures("wandb_forgets")
def test_a_server_that_does_not_answer_costs_no_run(composed, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    config = composed("logger=wandb", "+logger.online_timeout_s=2.0", "trainer.max_epochs=1")
    train(config)
    assert "kept offline" in caplog.text
    assert len(history(wandb_records(*offline_runs(config)))) == 2
