"""The tables of the pages: what each kind of them is made of, a row of text at a time, the titles first."""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pandas as pd

from qcnn_lightning.labels import DATA_NAMES, caption, data_name, value_name
from qcnn_lightning.report.correlation import Estimate
from qcnn_lightning.report.groups import Collection
from qcnn_lightning.report.tables import accuracy_table, correlation_table, last, mean_and_deviation
from qcnn_lightning.runs.run import Run
from reproduction.density_study import PUBLISHED as PUBLISHED_DENSITIES
from reproduction.density_study import class_density_table, density_table, entropies_at_scales, intervention_rows
from reproduction.embedding_study import EMBEDDINGS, cells_table, correlations_table, effects_table, scales_table
from reproduction.relatives_study import RELATIVES, answer, entropy_and_cost_table, networks_table
from reproduction.scaling_figure import PAPER, TITLES
from reproduction.studies import (
    class_table,
    contrast_table,
    mean_with_interval,
    overfitting_and_rise,
    overfitting_table,
    paper_table,
    settling,
    settling_table,
    within_run_table,
)

MEASUREMENTS = Path(__file__).parents[1] / "benchmarks" / "results"
COMPARED = {"accuracy": "accuracy/test", "cost": "cost/test", "EE": "ee/mean"}
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
GPU_STEPS = 60_000 // 50
"""Steps of an epoch of `benchmarks/gpu.py`."""
ORDINARY = {"linear": "linear model", "cnn": "convolutional network"}
SCOPES = ("mean over runs", "all epochs of all runs", "last epochs of all runs")

Row = Sequence[str]


def accuracies(collection: Collection) -> Iterator[Row]:
    """Yield the accuracies per group: mean and standard deviation over seeds."""
    yield "data set", "network", "parameters", "epochs", "seeds", "best test accuracy", "last", "test cost", "EE (nats)"
    for row in records(accuracy_table(collection)):
        network = caption(row["variant"], row["bipartition"])
        counts = (f"{row[name]:.0f}" for name in ("num_parameters", "epochs", "seeds"))
        yield (
            data_name(row["data"]),
            network,
            *counts,
            percent(row["accuracy/test best, mean"], row["accuracy/test best, sd"]),
            percent(row["accuracy/test final, mean"], row["accuracy/test final, sd"]),
            number(row["cost/test final, mean"], row["cost/test final, sd"]),
            number(row["ee/mean final, mean"], row["ee/mean final, sd"]),
        )


def correlations(collection: Collection) -> Iterator[Row]:
    """Yield Spearman's correlations of mean entropy and cost over the runs."""
    yield "data set", "over", "of", "runs", "train cost", "test cost"
    table = spearman_correlations(collection)
    for data in dict.fromkeys(table["data"]):
        for of, scopes in (("values", SCOPES), ("changes", SCOPES[:2])):
            for scope in scopes:
                chosen = (table["data"] == data) & (table["scope"] == scope) & (table["of"] == of)
                rows = table[chosen].set_index("cost")
                if len(rows):
                    of_costs = (
                        with_interval(Estimate(*rows.loc[cost, ["correlation", "low", "high"]]), "+.2f")
                        for cost in ("train", "test")
                    )
                    yield data_name(data), scope, of, f"{rows['runs'].iloc[0]}", *of_costs


# Two tables of the same runs, on two pages, need them.
@lru_cache
def spearman_correlations(collection: Collection) -> pd.DataFrame:
    """Return Spearman's of the report's table of correlations."""
    table, _ = correlation_table(collection)
    return table[table["measure"] == "spearman"]


def claims(collection: Collection) -> Iterator[Row]:
    """Yield what the paper claims and what was measured, a column per data set."""
    correlations = spearman_correlations(collection)
    data_sets = [data for data in DATA_NAMES if data in collection.data_sets]
    of_data = {data: list(measured_claims(collection, data, correlations)) for data in data_sets}
    yield "", "the paper", *(data_name(data) for data in of_data)
    for cells in zip(*of_data.values(), strict=True):
        yield *cells[0][:2], *(measured for *_, measured in cells)


