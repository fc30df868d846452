"""One training run, from its configuration to what it leaves on disk; resumed where it was interrupted."""

import logging
import math
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning import seed_everything
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from qcnn_lightning.basis import LevelsBasis
from qcnn_lightning.data.datamodule import ImageDataModule
from qcnn_lightning.data.levels import DEQUANTISED
from qcnn_lightning.errors import InputError, RefusedRunError
from qcnn_lightning.files import remove_temporaries
from qcnn_lightning.hints import check_settings
from qcnn_lightning.models.model import completed, num_parameters
from qcnn_lightning.own_parts import own_code_of
from qcnn_lightning.pixels import PADDING
from qcnn_lightning.runs import LAST
from qcnn_lightning.runs.checkpoint import StoredCheckpoint
from qcnn_lightning.runs.run import LOG, TRACEBACK, Run
from qcnn_lightning.runs.settings import is_longer
from qcnn_lightning.training.build import build, check_numbers, try_out, white_for
from qcnn_lightning.training.checkpoints import Checkpoints
from qcnn_lightning.training.console import EpochTable
from qcnn_lightning.training.first_weights import take_weights
from qcnn_lightning.training.folders import hydra_files
from qcnn_lightning.training.interruption import Interrupted, StopOnSignal
from qcnn_lightning.training.loggers import build_loggers, keep_network
from qcnn_lightning.training.module import Classifier
from qcnn_lightning.training.processes import other_processes
from qcnn_lightning.training.record import RunRecord, git_revision, versions
from qcnn_lightning.training.together import Company, company_on_gpu
from qcnn_lightning.training.tracking import EntanglementTracker
from qcnn_lightning.training.trainer import build_trainer, ignore_hints, weight_averaging

log = logging.getLogger(__name__)


def train(config: DictConfig, quiet: bool = False, company: Company | None = None) -> RunRecord:
    """Train the network that a configuration describes, and measure it before training and after every epoch.

    If the run folder holds an interrupted run of this configuration, that is resumed as if nothing had happened; if it
    has finished, its record is returned at once.

    Args:
        config: composed from `conf/train.yaml`.
        quiet: whether to print nothing for every epoch.
        company: the other runs of this process, which are trained together with this one.

    Returns:
        The record of the run, as it is on disk in `config.run_dir`.

    Raises:
        InputError: a setting that cannot be used, found before training starts wherever that can be known; a file that
            cannot be read or written, or that is a link out of the run folder.
        RefusedRunError: the folder holds a run with other settings, or one that another process trains.
        NonFiniteCostError: the cost became infinite or NaN; the checkpoint of the epoch before is kept.
        Interrupted: SIGTERM or SIGINT came; what has been trained so far is kept.
    """
    # Lightning tells every run which devices it did not use.
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    run = Run(config.run_dir)
    if rank_zero_only.rank != 0:  # type: ignore[attr-defined]
        # The first process of the run owns its folder, and does the talking.
        logging.getLogger("qcnn_lightning").setLevel(logging.WARNING)
        settings = resolved(config)
        return train_from(run, run.checkpoint_to_resume(settings), config, settings, quiet, company)
    with run.held(), log_file(run.folder / LOG):
        try:
            settings = resolved(config)
            checkpoint = run.checkpoint_to_resume(settings)
        except RefusedRunError:
            # The run that is there stays as it is.
            raise
        except (InputError, OmegaConfBaseException) as error:
            run.write_traceback(error)
            raise
        remove_temporaries(run.folder)
        (run.folder / TRACEBACK).unlink(missing_ok=True)
        return train_from(run, checkpoint, config, settings, quiet, company)


