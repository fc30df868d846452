"""Tables of the paper's relatives."""

from collections.abc import Iterator

from qcnn_lightning.labels import data_name
from qcnn_lightning.report.groups import Collection
from reproduction.relatives_study import RELATIVES, answer, entropy_and_cost_table, networks_table
from reproduction.tables.cells import Row, plain, records, with_interval


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
