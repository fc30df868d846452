"""`qcnn-evaluate`, or `python -m qcnn_lightning.evaluate`: measure a trained network."""

import hydra
from omegaconf import DictConfig

from qcnn_lightning.command_line import one_message, quote_paths, whole_command
from qcnn_lightning.own_parts import find_modules_here


@hydra.main(version_base="1.3", config_path="pkg://qcnn_lightning.conf", config_name="evaluate")
def main(config: DictConfig) -> None:
    """Evaluate one network; print its numbers and the folder of its files."""
    # Imported only now: --help and --cfg answer at once.
    from qcnn_lightning.evaluation.evaluate import evaluate
    from qcnn_lightning.evaluation.tables import show_evaluation

    with one_message():
        show_evaluation(*evaluate(config))


def command() -> None:
    """Do what the command line says."""
    find_modules_here()
    quote_paths("run", "runs", "checkpoint", "state", "out", "data.root", "data.path", "data.cache")
    with whole_command():
        main()


if __name__ == "__main__":
    command()
