"""`python -m reproduction.keep_network multirun/<sweep>/<job>... reproduction/networks`: keep networks of runs.

Of a run's last checkpoint its weights, its settings without paths, and its epoch: what an evaluation reads, a third of
the size. Written as `<data set>_<sharing>.ckpt`.
"""

import argparse
from pathlib import Path

from qcnn_lightning.command_line import one_message
from qcnn_lightning.errors import InputError
from qcnn_lightning.runs.run import Run
from qcnn_lightning.runs.settings import without_paths
from qcnn_lightning.training.checkpoints import AtomicCheckpoints


def keep_network(run: Path, out: Path) -> Path:
    """Write the network of a run; return the file.

    Raises:
        InputError: there is no checkpoint that can be read, or the file cannot be written.
    """
    checkpoint = Run(run).checkpoint()
    if checkpoint is None:
        raise InputError(f"{run} has no checkpoint: give the folder of a run")
    # Where its logs and jobs were is nobody's concern.
    config = without_paths(checkpoint.config)
    settings = {key: value for key, value in config.items() if key not in ("logger", "callbacks", "sweep")}
    content = checkpoint.content
    kept = {"state_dict": content["state_dict"], "hyper_parameters": settings, "epoch": content["epoch"]}
    path = out / f"{settings['data']['name']}_{settings['model']['sharing']}.ckpt"
    AtomicCheckpoints().save_checkpoint(kept, path)
    return path


def main() -> None:
    """Keep the networks of the runs named on the command line."""
    parser = argparse.ArgumentParser(description="Keep the trained networks of runs.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="run", help="multirun/<sweep>/<job>")
    parser.add_argument("out", type=Path, help="folder of the networks")
    given = parser.parse_args()
    for run in given.runs:
        path = keep_network(run, given.out)
        print(f"{run}: {path}, {path.stat().st_size} bytes")


if __name__ == "__main__":
    with one_message():
        main()
