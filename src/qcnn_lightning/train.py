"""`qcnn-train`, or `python -m qcnn_lightning.train`: compose the configuration, train, print the run folder."""

from concurrent.futures.process import BrokenProcessPool

import hydra
from omegaconf import DictConfig

from qcnn_lightning import launcher
from qcnn_lightning.command_line import PATHS_OF_TRAINING, one_message, quote_paths, whole_command
from qcnn_lightning.own_parts import find_modules_here

MOST_STARTS = 10


@hydra.main(version_base="1.3", config_path="pkg://qcnn_lightning.conf", config_name="train")
def main(config: DictConfig) -> float | str:
    """Train one network; return what a search maximises, or why a sweep's job failed."""
    # Imported only now: --help and --cfg answer at once.
    from qcnn_lightning.training.job import run_job

    with one_message():
        return run_job(config)


def main_until_no_job_is_killed() -> None:
    """Restart the sweep when a killed worker brings joblib's pool down; its jobs resume.

    Raises:
        ChildProcessError: this happened too often.
    """
    for start in range(1, MOST_STARTS + 1):
        try:
            return main()
        except BrokenProcessPool as error:
            told = "a job's process was killed, perhaps because memory ran out (lower hydra.launcher.n_jobs)"
            if start == MOST_STARTS:
                raise ChildProcessError(f"{told}, {start} times; the same command resumes the sweep") from error
            print(f"{told}; the jobs are resumed", flush=True)


def command() -> None:
    """Do what the command line says."""
    find_modules_here()
    quote_paths(*PATHS_OF_TRAINING)
    launcher.register()
    with whole_command():
        main_until_no_job_is_killed()


if __name__ == "__main__":
    command()
