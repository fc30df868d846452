"""One training run, from its configuration to what it leaves on disk; resumed where it was interrupted."""

import logging
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning import seed_everything
from pytorch_lightning.callbacks import EMAWeightAveraging
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins.environments import SLURMEnvironment
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from qcnn_lightning.data.datamodule import ImageDataModule
from qcnn_lightning.errors import InputError
from qcnn_lightning.files import remove_temporaries
from qcnn_lightning.first_epoch import first_epoch_of
from qcnn_lightning.models.model import num_parameters
from qcnn_lightning.runs.run_folder import LAST, LOG, TRACEBACK, read_summary
from qcnn_lightning.training.build import build
from qcnn_lightning.training.checkpoints import AtomicCheckpoints, Checkpoints
from qcnn_lightning.training.console import EpochTable
from qcnn_lightning.training.interruption import Interrupted, StopOnSignal
from qcnn_lightning.training.module import Classifier
from qcnn_lightning.training.processes import other_processes
from qcnn_lightning.training.record import RunRecord, git_revision, versions, write_traceback
from qcnn_lightning.training.resume import (
    State,
    hydra_files,
    read_state,
    refuse_links_out,
    sole_owner,
    write_files,
)
from qcnn_lightning.training.tracking import EntanglementTracker, grouping_of, tags_of

log = logging.getLogger(__name__)


def train(config: DictConfig, quiet: bool = False) -> RunRecord:
    """Train the network that a configuration describes, and measure it before training and after every epoch.

    If the run folder holds an interrupted run of this configuration, that is resumed as if nothing had happened; if it
    has finished, its record is returned at once.

    Args:
        config: composed from `conf/train.yaml`.
        quiet: whether to print nothing for every epoch.

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
    folder = Path(config.run_dir)
    if rank_zero_only.rank != 0:  # type: ignore[attr-defined]
        # The first process of the run owns its folder, and does the talking.
        logging.getLogger("qcnn_lightning").setLevel(logging.WARNING)
        settings = resolved(config)
        return train_from(read_state(folder, settings), config, settings, quiet)
    refuse_links_out(folder)
    with sole_owner(folder), log_file(folder / LOG):
        try:
            settings = resolved(config)
            state = read_state(folder, settings)
        except (InputError, OmegaConfBaseException) as error:
            write_traceback(folder, error)
            raise
        remove_temporaries(folder)
        (folder / TRACEBACK).unlink(missing_ok=True)
        return train_from(state, config, settings, quiet)


@contextmanager
def log_file(path: Path) -> Iterator[None]:
    """Keep a log in a file."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


def resolved(config: DictConfig) -> dict[str, Any]:
    """Return a configuration as plain values, its interpolations resolved."""
    return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]


def train_from(state: State | None, config: DictConfig, settings: dict[str, Any], quiet: bool) -> RunRecord:
    """Train from a checkpoint, or from the beginning if there is none, and record how that ended.

    Args:
        state: what there is.
        config: the configuration.
        settings: the same, resolved.
        quiet: as in `train`.
    """
    folder = Path(config.run_dir)
    is_first = rank_zero_only.rank == 0  # type: ignore[attr-defined]
    record = RunRecord(folder, config.trainer.max_epochs)
    if state is not None:
        record.load_state_dict(state.checkpoint["callbacks"][record.state_key])
        if has_finished(record, state):
            record.was_finished = True
            if is_first:
                record.repair(status="finished")
            log.info(
                "%s has finished already, with test accuracy %.2f%%; to run it again delete the folder, or choose "
                "another sweep.name or hydra.run.dir",
                folder,
                100 * record.rows[-1]["accuracy/test"],
            )
            return record
    if is_first:
        write_files(folder, hydra_files(config))
        if state is not None and state.path.name != LAST.name:
            # It is damaged, and would take the place of the one before when the next is saved.
            (folder / LAST).unlink(missing_ok=True)
    stop = StopOnSignal()
    try:
        with stop.listening(), subnormals_as_zero():
            fit(state, config, settings, record, stop, quiet)
        if is_first:
            record.write(status="finished")
    except Interrupted:
        log.warning("interrupted in epoch %d; the same command resumes it: %s", len(record.rows) - 1, folder)
        raise
    except Exception as error:
        if is_first:
            record.write_failure(error)
        raise
    if stop.received:
        raise Interrupted(stop.received)
    return record


