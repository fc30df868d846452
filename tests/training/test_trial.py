"""Settings that cannot be used are told in one message, before any data are touched."""

import re

import pytest

from qcnn_lightning.data.datamodule import ImageDataModule
from qcnn_lightning.errors import InputError
from qcnn_lightning.training.run import train

ADAMW = "optimizer._target_=torch.optim.AdamW cannot be used"
STEPLR = "scheduler.scheduler._target_=torch.optim.lr_scheduler.StepLR cannot be used"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.max_epochs=0"], "trainer.max_epochs=0: must be a positive number"),
        (["trainer.max_epochs=1.5"], "trainer.max_epochs=1.5: must be a whole number"),
        (["optimizer.lr=-1"], "optimizer.lr=-1: must be a positive number"),
        (["optimizer.lr=fast"], "optimizer.lr=fast: must be a positive number"),
        (["seed=4294967296"], "seed=4294967296: must be a whole number from 0 to 4294967295"),
        (["seed=-1"], "seed=-1: must be a whole number"),
        (["seed=0.5"], "seed=0.5: must be a whole number"),
        (["entropy_weight=much"], "entropy_weight=much: must be a number"),
        (["entropy_weight=nan"], "entropy_weight=nan: must be a number"),
        (["entropy_weight=true"], "entropy_weight=True: must be a number"),
        (
            ["model=density", "model.dtype=complex", "cost=negative_log_likelihood", "optimizer=muon"],
            "optimizer=muon takes the orthogonal factors of real matrices, and model.dtype=complex",
        ),
        (["scheduler.interval=batch"], "scheduler.interval=batch: choose one of epoch, step"),
        (["optimizer.weight_decay=-1"], f"{ADAMW} with lr=0.01, weight_decay=-1, fused=True: ValueError"),
        (["optimizer._target_=torch.optim.RMSprop"], "optimizer.fused=True: RMSprop has no such setting"),
        (["optimizer._target_=torch.optim.LBFGS", "~optimizer.fused", "~optimizer.weight_decay"], "closure"),
        (["scheduler.scheduler.step_size=0"], f"{STEPLR} with step_size=0, gamma=0.5: ZeroDivisionError"),
        (["scheduler=one_cycle", "scheduler.scheduler.pct_start=2"], "pct_start"),
        (
            [
                "scheduler.scheduler._target_=torch.optim.lr_scheduler.ReduceLROnPlateau",
                "~scheduler.scheduler.step_size",
                "~scheduler.scheduler.gamma",
            ],
            "metrics",
        ),
        (["trainer.precision=bf16-mixed"], "trainer.precision=bf16-mixed: choose 32-true or 64-true"),
        (["trainer.precision=8"], "trainer.precision=8: choose 32-true or 64-true"),
        (["+trainer.check_val_every_n_epoch=2"], "trainer.check_val_every_n_epoch=2: a run has a row for every epoch"),
        (
            ["+trainer.limit_val_batches=0"],
            "trainer.limit_val_batches=0: every epoch trains and measures on all images",
        ),
        (["+trainer.limit_train_batches=10"], "trainer.limit_train_batches=10: every epoch trains"),
        (["+trainer.overfit_batches=1"], "trainer.overfit_batches=1: every epoch trains"),
        (["+trainer.fast_dev_run=true"], "trainer.fast_dev_run=True: it leaves no results; for a short look"),
        (["+trainer.max_time=00:00:01:00"], "to stop it by the clock say `timeout 1h"),
        (["+trainer.max_steps=5"], "trainer.max_steps=5: a run ends after trainer.max_epochs"),
        (["+trainer.enable_progress_bar=true"], "trainer.enable_progress_bar=True: a run sets it itself"),
        (["+trainer.callbacks=[]"], "trainer.callbacks=[]: callbacks are a part of their own"),
        (["+trainer.plugins=[]"], "trainer.plugins=[]: a run sets it itself"),
        (["+trainer.enable_checkpointing=false"], "trainer.enable_checkpointing=False: a run keeps checkpoints"),
        (["+trainer.gradient_clip_val=1.0"], "trainer.gradient_clip_val=1.0: every batch is one optimisation step"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_setting_that_cannot_be_used_is_told_before_any_data_are_touched(composed, monkeypatch, overrides, message):
    def touched(self):
        raise AssertionError("data were touched")

    monkeypatch.setattr(ImageDataModule, "prepare_data", touched)
    with pytest.raises(InputError, match=re.escape(message)) as told:
        train(composed(*overrides))
    assert len(str(told.value)) < 500


def test_a_callback_that_is_null_is_left_out(composed):
    record = train(composed("callbacks.entanglement=null", "trainer.max_epochs=1"), quiet=True)
    assert "ee/mean" not in record.rows[-1]


def test_a_profiler_shows_what_it_measured(composed, caplog):
    train(composed("+trainer.profiler=simple", "trainer.max_epochs=1"), quiet=True)
    assert "FIT Profiler Report" in caplog.text
