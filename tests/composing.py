"""Evaluations and data modules as the command line makes them, in this process."""

from hydra import compose, initialize_config_module

from qcnn_lightning import command_line  # noqa: F401  the configs use its resolvers
from qcnn_lightning.data.datamodule import ImageDataModule
from qcnn_lightning.evaluation.evaluate import evaluate


def composed(name, *overrides):
    with initialize_config_module("qcnn_lightning.conf", version_base="1.3"):
        return compose(name, list(overrides))


def evaluation_of(*overrides, figures="[]"):
    """Evaluate as the command line does; paths are quoted as it quotes them."""
    quoted = [f"{key}='{value}'" for key, _, value in (override.partition("=") for override in overrides)]
    return evaluate(composed("evaluate", f"figures={figures}", *quoted))


def data_module(name: str, *overrides: str, seed: int = 0) -> ImageDataModule:
    """The data module that `data=<name> <overrides>` stands for."""
    with initialize_config_module("qcnn_lightning.conf", version_base="1.3"):
        config = compose(overrides=[f"+data={name}", f"+seed={seed}", *overrides])
    return ImageDataModule(**config.data)


def ready(module: ImageDataModule) -> ImageDataModule:
    module.prepare_data()
    module.setup()
    return module