def has_finished(record: RunRecord, state: State) -> bool:
    """Return whether a run has its last epoch, or ended before by itself, as early stopping lets it.

    Not if its last checkpoint is lost: then the epochs that the one before it lacks are trained once more.
    """
    summary = read_summary(record.folder)
    ended = summary.get("status") == "finished" and summary.get("final", {}).get("epoch") == record.rows[-1]["epoch"]
    return record.is_finished or (ended and state.path.name == LAST.name)


def fit(
    state: State | None,
    config: DictConfig,
    settings: dict[str, Any],
    record: RunRecord,
    stop: StopOnSignal,
    quiet: bool,
) -> None:
    """Build everything and train to the last epoch; the arguments are those of `train_from`, and its callbacks."""
    check_positive(config, "trainer.max_epochs", "optimizer.lr")
    if not isinstance(config.entropy_weight, int | float):
        raise InputError(f"entropy_weight={config.entropy_weight}: must be a number, 0 for no such term")
    folder = Path(config.run_dir)
    datamodule = ImageDataModule(**config.data)
    seed_everything(config.seed, workers=True, verbose=False)
    logger = build_logger(config, record)
    # Before any data is fetched: a device that is not there, or a network that cannot be, is known at once.
    shown = [] if quiet else [EpochTable(record)]
    callbacks = [*weight_averaging(config), record, *shown, stop, Checkpoints(record)]
    trainer = build_trainer(config, callbacks, logger)
    build_network = partial(build, config.model, "model", num_sites=datamodule.num_sites)
    trial = build_network(num_classes=2)
    try:
        build(config.optimizer, "optimizer")(trial.parameters())
    except (TypeError, ValueError) as error:
        raise InputError(f"optimizer._target_={config.optimizer.get('_target_')}: {error}") from error
    cost = build(config.cost, "cost")
    datamodule.prepare_data()
    datamodule.setup()
    if state is not None:
        # Lightning does so too, but only once the loggers have begun.
        datamodule.load_state_dict(state.checkpoint.get(type(datamodule).__qualname__, {}))

    torch.manual_seed(config.seed)
    network = build_network(num_classes=datamodule.num_classes)
    classifier = Classifier(
        network,
        cost=cost,
        optimizer=build(config.optimizer, "optimizer"),
        scheduler=build(config.scheduler.scheduler, "scheduler.scheduler"),
        scheduler_interval=config.scheduler.interval,
        evaluation_statistics=config.evaluation_statistics,
        entropy_weight=config.entropy_weight,
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
    record.facts = {
        "arithmetic": arithmetic,
        "seed": config.seed,
        "num_parameters": num_parameters(network),
        "num_sites": datamodule.num_sites,
        "class_names": list(datamodule.class_names),
        "wandb_run_id": logger.version if isinstance(logger, EntanglementTracker) else None,
        "git_revision": git_revision(),
        "versions": versions(),
    }
    if trainer.is_global_zero:
        if state is None:
            record.write(status="interrupted")
        else:
            record.repair(status="interrupted")
    log.info(
        "%d parameters, %d sites, %d training images, %s; run folder %s",
        record.facts["num_parameters"],
        datamodule.num_sites,
        len(datamodule.splits["train"][1]),
        trainer.strategy.root_device,
        folder,
    )
    exit_code = 1
    try:
        around = classifier.kernel_for(datamodule.splits["train"][0][:1]).around_training()
        with warnings.catch_warnings(), other_processes(trainer, folder), around:
            ignore_hints()
            if state is None:
                trainer.validate(classifier, datamodule=datamodule, verbose=False)
                trainer.fit(classifier, datamodule=datamodule)
            else:
                log.info("resuming after epoch %d, from %s", record.rows[-1]["epoch"], state.path)
                if isinstance(logger, EntanglementTracker):
                    logger.catch_up(record.rows)
                trainer.fit(classifier, datamodule=datamodule, ckpt_path=state.path, weights_only=True)
        exit_code = 0
    except MisconfigurationException as error:
        # Such as a callback that needs a logger where there is none.
        raise InputError(str(error)) from error
    finally:
        if isinstance(logger, EntanglementTracker):
            logger.close(exit_code)


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


def weight_averaging(config: DictConfig) -> list[pl.Callback]:
    """Return the callback that keeps an exponential moving average of the weights, if `average_decay` asks for one.

    The average is updated once a Lightning step, that is once in `data.batches_per_item` batches. Evaluation, its
    population statistics, entropies and the `state_dict` of checkpoints are those of the averaged network. The callback
    puts the trained weights back as soon as it is told of an evaluation's end, so whoever measures comes before it.

    Raises:
        InputError: `average_decay` is out of range, or evaluation does not measure the averaged network's statistics.
    """
    decay = config.average_decay
    if not isinstance(decay, int | float) or not 0 <= decay < 1:
        raise InputError(f"average_decay={decay}: must be at least 0 (no averaging) and less than 1")
    if decay == 0:
        return []
    if config.evaluation_statistics != "population":
        raise InputError(
            f"average_decay={decay} needs evaluation_statistics=population: the running ones are not those of the "
            "averaged network"
        )
    return [EMAWeightAveraging(use_buffers=False, decay=decay)]


def build_trainer(config: DictConfig, callbacks: list[pl.Callback], logger: Logger | bool) -> pl.Trainer:
    """Build Lightning's Trainer with everything that a run needs around it.

    Args:
        config: the configuration, which may add further callbacks.
        callbacks: called after those of the configuration.
        logger: the logger, or False.

    Raises:
        InputError: an accelerator that is not there, or another setting of `trainer` that cannot be.
    """
    for key, allowed in (("gradient_clip_val", (None, 0)), ("accumulate_grad_batches", (None, 1))):
        if config.trainer.get(key) not in allowed:
            raise InputError(
                f"trainer.{key}={config.trainer[key]}: every batch is one optimisation step with its whole gradient "
                f"(eq. 48); leave it out, and choose data.batch_size and optimizer.lr"
            )
    own_callbacks = [build(callback, f"callbacks.{name}") for name, callback in config.callbacks.items()]
    try:
        with warnings.catch_warnings():
            ignore_hints()
            plugins: list[Any] = [AtomicCheckpoints()]
            if SLURMEnvironment.detect():
                # Whoever submitted the job requeues it; Lightning would do so a second time.
                plugins.append(SLURMEnvironment(auto_requeue=False))
            return instantiate(
                config.trainer,
                callbacks=[*own_callbacks, *callbacks],
                plugins=plugins,
                logger=logger,
                default_root_dir=config.run_dir,
                num_sanity_val_steps=0,
                enable_progress_bar=False,
                enable_model_summary=False,
                use_distributed_sampler=False,
            )
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, MisconfigurationException | ValueError | TypeError | RuntimeError):
            settings = " ".join(
                f"trainer.{key}={config.trainer[key]}" for key in ("accelerator", "devices", "strategy")
            )
            raise InputError(f"{settings}: {cause}") from error
        raise


