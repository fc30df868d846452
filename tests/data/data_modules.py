"""Data modules as the command line makes them."""

from hydra import compose, initialize_config_module

from qcnn_lightning.data.datamodule import ImageDataModule


def data_module(name: str, *overrides: str, seed: int = 0) -> ImageDataModule:
    """The data module that `data=<name> <overrides>` stands for."""
    with initialize_config_module("qcnn_lightning.conf", version_base="1.3"):
        config = compose(overrides=[f"+data={name}", f"+seed={seed}", *overrides])
    return ImageDataModule(**config.data)


def ready(module: ImageDataModule) -> ImageDataModule:
    module.prepare_data()
    module.setup()
    return module
