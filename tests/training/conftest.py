import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig
from small_runs import EPOCHS, compose_small, train_until_a_signal

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
def interrupted(composed) -> Callable[..., DictConfig]:
    """Train, in this process, until a signal comes at the end of an epoch."""

    def interrupted_run(*overrides: str, folder: str = "run", **when: int) -> DictConfig:
        config = composed(*overrides, folder=folder)
        train_until_a_signal(config, **when)
        return config

    return interrupted_run


@pytest.fixture(scope="session")
def whole(tmp_path_factory) -> Path:
    """The folder of a run of three epochs that nothing has interrupted; to be read alone."""
    folder = tmp_path_factory.mktemp("whole")
    train(compose_small(folder, EPOCHS))
    return folder


@pytest.fixture(scope="session")
def whole_until_epoch_1(tmp_path_factory) -> Path:
    """The folder of the same run, interrupted after the second of its epochs; to be read alone."""
    folder = tmp_path_factory.mktemp("until_epoch_1")
    train_until_a_signal(compose_small(folder, EPOCHS))
    return folder


@pytest.fixture
def stopped(composed, whole_until_epoch_1) -> DictConfig:
    """The configuration of that interrupted run, in a folder of the test's own."""
    config = composed(EPOCHS)
    shutil.copytree(whole_until_epoch_1, config.run_dir, dirs_exist_ok=True)
    return config
