import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread

import pandas as pd
import pytest
import pytorch_lightning as pl
import wandb
from scipy import stats
from small_runs import SMALL, compose_small
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb_tools import WandbServer, wandb_axes, wandb_records

from commands import Command
from qcnn_lightning import NetworkState
from qcnn_lightning.errors import InputError
from qcnn_lightning.training.checkpoints import Checkpoints
from qcnn_lightning.training.interruption import Interrupted
from qcnn_lightning.training.run import train
from qcnn_lightning.training.tracking import EntanglementTracker
from qcnn_lightning.training.wandb_charts import (
    CHARTS,
    CLASSES,
    CONFUSION,
    LINES,
    MEAN,
    MOST_CURVES,
    PROFILE,
    SCATTERS,
    SPECTRUM,
    against_cost,
    axis_of,
    curve_rows,
    is_hidden,
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


def epochs(records):
    """The rows that have an epoch's numbers; the last of all has the charts."""
    return [row for row in history(records) if "cost/train" in row]


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
        [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", offline_run],
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
        "trainer.max_epochs=7",
        "callbacks.entanglement.profile_every_n_epochs=3",
        "seed=5",
    )
    train(config)
    (folder,) = offline_runs(config)
    return config, pd.read_csv(f"{config.run_dir}/metrics.csv"), folder, wandb_records(folder)


def test_wandb_holds_every_metric_at_every_epoch_and_the_mean_entropy_once_more_for_every_cost(tracked):
    _, metrics, _, records = tracked
    rows = epochs(records)
    assert [row["_step"] for row in rows] == list(range(8))
    for (_, expected), row in zip(metrics.iterrows(), rows, strict=True):
        for name, value in expected.dropna().items():
            assert row[name] == pytest.approx(value)
        assert {name: row[name] for name in row if name.startswith("1_")} == pytest.approx(
            dict.fromkeys(LINES, expected["ee/mean"])
        )
    assert next(exit["exit_code"] for exit in of_type(records, "exit")) == 0


def test_a_page_shows_a_dozen_panels_entropy_against_cost_first(tracked):
    _, metrics, _, records = tracked
    defined = {metric["name"]: metric for metric in of_type(records, "metric")}
    assert set(metrics.columns) <= set(defined)
    lines = {name for name, metric in defined.items() if not (metric.get("options") or {}).get("hidden")}
    # W&B makes no panels of what it counts itself, and the charts are defined by their own records.
    panels = sorted(lines - {"epoch"} | {chart.key for chart in CHARTS})
    assert len(panels) <= 12
    assert panels[: 2 * len(LINES)] == sorted([*LINES, *(chart.key for chart in SCATTERS)])
    for metric, cost in LINES.items():
        assert defined[metric]["step_metric"] == cost
    assert all(defined[name]["step_metric"] == "epoch" for name in metrics.columns.drop("epoch"))


@pytest.mark.parametrize("opening", range(1, 6))
def test_however_often_wandb_opens_a_run_it_draws_entropy_against_cost_and_all_else_against_the_epoch(tracked, opening):
    _, metrics, folder, _ = tracked
    sections = ("cost", "accuracy", "time", "learning_rate", "recall/class_[0-4]", "(ee|renyi_2)/mean")
    shown = wandb_axes(folder, f"^({'|'.join(sections)}|1_ee_against_cost/(train|test)$)")
    against_epoch = metrics.filter(regex=f"^({'|'.join(sections)})").columns
    assert shown == LINES | dict.fromkeys(against_epoch, "epoch")


def test_in_the_end_wandb_draws_the_points_of_entropy_and_cost_from_a_third_of_the_run_on(tracked):
    _, metrics, folder, records = tracked
    (drawn,) = [row for row in history(records) if f"{SCATTERS[0].table}.path" in row]
    assert drawn["epoch"] == 6
    late = metrics[metrics["epoch"] >= 2]
    for chart, cost in zip(SCATTERS, ("train", "test"), strict=True):
        assert chart.columns == (f"cost/{cost}", "ee/mean")
        assert table(folder, drawn, chart) == [pytest.approx(point) for point in late[[*chart.columns]].to_numpy()]


def test_in_the_end_wandb_draws_the_entropy_of_every_class_by_its_name(tracked):
    _, metrics, folder, records = tracked
    drawn = {(epoch, name): value for epoch, name, value in table(folder, history(records)[-1], CLASSES)}
    assert drawn == pytest.approx(
        {(row["epoch"], str(digit)): row[f"ee/class_{digit}"] for _, row in metrics.iterrows() for digit in range(10)}
    )


def test_wandb_knows_what_runs_are_grouped_by(tracked):
    _, _, _, records = tracked
    logged = dict(of_type(records, "run")[0]["config"]["update"])
    for config in of_type(records, "config"):
        logged |= config["update"]
    assert (logged["data_set"], logged["d"], logged["seed"]) == ("digits", 4, 5)
    assert (logged["data"]["name"], logged["model"]["d"]) == ("digits", 4)
    (run,) = of_type(records, "run")
    assert (run["run_group"], run["job_type"], run["display_name"]) == ("test", "train", "run")
    assert run["tags"] == ["mine", "digits", "d = 4", "full sharing", "product-state start", "left/right"]


def test_wandb_draws_profile_and_spectrum_of_several_epochs_and_the_confusion_matrix(tracked):
    config, metrics, folder, records = tracked
    rows = history(records)
    presets = {}
    for logged in of_type(records, "config"):
        presets |= {key: value for key, value in logged["update"].items() if key.startswith("_wandb.visualize.")}
    for chart in CHARTS:
        panel = presets[f"_wandb.visualize.{chart.key}"]["panel_config"]
        assert panel["panelDefId"] == chart.preset
        assert chart.table in json.dumps(panel["userQuery"])

    # Before training, after every third epoch and after the last one.
    names = {-1: "before training", **{epoch: f"epoch {epoch}" for epoch in (2, 5, 6)}}
    for chart, prefix in CURVES:
        (row,) = [row for row in rows if f"{chart.table}.path" in row]
        expected = {
            (x, names[epoch["epoch"]]): epoch[f"{prefix}{x}"]
            for _, epoch in metrics[metrics["epoch"].isin(list(names))].iterrows()
            for x in range(9)
            if f"{prefix}{x}" in metrics
        }
        drawn = table(folder, row, chart)
        assert {(x, curve): y for x, curve, y in drawn} == pytest.approx(expected)
        assert len(drawn) == len(expected)

    assert [row["_step"] for row in rows if f"{CONFUSION.table}.path" in row] == [8]
    counts = pd.DataFrame(table(folder, rows[8], CONFUSION), columns=["actual", "predicted", "count"])
    assert len(counts) == 100
    assert counts["count"].sum() == 360
    correct = counts.loc[counts["actual"] == counts["predicted"], "count"].sum() / 360
    assert correct == pytest.approx(metrics["accuracy/test"].iloc[-1])
    # What was logged waits for its upload beside the run, not in somebody's home.
    staged = [
        content["local_path"] for item in of_type(records, "artifact") for content in item["manifest"]["contents"]
    ]
    assert len(staged) == len(CHARTS)
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
    # From a third of the seven epochs on.
    late = metrics[metrics["epoch"] >= 2]
    for cost in COSTS:
        for name, measure in (("spearman", stats.spearmanr), ("pearson", stats.pearsonr)):
            expected = measure(late["ee/mean"], late[f"cost/{cost}"])[0]
            assert told[f"correlation/{name}_{cost}"] == pytest.approx(expected)


def test_wandb_would_upload_the_run(tracked):
    config, _, folder, _ = tracked
    told = subprocess.run(
        [sys.executable, "-m", "wandb", "sync", "--dry-run", folder],
        capture_output=True,
        text=True,
        check=True,
        cwd=config.run_dir,
    )
    assert "Would sync 1 run(s)" in told.stdout + told.stderr
    assert next(folder.glob("run-*.wandb")).name in told.stdout + told.stderr


def train_in_two_parts(config, monkeypatch):
    """Train, interrupted after epoch 1 and resumed."""
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


def test_a_resumed_run_is_whole_in_its_last_files_and_logs_nothing_twice(composed, monkeypatch):
    config = composed("logger=wandb", "trainer.max_epochs=4", "callbacks.entanglement.profile_every_n_epochs=1")
    train_in_two_parts(config, monkeypatch)
    first, last = (wandb_records(folder) for folder in offline_runs(config))
    assert [row["epoch"] for row in epochs(first)] == [-1, 0, 1]
    assert [row["epoch"] for row in epochs(last)] == [-1, 0, 1, 2, 3]
    assert of_type(first, "run")[0]["run_id"] == of_type(last, "run")[0]["run_id"]
    metrics = pd.read_csv(f"{config.run_dir}/metrics.csv")
    for row, (_, expected) in zip(epochs(last), metrics.iterrows(), strict=True):
        told = expected.dropna()
        assert {name: row[name] for name in told.index} == pytest.approx(told.to_dict())
    drawn = table(offline_runs(config)[-1], history(last)[-1], PROFILE)
    assert {curve for _, curve, _ in drawn} == {"before training", *(f"epoch {epoch}" for epoch in range(4))}
    assert summary(offline_runs(config)[-1])["best/accuracy/test"] == pytest.approx(metrics["accuracy/test"].max())


@pytest.fixture
def wandb_forgets():
    """Let W&B read its settings anew in the tests that follow."""
    yield
    wandb.teardown()


@pytest.fixture
def server(monkeypatch):
    """W&B's server, where the user is logged in."""
    with WandbServer() as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setenv("WANDB_MODE", "online")
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        # W&B keeps the settings of the tests before.
        wandb.teardown()
        yield server
        wandb.teardown()
        server.shutdown()
        thread.join()


def test_a_run_that_goes_on_online_sends_the_epochs_that_the_server_does_not_have(tmp_path, server, caplog):
    caplog.set_level("INFO")
    rows = [{"epoch": epoch, "ee/mean": 0.1 * epoch, "cost/test": 1.0 / (epoch + 2)} for epoch in range(-1, 6)]
    begun = EntanglementTracker(tmp_path, "physics", "begun", first_epoch=0)
    for row in rows[:3]:
        begun.log_epoch(row)
        begun.log_metrics({"my/thing": 1.0, "epoch": row["epoch"] + 1}, step=100)
    begun.close(exit_code=1)
    assert f"{server.address}/physicists/physics/runs/begun" in caplog.text

    gone_on = EntanglementTracker(tmp_path, "physics", "begun", first_epoch=0)
    gone_on.catch_up(rows[:2])
    for row in rows[2:]:
        gone_on.log_epoch(row)
    gone_on.close(exit_code=0)
    assert [row["epoch"] for row in server.history if "ee/mean" in row] == list(range(-1, 6))
    assert len([row for row in server.history if "my/thing" in row]) == 3
    assert [row["_step"] for row in server.history] == list(range(10))
    # What the server had counts in the summary.
    assert server.summary["best/cost/test"] == pytest.approx(1 / 7)
    assert server.summary["correlation/spearman_test"] == pytest.approx(-1)


@pytest.mark.slow
def test_a_server_that_vanishes_holds_nothing_up_and_the_run_stays_on_the_disk(tmp_path, server, caplog):
    tracker = EntanglementTracker(tmp_path, "physics", "vanishing", first_epoch=0, finish_timeout_s=2)
    tracker.log_epoch({"epoch": -1, "ee/mean": 0.1, "cost/test": 1.0})
    server.shutdown()
    server.server_close()
    start = time.perf_counter()
    for epoch in range(5):
        tracker.log_epoch({"epoch": epoch, "ee/mean": 0.1, "cost/test": 1.0})
    assert time.perf_counter() - start < 2
    tracker.close(exit_code=0)
    # W&B itself asks for the charts for about twenty seconds.
    assert time.perf_counter() - start < 60
    assert "did not take the charts" in caplog.text
    (kept,) = (tmp_path / "wandb").glob("run-*-vanishing")
    assert [row["epoch"] for row in history(wandb_records(kept))] == list(range(-1, 5))


def test_what_the_user_calls_a_run_is_kept_and_numbers_are_text(composed):
    config = composed(
        *("logger=wandb", "trainer.max_epochs=1", "tags=[shared,7]", "logger.project=2024", "logger.name=7"),
        *("logger.notes='a $x$ [red] note'", "logger.group=mine", "logger.offline=true"),
    )
    train(config)
    (run,) = of_type(wandb_records(*offline_runs(config)), "run")
    assert (run["project"], run["display_name"], run["run_group"]) == ("2024", "7", "mine")
    assert run["notes"] == "a $x$ [red] note"
    assert run["tags"][:2] == ["shared", "7"]


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        (f"logger.tags=[{'a' * 65}]", r"logger\.tags=.*64 characters"),
        (f"logger.project={'p' * 129}", r"logger.*128 characters"),
        ("logger.project=a/b", r"logger.*a/b"),
    ],
)
def test_what_wandb_does_not_take_is_told_in_one_line_before_time_is_spent(composed, setting, told):
    with pytest.raises(InputError, match=told) as raised:
        train(composed("logger=wandb", setting))
    assert "\n" not in str(raised.value)


