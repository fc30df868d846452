"""Tables of what `benchmarks/` measured; they need no runs."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from qcnn_lightning.labels import data_name
from qcnn_lightning.report.tables import mean_and_deviation
from reproduction.scaling_figure import PAPER, TITLES
from reproduction.tables.cells import Row, number, percent, spread, squared

MEASUREMENTS = Path(__file__).parents[2] / "benchmarks" / "results"
GPU_STEPS = 60_000 // 50
"""Steps of an epoch of `benchmarks/gpu.py`."""


def baselines() -> Iterator[Row]:
    """Yield the accuracies of ordinary networks on the same images."""
    yield "data set", "network", "pixels", "parameters", "epochs", "seeds", "test accuracy", "seconds"
    table = pd.DataFrame(json.loads((MEASUREMENTS / "baselines.json").read_text())["rows"])
    for (data, network), rows in table.groupby(["data", "network"], sort=False):
        counts = (f"{rows[name].iloc[0]}" for name in ("parameters", "epochs"))
        accuracy = percent(*mean_and_deviation(list(rows["accuracy/test"])))
        size = squared(rows["size"].iloc[0])
        yield (
            data_name(str(data)),
            str(network),
            size,
            *counts,
            f"{len(rows)}",
            accuracy,
            f"{rows['seconds'].mean():.0f}",
        )


def sums() -> Iterator[Row]:
    """Yield the accuracies of sums of networks, with and without mirror images."""
    counts = ("summed", "mirror images", "pixels", "parameters", "epochs", "sums")
    yield "data set", *counts, "test accuracy", "test cost", "EE (nats)"
    for rows in measured_sums():
        first = rows[0]
        entropies = [row["ee"] for row in rows if "ee" in row]
        yield (
            data_name(first["data"]),
            f"{len(first['seeds'])}",
            "yes" if first["mirror"] else "no",
            squared(first["size"]),
            f"{first['parameters']}",
            f"{first['epochs']}",
            f"{len(rows)}",
            percent(*mean_and_deviation([row["accuracy"] for row in rows])),
            spread(mean_and_deviation([row["cost"] for row in rows]), 4),
            number(*mean_and_deviation(entropies)) if entropies else "",
        )


def measured_sums() -> list[list[dict[str, Any]]]:
    """Return the sums that `benchmarks/sums.py` measured, those that differ in their seeds alone together."""
    path = MEASUREMENTS / "sums.json"
    together: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in json.loads(path.read_text())["rows"] if path.is_file() else []:
        kind = (row["data"], row["size"], row["d"], row["epochs"], len(row["seeds"]), row["mirror"])
        together.setdefault(kind, []).append(row)
    return list(together.values())


def time_to_accuracy() -> Iterator[Row]:
    """Yield the seconds to each accuracy."""
    yield "data set", "test accuracy", "ours (s)", "textbook (s)"
    rows = json.loads((MEASUREMENTS / "time_to_accuracy.json").read_text())["rows"]
    for data in dict.fromkeys(row["data"] for row in rows):
        reached = {row["who"]: row["seconds_to"] for row in rows if row["data"] == data}
        best = {row["who"]: max(accuracy for _, accuracy in row["curve"]) for row in rows if row["data"] == data}
        for target in next(iter(reached.values())):
            cells = (
                "" if who not in reached else seconds_or_best(reached[who][target], best[who])
                for who in ("ours", "textbook")
            )
            yield data_name(data), target, *cells


def seconds_or_best(seconds: float | None, best: float) -> str:
    """Return the seconds, or how far it got if there are none."""
    return f"{seconds:.0f}" if seconds is not None else f"not reached, {best:.2%} at best"


def entropy_precision() -> Iterator[Row]:
    """Yield the errors of entropies of kept networks, against a computation with many more digits."""
    yield "network", "class", "entropy (nats)", "error of the entropy", "error of the log norm"
    for measured in json.loads((MEASUREMENTS / "entropy_precision.json").read_text()):
        for row in measured["classes"]:
            errors = (f"{max(row['errors']):.1e}", f"{row['norm']:.1e}")
            yield measured["of"], f"{row['class']}", f"{row['entropies'][-1]:.8f}", *errors


def entropy_time() -> Iterator[Row]:
    """Yield how many times longer TensorNetwork's contraction takes, and by how much the two differ."""
    yield "pixels", "full sharing: TensorNetwork / NetworkState", "sibling", "largest difference (nats)"
    rows = json.loads((MEASUREMENTS / "entropy_time.json").read_text())["beside_tensornetwork"]
    for size in dict.fromkeys(row["N"] for row in rows):
        of_size = {row["sharing"]: row for row in rows if row["N"] == size}
        ratios = (f"{of_size[name]['theirs'] / of_size[name]['ours']:.1f}" for name in ("full", "sibling"))
        yield f"{size}", *ratios, f"{max(row['difference'] for row in of_size.values()):.0e}"


