from pathlib import Path

import pandas as pd
import pytest
from conftest import wandb_records

from qcnn_lightning.training.run import train


def offline_run(config):
    (folder,) = Path(config.run_dir, "wandb").glob("offline-run-*")
    return folder


def test_wandb_holds_every_metric_at_every_epoch_and_draws_entropy_against_cost(composed, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("NETRC", "/dev/null")
    config = composed("logger=wandb", "seed=5")
    train(config)
    table = pd.read_csv(f"{config.run_dir}/metrics.csv")
    records = wandb_records(offline_run(config))
    rows = [record["history"]["item"] for record in records if record["type"] == "history"]
    assert [row["_step"] for row in rows] == [0, 1, 2]
    for (_, expected), row in zip(table.iterrows(), rows, strict=True):
        for name, value in expected.dropna().items():
            assert row[name] == pytest.approx(value)
            if name.startswith("ee/"):
                for section in ("ee_vs_cost_train", "ee_vs_cost_test"):
                    assert row[f"{section}/{name.removeprefix('ee/')}"] == pytest.approx(value)
    axes = {
        record["metric"]["glob_name"]: record["metric"]["step_metric"]
        for record in records
        if record["type"] == "metric" and "step_metric" in record["metric"]
    }
    assert axes == {"*": "epoch", "ee_vs_cost_train/*": "cost/train", "ee_vs_cost_test/*": "cost/test"}
    logged_config = {}
    for record in records:
        if record["type"] == "config":
            logged_config |= record["config"]["update"]
    assert logged_config["model"]["d"] == 4
    assert logged_config["data"]["name"] == "digits"
    assert logged_config["seed"] == 5
    assert (logged_config["data_set"], logged_config["d"]) == ("digits", 4)
    (run,) = (record["run"] for record in records if record["type"] == "run")
    assert run["run_group"] == "test"
    assert next(record["exit"]["exit_code"] for record in records if record["type"] == "exit") == 0


def test_a_server_that_does_not_answer_costs_no_run(composed, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    config = composed("logger=wandb", "+logger.online_timeout_s=2.0", "trainer.max_epochs=1")
    train(config)
    assert "kept offline" in caplog.text
    assert len([record for record in wandb_records(offline_run(config)) if record["type"] == "history"]) == 2
