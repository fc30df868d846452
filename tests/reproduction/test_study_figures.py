import numpy as np
import pytest
from synthetic import write_run
from test_study_tables import with_recall, with_setting

from qcnn_lightning.report.groups import read_collection
from qcnn_lightning.report.layout import Choices, draw_all
from reproduction.study_figures import (
    against_entropy,
    against_weight,
    entropy_and_error_of_classes,
    planned_study_figures,
)


@pytest.fixture
def intervention(tmp_path):
    for seed in (0, 1):
        for weight in (0, -0.1, 0.1):
            # the study is not complete
            if (seed, weight) == (1, 0.1):
                continue
            folder = write_run(tmp_path / f"{seed},{weight}", seed=seed, epochs=3, table=with_recall(seed))
            with_setting(folder, "entropy_weight", weight)
    return read_collection(tmp_path)


def test_weights_are_drawn_in_order_with_zero_among_them(intervention):
    above, below = against_weight(intervention).axes
    assert [label.get_text() for label in below.get_xticklabels()] == ["-0.1", "0", "0.1"]
    (container,) = above.containers
    expected = [
        np.mean(
            [run.metrics["accuracy/test"].iloc[-1] for run in intervention.runs if run.settings["entropy_weight"] == w]
        )
        for w in (-0.1, 0, 0.1)
    ]
    assert container.lines[0].get_ydata() == pytest.approx(expected)


def points_of(axes):
    """The point of every class, in the classes' order."""
    return [container.lines[0].get_xydata()[0] for container in axes.containers]


def test_every_class_has_a_named_point(intervention):
    figure = entropy_and_error_of_classes(intervention.groups)
    for axes, group in zip(figure.axes, intervention.groups, strict=True):
        assert sorted(text.get_text() for text in axes.texts) == [str(label) for label in range(10)]
        assert all(text.xy == pytest.approx(points_of(axes)[int(text.get_text())]) for text in axes.texts)
        error = 1 - np.mean([run.metrics["recall/class_4"].iloc[-1] for run in group.runs])
        assert points_of(axes)[4][0] == pytest.approx(100 * error)
        assert axes.get_title(loc="right") == "ρ = 1.00"


def test_without_recall_the_reason_is_told(tmp_path):
    write_run(tmp_path / "run", epochs=3)
    assert "recall/class_0" in entropy_and_error_of_classes(read_collection(tmp_path).groups)


def test_both_figures_are_planned_where_runs_have_them(tmp_path, intervention):
    names, left_out = draw_all(intervention, tmp_path / "figures", Choices(), [planned_study_figures], ["png"])
    assert names == ["entropy_and_error_mnist", "against_entropy_weight"]
    assert left_out == []


def test_densities_and_classifiers_share_a_figure_against_entropy(tmp_path):
    for seed in (0, 1):
        for weight in (0, 10):
            for blend in (0, 1):
                table = with_recall(seed)
                table["nats/test"] = 60.0 + weight + seed
                table["ee/mixture"] = 1.0 / (1 + weight)
                folder = write_run(
                    tmp_path / f"{seed},{weight},{blend}",
                    seed=seed,
                    epochs=3,
                    table=table,
                    cost={
                        "_target_": "qcnn_lightning.costs.NegativeLogLikelihood",
                        "discriminative_weight": blend,
                    },
                )
                with_setting(folder, "entropy_weight", weight)
    collection = read_collection(tmp_path)
    accuracy, likelihood = against_entropy(collection).axes
    assert len(accuracy.containers) == 4
    # A classifier's p(x) is not learned: its likelihood is not drawn.
    points = {container.lines[0].get_xydata()[0][1] for container in likelihood.containers}
    assert points == {60.5, 70.5}
    assert sorted(text.get_text() for text in likelihood.texts) == ["0", "10"]
    names, _ = draw_all(collection, tmp_path / "figures", Choices(), [planned_study_figures], ["png"])
    assert "likelihood_and_accuracy_against_entropy" in names