@contextmanager
def log_file(path: Path) -> Iterator[None]:
    """Keep a log in a file; say so once if it cannot be written to its end, as on a full disk."""
    handler = LogFile(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    if (thread := threading.current_thread()) is not threading.main_thread():
        # Other runs are in other threads.
        handler.addFilter(lambda record: record.thread == thread.ident)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        with suppress(OSError):
            handler.close()


class LogFile(logging.FileHandler):
    """A log file that may end before the run does."""

    ended = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        """Say once that there is no room; other errors are the program's."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self.ended:
            self.ended = True
            log.warning("cannot write %s: %s; the run goes on", self.baseFilename, error.strerror)


def resolved(config: DictConfig) -> dict[str, Any]:
    """Return a configuration as plain values, its interpolations resolved."""
    return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]


def train_from(
    run: Run,
    checkpoint: StoredCheckpoint | None,
    config: DictConfig,
    settings: dict[str, Any],
    quiet: bool,
    company: Company | None = None,
) -> RunRecord:
    """Train from a checkpoint, or from the beginning if there is none, and record how that ended.

    Args:
        run: the run's folder.
        checkpoint: the one to resume from; None to begin.
        config: the configuration.
        settings: the same, resolved.
        quiet: as in `train`.
        company: as in `train`.
    """
    is_first = rank_zero_only.rank == 0  # type: ignore[attr-defined]
    record = RunRecord(run, config.trainer.max_epochs)
    if checkpoint is not None:
        record.load_state_dict(checkpoint.record)
        if has_finished(record, checkpoint) and not is_longer(checkpoint.config, settings):
            record.was_finished = True
            if is_first:
                record.repair(status="finished")
            log.info(
                "%s has finished already, with test accuracy %.2f%%; to run it again delete the folder, or choose "
                "another sweep.name or hydra.run.dir; to prolong it give more trainer.max_epochs and its folder as "
                "hydra.run.dir",
                run.folder,
                100 * record.rows[-1].get("accuracy/test", math.nan),
            )
            return record
    if is_first:
        run.write_hydra_files(hydra_files(config))
        if checkpoint is not None and checkpoint.path.name != LAST.name:
            # It is damaged, and would take the place of the one before when the next is saved.
            (run.folder / LAST).unlink(missing_ok=True)
    stop = StopOnSignal()
    try:
        with stop.listening(), subnormals_as_zero():
            fit(checkpoint, config, settings, record, stop, quiet, company)
        if is_first:
            record.write(status="finished")
    except Interrupted:
        log.warning("interrupted in epoch %d; the same command resumes it: %s", len(record.rows) - 1, run.folder)
        raise
    except RefusedRunError:
        # The run that is there stays as it is.
        raise
    except Exception as error:
        if is_first:
            record.write_failure(error)
        raise
    if stop.received:
        raise Interrupted(stop.received)
    return record


def check_levels_of(network: Any, datamodule: ImageDataModule) -> None:
    """Check that a basis of K grey levels has those of `data.levels`.

    Raises:
        InputError: it has others.
    """
    basis = getattr(network, "basis", None)
    if isinstance(basis, LevelsBasis) and datamodule.white != 1:
        raise InputError(f"data.white={datamodule.white}: model.basis=levels has grey levels, no interval; choose 1")
    if isinstance(basis, LevelsBasis) and datamodule.rounding == DEQUANTISED:
        raise InputError(
            f"data.rounding={datamodule.rounding}: model.basis=levels has grey levels; choose fourier or legendre, or "
            "another rounding"
        )
    if isinstance(basis, LevelsBasis) and datamodule.levels not in (None, basis.num_levels):
        raise InputError(
            f"data.levels={datamodule.levels}, and model.basis=levels has {basis.num_levels} grey levels "
            f"(d_0 + 1): give both the same number"
        )


def has_finished(record: RunRecord, checkpoint: StoredCheckpoint) -> bool:
    """Return whether a run has its last epoch, or ended before by itself, as early stopping lets it.

    Not if its last checkpoint is lost: then the epochs that the one before it lacks are trained once more.
    """
    summary = record.run.summary
    ended = summary.get("status") == "finished" and summary.get("final", {}).get("epoch") == record.rows[-1]["epoch"]
    return record.is_finished or (ended and checkpoint.path.name == LAST.name)


def fit(
    checkpoint: StoredCheckpoint | None,
    config: DictConfig,
    settings: dict[str, Any],
    record: RunRecord,
    stop: StopOnSignal,
    quiet: bool,
    company: Company | None = None,
) -> None:
    """Build everything and train to the last epoch; the arguments are those of `train_from`, and its callbacks."""
    check_settings(config)
    check_numbers(config)
    datamodule = ImageDataModule(**config.data)
    seed_everything(config.seed, workers=True, verbose=False)
    loggers = build_loggers(config, record)
    trackers = [logger for logger in loggers if isinstance(logger, EntanglementTracker)]
    # Before any data is fetched: a device that is not there, or a network that cannot be, is known at once.
    shown = [] if quiet else [EpochTable(record)]
    callbacks = [*weight_averaging(config), record, *shown, stop, Checkpoints(record)]
    trainer = build_trainer(config, callbacks, loggers)
    build_network = partial(
        build, config.model, "model", num_sites=datamodule.num_sites, **white_for(config, datamodule.white)
    )
    try_out(config, build_network)
    cost = build(config.cost, "cost")
    if company is not None:
        company.share_images(datamodule)
    datamodule.prepare_data()
    datamodule.setup()
    if checkpoint is not None:
        # Lightning does so too, but only once the loggers have begun.
        datamodule.load_state_dict(checkpoint.content.get(type(datamodule).__qualname__, {}))

    torch.manual_seed(config.seed)
    network = build_network(num_classes=datamodule.num_classes)
    check_levels_of(network, datamodule)
    completed(network)
    if checkpoint is None:
        take_weights(network, config.start_from, own_code_of(config))
    # After the weights of a run with other images, whose padding is among them.
    network.mark_padding(datamodule.pixel_order == PADDING)
    network.mark_order(datamodule.pixel_order, datamodule.image_shape)
    company = company or company_on_gpu(network, trainer)
    datamodule.move_to(trainer.strategy.root_device)
    classifier = (Classifier if company is None else company.member)(
        network=network,
        cost=cost,
        optimizer=build(config.optimizer, "optimizer"),
        scheduler=build(config.scheduler.scheduler, "scheduler.scheduler"),
        scheduler_interval=config.scheduler.interval,
        evaluation_statistics=config.evaluation_statistics,
        entropy_weight=config.entropy_weight,
        entropy_of=config.entropy_of,
    )
    classifier.save_hyperparameters(settings)
    # Lightning does so only after it has restored a checkpoint, whose weights would be rounded.
    trainer.precision_plugin.convert_module(classifier)
    arithmetic = classifier.network.arithmetic(datamodule.splits["train"][0][:1])
    begun_with = record.facts.get("arithmetic", arithmetic)
    if begun_with != arithmetic:
        log.warning(
            "the run was begun with products of %s and goes on with %s, as this machine has them: its digits will not "
            "be those of an uninterrupted run",
            begun_with,
            arithmetic,
        )
    for tracker in trackers:
        tracker.begin(datamodule.class_names)
    record.facts = {
        "arithmetic": arithmetic,
        "seed": config.seed,
        "num_parameters": num_parameters(network),
        "num_sites": datamodule.num_sites,
        "class_names": list(datamodule.class_names),
        "wandb_run_id": trackers[0].version if trackers else None,
        "git_revision": git_revision(),
        "versions": versions(),
    }
    if trainer.is_global_zero:
        if checkpoint is None:
            record.write(status="interrupted")
        else:
            record.repair(status="interrupted")
    log.info(
        "%d parameters, %d sites, %d training images, %s; run folder %s",
        record.facts["num_parameters"],
        datamodule.num_sites,
        len(datamodule.splits["train"][1]),
        trainer.strategy.root_device,
        record.run.folder,
    )
    exit_code = 1
    try:
        around = classifier.around_training(datamodule.splits["train"][0][:1])
        with warnings.catch_warnings(), other_processes(trainer, record.run.folder), around:
            ignore_hints()
            if checkpoint is None:
                trainer.validate(classifier, datamodule=datamodule, verbose=False)
                trainer.fit(classifier, datamodule=datamodule)
            else:
                log.info("resuming after epoch %d, from %s", record.rows[-1]["epoch"], checkpoint.path)
                for tracker in trackers:
                    tracker.catch_up(record.rows)
                trainer.fit(classifier, datamodule=datamodule, ckpt_path=checkpoint.path, weights_only=True)
        keep_network(record.run, config, trackers)
        exit_code = 0
    except MisconfigurationException as error:
        # Such as a callback that needs a logger where there is none.
        raise InputError(str(error)) from error
    finally:
        for tracker in trackers:
            tracker.close(exit_code)


@contextmanager
def subnormals_as_zero() -> Iterator[None]:
    """Let the processor take numbers smaller than any normal one as zero: strong weight decay leaves many of them.

    Computing with them is several times slower. Threads that PyTorch starts while this lasts do so too.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