def measured_claims(collection: Collection, data: str, correlations: pd.DataFrame) -> Iterator[tuple[str, str, str]]:
    """Yield, for a data set, titles of claims, what the paper says, and what was measured.

    Networks at least as wide as that of figure 2 are also told by themselves.
    """
    runs = [run for group in collection.groups if group.data == data for run in group.complete_runs]
    of_values = correlations[(correlations["data"] == data) & (correlations["of"] == "values")]

    rows = [row for row in records(paper_table(collection)) if row["data"] == data]
    best = max(rows, key=lambda row: row["best"].value)
    yield "best test accuracy", "97%, 89%", f"{with_interval(best['best'], '.2%')} ({best['network']})"
    found = {run.name: settling(run) for run in runs}
    yield "EE before training", "near zero", f"at most {max(item.before for item in found.values()):.1g} nats"
    sizes = [item.final / math.log(2) for item in found.values()]
    size = f"{with_interval(mean_with_interval(sizes), '.2f')} log 2, from {min(sizes):.2f} to {max(sizes):.2f}"
    yield "EE at the end", "of order log 2", size
    rises = {name: item.rise for name, item in found.items()}
    yield from all_and_wide("EE since the accuracy settled", "rises", rises, runs, " nats, rises", 1, math.inf)
    for cost, says in (("train", "negative"), ("test", "negative, less evident")):
        of_cost = of_values[of_values["cost"] == cost].set_index("scope")
        together = Estimate(*of_cost.loc[SCOPES[1], ["correlation", "low", "high"]])
        yield f"EE ~ {cost} cost, all epochs of all runs", says, with_interval(together, "+.2f")
        own = dict(of_cost.loc[["run"], ["run", "correlation"]].to_numpy())
        yield from all_and_wide(f"EE ~ {cost} cost, within a run", says, own, runs, ", negative", -1, 1.0)
    metrics = {"EE": lambda run: last(run.column("ee/mean"))}
    for row in records(contrast_table(collection, "data.flatten", "left_right", metrics)):
        if row["data"] == data and row["value"] == "up_down":
            difference = f"{with_interval(row['EE difference'], '+.2f')} nats"
            yield "EE, up/down − left/right", "similar", caption(difference, row["network"])


def all_and_wide(
    title: str,
    says: str,
    of_runs: Mapping[str, float],
    runs: Sequence[Run],
    sign_told: str,
    sign: int,
    largest: float,
) -> Iterator[tuple[str, str, str]]:
    """Yield two rows of `claims`, of all runs and of the wide ones: a mean, and in how many runs it has the sign told.

    Args:
        title: of the claim.
        says: what the paper says.
        of_runs: the number, by a run's name.
        runs: those to count.
        sign_told: the sign in words, and the unit before it.
        sign: the same, as 1 or -1.
        largest: that the number's magnitude can be.
    """
    for kind, width in (("", 0), (f", d ≥ {PAPER['d']}", PAPER["d"])):
        values = [of_runs[run.name] for run in runs if run.name in of_runs and run.d >= width]
        count = f"{sum(sign * value > 0 for value in values)} of {len(values)} runs"
        mean = mean_with_interval(values, bounds=(-largest, largest))
        yield title + kind, says, f"{with_interval(mean, '+.2f')}{sign_told} in {count}"


def paper(collection: Collection) -> Iterator[Row]:
    """Yield the accuracies beside the paper's, with intervals over the seeds."""
    yield "data set", "network", "seeds", "best test accuracy", "last", "the paper's", "best − the paper's (points)"
    for row in records(paper_table(collection)):
        of_paper, best = row["paper"], row["best"]
        yield (
            data_name(row["data"]),
            row["network"],
            f"{row['runs']}",
            with_interval(row["best"], ".2%"),
            with_interval(row["final"], ".2%"),
            "" if math.isnan(of_paper) else f"{of_paper:.0%}",
            points(Estimate(best.value - of_paper, best.low - of_paper, best.high - of_paper)),
        )


def settled(collection: Collection) -> Iterator[Row]:
    """Yield when accuracies settle, and what the entropies do before and after."""
    yield (
        "data set",
        "network",
        "runs",
        "EE before training, at most",
        "accuracy settles in epoch",
        "EE then",
        "EE at the end",
        "in units of log 2",
        "rise since (nats)",
        "as part of the larger",
    )
    for row in records(settling_table(collection)):
        yield (
            data_name(row["data"]),
            row["network"],
            f"{row['runs']}",
            plain(row["before"], ".1g"),
            plain(row["epoch"], ".0f"),
            plain(row["settled"], ".2f"),
            plain(row["final"], ".2f"),
            plain(row["final"] / math.log(2), ".2f"),
            with_interval(row["rise"], "+.2f"),
            with_interval(row["share"], ".0%"),
        )


