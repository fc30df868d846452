"""`qcnn-dashboard`, or `python -m qcnn_lightning.dashboard`: the W&B view of entanglement against cost."""

from importlib.util import find_spec
from pathlib import Path

import hydra
from omegaconf import DictConfig

from qcnn_lightning.command_line import one_message, whole_command
from qcnn_lightning.errors import InputError


@hydra.main(version_base="1.3", config_path="pkg://qcnn_lightning.conf", config_name="dashboard")
def main(config: DictConfig) -> None:
    """Publish the view, or write its specification."""
    with one_message():
        if find_spec("wandb_workspaces") is None:
            raise InputError("the view needs the package wandb-workspaces: pip install 'qcnn-lightning[dashboard]'")
    from qcnn_lightning.training.workspace import describe, publish

    with one_message():
        address = publish(config.entity, config.project, Path(config.out))
    print(f"view: {address}" if address else f"would be created in {config.entity}/{config.project}:")
    print(describe(Path(config.out)))
    print(f"specification: {config.out}")


def command() -> None:
    """Do what the command line says."""
    with whole_command():
        main()


if __name__ == "__main__":
    command()
