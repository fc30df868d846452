"""The kinds of tables: what each is made of, a row of text at a time, the titles first."""

from collections.abc import Callable, Iterator
from functools import partial

from qcnn_lightning.report.groups import Collection
from reproduction.tables.cells import Row
from reproduction.tables.claims import (
    accuracies,
    claims,
    classes,
    contrast,
    correlations,
    overfitting,
    overfitting_correlation,
    paper,
    settled,
    within_runs,
)
from reproduction.tables.densities import class_densities, densities, density_entropies, density_interventions
from reproduction.tables.embeddings import embedding_correlations, embedding_effects, embeddings, scales
from reproduction.tables.measurements import (
    baselines,
    entropy_precision,
    entropy_seconds,
    entropy_time,
    gpu,
    kernel_precision,
    population_sample,
    scaling,
    sums,
    throughput,
    time_to_accuracy,
)
from reproduction.tables.networks import choices, costs, published
from reproduction.tables.relatives import relatives, relatives_claims

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
    "sums": sums,
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