def ignore_hints() -> None:
    """Ignore what Lightning warns of and is meant to be so."""
    # Batches are slices of tensors in memory; worker processes would only slow them down.
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    # Sweeps are started on a cluster's login node.
    warnings.filterwarnings("ignore", "The `srun` command is available on your system but is not used")
    # Entropies are measured by the first process alone.
    warnings.filterwarnings("ignore", "It is recommended to use `self.log.*sync_dist=True")
    # Lightning's own use of PyTorch.
    warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.*")


def build_logger(config: DictConfig, record: RunRecord) -> Logger | bool:
    """Build the logger, which gets its own folder inside the run's; False for none.

    A run that has begun keeps its identity in W&B.
    """
    if "_target_" not in config.logger:
        return False
    make = build(config.logger, "logger")
    if make.func is not EntanglementTracker:
        return make(save_dir=record.folder)
    begun = record.facts.get("wandb_run_id") or read_summary(record.folder).get("wandb_run_id")
    return make(
        save_dir=record.folder,
        run_id=str(begun or uuid.uuid4().hex[:8]),
        name=record.folder.name,
        group=config.sweep.name,
        tags=[*(config.logger.get("tags") or ()), *tags_of(config)],
        config=grouping_of(config),
        first_epoch=first_epoch_of(config.trainer.max_epochs, config.logger.get("first_epoch")),
    )


def check_positive(config: DictConfig, *keys: str) -> None:
    """Check that these settings are positive numbers.

    Raises:
        InputError: one is not.
    """
    for key in keys:
        value = OmegaConf.select(config, key)
        if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
            raise InputError(f"{key}={value}: must be a positive number")
