"""Densities beside published ones, and what a density and a classifier lose with their entropy, seed by seed."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pandas as pd

from qcnn_lightning.report.groups import Collection, Group
from qcnn_lightning.report.tables import last, mean_and_deviation
from qcnn_lightning.runs.run import Run
from reproduction.embedding_study import weight_of
from reproduction.studies import contrast_table, mean_with_interval

WEIGHT = "entropy_weight"
KINDS = {"density": False, "classifier": True}
OF_CLASS_DENSITIES = ("nats", "bits_per_pixel", "accuracy", "accuracy_missing", "ee_mixture", "seconds")
OF_DENSITIES = ("nats/train", "nats/test", "bits_per_pixel/test", "ee/mean", "ee/mixture")
ENTROPY_OF = {"nats/test": "ee/mixture", "accuracy/test": "ee/mean"}
"""The entropy that bounds what was learned: of the mixture for p(x), the mean of the classes for p(y|x)."""
# Of 28x28 test images, as commonly quoted: data set, grey levels, density, parameters, nats an image or bits a pixel.
PUBLISHED = (
    ("mnist", 2, "matrix product state ([1901.02217](https://arxiv.org/abs/1901.02217))", "", "101.45", ""),
    ("mnist", 2, "tree of dense tensors, bond 50 ([1901.02217](https://arxiv.org/abs/1901.02217))", "", "94.25", ""),
    ("mnist", 2, "NADE", "", "88.9", ""),
    ("mnist", 2, "PixelCNN", "", "81.3", ""),
    ("mnist", 256, "squared circuit, complex, ten epochs (cirkit's notebooks)", "", "", "1.260"),
    ("mnist", 256, "tree of products, inner weights shared (uni-circ-le)", "", "", "1.225"),
    ("mnist", 256, "tree of products (uni-circ-le)", "380 million", "", "1.175"),
    ("fmnist", 256, "tree of products (uni-circ-le)", "380 million", "", "3.38"),
)


def is_classifier(run: Run) -> bool:
    """Return whether a run learns p(y|x) alone, not p(y, x) or p(x)."""
    learns_images = str(run.settings.get("cost._target_", "")).endswith("NegativeLogLikelihood")
    return not learns_images or float(run.settings.get("cost.discriminative_weight") or 0) == 1


def learns_labels(run: Run) -> bool:
    """Return whether a run learns which class an image is of; else its accuracy says nothing."""
    weight = float(run.settings.get("cost.discriminative_weight") or 0)
    return is_classifier(run) or weight > 0 or bool(run.settings.get("cost.labels", True))


def grey_levels(run: Run) -> int:
    """Return K, the grey levels of a run's images."""
    levels = run.settings.get("data.levels")
    return 256 if levels is None else int(levels)


def density_table(collection: Collection) -> pd.DataFrame:
    """Return a row per group of densities: `data`, `levels`, a `run`, and (mean, deviation) of the last epoch.

    `seconds` are those of all epochs together.
    """
    rows = []
    for group in collection.groups:
        runs = [run for run in group.complete_runs if "nats/test" in run.metrics and not is_classifier(run)]
        if runs:
            row: dict[str, Any] = {
                "data": group.data,
                "levels": grey_levels(runs[0]),
                "run": runs[0],
                "runs": len(runs),
            }
            row |= {name: mean_and_deviation([last(run.column(name)) for run in runs]) for name in OF_DENSITIES}
            row["seconds"] = mean_and_deviation([float(run.column("time/epoch_s").sum()) for run in runs])
            rows.append(row)
    return pd.DataFrame(rows)


def class_density_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return a row per data set and grey levels of densities of every class, from `benchmarks/class_densities.py`.

    `parameters`, `epochs`, `d`, `missing_images`, `seeds`, and (mean, deviation) of the measured numbers.
    """
    table = pd.DataFrame(rows)
    joined = []
    for (data, levels), seeds in table.groupby(["data", "levels"], sort=False):
        row: dict[str, Any] = {"data": data, "levels": levels, "seeds": len(seeds)}
        row |= {name: seeds[name].iloc[0] for name in ("parameters", "epochs", "d", "missing_images")}
        row |= {name: mean_and_deviation(list(seeds[name].astype(float))) for name in OF_CLASS_DENSITIES}
        joined.append(row)
    return pd.DataFrame(joined)


def entropies_at_scales(collection: Collection) -> Iterator[tuple[str, str, list[Run], list[float]]]:
    """Yield data set, kind, runs and mean entropies of the last epoch, scale by scale, without a term of the entropy.

    The entropies are those of blocks of 1, 2, 4, .. pixels with the rest, means over classes, blocks and runs, nats.
    """
    for data in dict.fromkeys(run.data for run in collection.runs):
        for kind, classifies in KINDS.items():
            groups = of_kind(collection, classifies).groups
            runs = [run for group in groups if group.data == data for run in group.complete_runs]
            complete = [run for run in runs if not weight_of(run)]
            if not complete:
                continue
            levels = [name for name in complete[0].metrics if str(name).startswith("profile/level_")]
            means = [mean_and_deviation([last(run.column(str(name))) for run in complete])[0] for name in levels]
            yield data, kind, complete, means


def of_kind(collection: Collection, classifies: bool) -> Collection:
    """Return the classifiers, or the densities, of a collection."""
    return Collection(tuple(run for run in collection.runs if is_classifier(run) == classifies))


def intervention_rows(collection: Collection) -> Iterator[dict[str, Any]]:
    """Yield what a weight of the entropy in the cost changes, to weight 0, for densities and classifiers.

    Keys `data`, `kind`, `value`, `runs`, and estimates of `nats`, `accuracy` and `ee` with their paired differences;
    `ee` is that of the mixture for a density, the mean of the classes for a classifier. A classifier's likelihood and
    the accuracy of a density without labels are not learned: they have no estimate.
    """
    for kind, classifies in KINDS.items():
        own = of_kind(collection, classifies)
        table = contrast_table(own, WEIGHT, 0, compared(classifies)) if own.runs else pd.DataFrame()
        rows: list[dict[str, Any]] = table.to_dict("records")  # type: ignore[assignment]
        unlearned = ["nats"] if classifies else [] if all(map(learns_labels, own.runs)) else ["accuracy"]
        nothing = mean_with_interval([])
        for row in rows:
            row |= {key: nothing for name in unlearned for key in (name, f"{name} difference")}
            yield {**row, "kind": kind}


def compared(classifies: bool) -> dict[str, Callable[[Run], float]]:
    """Return what is compared, of the last epoch."""
    columns = {"nats": "nats/test", "accuracy": "accuracy/test"}
    columns["ee"] = ENTROPY_OF[columns["accuracy" if classifies else "nats"]]
    return {name: partial(lambda column, run: last(run.column(column)), column) for name, column in columns.items()}


def learned(groups: list[Group], name: str) -> list[Group]:
    """Return the groups whose last value of `accuracy/test` or `nats/test` was learned."""
    learns: Callable[[Run], bool] = learns_labels if name == "accuracy/test" else lambda run: not is_classifier(run)
    return [group for group in groups if learns(group.runs[0])]
