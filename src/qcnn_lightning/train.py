"""`python -m qcnn_lightning.train`: compose the configuration, train, say where the results are."""

import hydra
from omegaconf import DictConfig

from qcnn_lightning.command_line import one_message


@hydra.main(version_base="1.3", config_path="pkg://qcnn_lightning.conf", config_name="train")
def main(config: DictConfig) -> float:
    """Train one network; return its last test accuracy, which a sweeper may maximise."""
    # Imported only now, so that --help and --cfg answer at once.
    from qcnn_lightning.training.console import show_closing_summary
    from qcnn_lightning.training.run import train

    with one_message():
        record = train(config)
    show_closing_summary(record)
    return record.rows[-1]["accuracy/test"]


if __name__ == "__main__":
    with one_message():
        main()
