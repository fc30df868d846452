"""One training run, from its configuration to what it leaves on disk."""

import logging
import uuid
import warnings
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from qcnn_lightning.data.datamodule import ImageDataModule
from qcnn_lightning.errors import InputError
from qcnn_lightning.network import QCNN
from qcnn_lightning.training.console import EpochTable
from qcnn_lightning.training.module import Classifier
from qcnn_lightning.training.record import RunRecord, git_revision, versions
from qcnn_lightning.training.tracking import EntanglementTracker

log = logging.getLogger(__name__)


def train(config: DictConfig) -> RunRecord:
    """Train the network that a configuration describes, and measure it before training and after every epoch.

    Args:
        config: composed from `conf/train.yaml`.

    Returns:
        The record of the run, as it is on disk in `config.run_dir`.

    Raises:
        InputError: a setting that cannot be used; found before training starts wherever that can be known.
        NonFiniteCostError: the cost became infinite or NaN; the checkpoint of the epoch before is kept.
    """
    # Lightning tells every run which devices it did not use.
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    check_positive(config, "trainer.max_epochs", "optimizer.lr")
    folder = Path(config.run_dir)
    seed_everything(config.seed, workers=True, verbose=False)
    datamodule = ImageDataModule(**config.data)
    record = RunRecord(folder)
    logger = build_logger(config, folder)
    # Before any data is fetched: a device that is not there, or a network that cannot be, is known at once.
    trainer = build_trainer(config, folder, record, logger)
    build_network = partial(instantiate, config.model, _convert_="all", num_sites=datamodule.num_sites)
    build_network(num_classes=2)
    datamodule.prepare_data()
    datamodule.setup()

    torch.manual_seed(config.seed)
    network: QCNN = build_network(num_classes=datamodule.num_classes)
    classifier = Classifier(
        network,
        optimizer=instantiate(config.optimizer),
        scheduler=instantiate(config.scheduler.scheduler),
        scheduler_interval=config.scheduler.interval,
        evaluation_statistics=config.evaluation_statistics,
    )
    classifier.save_hyperparameters(OmegaConf.to_container(config, resolve=True))
    record.facts = {
        "seed": config.seed,
        "num_parameters": sum(parameter.numel() for parameter in network.parameters()),
        "num_sites": datamodule.num_sites,
        "class_names": list(datamodule.class_names),
        "wandb_run_id": logger.version if isinstance(logger, EntanglementTracker) else None,
        "git_revision": git_revision(),
        "versions": versions(),
    }
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
        with warnings.catch_warnings():
            # Batches are slices of tensors in memory; worker processes would only slow them down.
            warnings.filterwarnings("ignore", ".*does not have many workers.*")
            # Lightning's own use of PyTorch.
            warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.*")
            trainer.validate(classifier, datamodule=datamodule, verbose=False)
            trainer.fit(classifier, datamodule=datamodule)
        record.write(status="finished")
        exit_code = 0
    except Exception as error:
        record.write(status="failed", error=f"{type(error).__name__}: {error}")
        raise
    finally:
        if isinstance(logger, EntanglementTracker):
            logger.close(exit_code)
    return record


def build_trainer(config: DictConfig, folder: Path, record: RunRecord, logger: Logger | bool) -> pl.Trainer:
    """Build Lightning's Trainer with everything that a run needs around it.

    Raises:
        InputError: an accelerator that is not there, or another setting of `trainer` that Lightning refuses.
    """
    last = ModelCheckpoint(
        folder / "checkpoints", filename="last", enable_version_counter=False, save_on_train_epoch_end=True
    )
    callbacks = [*instantiate(config.callbacks, _convert_="all").values(), record, EpochTable(record), last]
    if config.data.val_size > 0:
        callbacks.append(
            ModelCheckpoint(
                folder / "checkpoints",
                filename="best",
                monitor="accuracy/val",
                mode="max",
                enable_version_counter=False,
                save_on_train_epoch_end=True,
            )
        )
    try:
        return instantiate(
            config.trainer,
            callbacks=callbacks,
            logger=logger,
            default_root_dir=str(folder),
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


def build_logger(config: DictConfig, folder: Path) -> Logger | bool:
    """Build the logger, which gets its own folder inside the run's; False for none."""
    if "_target_" not in config.logger:
        return False
    build = instantiate(config.logger, _convert_="all")
    if build.func is not EntanglementTracker:
        return build(save_dir=folder)
    return build(
        save_dir=folder,
        run_id=uuid.uuid4().hex[:8],
        name=folder.name,
        group=config.sweep.name,
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
