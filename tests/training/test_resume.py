import errno
import logging
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from filelock import FileLock
from omegaconf import OmegaConf
from small_runs import EPOCHS, SMALL, assert_same_run, checkpoint_of, file_size_limit, summary_of, table_of
from wandb_tools import wandb_records

from commands import TIMEOUT_S, Command, train_command
from qcnn_lightning import QCNN
from qcnn_lightning.errors import InputError, RefusedRunError
from qcnn_lightning.runs.settings import differences
from qcnn_lightning.training.checkpoints import Checkpoints
from qcnn_lightning.training.record import RunRecord
from qcnn_lightning.training.run import LogFile, train


@pytest.mark.parametrize(
    ("signum", "overrides"),
    [
        (signal.SIGTERM, ["scheduler.scheduler.step_size=1"]),
        (signal.SIGINT, ["scheduler=one_cycle", "data.val_size=200", "evaluation_statistics=running"]),
        (signal.SIGTERM, ["trainer.precision=64-true"]),
        (signal.SIGTERM, ["average_decay=0.9", "entropy_weight=0.1", "data.augment.shift=1", "data.augment.rotate=9"]),
    ],
)
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(composed, interrupted, signum, overrides):
    whole = composed(EPOCHS, *overrides, folder="whole")
    train(whole)
    config = interrupted(EPOCHS, *overrides, signum=signum)
    handlers = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    record = train(config)
    assert_same_run(config.run_dir, whole.run_dir)
    assert not record.was_finished
    assert summary_of(config.run_dir)["status"] == "finished"
    assert handlers == [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    if "data.val_size=200" in overrides:
        best, other = checkpoint_of(config.run_dir, "best"), checkpoint_of(whole.run_dir, "best")
        assert best["epoch"] == other["epoch"]


def test_a_finished_run_is_returned_at_once(composed, caplog):
    config = composed()
    first = train(config)
    last = Path(config.run_dir, "checkpoints", "last.ckpt")
    written = last.stat().st_mtime_ns
    caplog.clear()
    caplog.set_level("INFO")
    again = train(config)
    assert again.was_finished
    assert again.rows == first.rows
    assert last.stat().st_mtime_ns == written
    (line,) = caplog.messages
    assert config.run_dir in line
    assert "finished already" in line
    assert "sweep.name" in line


def test_a_finished_run_is_prolonged_where_the_schedule_does_not_know_its_end(composed):
    settings = ("scheduler.scheduler.step_size=2", "callbacks.entanglement.profile_every_n_epochs=0")
    whole = composed("trainer.max_epochs=4", *settings, folder="whole")
    train(whole)
    train(composed("trainer.max_epochs=2", *settings))
    longer = composed("trainer.max_epochs=4", *settings)
    train(longer)
    assert_same_run(longer.run_dir, whole.run_dir)
    with pytest.raises(RefusedRunError, match=r"trainer\.max_epochs: 4 -> 3"):
        train(composed("trainer.max_epochs=3", *settings))


def test_a_schedule_over_the_whole_training_is_not_prolonged(composed):
    train(composed("trainer.max_epochs=1", "scheduler=one_cycle"))
    with pytest.raises(RefusedRunError, match=r"trainer\.max_epochs: 1 -> 2"):
        train(composed("trainer.max_epochs=2", "scheduler=one_cycle"))


def files_of(folder: Path) -> dict[Path, tuple[bytes, int]]:
    """The content and the time of the last change of every file in a folder."""
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_changed_settings_are_refused_and_what_is_there_stays(composed, stopped):
    config = stopped
    before = files_of(Path(config.run_dir))
    with pytest.raises(RefusedRunError, match=r"optimizer\.lr: 0\.01 -> 0\.02") as raised:
        train(composed(EPOCHS, "optimizer.lr=0.02"))
    assert "sweep.name" in str(raised.value)
    assert "model.d" not in str(raised.value)
    assert files_of(Path(config.run_dir)) == before


@pytest.mark.slow
def test_hydras_files_are_those_of_the_settings_that_the_run_was_trained_with(tmp_path):
    run = tmp_path / "sweep" / "run"
    place = ("hydra.sweep.dir=sweep", "hydra.sweep.subdir=run")
    quick = (*SMALL, "model.kernel=plain", "logger=none", "trainer.max_epochs=1")
    assert train_command(*quick, *place, folder=tmp_path).returncode == 0
    before = files_of(run / ".hydra")
    assert "- logger=none" in before[run / ".hydra" / "overrides.yaml"][0].decode().splitlines()
    # It has finished; other settings; it is being trained, and nothing at all is written then.
    assert train_command(*quick, *place, "data.evaluation_batch_size=50", folder=tmp_path).returncode == 0
    refused = train_command(*quick, *place, "optimizer.lr=0.02", folder=tmp_path)
    assert refused.returncode == 2
    assert "optimizer.lr: 0.01 -> 0.02" in refused.stderr
    assert files_of(run / ".hydra") == before
    everything = files_of(run)
    with FileLock(run / ".lock"):
        refused = train_command(*quick, *place, "optimizer.lr=0.02", folder=tmp_path)
        assert refused.returncode == 2
        assert refused.stderr.startswith("error: ")
        assert "another process" in refused.stderr
        refused = train_command("-m", *quick, *place, "optimizer.lr=0.02", folder=tmp_path)
        assert refused.returncode == 1
        assert "another process" in refused.stdout
        assert "1 of 1 jobs have not finished" in refused.stdout
    assert files_of(run) == everything


@pytest.mark.usefixtures("stopped")
def test_settings_that_do_not_change_results_may_change(composed):
    config = composed(EPOCHS, "sweep.name=other", "data.evaluation_batch_size=500", "model.kernel=plain")
    assert len(train(config).rows) == 4


def test_where_a_folder_of_images_is_matters():
    old, new = ({"data": {"name": name, "root": root}} for name, root in (("folder", "a"), ("folder", "b")))
    assert differences(old, new) == {"data.root": ("a", "b")}
    old["data"]["name"] = new["data"]["name"] = "mnist"
    assert differences(old, new) == {}


def test_a_run_from_before_a_setting_was_there_went_by_what_is_now_its_default(composed):
    new = OmegaConf.to_container(composed(), resolve=True)
    old = {key: value for key, value in new.items() if key not in ("average_decay", "entropy_weight")}
    old["data"] = {key: value for key, value in new["data"].items() if key != "augment"}
    assert differences(old, new) == {}
    new["entropy_weight"] = 0.1
    assert differences(old, new) == {"entropy_weight": (0.0, 0.1)}


def test_a_run_from_before_a_setting_was_renamed_is_the_same_run():
    old, new = ({"data": {name: 5}, "entropy_weight": 0.1} for name in ("batches_at_a_time", "batches_per_item"))
    assert differences(old, new) == {}


@pytest.mark.parametrize("setting", ["average_decay", "entropy_weight"])
def test_how_many_batches_an_item_has_matters_where_something_is_done_once_per_item(setting):
    for value, differ in ((0.0, {}), (0.5, {"data.batches_per_item": (1, 2)})):
        old, new = ({setting: value, "data": {"batches_per_item": number}} for number in (1, 2))
        assert differences(old, new) == differ


def test_two_processes_do_not_train_in_one_folder(composed):
    config = composed()
    with FileLock(f"{config.run_dir}/.lock"), pytest.raises(RefusedRunError, match="another process") as raised:
        train(config)
    assert config.run_dir in str(raised.value)
    assert [path.name for path in Path(config.run_dir).iterdir()] == [".lock"]


@pytest.mark.parametrize("name", ["metrics.csv", "summary.json", "checkpoints/last.ckpt"])
def test_a_damaged_file_is_named_and_the_run_goes_on(stopped, whole, caplog, name):
    path = Path(stopped.run_dir, name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    train(stopped)
    assert str(path) in caplog.text
    assert_same_run(stopped.run_dir, whole)


@pytest.mark.parametrize("lost", ["the last checkpoint", "and metrics.csv", "and summary.json", "two epochs"])
def test_a_finished_run_whose_last_checkpoint_is_lost_trains_what_it_lacks_again(interrupted, whole, monkeypatch, lost):
    config = interrupted(EPOCHS, after_epoch=0)
    last = Path(config.run_dir, "checkpoints", "last.ckpt")
    first = last.read_bytes()
    train(config)
    last.write_bytes(first if lost == "two epochs" else last.read_bytes()[:1000])
    if lost.startswith("and "):
        Path(config.run_dir, lost.removeprefix("and ")).write_text("")
    rows = []
    write = RunRecord.write

    def write_and_look(self, *arguments, **more):
        write(self, *arguments, **more)
        rows.append(len(table_of(self.run.folder)))

    monkeypatch.setattr(RunRecord, "write", write_and_look)
    assert not train(config).was_finished
    assert min(rows) == (3 if lost == "and metrics.csv" else 4)
    assert_same_run(config.run_dir, whole)
    assert summary_of(config.run_dir)["status"] == "finished"
    assert checkpoint_of(config.run_dir, "previous")["epoch"] == 1


def test_a_run_that_ended_early_by_itself_has_finished(composed):
    stop = "{_target_: pytorch_lightning.callbacks.EarlyStopping, monitor: cost/test, stopping_threshold: 1000}"
    config = composed("trainer.max_epochs=5", f"+callbacks.stop={stop}")
    assert len(train(config).rows) == 2
    assert train(config).was_finished
    assert len(table_of(config.run_dir)) == 2


def test_missing_files_of_a_finished_run_are_written_again(composed, caplog):
    config = composed()
    train(config)
    table, summary = table_of(config.run_dir), summary_of(config.run_dir)
    for name in ("metrics.csv", "summary.json"):
        Path(config.run_dir, name).unlink()
    train(config)
    assert "metrics.csv" in caplog.text
    assert table_of(config.run_dir).equals(table)
    assert summary_of(config.run_dir) == summary


def test_a_full_disk_costs_one_epoch(composed, whole, monkeypatch):
    config = composed(EPOCHS)
    save = Checkpoints.on_train_epoch_end

    def save_on_a_full_disk(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            with file_size_limit(8192):
                save(self, trainer, pl_module)
        save(self, trainer, pl_module)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "on_train_epoch_end", save_on_a_full_disk)
        with pytest.raises(InputError, match=r"cannot write .*last\.ckpt: File too large"):
            train(config)
    summary = summary_of(config.run_dir)
    assert summary["status"] == "failed"
    assert "last.ckpt" in summary["error"]
    assert "save_on_a_full_disk" in Path(config.run_dir, "traceback.txt").read_text()
    assert checkpoint_of(config.run_dir)["epoch"] == 0
    train(config)
    assert_same_run(config.run_dir, whole)
    assert not Path(config.run_dir, "traceback.txt").exists()


@pytest.mark.parametrize("name", [".lock", "metrics.csv", "checkpoints"])
def test_a_folder_that_cannot_be_written_is_told(composed, name):
    config = composed()
    path = Path(config.run_dir, name)
    # Something in the way, since no permission stops a superuser.
    if name == "checkpoints":
        path.touch()
    else:
        path.mkdir()
    with pytest.raises(InputError, match=name):
        train(config)


@pytest.mark.parametrize(
    "name",
    [".lock", ".hydra", "train.log", "metrics.csv", "summary.json", "checkpoints", "checkpoints/last.ckpt", "wandb"],
)
def test_a_link_out_of_the_run_folder_is_refused_before_anything_is_written(composed, tmp_path, name):
    config = composed()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_text("theirs")
    link = Path(config.run_dir, name)
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(outside if name in (".hydra", "checkpoints", "wandb") else outside / "victim")
    with pytest.raises(InputError, match="leads out of") as raised:
        train(config)
    assert str(link) in str(raised.value)
    assert {path.name: path.read_text() for path in outside.iterdir()} == {"victim": "theirs"}
    assert {path.name for path in Path(config.run_dir).iterdir()} == {Path(name).parts[0]}


@pytest.mark.parametrize("kind", ["another model", "a pickled object"])
def test_a_checkpoint_of_somebody_else_is_data(stopped, tmp_path, kind):
    path = Path(stopped.run_dir, "checkpoints", "last.ckpt")
    checkpoint = checkpoint_of(stopped.run_dir)
    if kind == "another model":
        checkpoint["hyper_parameters"]["model"]["_target_"] = "os.system"
    else:
        checkpoint["callbacks"]["more"] = tmp_path
    torch.save(checkpoint, path)
    with pytest.raises(InputError, match=r"other settings:\s+model\._target_: os\.system|pathlib.*refused"):
        train(stopped)
    assert len(table_of(stopped.run_dir)) == 3


def test_a_run_killed_at_any_moment_is_the_same_run(tmp_path):
    moments = random.Random(time.time_ns())
    epochs = 15
    arguments = [*SMALL, f"trainer.max_epochs={epochs}", "model.kernel=plain"]
    metrics = tmp_path / "killed" / "metrics.csv"

    def start(folder: str) -> Command:
        place = f"hydra.run.dir={folder}"
        return Command(
            "qcnn_lightning.train", *arguments, place, folder=tmp_path, environment={"WANDB_MODE": "offline"}
        )

    def lines() -> int:
        return metrics.read_text().count("\n") if metrics.exists() else 0

    whole = start("whole")
    for _ in range(3):
        before = lines()
        process = start("killed")
        while lines() < before + 2:
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.2))
        process.kill()
        assert process.wait() == -signal.SIGKILL
        # W&B names the files of a process by the second in which it began.
        time.sleep(1)
        assert summary_of(tmp_path / "killed")["status"] == "interrupted"
    assert start("killed").wait(TIMEOUT_S) == 0
    assert whole.wait(TIMEOUT_S) == 0
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
    assert not list((tmp_path / "killed").glob(".*.[0-9]*"))
    parts = sorted((tmp_path / "killed" / "wandb").glob("offline-run-*"))
    assert {part.name.rsplit("-", 1)[1] for part in parts} == {summary_of(tmp_path / "killed")["wandb_run_id"]}
    # Offline, the last part alone is the whole run: a row per epoch, and the charts.
    steps = [record["history"]["item"]["_step"] for record in wandb_records(parts[-1]) if record["type"] == "history"]
    assert steps == list(range(epochs + 2))


