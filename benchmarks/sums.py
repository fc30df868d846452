"""Sums of trained networks, each one exact tree tensor network (theory.md, eq. E2): their accuracy and their entropy.

    make studies STUDIES="best_mnist_sum best_fmnist_sum"
    python benchmarks/sums.py multirun/best_mnist_sum multirun/best_fmnist_sum

Runs that differ in their seeds alone are measured one by one; by twos, in the order of their seeds, so that no sums
share a network; and all together. Those that learned from mirrored images are measured with mirror images, too, which
need no further parameters. What was measured before stays.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from alike import runs_alike
from machine import RESULTS, write_results
from qcnn_lightning.costs import most_probable
from qcnn_lightning.data.flattening import mirror_levels
from qcnn_lightning.evaluation.ensemble import MirrorImage
from qcnn_lightning.evaluation.evaluate import rebuild_data
from qcnn_lightning.models.model import num_parameters
from qcnn_lightning.runs.rebuild import cost_of
from qcnn_lightning.runs.settings import without_paths
from qcnn_lightning.states import NetworkState
from qcnn_lightning.trained_run import TrainedRun

BATCH_SIZE = 1000
PATHS = OmegaConf.create({"root": None, "path": None, "cache": None})
KEY = ("data", "size", "d", "epochs", "seeds", "mirror")
"""What tells one sum from another."""


class Sums:
    """Sums of networks, by the scores of each on the test images and by its states, which are computed once.

    Args:
        runs: that differ in their seeds alone.
    """

    def __init__(self, runs: list[TrainedRun]):
        self.runs = runs
        checkpoint: Any = runs[0].checkpoint()
        self.cost = cost_of(checkpoint)
        self.data = rebuild_data(without_paths(checkpoint.config), PATHS, checkpoint.path)
        levels = mirror_levels(self.data.pixel_order, *self.data.image_shape)
        self.mirrors = (False, True) if runs[0].settings["data.augment.flip"] else (False,)
        states: list[Any] = [run.state() for run in runs]
        self.scores: dict[bool, list[Tensor]] = {}
        self.states: dict[bool, list[NetworkState]] = {}
        for mirror in self.mirrors:
            networks = [MirrorImage(run.network, levels) if mirror else run.network for run in runs]
            self.scores[mirror] = [self.scores_of(network) for network in networks]
            self.states[mirror] = [state.exchanged(levels) if mirror else state for state in states]

    def scores_of(self, network: Any) -> Tensor:
        """Return the scores of the test images."""
        images, _ = self.data.splits["test"]
        return torch.cat([network(some) for some in images.split(BATCH_SIZE)]).double()

    def measure(self, places: list[int], mirror: bool, with_entropy: bool) -> dict[str, Any]:
        """Return the numbers of the sum of the runs at these places."""
        runs, (_, labels) = [self.runs[place] for place in places], self.data.splits["test"]
        terms = [(mirrored, place) for mirrored in ((False, True) if mirror else (False,)) for place in places]
        scores = torch.stack([self.scores[mirrored][place] for mirrored, place in terms]).mean(0)
        row = {
            "data": runs[0].data,
            "size": self.data.image_shape[0],
            "d": runs[0].d,
            "epochs": runs[0].last_epoch + 1,
            "seeds": [run.seed for run in runs],
            "mirror": mirror,
            "parameters": sum(num_parameters(run.network) for run in runs),
            "seconds": sum(run.summary["seconds"] for run in runs),
            "cost": self.cost(scores, labels).mean().item(),
            "accuracy": (most_probable(self.cost, scores) == labels).double().mean().item(),
        }
        if with_entropy:
            state = NetworkState.sum([self.states[mirrored][place] for mirrored, place in terms])
            row["ee"] = state.entanglement_entropy().mean().item()
        return row


def main() -> None:
    """Measure the sums of the sweeps' runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, default=RESULTS / "sums.json")
    given = parser.parse_args()
    torch.set_grad_enabled(False)
    rows = []
    for found in runs_alike(given.sweeps, "seed"):
        runs = sorted(found, key=lambda run: run.seed)
        number = len(runs)
        alone = [[place] for place in range(number)]
        by_twos = [[place, place + 1] for place in range(0, number - 1, 2)]
        together = [list(range(number))] if number > 2 else []
        sums = Sums(runs)
        for places in alone + by_twos + together:
            for mirror in sums.mirrors:
                rows.append(sums.measure(places, mirror, with_entropy=places not in together))
                print(rows[-1], flush=True)
    measured = [[row[name] for name in KEY] for row in rows]
    earlier = json.loads(given.output.read_text())["rows"] if given.output.is_file() else []
    write_results(given.output, [row for row in earlier if [row[name] for name in KEY] not in measured] + rows)


if __name__ == "__main__":
    main()
