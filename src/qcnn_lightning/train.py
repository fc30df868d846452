"""`python -m qcnn_lightning.train`: compose the configuration, train, say where the results are."""

import hydra
from omegaconf import DictConfig

from qcnn_lightning.command_line import one_message


@hydra.main(version_base="1.3", config_path="pkg://qcnn_lightning.conf", config_name="train")
def main(config: DictConfig) -> float:
    """Train one network; return what a search maximises."""
    # Imported only now, so that --help and --cfg answer at once.
    from qcnn_lightning.training.job import run_job

    with one_message():
        return run_job(config)


if __name__ == "__main__":
    with one_message():
        main()
