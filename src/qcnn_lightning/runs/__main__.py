"""`qcnn-runs multirun/<sweep>`, or `python -m qcnn_lightning.runs`: a table of jobs, finished or not."""

import argparse
import shlex
from pathlib import Path

from qcnn_lightning.command_line import one_message, way_to_start, whole_command


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    prog = shlex.join(way_to_start("runs"))
    parser = argparse.ArgumentParser(prog=prog, description="A table of jobs, also while they run.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="folder", help="a run, a sweep, or a folder of sweeps")
    parser.add_argument(
        "--first-epoch",
        type=int,
        metavar="N",
        help="first epoch of the correlation (default: 30, or a third of the run where that is less)",
    )
    given = parser.parse_args(arguments)
    # Imported only now, so that --help answers at once.
    from qcnn_lightning.report.console import show_runs

    with one_message():
        show_runs(given.folders, given.first_epoch)


def command() -> None:
    """Do what the command line says."""
    with whole_command():
        main()


if __name__ == "__main__":
    command()