def within_runs(collection: Collection) -> Iterator[Row]:
    """Yield the mean of the runs' own correlations, per group, and how many of them are negative."""
    yield "data set", "network", "runs", "EE ~ train cost", "negative", "EE ~ test cost", "negative"
    for row in records(within_run_table(collection)):
        of_costs = (
            (with_interval(row[cost], "+.2f"), f"{row[f'{cost} negative']} of {row['runs']}")
            for cost in ("train", "test")
        )
        if row["runs"]:
            cells = (cell for pair in of_costs for cell in pair)
            yield data_name(row["data"]), row["network"], f"{row['runs']}", *cells


def overfitting(collection: Collection) -> Iterator[Row]:
    """Yield how much groups overfit, and how much their entropies rise."""
    yield (
        "data set",
        "network",
        "runs",
        "test accuracy",
        "train cost",
        "test cost",
        "test cost over its lowest",
        "EE (nats)",
        "EE rise since the accuracy settled",
        "EE rise since the lowest test cost",
    )
    for row in records(overfitting_table(collection)):
        yield (
            data_name(row["data"]),
            row["network"],
            f"{row['runs']}",
            plain(row["accuracy"], ".2%"),
            plain(row["cost/train"], ".4f"),
            plain(row["cost/test"], ".4f"),
            with_interval(row["cost rise"], ".4f"),
            plain(row["ee"], ".2f"),
            with_interval(row["ee rise"], "+.2f"),
            with_interval(row["ee rise since"], "+.2f"),
        )


def overfitting_correlation(collection: Collection) -> Iterator[Row]:
    """Yield whether runs that overfit more are those whose entropy rises more."""
    yield "data set", "runs", "rise of the test cost ~ rise of the EE"
    for row in records(overfitting_and_rise(collection)):
        yield data_name(row["data"]), f"{row['runs']}", with_interval(row["correlation"], "+.2f")


def contrast(collection: Collection, title: str, key: str, reference: Any) -> Iterator[Row]:
    """Yield what a setting changes, seed by seed."""
    metrics = {name: (lambda run, column=column: last(run.column(column))) for name, column in COMPARED.items()}
    yield (
        "data set",
        "network",
        title,
        "runs",
        "test accuracy",
        "difference (points)",
        "test cost",
        "EE (nats)",
        "difference (nats)",
    )
    for row in records(contrast_table(collection, key, reference, metrics)):
        yield (
            data_name(row["data"]),
            row["network"],
            plain(row["value"], "g") if isinstance(row["value"], int | float) else value_name(key, row["value"]),
            f"{row['runs']}",
            plain(row["accuracy"].value, ".2%"),
            points(row["accuracy difference"]),
            plain(row["cost"].value, ".4f"),
            plain(row["EE"].value, ".3f"),
            with_interval(row["EE difference"], "+.3f"),
        )


def embeddings(collection: Collection) -> Iterator[Row]:
    """Yield accuracy, costs and entropy of every embedding and order, over the seeds."""
    yield (
        "data set",
        "embedding",
        "order",
        "seeds",
        "test accuracy",
        "best epoch",
        "cost of the batches",
        "train cost, evaluated",
        "test cost",
        "EE (nats)",
        "EE since the accuracy settled",
    )
    for row in records(cells_table(collection)):
        yield (
            data_name(row["data"]),
            EMBEDDINGS[row["embedding"]],
            value_name("data.flatten", row["order"]),
            f"{row['seeds']}",
            with_interval(row["accuracy"], ".2%"),
            plain(row["best"].value, ".2%"),
            *(plain(row[f"cost/{name}"].value, ".4f") for name in ("batches", "train", "test")),
            with_interval(row["ee"], ".2f"),
            with_interval(row["rise"], "+.2f"),
        )