def entropy_seconds() -> Iterator[Row]:
    """Yield the seconds that entropies of the paper's networks take."""
    rows = json.loads((MEASUREMENTS / "entropy_time.json").read_text())["alone"]
    titles = [name for name in rows[0] if name != "sharing"]
    yield "sharing", *(name.replace("_", " ") for name in titles)
    for row in rows:
        yield row["sharing"], *(f"{row[name]:.2g}" for name in titles)


def population_sample() -> Iterator[Row]:
    """Yield how entropies and accuracies differ between samples whose statistics fix the same network."""
    yield "data set", "images", "samples", "EE (nats)", "test accuracy", "largest score of a training image"
    for row in json.loads((MEASUREMENTS / "population_sample.json").read_text())["rows"]:
        yield (
            data_name(row["data"]),
            f"{row['size']}",
            f"{len(row['ee'])}",
            number(*mean_and_deviation(row["ee"])),
            percent(*mean_and_deviation(row["accuracy"])),
            f"{max(row['largest_score']):.3g}",
        )


def throughput(measurement: str = "throughput") -> Iterator[Row]:
    """Yield whole epochs of the project's training beside the textbook's loop and the matrix-product floor."""
    yield (
        "data set",
        "d",
        "sharing",
        "threads",
        "step (ms)",
        "without Lightning",
        "textbook",
        "floor",
        "epoch (s)",
        "times the textbook's loop",
        "the same, both evaluating",
        "over the floor",
        "evaluation, part of the epoch",
    )
    for row in json.loads((MEASUREMENTS / f"{measurement}.json").read_text())["rows"]:
        epoch, textbook = row["epoch_s"], row["textbook_epoch_s"]
        yield (
            data_name(row["data"]),
            *(f"{row[name]}" for name in ("d", "sharing", "threads")),
            *(f"{row[f'{name}step_ms']:.2f}" for name in ("", "bare_", "textbook_", "floor_")),
            f"{epoch:.2f}",
            f"{textbook / epoch:.2f}",
            f"{(textbook + row['textbook_evaluation_s']) / epoch:.2f}",
            f"{epoch / row['floor_epoch_s']:.2f}",
            f"{row['evaluation_s'] / epoch:.0%}",
        )


def gpu() -> Iterator[Row]:
    """Yield epochs of several networks at once on a GPU, where they were timed; a step is the rest after evaluation."""
    titles = ("card", "d", "networks", "operators", "step (ms)", "over the floor", "epoch (s)", "of it evaluation")
    yield (*titles, "peak (GB)")
    for measurement in ("gpu_compiled", "gpu"):
        measured = json.loads((MEASUREMENTS / f"{measurement}.json").read_text())["rows"]
        (card,) = (row["name"] for row in measured if row["part"] == "device")
        for row in (row for row in measured if "epoch_s" in row):
            step = (row["epoch_s"] - row["evaluation_s"]) / GPU_STEPS
            yield (
                card,
                *(f"{row[name]}" for name in ("d", "networks", "mode")),
                f"{1e3 * step:.2f}",
                f"{step / row['floor_s']:.0f}",
                *(f"{row[name]:.2f}" for name in ("epoch_s", "evaluation_s")),
                f"{row['peak_bytes'] / 1e9:.1f}",
            )


def kernel_precision() -> Iterator[Row]:
    """Yield relative errors of every kernel in float32, against the plain one in float64."""
    rows = json.loads((MEASUREMENTS / "kernel_precision.json").read_text())["rows"]
    titles = [(kernel, name) for kernel, measured in rows[0]["errors"].items() for name in measured]
    yield "start", "sharing", "steps", *(f"`{kernel}`: {name}" for kernel, name in titles)
    for row in rows:
        places = (f"{row[name]}" for name in ("start", "sharing", "steps"))
        yield *places, *(f"{row['errors'][kernel][name]:.0e}" for kernel, name in titles)


def scaling() -> Iterator[Row]:
    """Yield time and memory along the curves through the paper's network."""
    yield "along", "value", "step (ms)", "growth over that of the value", "peak memory (MiB)", "parameters"
    rows = json.loads((MEASUREMENTS / "scaling.json").read_text())["rows"]
    for row in rows:
        along = row["curve"]
        own = next(other for other in rows if other["curve"] == along and other[along] == PAPER[along])
        growth = row["step_ms"] / own["step_ms"] / (row[along] / PAPER[along])
        counts = f"{row['peak_mib']:.0f}", f"{row['parameters']}"
        yield TITLES[along], f"{row[along]}", f"{row['step_ms']:.2f}", f"{growth:.2f}", *counts
