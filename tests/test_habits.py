"""What users of lightning-hydra-template, and of Lightning, type at this project: each works, or is told what to type.

Nothing is silently ignored. The checks are those that a run makes before any data are touched; `test_command_line` and
the slow test here go through the command line itself.
"""

import re
import sys

import pytest

from commands import train_command
from composing import composed
from qcnn_lightning.errors import InputError
from qcnn_lightning.hints import check_settings, in_our_words, known_settings
from qcnn_lightning.training.build import check_numbers
from qcnn_lightning.training.trainer import check_trainer_settings

WORK = (
    *("trainer=cpu", "trainer=gpu", "trainer=ddp trainer.devices=4", "trainer.devices=[0,1]", "trainer.max_epochs=3"),
    *("++trainer.max_epochs=3", "+trainer.profiler=simple", "trainer.accelerator=cpu", "trainer.strategy=ddp"),
    *(
        "logger=csv",
        "logger=tensorboard",
        "logger=wandb",
        "logger=many_loggers",
        "logger=mlflow",
        "logger.offline=True",
    ),
    *("callbacks=none", "callbacks=default", "callbacks=early_stopping data.val_size=100", "debug=fast"),
    "callbacks=early_stopping data.val_size=100 callbacks.early_stopping.patience=3",
    *("optimizer=adam", "optimizer=sgd optimizer.momentum=0.5", "hparams_search=optuna", "tags=['a','b']", "+tags=[a]"),
    *("seed=12345", "data.batch_size=64", "experiment=paper", "experiment=quickstart trainer=cpu", "logger.tags=[x]"),
)
"""Commands that do what their user expects."""

TOLD = {
    "ckpt_path=last.ckpt": "the same command resumes",
    "+ckpt_path=last.ckpt": "the same command resumes",
    "ckpt_path=": "the same command resumes",
    "train=False": "measures training and test images after every epoch",
    "test=True": "measures training and test images after every epoch",
    "task_name=first": "sweep.name",
    "local=default": "--config-dir",
    "+extras.print_config=True": "--cfg job",
    "paths.data_dir=/data": "data.root",
    "data.data_dir=/data": "data.root",
    "paths.output_dir=x": "hydra.run.dir",
    "data.num_workers=4": "nothing loads them",
    "data.pin_memory=True": "nothing loads them",
    "data.train_val_test_split=[1,2,3]": "data.val_size",
    "model.optimizer.lr=0.1": "optimizer.lr",
    "model.lr=0.1": "optimizer.lr",
    "lr=0.1": "the nearest is optimizer.lr",
    "batch_size=10": "the nearest is data.batch_size",
    "max_epochs=3": "the nearest is trainer.max_epochs",
    "model.D=3": "the nearest is model.d",
    "model.bond=3": "no such setting here; model=mps and model=ttn have it",
    "model=mps model.kernel=fused": "no such setting here; model=qcnn has it",
    "data.path=spins.npz": "no such setting here; data=arrays has it",
    "model.scheduler.gamma=0.1": "scheduler=halving",
    "model.compile=true": "model.kernel=auto",
    "model.net.width=3": "model=own",
    "+model.width=3": "QCNN has no such setting",
    "+optimizer.nesterov=true": "AdamW has no such setting",
    "+trainer.profile=simple": "the nearest is trainer.profiler",
    "+scheduler.scheduler.step=3": "the nearest is scheduler.scheduler.step_size",
    "+callbacks.entanglement.every=3": "EntanglementMonitor has no such setting",
    "+seedd=3": "the nearest is seed",
    "+anything=3": "no such setting",
    "optimized_metric=val/acc_best": "maximises the last accuracy",
    "callbacks.early_stopping.patience=5": "callbacks=early_stopping first",
    "callbacks=early_stopping": "data.val_size",
    "callbacks.model_checkpoint.monitor=cost": "best checkpoint by itself",
    "callbacks=model_checkpoint": "best checkpoint by itself",
    "callbacks=rich_progress_bar": "a row per epoch by itself",
    "debug=default": "choose one of fast",
    "+debug=default": "choose one of fast",
    "debug=profiler": r"\+trainer.profiler=simple",
    "trainer=mps": "choose one of cpu, ddp, default, gpu",
    "trainer=ddp_sim": "trainer=ddp trainer.accelerator=cpu",
    "logger=comet": "choose one of .*wandb",
    "logger=null": "choose one of .*none",
    "experiment=example": "choose one of .*paper",
    "hparams_search=mnist_optuna": "did you mean hparams_search=optuna",
    "cost=nll": "cross_entropy",
    "+cost=nll": "cross_entropy",
    "~callbacks": "callbacks=none",
    "trainer.limit_train_batches=0.1": "for a short look",
    "+trainer.limit_val_batches=5": "every epoch trains and measures on all images",
    "+trainer.overfit_batches=1": "for a short look",
    "trainer.fast_dev_run=true": "for a short look",
    "+trainer.max_time=00:12:00:00": "timeout 1h",
    "trainer.gradient_clip_val=0.5": "one optimisation step",
    "trainer.precision=16": "32-true or 64-true",
    "trainer.precision=bf16-mixed": "32-true or 64-true",
    "+trainer.max_epochs=10": r"leave out the \+",
    "trainer.profiler=simple": r"say \+trainer.profiler=simple",
    "trainer.max_epochs=1.5": "whole number",
    "data.batches_at_a_time=3": "now called data.batches_per_item",
}
"""Commands that are refused -> what their one line says."""


def told(command: str, monkeypatch) -> str | None:
    """What a run says before it touches data; None if it goes on."""
    overrides = command.split()
    monkeypatch.setattr(sys, "argv", ["train", *overrides])
    try:
        config = composed("train", "data=digits", *overrides)
        check_settings(config)
        check_numbers(config)
        check_trainer_settings(config.trainer)
    except InputError as error:
        return str(error)
    except Exception as error:
        if (message := in_our_words(error)) is None:
            raise
        return message
    return None


@pytest.mark.parametrize("command", WORK)
def test_a_habit_works(command, monkeypatch):
    assert told(command, monkeypatch) is None


@pytest.mark.parametrize("command", TOLD)
def test_a_habit_is_told_what_to_type_instead(command, monkeypatch):
    message = told(command, monkeypatch)
    assert message is not None
    assert re.search(TOLD[command], message), message
    assert "\n" not in message
    # Hydra's own advice.
    assert "To append to your config" not in message


def test_every_setting_that_is_composed_is_known():
    config = composed("train", "data=mnist")
    known = known_settings("train")
    assert {"model.d", "data.batch_size", "optimizer.lr", "trainer.max_epochs", "sweep.name", "seed"} <= set(known)
    assert {str(part) for part in config} <= {setting.partition(".")[0] for setting in known}


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", ["+anything=3", "logger=null", "cost=nll", "--cfg job -m", "-m model.D=3 seed=0,1", "ckpt_path="]
)
def test_the_command_line_says_it_in_one_line_without_a_traceback(command, tmp_path):
    done = train_command(*command.split(), "data=digits", folder=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ")
    assert not list(tmp_path.rglob("metrics.csv"))
