"""Tables of networks that are densities."""

import json
from collections.abc import Iterator
from typing import Any

from qcnn_lightning.labels import data_name
from qcnn_lightning.report.groups import Collection
from reproduction.density_study import PUBLISHED as PUBLISHED_DENSITIES
from reproduction.density_study import class_density_table, density_table, entropies_at_scales, intervention_rows
from reproduction.tables.cells import Row, percent, plain, points, records, spread, with_interval
from reproduction.tables.measurements import MEASUREMENTS


def densities(collection: Collection) -> Iterator[Row]:
    """Yield published densities of 28x28 images, and the runs given, by data set and grey levels."""
    yield (
        *("data set", "grey levels", "density", "parameters", "epochs", "seeds"),
        *("nats an image", "train", "bits a pixel", "EE of a state (nats)", "EE of the mixture", "seconds"),
    )
    ours = records(density_table(collection))
    published_ones = [(data, levels) for data, levels, *_ in PUBLISHED_DENSITIES]
    for data, levels in dict.fromkeys([*published_ones, *((row["data"], row["levels"]) for row in ours)]):
        for of_data, of_levels, density, parameters, nats, bits in PUBLISHED_DENSITIES:
            if (of_data, of_levels) == (data, levels):
                yield data_name(data), f"{levels}", density, parameters, "", "", nats, "", bits, "", "", ""
        for row in ours:
            if (row["data"], row["levels"]) == (data, levels):
                run = row["run"]
                counts = f"{run.summary['num_parameters']}", f"{run.last_epoch + 1:.0f}", f"{row['runs']}"
                numbers = (
                    spread(row[name], digits)
                    for name, digits in (
                        *(("nats/test", 2), ("nats/train", 2), ("bits_per_pixel/test", 3)),
                        *(("ee/mean", 2), ("ee/mixture", 2), ("seconds", 0)),
                    )
                )
                yield data_name(data), f"{levels}", f"**ours**, d = {run.d}", *counts, *numbers
        for row in of_classes():
            if (row["data"], row["levels"]) == (data, levels):
                sizes = (f"{row[name]}" for name in ("parameters", "epochs", "seeds"))
                nats, bits = spread(row["nats"], 2), spread(row["bits_per_pixel"], 3)
                entropy, seconds = spread(row["ee_mixture"], 2), spread(row["seconds"], 0)
                density = f"**ours**, one for each class, d = {row['d']}"
                yield data_name(data), f"{levels}", density, *sizes, nats, "", bits, "", entropy, seconds


def of_classes() -> list[dict[str, Any]]:
    """Return what was measured of densities of every class; nothing if nothing was."""
    measured = MEASUREMENTS / "class_densities.json"
    return records(class_density_table(json.loads(measured.read_text())["rows"])) if measured.is_file() else []


def class_densities() -> Iterator[Row]:
    """Yield how densities of every class classify, also where half of the pixels are missing."""
    yield "data set", "grey levels", "seeds", "accuracy by p(y given x)", "half of the pixels missing", "of images"
    for row in of_classes():
        accuracies = (percent(*row[name]) for name in ("accuracy", "accuracy_missing"))
        yield data_name(row["data"]), f"{row['levels']}", f"{row['seeds']}", *accuracies, f"{row['missing_images']}"


def density_entropies(collection: Collection) -> Iterator[Row]:
    """Yield the entropies of a density and of a classifier at every scale."""
    rows = list(entropies_at_scales(collection))
    yield "data set", "network", "runs", *(f"{1 << level}" for level in range(len(rows[0][-1]) if rows else 0))
    for data, kind, runs, means in rows:
        yield data_name(data), kind, f"{len(runs)}", *(f"{mean:.3f}" for mean in means)


def density_interventions(collection: Collection) -> Iterator[Row]:
    """Yield what a weight of the mixture's entropy costs a density and a classifier, seed by seed."""
    yield (
        *("data set", "network", "weight of the EE", "runs", "EE (nats)", "nats an image"),
        *("difference (nats)", "test accuracy", "difference (points)"),
    )
    for row in intervention_rows(collection):
        yield (
            *(data_name(row["data"]), row["kind"], plain(float(row["value"]), "g"), f"{row['runs']}"),
            *(plain(row["ee"].value, ".3f"), plain(row["nats"].value, ".2f")),
            with_interval(row["nats difference"], "+.2f"),
            *(plain(row["accuracy"].value, ".2%"), points(row["accuracy difference"])),
        )
