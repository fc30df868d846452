"""p(y, x) of one density per class: its likelihood, its accuracy, and its accuracy with half of the pixels missing.

    make studies STUDIES="density_classes density_classes_8bit"
    python benchmarks/class_densities.py multirun/density_classes multirun/density_classes_8bit [--missing 1000]

The runs of sweeps that differ in nothing but their class are one density; its `ee_mixture` is their mean.
"""

import argparse
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_module

from alike import runs_alike
from machine import RESULTS, write_results
from qcnn_lightning import command_line  # noqa: F401  the configs use its resolvers
from qcnn_lightning.evaluation.evaluate import evaluate
from qcnn_lightning.evaluation.sample import sample
from qcnn_lightning.report.tables import last
from qcnn_lightning.runs.run import Run
from qcnn_lightning.runs.settings import CLASSES

PART_MISSING = 0.5


def measure(runs: Sequence[Run], missing: int) -> dict[str, Any]:
    """Return the numbers of one density for every class."""
    given = "[" + ",".join(f"'{run.folder}'" for run in runs) + "]"
    with initialize_config_module("qcnn_lightning.conf", version_base="1.3"), tempfile.TemporaryDirectory() as folder:
        evaluation, _ = evaluate(compose("evaluate", [f"runs={given}", f"out={folder}/evaluation", "figures=[]"]))
        row: dict[str, Any] = {
            "data": runs[0].data,
            "levels": runs[0].settings.get("data.levels") or 256,
            "d": runs[0].d,
            "seed": runs[0].seed,
            "epochs": runs[0].last_epoch + 1,
            "parameters": evaluation.num_parameters,
            "seconds": sum(run.summary["seconds"] for run in runs),
            "nats": evaluation.classification.cost,
            "bits_per_pixel": evaluation.classification.cost / math.log(2) / evaluation.mean_images[0].numel(),
            "accuracy": evaluation.classification.accuracy,
            "ee_mixture": sum(last(run.column("ee/mixture")) for run in runs) / len(runs),
        }
        if missing:
            overrides = [f"runs={given}", f"n={missing}", f"missing={PART_MISSING}", f"out={folder}/samples.png"]
            row |= {"missing_images": missing, "accuracy_missing": sample(compose("sample", overrides))[0].accuracy}
    return row


def main() -> None:
    """Measure every density of the sweeps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", type=Path, nargs="+")
    parser.add_argument("--missing", type=int, default=1000, help="test images with half of their pixels missing")
    parser.add_argument("--output", type=Path, default=RESULTS / "class_densities.json")
    given = parser.parse_args()
    torch.set_grad_enabled(False)
    rows = []
    for runs in runs_alike(given.sweeps, CLASSES):
        rows.append(measure(runs, given.missing))
        print(rows[-1], flush=True)
    write_results(given.output, rows)


if __name__ == "__main__":
    main()
