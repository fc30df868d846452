import numpy as np
import pytest
from scipy.stats import spearmanr, ttest_1samp
from synthetic import curves, write_run
from test_study_tables import with_setting

from qcnn_lightning.figure_style import styled
from qcnn_lightning.report.groups import read_collection
from qcnn_lightning.report.layout import Choices, draw_all
from reproduction.embedding_study import (
    EMBEDDINGS,
    ORDERS,
    cells_table,
    correlations_table,
    effects_table,
    runs_table,
    scales_table,
)
from reproduction.study_figures import accuracy_and_scale, planned_study_figures
from reproduction.tables.embeddings import embedding_correlations, embedding_effects, embeddings, scales

SETTINGS = {"circle": ("fourier", 1.0), "three_quarters": ("fourier", 0.75), "legendre": ("legendre", 1.0)}
ACCURACY_OF = {"circle": 0.0, "three_quarters": 0.01, "legendre": 0.02}


def table_of(embedding, order, seed):
    """A training whose accuracy at the end is the sum of what seed, embedding and order bring."""
    table = curves(seed=seed, flatten=order, epochs=12)
    noise = np.random.default_rng([seed, ORDERS.index(order), len(embedding)]).normal(scale=0.2, size=len(table))
    table["ee/mean"] += noise
    table["cost/batch"] = table["cost/train"] / 2
    table["accuracy/test"] -= table["accuracy/test"].iloc[-1]
    table["accuracy/test"] += 0.9 + ACCURACY_OF[embedding] + 0.001 * ORDERS.index(order) + 0.003 * seed**2
    return table


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embedding")
    for embedding, (basis, white) in SETTINGS.items():
        for order in ORDERS:
            for seed in range(3):
                run = folder / f"{embedding},{order},{seed}"
                model = {"basis": basis}
                write_run(run, seed=seed, flatten=order, epochs=12, table=table_of(embedding, order, seed), model=model)
                with_setting(run, "data.white", white)
    return read_collection(folder)


def test_every_cell_has_its_runs_and_the_two_train_costs(study):
    cells = cells_table(study)
    assert len(cells) == 12
    assert (cells["seeds"] == 3).all()
    for row in cells.to_dict("records"):
        tables = [table_of(row["embedding"], row["order"], seed) for seed in range(3)]
        accuracies = [table["accuracy/test"].iloc[-1] for table in tables]
        assert row["accuracy"].value == pytest.approx(np.mean(accuracies))
        expected = ttest_1samp(accuracies, 0).confidence_interval()
        assert (row["accuracy"].low, row["accuracy"].high) == pytest.approx((expected.low, expected.high))
        for name, column in (("batches", "cost/batch"), ("train", "cost/train"), ("test", "cost/test")):
            assert row[f"cost/{name}"].value == pytest.approx(np.mean([table[column].iloc[-1] for table in tables]))


def test_effects_are_paired_within_seeds(study):
    effects = effects_table(study).set_index("level")
    assert (effects["seeds"] == 3).all()
    for embedding in ("three_quarters", "legendre"):
        estimate = effects.loc[embedding, "accuracy"]
        # What a seed brings cancels: the interval has no width.
        assert [estimate.low, estimate.value, estimate.high] == pytest.approx([ACCURACY_OF[embedding]] * 3)
        assert effects.loc[embedding, "pairs"] == 12
    assert effects.loc["up_down", "accuracy"].value == pytest.approx(0.001)
    assert effects.loc["z_up_down", "pairs"] == 9


def test_correlations_are_of_each_seed_first(study):
    table = correlations_table(study).set_index(["embedding", "scope"])
    assert set(table.index.get_level_values(0)) == {*EMBEDDINGS, "all"}
    own = []
    for seed in range(3):
        of_orders = [table_of("circle", order, seed) for order in ORDERS]
        of_orders = [one[one["epoch"] >= 4] for one in of_orders]
        own.append(np.mean([spearmanr(one["ee/mean"], one["cost/test"]).statistic for one in of_orders]))
    within = table.loc[("circle", "within"), "test"]
    assert within.value == pytest.approx(np.mean(own))
    assert (within.low, within.high) == pytest.approx(tuple(ttest_1samp(own, 0).confidence_interval()))
    assert ("circle", "between") not in table.index


