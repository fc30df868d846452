"""`python -m qcnn_lightning.dashboard`: create or update the W&B view of entanglement against cost."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from qcnn_lightning.command_line import command, one_message


@hydra.main(version_base="1.3", config_path="pkg://qcnn_lightning.conf", config_name="dashboard")
def main(config: DictConfig) -> None:
    """Publish the view, or write its specification."""
    from qcnn_lightning.training.workspace import describe, publish

    with one_message():
        address = publish(config.entity, config.project, Path(config.out))
    print(f"view: {address}" if address else f"would be created in {config.entity}/{config.project}:")
    print(describe(Path(config.out)))
    print(f"specification: {config.out}")


if __name__ == "__main__":
    with command():
        main()
