"""`qcnn-predict`, or `python -m qcnn_lightning.predict`: what a trained network takes images for."""

import hydra
from omegaconf import DictConfig

from qcnn_lightning.command_line import one_message, quote_paths, whole_command
from qcnn_lightning.own_parts import find_modules_here


@hydra.main(version_base="1.3", config_path="pkg://qcnn_lightning.conf", config_name="predict")
def main(config: DictConfig) -> None:
    """Classify the images of a folder; print how many of each class there are, and the file of the table."""
    # Imported only now: --help and --cfg answer at once.
    from qcnn_lightning.evaluation.predict import predict

    with one_message():
        table, file = predict(config)
    for name, number in table["class"].value_counts(sort=False).items():
        print(f"{number:>6} {name}")
    print(f"{len(table)} images: {file}")


def command() -> None:
    """Do what the command line says."""
    find_modules_here()
    quote_paths("run", "images", "out")
    with whole_command():
        main()


if __name__ == "__main__":
    command()