def test_a_mode_that_wandb_does_not_know_is_told(composed, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "OFFLINE")
    with pytest.raises(InputError, match=r"environment.*mode='OFFLINE'.*'online', 'offline'"):
        train(composed("logger=wandb"))


@pytest.mark.parametrize(("said", "runs"), [("offline", 1), ("disabled", 0)])
@pytest.mark.usefixtures("wandb_forgets")
def test_what_wandb_was_told_for_the_folder_is_heard(composed, monkeypatch, tmp_path, said, runs):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.chdir(tmp_path)
    subprocess.run([sys.executable, "-m", "wandb", said], check=True, capture_output=True)
    wandb.teardown()
    config = composed("logger=wandb", "trainer.max_epochs=1")
    train(config)
    assert len(offline_runs(config)) == runs


def test_the_network_of_a_finished_run_becomes_an_artifact(composed):
    config = composed("logger=wandb", "logger.log_model=true", "trainer.max_epochs=1")
    train(config)
    artifacts = of_type(wandb_records(*offline_runs(config)), "artifact")
    (network,) = [artifact for artifact in artifacts if artifact["type"] == "model"]
    assert {content["path"] for content in network["manifest"]["contents"]} == {"last.ckpt", "state.safetensors"}
    state = NetworkState.load(Path(config.run_dir, "wandb", "state.safetensors"))
    metrics = pd.read_csv(f"{config.run_dir}/metrics.csv")
    assert state.entanglement_entropy().mean().item() == pytest.approx(metrics["ee/mean"].iloc[-1], abs=1e-6)