def test_a_run_that_goes_on_with_other_products_says_that_its_digits_differ(stopped, monkeypatch, caplog):
    config = stopped
    assert summary_of(config.run_dir)["arithmetic"] in ("three of bfloat16", "float32")
    monkeypatch.setattr(QCNN, "arithmetic", lambda self, x: "another processor's")
    train(config)
    assert "goes on with another processor's" in caplog.text
    assert summary_of(config.run_dir)["status"] == "finished"


class KeepsArray(pl.Callback):
    """Keeps a NumPy number in its state, as many callbacks do."""

    def state_dict(self):
        return {"best": np.float64(1)}


def test_a_checkpoint_that_could_not_be_read_back_is_known_after_the_first_epoch(composed):
    config = composed("trainer.max_epochs=5", f"+callbacks.mine._target_={__name__}.KeepsArray")
    with pytest.raises(
        InputError, match=r"could not be read back: callbacks KeepsArray holds numpy\S+; a callback's state_dict must"
    ):
        train(config)
    assert table_of(config.run_dir)["epoch"].tolist() == [-1, 0]
    assert summary_of(config.run_dir)["status"] == "failed"


@pytest.mark.parametrize("logger", ["none", "csv"])
def test_a_folder_that_is_deleted_ends_its_run_and_is_not_made_again(composed, monkeypatch, logger):
    config = composed("trainer.max_epochs=5", f"logger={logger}")
    save = Checkpoints.on_train_epoch_end

    def save_and_delete(self, trainer, pl_module):
        save(self, trainer, pl_module)
        shutil.rmtree(config.run_dir)

    monkeypatch.setattr(Checkpoints, "on_train_epoch_end", save_and_delete)
    with pytest.raises(InputError, match="was deleted while it was trained in: the same command begins it again"):
        train(config)
    assert not Path(config.run_dir).exists()


def test_a_log_without_room_is_told_once_and_the_run_goes_on(composed, monkeypatch, caplog):
    config = composed("trainer.max_epochs=1")
    emit = logging.StreamHandler.emit

    def emit_on_a_full_disk(self, record):
        if not isinstance(self, LogFile):
            return emit(self, record)
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            self.handleError(record)

    monkeypatch.setattr(LogFile, "emit", emit_on_a_full_disk)
    caplog.set_level("INFO")
    train(config)
    (told,) = [message for message in caplog.messages if "train.log" in message]
    assert told == f"cannot write {config.run_dir}/train.log: No space left on device; the run goes on"
