"""One job of the command line: a single run, or a job of a sweep, which must survive it."""

import logging
import sys
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from pytorch_lightning.utilities import rank_zero_only

from qcnn_lightning.command_line import PATHS_IF_THERE
from qcnn_lightning.errors import InputError, NonFiniteCostError, message_of
from qcnn_lightning.files import inside
from qcnn_lightning.runs.settings import PATHS_IN_A_CONFIG
from qcnn_lightning.training.console import show_closing_summary
from qcnn_lightning.training.interruption import Interrupted
from qcnn_lightning.training.run import train
from qcnn_lightning.training.sweep import several_at_a_time
from qcnn_lightning.training.together import Company

log = logging.getLogger(__name__)


def run_job(config: DictConfig, quiet: bool = False, company: Company | None = None) -> float | str:
    """Train, and show the result unless the sweep does.

    Args:
        config: of the job.
        quiet: print nothing; so do jobs that run several at a time.
        company: the other jobs of this process, which are trained together with this one.

    Returns:
        What a search maximises: the last accuracy on the validation images, or else on the test images. A message if
        the job failed and is one of a sweep, which goes on.

    Raises:
        Exception: the error of a single run.
    """
    hydra = HydraConfig.get()
    if several_at_a_time(hydra):
        quiet = True
        if company is None:
            silence()
    is_first = rank_zero_only.rank == 0  # type: ignore[attr-defined]
    try:
        if hydra.mode == RunMode.MULTIRUN:
            inside(Path(hydra.runtime.cwd, hydra.sweep.dir), hydra.sweep.subdir)
        if Path.cwd() != Path(hydra.runtime.cwd):
            # hydra.job.chdir=true: paths are meant as they were given.
            make_absolute(config, Path(hydra.runtime.cwd))
        record = train(config, quiet, company)
    except (InputError, NonFiniteCostError, Interrupted) as error:
        if not is_first:
            # Rank 0 hit the same error and reports it.
            sys.exit(0)
        if hydra.mode != RunMode.MULTIRUN or isinstance(error, Interrupted):
            raise
        log.error("failed: %s", error)
        return message_of(error)
    except Exception as error:
        if hydra.mode != RunMode.MULTIRUN or not is_first:
            raise
        log.exception("failed")
        return message_of(error)
    if is_first and not quiet and not record.was_finished:
        show_closing_summary(record)
    return record.rows[-1].get("accuracy/val", record.rows[-1]["accuracy/test"])


def make_absolute(config: DictConfig, folder: Path) -> None:
    """Let relative paths be relative to this folder, not to where the job runs."""
    with open_dict(config):
        for key in PATHS_IN_A_CONFIG["data"]:
            paths = config.data.get(key)
            if isinstance(paths, str):
                config.data[key] = str(folder / Path(paths).expanduser())
            elif paths is not None:
                config.data[key] = [str(folder / Path(path).expanduser()) for path in paths]
        for key in PATHS_IF_THERE:
            value = OmegaConf.select(config, key)
            # A folder may be called like a choice, `default` or `left_right`.
            is_path = isinstance(value, str) and (key == "start_from" or Path(value).suffix != "")
            if is_path and (folder / value).exists():
                OmegaConf.update(config, key, str(folder / value))


def silence() -> None:
    """Log to the run's own log file only."""
    logging.getLogger().handlers[:] = [logging.NullHandler()]
