"""One training step of a matrix product state: ours against TensorKrowch's MPSLayer and a plain sweep with autograd.

256 sites, 3 local functions, bond 20, ten classes in the middle, batches of 50: 309 000 and 311 000 parameters.
Forward, squared distance, backward, AdamW. All take turns in one process, a few steps each, so what else the machine
does slows all of them; the ratio is of medians.

    pip install tensorkrowch
    python benchmarks/mps_step.py [--threads 1 2] [--rounds 10]
"""

from typing import Any

import tensorkrowch as tk
import torch
from torch import Tensor, nn

from machine import RESULTS
from qcnn_lightning import MPS
from qcnn_lightning.costs import NegativeLogLikelihood, SquaredDistance
from step_turns import measure_and_write, step_of, time_in_turns

SITES, LOCAL, BOND, CLASSES, BATCH = 256, 3, 20, 10, 50


class PlainSweep(nn.Module):
    """The same network as `MPS`, an operation of PyTorch's after the other, with autograd."""

    def __init__(self, network: MPS):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores."""
        ends, sites = self.network._tensors()
        features = self.network.represent(x)
        vector = features[0] @ ends
        for functions, site in zip(features[1:], sites, strict=True):
            vector = torch.einsum("abk,abo,akoi->abi", functions, vector, site)
        return torch.einsum("bl,lyr,br->by", vector[0], self.network._classes(), vector[1])


class TensorKrowch(nn.Module):
    """TensorKrowch's layer on the same local functions; traced, as its manual says."""

    def __init__(self, network: MPS):
        super().__init__()
        self.represent = network.represent
        self.layer = tk.models.MPSLayer(
            n_features=SITES + 1, in_dim=LOCAL, out_dim=CLASSES, bond_dim=BOND, out_position=SITES // 2,
            init_method="randn_eye", std=1e-3,
        )  # fmt: skip
        self.layer.auto_stack, self.layer.auto_unbind = True, False
        self.layer.trace(torch.zeros(1, SITES, LOCAL))

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores."""
        left, right = self.represent(x).unbind(1)
        return self.layer(torch.cat((left, right.flip(0))).transpose(0, 1))


def measure(threads: int, rounds: int, steps: int) -> list[dict[str, Any]]:
    """Let all take turns; return a row for each."""
    torch.manual_seed(0)
    ours, density = (MPS(SITES, CLASSES, bond=BOND, d=LOCAL - 1) for _ in range(2))
    plain, theirs = PlainSweep(MPS(SITES, CLASSES, bond=BOND, d=LOCAL - 1)), TensorKrowch(ours)
    sizes = SITES, CLASSES, BATCH
    taking_turns = {
        "qcnn_lightning.MPS": (ours, step_of(ours, ours, SquaredDistance(), *sizes)),
        "qcnn_lightning.MPS, negative log likelihood": (
            density,
            step_of(density, density.log_joint, NegativeLogLikelihood(), *sizes),
        ),
        "a plain sweep with autograd": (plain, step_of(plain, plain, SquaredDistance(), *sizes)),
        "tensorkrowch.MPSLayer": (theirs.layer, step_of(theirs, theirs, SquaredDistance(), *sizes)),
    }
    return time_in_turns(taking_turns, threads, rounds, steps)


if __name__ == "__main__":
    measure_and_write(__doc__, measure, RESULTS / "mps_step.json", steps=20)