def test_changes_are_those_from_epoch_to_epoch(study):
    table = correlations_table(study).set_index(["embedding", "scope"])
    own = []
    for seed in range(3):
        of_seed = [table_of(embedding, order, seed) for embedding in EMBEDDINGS for order in ORDERS]
        changes = [one[one["epoch"] >= 4].diff().dropna(how="all") for one in of_seed]
        own.append(np.mean([spearmanr(one["ee/mean"], one["cost/batch"]).statistic for one in changes]))
    of_changes = table.loc[("all", "changes"), "batches"]
    assert of_changes.value == pytest.approx(np.mean(own))
    assert (of_changes.low, of_changes.high) == pytest.approx(tuple(ttest_1samp(own, 0).confidence_interval()))
    assert of_changes.value != pytest.approx(table.loc[("all", "within"), "batches"].value, abs=0.01)
    assert ("circle", "changes") not in table.index


def test_the_tables_of_the_page_have_a_row_for_each(study):
    assert len(list(embeddings(study))) == 1 + 12
    assert len(list(embedding_effects(study))) == 1 + 2 + 3
    assert len(list(embedding_correlations(study))) == 1 + 4 * 2 + 2
    assert len(runs_table(study)) == 36


def test_the_figure_has_a_point_for_every_cell(study):
    plan = dict(planned_study_figures(study, Choices(), []))
    with styled():
        figure = plan["accuracy_and_entropy"]()
        (axes,) = figure.axes
    assert len(axes.containers) == 12
    places = {tuple(np.round(container.lines[0].get_xydata()[0], 6)) for container in axes.containers}
    cells = cells_table(study)
    expected = {(round(e.value, 6), round(a.value, 6)) for e, a in zip(cells["ee"], cells["accuracy"], strict=True)}
    assert places == expected


def trained_with_terms(folder, *terms):
    """Runs of three seeds for every scale and weight of a term; the weight moves the accuracy up, all EE down."""
    for seed in range(3):
        for scale, weight in terms:
            table = curves(seed=seed, epochs=6, profile_levels=4)
            table["accuracy/test"] += weight
            for level in range(4):
                table[f"profile/level_{level}"] = level + 0.1 * seed - weight
            run = write_run(folder / f"{seed},{scale},{weight}", seed=seed, epochs=6, table=table)
            for key, value in (("data.white", 1.0), ("model.basis", "fourier"), ("entropy_of", scale)):
                with_setting(run, key, value)
            with_setting(run, "entropy_weight", weight)
    return read_collection(folder)


def test_the_entropy_of_a_scale_is_compared_with_the_same_seed_without_the_term(tmp_path):
    collection = trained_with_terms(tmp_path, (0, 0.0), (2, 0.03), (2, -0.03), ("profile", 0.03))
    table = scales_table(collection).set_index(["scale", "weight"])
    assert list(table.index) == [("2", -0.03), ("2", 0.03), ("profile", 0.03)]
    for (scale, weight), row in table.iterrows():
        assert row["seeds"] == 3
        assert row["accuracy difference"].value == pytest.approx(weight)
        assert row["ee difference"].low == pytest.approx(-weight)
        assert row["ee"].value == pytest.approx((1.5 if scale == "profile" else 2) + 0.1 - weight)
    assert len(list(scales(collection))) == 1 + 3


def test_each_scale_s_entropy_and_accuracy_are_drawn_in_order_of_the_scales(tmp_path):
    terms = (0, 0.0), (2, 0.03), (2, -0.03), ("profile", 0.03), ("profile", -0.03)
    collection = trained_with_terms(tmp_path, *terms)
    above, below = accuracy_and_scale(collection).axes
    assert [label.get_text() for label in below.get_xticklabels()] == ["4", "all"]
    for axes, unit in ((above, 100), (below, -1)):
        large, small = (container.lines[0].get_ydata() for container in axes.containers)
        assert large == pytest.approx([-0.03 * unit] * 2)
        assert small == pytest.approx([0.03 * unit] * 2)
    names, _ = draw_all(collection, tmp_path / "figures", Choices(), [planned_study_figures], ["png"])
    assert "accuracy_and_scale" in names
