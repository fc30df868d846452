"""Tables of the study of embeddings and orders, and of the entropy of every scale in the cost."""

from collections.abc import Iterator

from qcnn_lightning.labels import data_name, value_name
from qcnn_lightning.report.groups import Collection
from reproduction.embedding_study import (
    EMBEDDINGS,
    cells_table,
    correlations_table,
    effects_table,
    scale_label,
    scales_table,
)
from reproduction.tables.cells import Row, plain, points, records, with_interval


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
    over = {
        "within": "mean over runs",
        "changes": "mean over runs, changes",
        "pooled": "all epochs of all runs",
        "between": "last epochs of all runs",
    }
    for row in records(correlations_table(collection)):
        embedding = EMBEDDINGS.get(row["embedding"], "all")
        estimates = (with_interval(row[name], "+.2f") for name in ("batches", "train", "test"))
        yield data_name(row["data"]), embedding, over[row["scope"]], f"{row['seeds']}", *estimates


def scales(collection: Collection) -> Iterator[Row]:
    """Yield what the entropy of each scale in the cost changes, seed by seed."""
    yield (
        "data set",
        "blocks (pixels)",
        "weight",
        "seeds",
        "test accuracy",
        "difference (points)",
        "that EE (nats)",
        "difference (nats)",
    )
    for row in records(scales_table(collection)):
        yield (
            data_name(row["data"]),
            scale_label(row["scale"]),
            plain(row["weight"], "g"),
            f"{row['seeds']}",
            plain(row["accuracy"].value, ".2%"),
            points(row["accuracy difference"]),
            plain(row["ee"].value, ".3f"),
            with_interval(row["ee difference"], "+.3f"),
        )
