"""`qcnn-sample`, or `python -m qcnn_lightning.sample`: images drawn from a trained density."""

import hydra
from omegaconf import DictConfig

from qcnn_lightning.command_line import one_message, quote_paths, whole_command
from qcnn_lightning.own_parts import find_modules_here


@hydra.main(version_base="1.3", config_path="pkg://qcnn_lightning.conf", config_name="sample")
def main(config: DictConfig) -> None:
    """Draw images; print the files, and of observed images how many are classified correctly."""
    # Imported only now: --help and --cfg answer at once.
    from qcnn_lightning.evaluation.sample import sample

    with one_message():
        samples, picture = sample(config)
    if samples.accuracy is not None:
        print(f"{samples.accuracy:.2%} of {len(samples.images)} images classified correctly by p(y | observed pixels)")
    print(f"{len(samples.images)} samples: {picture}, {picture.with_suffix('.npy')}")


def command() -> None:
    """Do what the command line says."""
    find_modules_here()
    quote_paths("run", "runs", "checkpoint", "state", "observed", "out", "data.root", "data.path", "data.cache")
    with whole_command():
        main()


if __name__ == "__main__":
    command()
