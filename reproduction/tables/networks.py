"""Tables that compare networks: costs, what each choice brings, published accuracies."""

from collections.abc import Iterator
from typing import Any

from qcnn_lightning.labels import DATA_NAMES, data_name
from qcnn_lightning.report.groups import Collection
from qcnn_lightning.report.tables import accuracy_table, last, mean_and_deviation
from qcnn_lightning.runs.run import Run
from reproduction.studies import mean_with_interval
from reproduction.tables.cells import Row, number, percent, points, records, squared
from reproduction.tables.measurements import MEASUREMENTS, baselines, measured_sums

# As their authors report them, the best they give; and the height of the images, pixels.
PUBLISHED = (
    ("matrix product state ([1906.06329](https://arxiv.org/abs/1906.06329))", 28, {"mnist": "98%", "fmnist": "88%"}),
    (
        "projected entangled pair states ([2009.09932](https://arxiv.org/abs/2009.09932))",
        28,
        {"mnist": "99.31%", "fmnist": "91.2%"},
    ),
    ("the paper's q-CNN ([2103.11785](https://arxiv.org/abs/2103.11785))", 16, {"mnist": "97%", "fmnist": "89%"}),
)
ORDINARY = {"linear": "linear model", "cnn": "convolutional network"}


def costs(collection: Collection) -> Iterator[Row]:
    """Yield what each cost brings, of the networks that were trained with both."""
    yield "data set", "network", "cost", "seeds", "test accuracy", "best", "EE (nats)"
    of_networks: dict[tuple[str, Any, str], dict[str, list[Run]]] = {}
    for run in collection.runs:
        of_costs = of_networks.setdefault((run.data, run.d, run.flatten), {})
        of_costs.setdefault(cost_name(run), []).append(run)
    for (data, d, _), of_costs in of_networks.items():
        if len(of_costs) == 1:
            continue
        for cost, runs in of_costs.items():
            measured = [[last(run.column(name)) for run in runs] for name in ("accuracy/test", "ee/mean")]
            best = [run.column("accuracy/test").max() for run in runs]
            yield (
                data_name(data),
                f"d = {d}, {runs[0].num_parameters:.0f} parameters",
                cost,
                f"{len(runs)}",
                percent(*mean_and_deviation(measured[0])),
                percent(*mean_and_deviation(best)),
                number(*mean_and_deviation(measured[1])),
            )


def cost_name(run: Run) -> str:
    """Return what a run minimised, as people write it."""
    if not str(run.settings["cost._target_"]).endswith("CrossEntropy"):
        return "squared distance (eq. 48)"
    uniform = run.settings.get("cost.uniform", 0)
    return f"cross entropy, {uniform:.0%} uniform" if uniform else "cross entropy (eq. 34)"


def choices(collection: Collection) -> Iterator[Row]:
    """Yield a row per choice, `ablation=<choice>` among the overrides: what undoing it costs, over the same seeds.

    Choices are judged on held-out training images, where there are any.
    """
    runs = collection.runs
    split, title = ("val", "held-out") if all("accuracy/val" in run.metrics for run in runs) else ("test", "test")
    accuracy = f"accuracy/{split}"
    yield "data set", "undone", "parameters", "seeds", f"{title} accuracy", "difference (points)", "EE (nats)"
    for data in dict.fromkeys(run.data for run in runs):
        of_choice: dict[str, dict[int, Run]] = {}
        for run in runs:
            if run.data == data:
                of_choice.setdefault(override(run, "ablation"), {})[run.seed] = run
        reference = of_choice.get("none", {})
        for choice in sorted(of_choice, key=lambda name: (name != "none", name)):
            of_seed = of_choice[choice]
            measured = {seed: last(run.column(accuracy)) for seed, run in of_seed.items()}
            changes = [
                value - last(reference[seed].column(accuracy)) for seed, value in measured.items() if seed in reference
            ]
            yield (
                data_name(data),
                "nothing" if choice == "none" else choice,
                f"{next(iter(of_seed.values())).num_parameters:.0f}",
                f"{len(of_seed)}",
                percent(*mean_and_deviation(list(measured.values()))),
                "" if choice == "none" else points(mean_with_interval(changes)),
                number(*mean_and_deviation([last(run.column("ee/mean")) for run in of_seed.values()])),
            )


def override(run: Run, key: str) -> str:
    """Return the value of an override; "none" if it was not given."""
    return next((given.partition("=")[2] for given in run.overrides if given.startswith(f"{key}=")), "none")


def published(collection: Collection) -> Iterator[Row]:
    """Yield published tensor-network classifiers, the runs given, and the ordinary networks that were measured."""
    yield "data set", "classifier", "pixels", "parameters", "epochs", "seeds", "test accuracy", "seconds"
    ours = records(accuracy_table(collection))
    others = list(baselines())[1:] if (MEASUREMENTS / "baselines.json").is_file() else []
    for data, name in DATA_NAMES.items():
        for classifier, size, accuracies_of in PUBLISHED:
            yield name, classifier, squared(size), "", "", "", accuracies_of[data], ""
        for row in ours:
            if row["data"] == data:
                counts = (f"{row[column]:.0f}" for column in ("num_parameters", "epochs", "seeds"))
                accuracy = percent(row["accuracy/test final, mean"], row["accuracy/test final, sd"])
                yield name, "**ours**", squared(row["size"]), *counts, accuracy, f"{row['seconds, mean']:.0f}"
        for sums in measured_sums():
            terms, mirror = len(sums[0]["seeds"]), sums[0]["mirror"]
            if sums[0]["data"] == data and (terms, mirror) != (1, False):
                title = f"sum of {terms}" * (terms > 1), "with mirror images" * mirror
                seconds = sum(row["seconds"] for row in sums) / len(sums)
                yield (
                    name,
                    ", ".join(("**ours**", *filter(None, title))),
                    squared(sums[0]["size"]),
                    *(f"{number}" for number in (sums[0]["parameters"], sums[0]["epochs"], len(sums))),
                    percent(*mean_and_deviation([row["accuracy"] for row in sums])),
                    f"{seconds:.0f}",
                )
        for of_data, network, *numbers in others:
            if of_data == name:
                yield name, f"{ORDINARY.get(network, network)}, by us", *numbers
