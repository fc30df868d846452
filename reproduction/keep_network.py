"""`python -m reproduction.keep_network multirun/<sweep>/<job>... reproduction/networks`: keep networks of runs.

Of a run's last checkpoint its weights, its settings without paths, and its epoch: what an evaluation reads, a third of
the size. Written as `<data set>_<sharing>.ckpt`.
"""

import argparse
from pathlib import Path

from qcnn_lightning.command_line import one_message
from qcnn_lightning.runs.run_folder import read_checkpoint, read_run
from qcnn_lightning.training.checkpoints import AtomicCheckpoints


def keep_network(run: Path, out: Path) -> Path:
    """Write the network of a run; return the file.

    Raises:
        InputError: no run that can be read, or the file cannot be written.
    """
    found = read_run(run)
    checkpoint = read_checkpoint(found.checkpoint_path)
    # Where its logs and jobs were is nobody's concern.
    settings = {key: value for key, value in found.config.items() if key not in ("logger", "callbacks", "sweep")}
    kept = {"state_dict": checkpoint["state_dict"], "hyper_parameters": settings, "epoch": checkpoint["epoch"]}
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
