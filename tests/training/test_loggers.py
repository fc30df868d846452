"""Loggers of one's own: Lightning's, and classes with other arguments, in the folder that one gives them."""

import pytest
from pytorch_lightning.loggers import CSVLogger, Logger

from qcnn_lightning.runs.run import Run
from qcnn_lightning.training.loggers import build_loggers
from qcnn_lightning.training.record import RunRecord

CSV = "+logger._target_=pytorch_lightning.loggers.CSVLogger"


class Plain(Logger):
    """A logger that has no folder."""

    def __init__(self, flavour: str):
        super().__init__()
        self.flavour = flavour

    name = version = "plain"

    def log_hyperparams(self, params, *arguments, **named):
        pass

    def log_metrics(self, metrics, step=None):
        pass


def built(config):
    (logger,) = build_loggers(config, RunRecord(Run(config.run_dir), 1))
    return logger


@pytest.mark.parametrize("partial", [(), ("+logger._partial_=true",)])
def test_a_logger_writes_to_the_folder_that_it_is_given_or_else_to_the_run_s(composed, tmp_path, partial):
    logger = built(composed(CSV, *partial))
    assert isinstance(logger, CSVLogger)
    assert logger.save_dir == str(tmp_path / "run")
    assert built(composed(CSV, f"+logger.save_dir={tmp_path / 'mine'}", *partial)).save_dir == str(tmp_path / "mine")


def test_a_logger_may_have_no_folder(composed):
    logger = built(composed("+logger._target_=test_loggers.Plain", "+logger.flavour=vanilla"))
    assert isinstance(logger, Plain)
    assert logger.flavour == "vanilla"
