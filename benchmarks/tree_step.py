"""One training step of a tree of dense tensors: ours against TensorKrowch's Tree.

256 sites, 5 local functions, 16 channels, a tensor for every node, ten classes, batches of 50: 570 000 parameters.
Forward, squared distance, backward, AdamW; in turns, as in mps_step.py.

    pip install tensorkrowch
    python benchmarks/tree_step.py [--threads 1 2] [--rounds 10]
"""

from typing import Any

import tensorkrowch as tk
import torch
from torch import Tensor, nn

from machine import RESULTS
from qcnn_lightning import TTN
from qcnn_lightning.costs import SquaredDistance
from step_turns import measure_and_write, step_of, time_in_turns

SITES, LOCAL, BOND, CLASSES, BATCH = 256, 5, 16, 10, 50


class TensorKrowch(nn.Module):
    """TensorKrowch's tree on the same local functions; traced, as its manual says."""

    def __init__(self, network: TTN):
        super().__init__()
        self.represent = network.represent
        nodes = [SITES >> level for level in range(1, SITES.bit_length())]
        legs = [[LOCAL, LOCAL, BOND], *([BOND, BOND, BOND] for _ in nodes[2:]), [BOND, BOND, CLASSES]]
        self.tree = tk.models.Tree(nodes, legs)
        self.tree.trace(torch.zeros(1, SITES, LOCAL))

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores."""
        scores: Tensor = self.tree(self.represent(x))
        return scores


def measure(threads: int, rounds: int, steps: int) -> list[dict[str, Any]]:
    """Let both take turns; return a row for each."""
    torch.manual_seed(0)
    ours = TTN(SITES, CLASSES, d=LOCAL - 1, bond=BOND, sharing="none")
    theirs = TensorKrowch(ours)
    sizes = SITES, CLASSES, BATCH
    taking_turns = {
        "qcnn_lightning.TTN": (ours, step_of(ours, ours, SquaredDistance(), *sizes)),
        "tensorkrowch.models.Tree": (theirs.tree, step_of(theirs, theirs, SquaredDistance(), *sizes)),
    }
    return time_in_turns(taking_turns, threads, rounds, steps)


if __name__ == "__main__":
    measure_and_write(__doc__, measure, RESULTS / "tree_step.json", steps=10)