@pytest.mark.usefixtures("wandb_forgets")
def test_the_record_names_the_run_as_wandb_does(composed, monkeypatch):
    # An agent of a W&B sweep chooses the identity, whatever the run asks for.
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    monkeypatch.setenv("WANDB_RUN_ID", "chosen")
    wandb.teardown()
    config = composed("logger=wandb", "trainer.max_epochs=1")
    train(config)
    (run,) = of_type(wandb_records(*offline_runs(config)), "run")
    assert json.loads(Path(config.run_dir, "summary.json").read_text())["wandb_run_id"] == run["run_id"]


def test_several_loggers_log_the_same(composed):
    config = composed("logger=many_loggers", "trainer.max_epochs=1", "logger.wandb.project=both")
    metrics = pd.DataFrame(train(config).rows)
    events = EventAccumulator(f"{config.run_dir}/tensorboard").Reload()
    assert [event.value for event in events.Scalars("ee/mean")] == pytest.approx(metrics["ee/mean"].tolist())
    records = wandb_records(*offline_runs(config))
    assert [row["ee/mean"] for row in epochs(records)] == pytest.approx(metrics["ee/mean"].tolist())
    assert of_type(records, "run")[0]["project"] == "both"


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


class LogsOwn(pl.Callback):
    """A user's callback, which logs in every way that Lightning and W&B have."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        pl_module.log("mine/step", float(trainer.global_step), on_step=True, on_epoch=False)

    def on_train_epoch_end(self, trainer, pl_module):
        for logger in trainer.loggers:
            if isinstance(logger, EntanglementTracker):
                logger.log_hyperparams({"mine": 1})
                logger.log_table("mine/table", columns=["n"], data=[[1]])
                logger.experiment.log({"direct": trainer.current_epoch})

    def on_validation_epoch_end(self, trainer, pl_module):
        pl_module.log("mine/epoch", float(trainer.current_epoch))


OTHERS = (
    "+callbacks.rate._target_=pytorch_lightning.callbacks.LearningRateMonitor",
    f"+callbacks.mine._target_={__name__}.LogsOwn",
    "trainer.log_every_n_steps=1",
    "trainer.max_epochs=3",
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A run whose callbacks log to W&B as well."""
    folder = tmp_path_factory.mktemp("shared") / "run"
    folder.mkdir()
    config = compose_small(folder, "logger=wandb", *OTHERS)
    train(config)
    (folder,) = offline_runs(config)
    return pd.read_csv(f"{config.run_dir}/metrics.csv"), folder, history(wandb_records(folder))


