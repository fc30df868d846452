"""Tables and the figure of the densities, of runs whose numbers follow simple laws."""

import json
import math

import pytest
from synthetic import write_run
from test_study_tables import with_recall, with_setting

from qcnn_lightning.report.groups import read_collection
from reproduction.study_figures import against_entropy
from reproduction.tables import densities as density_tables
from reproduction.tables.densities import class_densities, densities, density_entropies, density_interventions

COST = "qcnn_lightning.costs.NegativeLogLikelihood"


def density_run(folder, seed=0, weight=0, blend=0, labels=False, levels=2, data="mnist", **columns):
    """A run of three epochs whose last row has these numbers."""
    table = with_recall(seed).assign(**{name.replace("__", "/"): value for name, value in columns.items()})
    cost = {"_target_": COST, "labels": labels, "discriminative_weight": blend}
    write_run(folder, data=data, d=16, seed=seed, epochs=3, table=table, cost=cost)
    with_setting(folder, "entropy_weight", weight)
    with_setting(folder, "data.levels", levels)
    return folder


@pytest.fixture
def intervention(tmp_path):
    """Three seeds, of which the last has no classifier with a weight."""
    for seed in (0, 1, 2):
        for weight in (0, 10):
            for blend in (0, 1):
                if (seed, weight, blend) != (2, 10, 1):
                    numbers = {"nats__test": 60.0 + (seed + 1) * weight / 10, "ee__mixture": 2.0 / (1 + weight) + seed}
                    numbers |= {"profile__level_0": 0.5 + seed, "profile__level_1": 1.0 + blend}
                    folder = tmp_path / f"{seed},{weight},{blend}"
                    density_run(folder, seed, weight, blend, accuracy__test=0.9 - weight / 1000, **numbers)
    return read_collection(tmp_path)


def test_what_the_entropy_is_worth_is_told_of_what_was_learned(intervention):
    titles, *rows = density_interventions(intervention)
    table = [dict(zip(titles, row, strict=True)) for row in rows]
    assert [(row["network"], row["weight of the EE"], row["runs"]) for row in table] == [
        ("density", "0", "3"),
        ("density", "10", "3"),
        ("classifier", "0", "3"),
        ("classifier", "10", "2"),
    ]
    density, weighed, classifier, weighed_too = table
    # 1, 2 and 3 nats: Student's interval of their mean.
    assert weighed["difference (nats)"] == f"+2.00 [−{4.3027 / 3**0.5 - 2:.2f}, +{4.3027 / 3**0.5 + 2:.2f}]"
    assert (density["nats an image"], density["test accuracy"]) == ("60.00", "")
    assert (weighed["difference (points)"], density["EE (nats)"]) == ("", "3.000")
    assert (classifier["nats an image"], classifier["test accuracy"]) == ("", "90.00%")
    assert weighed_too["difference (points)"] == "−1.00"


def test_a_figure_draws_likelihoods_of_densities_and_accuracies_of_classifiers(intervention):
    accuracy, likelihood = against_entropy(intervention).axes
    for axes, values in ((accuracy, [0.9, 0.89]), (likelihood, [60.0, 62.0])):
        assert [container.lines[0].get_ydata()[0] for container in axes.containers] == pytest.approx(values)
        assert [text.get_text() for text in axes.texts] == ["0", "10"]
    assert [c.lines[0].get_xdata()[0] for c in likelihood.containers] == pytest.approx([3, 2 / 11 + 1])


def test_entropies_of_every_scale_are_those_of_runs_without_a_term(intervention):
    titles, *rows = density_entropies(intervention)
    assert [row[:3] for row in rows] == [("MNIST", "density", "3"), ("MNIST", "classifier", "3")]
    assert all(len(row) == len(titles) for row in rows)
    assert [row[3:] for row in (titles, *rows)] == [("1", "2"), ("1.500", "1.000"), ("1.500", "2.000")]


def test_densities_of_every_class_are_taken_from_their_measurement(tmp_path, monkeypatch):
    monkeypatch.setattr(density_tables, "MEASUREMENTS", tmp_path)
    density_run(tmp_path / "runs/binary", nats__test=100.0, bits_per_pixel__test=0.18)
    collection = read_collection(tmp_path / "runs")
    assert len(list(class_densities())) == 1
    before = list(densities(collection))
    of_all = {"data": "mnist", "levels": 2, "d": 32, "epochs": 40, "parameters": 4324480, "missing_images": 1000}
    rows = [
        {**of_all, "nats": 91 + seed, "bits_per_pixel": 0.17, "accuracy": 0.97, "ee_mixture": 2.0, "seconds": 500}
        | {"seed": seed, "accuracy_missing": 0.95 + seed / 100}
        for seed in (0, 2)
    ]
    (tmp_path / "class_densities.json").write_text(json.dumps({"rows": rows}))
    (added,) = set(densities(collection)) - set(before)
    assert added[2:7] == ("**ours**, one for each class, d = 32", "4324480", "40", "2", "92.00 ± 1.41")
    _, row = class_densities()
    assert row == ("MNIST", "2", "2", "97.00 ± 0.00%", "96.00 ± 1.41%", "1000")


def test_a_density_of_images_and_labels_has_an_accuracy(tmp_path):
    for weight in (0, 1):
        density_run(tmp_path / f"{weight}", weight=weight, labels=True, nats__test=70.0, ee__mixture=1.0)
    accuracy, likelihood = against_entropy(read_collection(tmp_path)).axes
    assert len(accuracy.containers) == len(likelihood.containers) == 2
    _, row, _ = density_interventions(read_collection(tmp_path))
    assert row[7].endswith("%")


def test_densities_stand_beside_published_ones_of_the_same_images(tmp_path, monkeypatch):
    monkeypatch.setattr(density_tables, "MEASUREMENTS", tmp_path)
    for seed, nats in ((0, 100.0), (1, 101.0)):
        numbers = {"nats__train": nats - 1, "bits_per_pixel__test": nats / 784 / math.log(2), "ee__mixture": 2.0}
        density_run(tmp_path / f"binary {seed}", seed, nats__test=nats, **numbers)
    density_run(tmp_path / "grey", levels=None, nats__test=700.0, bits_per_pixel__test=1.29)
    density_run(tmp_path / "classifier", blend=1, seed=5, nats__test=900.0)
    titles, *rows = densities(read_collection(tmp_path))
    assert all(len(row) == len(titles) for row in rows)
    table = [dict(zip(titles, row, strict=True)) for row in rows]
    ours = [row for row in table if row["density"].startswith("**ours**")]
    assert [row["grey levels"] for row in ours] == ["2", "256"]
    binary, grey = ours
    assert (binary["nats an image"], binary["train"], binary["seeds"]) == ("100.50 ± 0.71", "99.50 ± 0.71", "2")
    assert (binary["parameters"], binary["epochs"], binary["EE of the mixture"]) == ("64320", "3", "2.00 ± 0.00")
    assert (grey["bits a pixel"], grey["train"], grey["seconds"]) == ("1.290", "", "40")
    # Ours follow those published of as many grey levels.
    kinds = [row["grey levels"] for row in table if row["data set"] == "MNIST"]
    assert kinds == sorted(kinds, key=int)
    assert "94.25" in [row["nats an image"] for row in table]
    assert table[-1]["data set"] == "Fashion-MNIST"