def embedding_effects(collection: Collection) -> Iterator[Row]:
    """Yield what embeddings and orders change, seed by seed."""
    yield "data set", "instead of", "seeds", "pairs", "test accuracy (points)", "EE (nats)"
    for row in records(effects_table(collection)):
        if row["factor"] == "embedding":
            change = f"{EMBEDDINGS[row['level']]}, not the whole circle"
        else:
            change = f"{value_name('data.flatten', row['level'])}, not left/right"
        counts = f"{row['seeds']}", f"{row['pairs']}"
        yield data_name(row["data"]), change, *counts, points(row["accuracy"]), with_interval(row["ee"], "+.2f")


def embedding_correlations(collection: Collection) -> Iterator[Row]:
    """Yield the correlations of mean entropy and the costs, within runs and over them, over the seeds."""
    yield "data set", "embedding", "over", "seeds", "EE ~ cost of the batches", "~ train cost, evaluated", "~ test cost"
    over = {"within": "mean over runs", "pooled": "all epochs of all runs", "between": "last epochs of all runs"}
    for row in records(correlations_table(collection)):
        embedding = EMBEDDINGS.get(row["embedding"], "all")
        estimates = (with_interval(row[name], "+.2f") for name in ("batches", "train", "test"))
        yield data_name(row["data"]), embedding, over[row["scope"]], f"{row['seeds']}", *estimates


def relatives(collection: Collection) -> Iterator[Row]:
    """Yield accuracy, costs and entropy of every relative and size, over the seeds."""
    yield (
        "data set",
        "network",
        "parameters",
        "seeds",
        "test accuracy",
        "train cost, evaluated",
        "test cost",
        "EE (nats)",
        "EE since the accuracy settled",
        "EE ~ train cost, within a run",
        "negative",
    )
    for row in records(networks_table(collection)):
        yield (
            data_name(row["data"]),
            RELATIVES[row["relative"]],
            f"{row['parameters']:.0f}",
            f"{row['seeds']}",
            with_interval(row["accuracy"], ".2%"),
            *(plain(row[f"cost/{name}"].value, ".4f") for name in ("train", "test")),
            with_interval(row["ee"], ".2f"),
            with_interval(row["rise"], "+.2f"),
            with_interval(row["within"], "+.2f"),
            f"{row['negative']} of {row['seeds']}",
        )


def relatives_claims(collection: Collection) -> Iterator[Row]:
    """Yield, for every relative, whether entropy rises as the train cost falls, over its sizes and seeds."""
    yield (
        "data set",
        "network",
        "does EE rise as the train cost falls?",
        "EE ~ train cost, within a run",
        "negative",
        "all epochs of all runs",
        "EE since the accuracy settled (nats)",
        "rises",
    )
    for row in records(entropy_and_cost_table(collection)):
        yield (
            data_name(row["data"]),
            RELATIVES[row["relative"]],
            answer(row["within"]),
            with_interval(row["within"], "+.2f"),
            f"{row['negative']} of {row['runs']} runs",
            with_interval(row["pooled"], "+.2f"),
            with_interval(row["rise"], "+.2f"),
            f"in {row['rising']} of {row['runs']} runs",
        )


def scales(collection: Collection) -> Iterator[Row]:
    """Yield what the entropy of each scale in the cost changes, seed by seed."""
    yield (
        "data set",
        "EE of",
        "weight",
        "seeds",
        "test accuracy",
        "difference (points)",
        "that EE (nats)",
        "difference (nats)",
    )
    for row in records(scales_table(collection)):
        scale = row["scale"]
        yield (
            data_name(row["data"]),
            "all scales" if scale == "profile" else f"blocks of {1 << int(scale)}",
            plain(row["weight"], "g"),
            f"{row['seeds']}",
            plain(row["accuracy"].value, ".2%"),
            points(row["accuracy difference"]),
            plain(row["ee"].value, ".3f"),
            with_interval(row["ee difference"], "+.3f"),
        )


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


def classes(collection: Collection) -> Iterator[Row]:
    """Yield what the classes' entropies have in common between runs, and whether they go with the error rates."""
    yield (
        "data set",
        "network",
        "runs",
        "lowest class, EE (nats)",
        "highest class, EE (nats)",
        "concordance of the runs",
        "p",
        "EE ~ error rate",
        "runs",
    )
    for row in records(class_table(collection)):
        yield (
            data_name(row["data"]),
            row["network"],
            f"{row['runs']}",
            f"{row['lowest']}, {row['lowest entropy']:.2f}",
            f"{row['highest']}, {row['highest entropy']:.2f}",
            plain(row["concordance"], ".2f"),
            plain(row["p"], ".1g"),
            with_interval(row["correlation"], "+.2f"),
            f"{row['runs with errors'] or ''}",
        )


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
        for of_data, network, *numbers in others:
            if of_data == name:
                yield name, f"{ORDINARY.get(network, network)}, by us", *numbers


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