def test_whatever_callbacks_log_every_epoch_reaches_wandb(shared):
    metrics, folder, rows = shared
    ours = [row for row in rows if "cost/train" in row]
    assert [row["epoch"] for row in ours] == [-1, 0, 1, 2]
    for row, (_, expected) in zip(ours, metrics.iterrows(), strict=True):
        told = expected.dropna().drop("mine/epoch")
        assert {name: row[name] for name in told.index} == pytest.approx(told.to_dict())
    assert summary(folder)["best/accuracy/test"] == pytest.approx(metrics["accuracy/test"].max())


def test_what_callbacks_log_reaches_wandb_too_at_its_epoch(shared):
    _, folder, rows = shared

    def logged(name):
        return [(row.get("epoch"), row[name]) for row in rows if name in row]

    assert logged("mine/epoch") == [(-1, 0), (0, 0), (1, 1), (2, 2)]
    steps = logged("mine/step")
    assert [epoch for epoch, _ in steps] == sorted(epoch for epoch, _ in steps)
    assert {epoch for epoch, _ in steps} == {0, 1, 2}
    assert all(row["trainer/global_step"] >= 0 for row in rows if "mine/step" in row)
    assert {epoch for epoch, _ in logged("lr-AdamW")} == {0, 1, 2}
    assert [value for _, value in logged("direct")] == [0, 1, 2]
    assert [epoch for epoch, _ in logged("mine/table.nrows")] == [0, 1, 2]
    axes = {"mine/epoch": "epoch", "mine/step": "epoch", "lr-AdamW": "epoch", "1_ee_against_cost/test": "cost/test"}
    assert wandb_axes(folder, f"^({'|'.join(axes)})$") == axes


