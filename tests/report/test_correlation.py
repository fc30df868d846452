import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from synthetic import write_run, write_sweep

from qcnn_lightning.report.correlation import (
    MEASURES,
    Order,
    block_counts,
    mean_over_runs,
    over_runs,
    pearson,
    spearman,
    with_interval,
    within_run,
)
from qcnn_lightning.report.groups import read_collection
from qcnn_lightning.report.tables import accuracy_table, correlation_table

SCIPY = {"spearman": stats.spearmanr, "pearson": stats.pearsonr}
small_numbers = st.lists(st.integers(0, 6), min_size=8, max_size=8)


@pytest.mark.parametrize("measure", MEASURES)
@given(x=small_numbers, y=small_numbers, copies=st.lists(st.integers(0, 3), min_size=8, max_size=8))
def test_a_weight_is_as_many_copies_of_the_point(measure, x, y, copies):
    x, y = np.array(x, dtype=float), np.array(y, dtype=float)
    repeated = np.repeat(x, copies), np.repeat(y, copies)
    if any(len(set(column)) < 2 for column in repeated):
        return
    expected = SCIPY[measure](*repeated).statistic
    counts = np.array(copies, dtype=float)[:, None]
    assert MEASURES[measure](x, y, counts, np.arange(8))[0] == pytest.approx(expected, abs=1e-12)


@given(values=small_numbers)
def test_ranks_are_those_of_scipy(values):
    ranks = Order.of(np.array(values, dtype=float)).ranks(np.ones((8, 1)))
    np.testing.assert_allclose(ranks[:, 0], stats.rankdata(values))


def test_a_constant_has_no_correlation():
    constant, line = np.full(10, 0.1), np.arange(10.0)
    for measure in (pearson, spearman):
        assert np.isnan(measure(constant, line, np.ones((10, 1)), np.arange(10)))
    assert np.isnan(within_run(constant, line, "spearman").value)


@given(epochs=st.integers(5, 80), length=st.integers(1, 20))
def test_every_bootstrap_sample_has_as_many_epochs_as_the_run(epochs, length):
    counts = block_counts(epochs, length, 20)
    assert (counts.sum(axis=0) == epochs).all()


def test_blocks_hold_the_truth_more_often_than_single_epochs():
    """Two independent series whose epochs follow from one another: the true correlation is 0."""
    generator = np.random.default_rng(3)
    series = np.zeros((2, 200, 60))
    for epoch in range(1, 60):
        series[..., epoch] = 0.8 * series[..., epoch - 1] + generator.normal(size=(2, 200))
    covered = {}
    for length in (1, 8):
        counts = block_counts(60, length, 200)
        intervals = [
            with_interval(0.0, spearman(x, y, counts, np.arange(60)), 0.95) for x, y in zip(*series, strict=True)
        ]
        covered[length] = np.mean([interval.low <= 0 <= interval.high for interval in intervals])
    assert covered[1] < 0.78
    assert covered[8] > 0.82


def test_over_runs_is_the_correlation_of_all_points_and_resamples_whole_runs():
    generator = np.random.default_rng(0)
    # Islands: within a run nothing, between runs everything.
    centres = np.arange(12.0)
    x = [centre + 0.01 * generator.normal(size=30) for centre in centres]
    y = [-centre + 0.01 * generator.normal(size=30) for centre in centres]
    estimate = over_runs(x, y, "pearson")
    assert estimate.value == pytest.approx(stats.pearsonr(np.concatenate(x), np.concatenate(y)).statistic)
    assert estimate.low <= estimate.value <= estimate.high < -0.99
    own = np.array([within_run(*pair, "pearson").value for pair in zip(x, y, strict=True)])
    mean = mean_over_runs(own)
    assert mean.low < 0 < mean.high


def test_two_runs_give_no_interval():
    x = [np.arange(10.0), np.arange(10.0)]
    assert np.isnan(over_runs(x, x, "spearman").low)
    assert np.isnan(mean_over_runs(np.array([0.5, 0.6])).low)


def test_correlations_begin_where_they_are_told_to(tmp_path):
    write_run(tmp_path / "run", epochs=60)
    write_run(tmp_path / "short", seed=1, epochs=32)
    collection = read_collection(tmp_path)
    table, left_out = correlation_table(collection, first_epoch=30, resamples=50)
    run = next(run for run in collection.runs if run.name == "run")
    late = run.metrics[run.metrics.index >= 30]
    row = table[(table["run"] == "run") & (table["cost"] == "test") & (table["of"] == "values")].set_index("measure")
    assert row.loc["spearman", "correlation"] == pytest.approx(stats.spearmanr(late["ee/mean"], late["cost/test"])[0])
    assert row.loc["pearson", "correlation"] == pytest.approx(stats.pearsonr(late["ee/mean"], late["cost/test"])[0])
    changes = table[(table["run"] == "run") & (table["cost"] == "test") & (table["of"] == "changes")]
    expected = stats.spearmanr(np.diff(late["ee/mean"]), np.diff(late["cost/test"]))[0]
    assert changes.set_index("measure").loc["spearman", "correlation"] == pytest.approx(expected)
    assert [item.what for item in left_out] == ["short"]
    assert not (table["run"] == "short").any()


def test_unless_told_correlations_of_a_short_run_begin_at_a_third_of_it(tmp_path):
    write_run(tmp_path, epochs=20)
    collection = read_collection(tmp_path)
    table, left_out = correlation_table(collection, resamples=50)
    (run,) = collection.runs
    late = run.metrics[run.metrics.index >= 6]
    row = table[(table["scope"] == "run") & (table["cost"] == "test") & (table["of"] == "values")].set_index("measure")
    assert row.loc["spearman", "correlation"] == pytest.approx(stats.spearmanr(late["ee/mean"], late["cost/test"])[0])
    assert not left_out


def test_accuracies_are_averaged_over_the_seeds_that_got_as_far(tmp_path):
    write_sweep(tmp_path, data=("mnist",), d=(10,), seeds=(0, 1, 2), epochs=20)
    late = write_run(tmp_path / "late", d=10, seed=3, epochs=20)
    lines = (late / "metrics.csv").read_text().splitlines(keepends=True)
    (late / "metrics.csv").write_text("".join(lines[:5]))
    collection = read_collection(tmp_path)
    (row,) = accuracy_table(collection).to_dict("records")
    complete = [run.column("accuracy/test") for run in collection.runs if run.last_epoch == 19]
    assert row["seeds"] == len(complete) == 3
    assert row["accuracy/test best, mean"] == pytest.approx(np.mean([values.max() for values in complete]))
    assert row["accuracy/test final, sd"] == pytest.approx(np.std([values.iloc[-1] for values in complete], ddof=1))