OF_RUNS: dict[str, Callable[[Collection], Iterator[Row]]] = {
    "accuracies": accuracies,
    "correlations": correlations,
    "claims": claims,
    "paper": paper,
    "settling": settled,
    "within_runs": within_runs,
    "overfitting": overfitting,
    "overfitting_correlation": overfitting_correlation,
    "bipartitions": partial(contrast, title="halves", key="data.flatten", reference="left_right"),
    "interventions": partial(contrast, title="weight of the EE", key="entropy_weight", reference=0),
    "starts": partial(contrast, title="start", key="model.start", reference="product_state"),
    "classes": classes,
    "embeddings": embeddings,
    "embedding_effects": embedding_effects,
    "embedding_correlations": embedding_correlations,
    "relatives": relatives,
    "relatives_claims": relatives_claims,
    "scales": scales,
    "costs": costs,
    "choices": choices,
    "published": published,
    "densities": densities,
    "density_interventions": density_interventions,
    "density_entropies": density_entropies,
}
OF_MEASUREMENTS: dict[str, Callable[[], Iterator[Row]]] = {
    "baselines": baselines,
    "time_to_accuracy": time_to_accuracy,
    "entropy_precision": entropy_precision,
    "entropy_time": entropy_time,
    "entropy_seconds": entropy_seconds,
    "population_sample": population_sample,
    "throughput": throughput,
    "throughput_highest": partial(throughput, "throughput_highest"),
    "gpu": gpu,
    "class_densities": class_densities,
    "kernel_precision": kernel_precision,
    "scaling": scaling,
}
KINDS = (*OF_RUNS, *OF_MEASUREMENTS)


def squared(size: int) -> str:
    """Return the shape of square images as people write it."""
    return f"{size}x{size}"


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table of numbers."""
    rows: Any = table.to_dict("records")
    return rows


def plain(value: float, form: str) -> str:
    """Return a number as text; nothing if there is none."""
    return "" if math.isnan(value) else signed(format(value, form))


def with_interval(estimate: Estimate, form: str) -> str:
    """Return "-0.70 [-0.80, -0.55]"; without the interval where there are too few runs, empty where there is none."""
    if math.isnan(estimate.value):
        return ""
    interval = "" if math.isnan(estimate.low) else f" [{estimate.low:{form}}, {estimate.high:{form}}]"
    return signed(f"{estimate.value:{form}}{interval}")


def points(estimate: Estimate) -> str:
    """Return a difference of accuracies in percentage points."""
    return with_interval(Estimate(*(100 * value for value in (estimate.value, estimate.low, estimate.high))), "+.2f")


def signed(text: str) -> str:
    """Return numbers with a minus sign instead of a hyphen."""
    return re.sub(r"-(?=\d)", "−", text)


def percent(mean: float, deviation: float) -> str:
    """Return "96.47 ± 0.10%", or without the deviation if there is none."""
    return f"{100 * mean:.2f}%" if math.isnan(deviation) else f"{100 * mean:.2f} ± {100 * deviation:.2f}%"


def spread(of_runs: tuple[float, float], digits: int) -> str:
    """Return "100.75 ± 0.12"; without the deviation if there is none, empty without a number."""
    mean, deviation = of_runs
    if math.isnan(mean):
        return ""
    return f"{mean:.{digits}f}" if math.isnan(deviation) else f"{mean:.{digits}f} ± {deviation:.{digits}f}"


def number(mean: float, deviation: float) -> str:
    """Return "0.123 ± 0.004", or without the deviation if there is none."""
    return f"{mean:.3f}" if math.isnan(deviation) else f"{mean:.3f} ± {deviation:.3f}"


def markdown(rows: Iterator[Row]) -> str:
    """Lay out rows, the titles first."""
    titles, *body = rows
    lines = [titles, ["---"] * len(titles), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
