"""`qcnn-compress`, or `python -m qcnn_lightning.compress`: a trained tree with fewer channels."""

import hydra
from omegaconf import DictConfig

from qcnn_lightning.command_line import one_message, quote_paths, whole_command
from qcnn_lightning.own_parts import find_modules_here


@hydra.main(version_base="1.3", config_path="pkg://qcnn_lightning.conf", config_name="compress")
def main(config: DictConfig) -> None:
    """Compress one network; print parameters and accuracies, and the folder of the new state."""
    # Imported only now: --help and --cfg answer at once.
    from qcnn_lightning.evaluation.compress import compress

    with one_message():
        result, folder, settings = compress(config)
        if settings is not None:
            from qcnn_lightning.from_python import train

            run = train(settings)
            result.parameters["retrained"] = int(run.summary["num_parameters"])
            result.accuracy["retrained"] = float(run.summary["final"]["accuracy/test"])
            result.write(folder)
    print(f"channels     {result.channels['before']} -> {result.channels['after']}")
    print(f"parameters   {result.parameters['before']} -> {result.parameters['after']}")
    print(f"fidelity     {result.fidelity:.4g}")
    told = [f"{name} {value:.2%}" for name, value in result.accuracy.items() if value is not None]
    print(f"test accuracy  {', '.join(told)}")
    print(f"results   {folder}")


def command() -> None:
    """Do what the command line says."""
    find_modules_here()
    quote_paths("run", "checkpoint", "out", "data.root", "data.path", "data.cache")
    with whole_command():
        main()


if __name__ == "__main__":
    command()