def test_a_resumed_run_whose_callbacks_log_has_every_epoch_once(composed, monkeypatch):
    config = composed("logger=wandb", *OTHERS)
    train_in_two_parts(config, monkeypatch)
    rows = history(wandb_records(offline_runs(config)[-1]))
    assert [row["epoch"] for row in rows if "cost/train" in row] == [-1, 0, 1, 2]
    assert [row["epoch"] for row in rows if "mine/epoch" in row] == [-1, 0, 1, 2]


def test_tensorboard_draws_every_metric_by_one_kind_of_step_whatever_callbacks_log(composed):
    config = composed("logger=tensorboard", *OTHERS)
    metrics = pd.DataFrame(train(config).rows)
    events = EventAccumulator(f"{config.run_dir}/tensorboard").Reload()
    for name in ("cost/test", "mine/epoch"):
        steps = [event.step for event in events.Scalars(name)]
        assert len(steps) == len(set(steps)) == 4
        assert [event.value for event in events.Scalars(name)] == pytest.approx(metrics[name].tolist())
    assert [event.step for event in events.Scalars("cost/test")] == [0, 1, 2, 3]
    assert events.Scalars("lr-AdamW")


@pytest.mark.parametrize("logger", ["csv", "none"])
def test_a_callback_that_needs_a_logger_is_told_that_there_is_none(composed, logger):
    with pytest.raises(InputError, match=r"LearningRateMonitor.*no logger"):
        train(composed(f"logger={logger}", *OTHERS))


def test_wandb_can_be_switched_off(composed, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    config = composed("logger=wandb")
    assert len(train(config).rows) == 3
    assert not offline_runs(config)


@pytest.mark.usefixtures("wandb_forgets")
def test_a_server_that_does_not_answer_costs_no_run(composed, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    config = composed("logger=wandb", "+logger.online_timeout_s=2.0", "trainer.max_epochs=1")
    train(config)
    assert "stays offline" in caplog.text
    assert len(epochs(wandb_records(*offline_runs(config)))) == 2


def test_a_run_goes_on_when_the_process_of_wandb_dies(tmp_path):
    settings = (*SMALL, "trainer.max_epochs=30", "hydra.run.dir=run")
    process = Command("qcnn_lightning.train", *settings, folder=tmp_path, environment={"WANDB_MODE": "offline"})
    metrics = tmp_path / "run" / "metrics.csv"
    while not metrics.exists() or metrics.read_text().count("\n") < 3:
        assert process.poll() is None, process.stderr
        time.sleep(0.01)
    (service,) = subprocess.run(
        ["pgrep", "-P", str(process.pid), "-f", "wandb-core"], capture_output=True, text=True, check=True
    ).stdout.split()
    os.kill(int(service), signal.SIGKILL)
    assert process.wait() == 0, process.stderr
    assert metrics.read_text().count("\n") == 32
    told = process.stdout + process.stderr
    assert told.count("W&B's process has died") == 1
    assert "Traceback" not in told


def test_a_densitys_entropies_are_logged_against_its_likelihood_too():
    row = {"epoch": 3, "cost/test": 110.0, "nats/test": 105.0, MEAN: 2.0, "ee/mixture": 3.5}
    logged = against_cost(row)
    assert {(axis_of(name), value) for name, value in logged.items()} == {
        ("cost/test", 2.0),
        ("nats/test", 2.0),
        ("nats/test", 3.5),
    }
    assert not any(is_hidden(name) for name in logged)
    assert set(against_cost({"epoch": 3, "cost/test": 1.0, MEAN: 2.0})) <= set(LINES)
