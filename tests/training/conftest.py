import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig
from small_runs import compose_small, summary_of, table_of

from qcnn_lightning.training.checkpoints import Checkpoints
from qcnn_lightning.training.interruption import Interrupted
from qcnn_lightning.training.run import train


@pytest.fixture
def composed(tmp_path: Path) -> Callable[..., DictConfig]:
    """Compose the configuration of a small run on the digits, with a folder of its own."""

    def compose_run(*overrides: str, folder: str = "run") -> DictConfig:
        run_dir = tmp_path / folder
        run_dir.mkdir(exist_ok=True)
        return compose_small(run_dir, *overrides)

    return compose_run


@pytest.fixture
def interrupted(composed, monkeypatch) -> Callable[..., DictConfig]:
    """Train, in this process, until a signal comes at the end of an epoch."""

    def interrupted_run(*overrides: str, after_epoch: int = 1, signum: int = signal.SIGTERM, **kwargs) -> DictConfig:
        config = composed(*overrides, **kwargs)
        save = Checkpoints.on_train_epoch_end

        def save_and_signal(self, trainer, pl_module):
            save(self, trainer, pl_module)
            if trainer.current_epoch == after_epoch:
                signal.raise_signal(signum)

        with monkeypatch.context() as patch:
            patch.setattr(Checkpoints, "on_train_epoch_end", save_and_signal)
            with pytest.raises(Interrupted) as raised:
                train(config)
        assert raised.value.code == 128 + signum
        assert summary_of(config.run_dir)["status"] == "interrupted"
        assert len(table_of(config.run_dir)) == after_epoch + 2
        return config

    return interrupted_run
