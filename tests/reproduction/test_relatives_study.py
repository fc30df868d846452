"""The study of the relatives: what its configs are, and what its tables and figure say of runs that are known."""

from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from scipy.stats import spearmanr, ttest_1samp
from synthetic import curves, write_run

from composing import composed
from qcnn_lightning.figure_style import styled
from qcnn_lightning.hints import check_settings
from qcnn_lightning.models.model import num_parameters
from qcnn_lightning.report.correlation import Estimate
from qcnn_lightning.report.groups import read_collection
from qcnn_lightning.report.layout import Choices
from qcnn_lightning.runs.run import Run
from qcnn_lightning.training.build import build
from reproduction.relatives_study import (
    RELATIVES,
    SIZES,
    answer,
    entropy_and_cost_table,
    networks_table,
    relative_of,
)
from reproduction.study_figures import planned_study_figures
from reproduction.tables.relatives import relatives, relatives_claims

CONFIGS = f"hydra.searchpath=[file://{Path(__file__).parents[2] / 'reproduction' / 'conf'}]"
MODELS = {
    "qcnn_full": {"_target_": "qcnn_lightning.QCNN", "sharing": "full"},
    "mps_complex": {"_target_": "qcnn_lightning.MPS", "dtype": "complex"},
    "ttn": {"_target_": "qcnn_lightning.TTN", "dtype": "real"},
}
# (240 d + 180) d parameters.
WIDTHS = {"10k": 6, "160k": 26}
EPOCHS = 6


def table_of(relative, size, seed):
    """A training whose entropy rises as the cost falls; in trees of dense tensors it falls."""
    table = curves(d=WIDTHS[size], seed=seed, flatten=f"z_left_right{relative}", epochs=EPOCHS)
    table["ee/mean"] += np.random.default_rng([seed, WIDTHS[size]]).normal(scale=0.001, size=len(table))
    if relative == "ttn":
        table["ee/mean"] = 1 - table["ee/mean"]
    table["cost/batch"] = table["cost/train"] / 2
    return table


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("relatives")
    for relative, model in MODELS.items():
        for size, d in WIDTHS.items():
            for seed in range(3):
                run = folder / f"{relative},{size},{seed}"
                table = table_of(relative, size, seed)
                write_run(run, d=d, seed=seed, flatten="z_left_right", epochs=EPOCHS, table=table, model=model)
    return read_collection(folder)


@pytest.mark.parametrize("relative", RELATIVES)
def test_the_relatives_of_a_size_have_as_many_parameters_and_can_be_trained(relative, tmp_path):
    for size, number in SIZES.items():
        chosen = ("sweep=relatives", f"relative={relative}", f"sweep.parameters={size}", "run_dir=run")
        config = OmegaConf.create(OmegaConf.to_container(composed("train", CONFIGS, *chosen), resolve=True))
        check_settings(config)
        model = build(config.model, "model", num_sites=256, num_classes=10)
        assert num_parameters(model) == pytest.approx(number, rel=0.2)
        run = Run(write_run(tmp_path / size, epochs=1, model=OmegaConf.to_container(config.model)))
        assert relative_of(run) == relative


def test_every_network_has_its_runs_and_their_correlations(study):
    table = networks_table(study).set_index(["relative", "size"])
    assert list(table.index) == [(relative, size) for relative in MODELS for size in WIDTHS]
    for (relative, size), row in table.iterrows():
        runs = [table_of(relative, size, seed) for seed in range(3)]
        accuracies = [run["accuracy/test"].iloc[-1] for run in runs]
        expected = ttest_1samp(accuracies, 0).confidence_interval()
        assert (row["accuracy"].low, row["accuracy"].high) == pytest.approx((expected.low, expected.high))
        assert row["cost/train"].value == pytest.approx(np.mean([run["cost/train"].iloc[-1] for run in runs]))
        own = [spearmanr(run["ee/mean"][1:], run["cost/train"][1:]).statistic for run in runs]
        assert row["within"].value == pytest.approx(np.mean(own))
        assert row["negative"] == (0 if relative == "ttn" else 3)


def test_a_relative_is_told_over_its_sizes_seed_by_seed(study):
    table = entropy_and_cost_table(study).set_index("relative")
    assert (table["runs"] == 6).all()
    for relative, row in table.iterrows():
        by_seed = [[table_of(relative, size, seed)[1:] for size in WIDTHS] for seed in range(3)]
        own = [np.mean([spearmanr(run["ee/mean"], run["cost/train"]).statistic for run in runs]) for runs in by_seed]
        assert row["within"].value == pytest.approx(np.mean(own))
        pooled = [
            spearmanr(
                np.concatenate([run["ee/mean"] for run in runs]), np.concatenate([run["cost/train"] for run in runs])
            ).statistic
            for runs in by_seed
        ]
        assert row["pooled"].value == pytest.approx(np.mean(pooled))
        assert row["negative"] == (0 if relative == "ttn" else 6)


def test_the_answer_is_that_of_the_interval():
    assert answer(Estimate(-0.5, -0.8, -0.1)) == "yes"
    assert answer(Estimate(-1.0, -1.0, -1.0)) == "yes"
    assert answer(Estimate(0.5, 0.1, 0.8)) == "no"
    assert answer(Estimate(-0.5, -0.8, 0.1)) == "not confirmed"
    assert answer(Estimate(-0.5)) == "not confirmed"


def test_the_tables_of_the_page_have_a_row_for_each(study):
    assert len(list(relatives(study))) == 1 + 6
    titles, *rows = relatives_claims(study)
    assert [row[2] for row in rows] == ["yes", "yes", "no"]
    assert all(len(row) == len(titles) for row in rows)


def test_the_figure_has_a_panel_for_every_relative_and_a_line_for_every_run(study):
    plan = dict(planned_study_figures(study, Choices(), []))
    with styled():
        figure = plan["entropy_and_cost_mnist"]()
    assert [axes.get_title(loc="left").replace("\n", " ") for axes in figure.axes] == [
        RELATIVES[name] for name in MODELS
    ]
    for axes, relative in zip(figure.axes, MODELS, strict=True):
        lines = [line for line in axes.lines if len(line.get_xdata()) > 1]
        expected = [table_of(relative, size, seed)[1:] for size in WIDTHS for seed in range(3)]
        shown = sorted(tuple(np.round(line.get_xydata().ravel(), 9)) for line in lines)
        assert shown == sorted(
            tuple(np.round(run[["cost/train", "ee/mean"]].to_numpy().ravel(), 9)) for run in expected
        )
