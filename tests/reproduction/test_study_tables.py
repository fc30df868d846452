import json
import math

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.stats import spearmanr, ttest_1samp
from synthetic import curves, write_run

from qcnn_lightning.report.groups import Collection, read_collection
from qcnn_lightning.report.tables import last
from reproduction.studies import (
    class_table,
    classes_at_the_end,
    concordance_of,
    contrast_table,
    entropy_and_error,
    mean_with_interval,
    overfitting_and_rise,
    overfitting_table,
    paper_table,
    settling,
    settling_table,
    within_run_table,
)
from reproduction.tables import measurements, networks
from reproduction.tables.claims import claims
from reproduction.tables.measurements import sums
from reproduction.tables.networks import published


def steps(**columns) -> pd.DataFrame:
    """A run's table from its columns, epoch -1 first."""
    length = len(next(iter(columns.values())))
    return curves(epochs=length - 1).assign(**columns)


def one_run(folder, **columns):
    write_run(folder / "run", table=steps(**columns))
    return read_collection(folder).runs[0]


def with_setting(folder, key, value):
    """Give a run folder another setting."""
    path = folder / ".hydra/config.yaml"
    config = yaml.safe_load(path.read_text())
    part = config
    *groups, name = key.split(".")
    for group in groups:
        part = part.setdefault(group, {})
    part[name] = value
    path.write_text(yaml.safe_dump(config))


def test_the_interval_of_a_mean_is_students():
    values = [0.2, 0.9, 0.4, 0.7]
    estimate = mean_with_interval(values, 0.9)
    expected = ttest_1samp(values, 0).confidence_interval(0.9)
    assert (estimate.low, estimate.high) == pytest.approx((expected.low, expected.high))
    assert mean_with_interval([*values, math.nan]) == mean_with_interval(values)
    # two runs say next to nothing about others
    assert math.isnan(mean_with_interval(values[:2]).low)
    assert math.isnan(mean_with_interval([]).value)
    assert mean_with_interval([-1.0, 1.0, 1.0], bounds=(-1.0, 1.0)).high == 1


def test_the_accuracy_settles_where_it_first_comes_near_its_last_value(tmp_path):
    found = settling(
        one_run(
            tmp_path,
            **{"accuracy/test": [0.1, 0.5, 0.896, 0.6, 0.9, 0.9], "ee/mean": [0.01, 0.1, 0.3, 0.2, 0.4, 0.6]},
        ),
        window=1,
    )
    assert found.epoch == 1
    assert (found.before, found.settled, found.final) == (0.01, 0.3, 0.6)
    assert found.rise == pytest.approx(0.3)
    assert found.share == pytest.approx(0.5)


def test_an_entropy_that_falls_after_settling_has_lost_a_share(tmp_path):
    run = one_run(tmp_path, **{"accuracy/test": [0.1, 0.9, 0.9], "ee/mean": [0.0, 0.8, 0.2]})
    assert settling(run, window=1).share == pytest.approx(-0.75)


def test_tables_have_a_row_per_experiment_and_one_for_all_runs_of_a_data_set(tmp_path):
    for d in (2, 18):
        for seed in (0, 1, 2):
            write_run(tmp_path / f"{d},{seed}", d=d, seed=seed, epochs=40)
    collection = read_collection(tmp_path)
    table = settling_table(collection)
    assert list(table["network"]) == ["d = 2, left/right", "d = 18, left/right", "all"]
    assert list(table["runs"]) == [3, 3, 6]
    shares = [settling(run).share for run in collection.runs]
    assert table["share"].iloc[2].value == pytest.approx(np.mean(shares))
    correlations = within_run_table(collection, first_epoch=30)
    expected = [
        spearmanr(run.column("ee/mean").loc[30:], run.column("cost/train").loc[30:]).statistic
        for run in collection.runs
        if run.d == 2
    ]
    assert correlations["train"].iloc[0].value == pytest.approx(np.mean(expected))
    assert correlations["train negative"].iloc[0] == sum(value < 0 for value in expected)
    # no epoch from there on
    assert list(within_run_table(collection, first_epoch=90)["runs"]) == [0, 0, 0]


def test_accuracies_stand_beside_the_papers(tmp_path):
    for data in ("mnist", "fmnist", "digits"):
        for seed in (0, 1, 2):
            write_run(tmp_path / f"{data},{seed}", data=data, seed=seed, epochs=5)
    collection = read_collection(tmp_path)
    table = paper_table(collection).set_index("data")
    assert (table.loc["mnist", "paper"], table.loc["fmnist", "paper"]) == (0.97, 0.89)
    assert math.isnan(table.loc["digits", "paper"])
    best = [run.column("accuracy/test").max() for run in collection.runs if run.data == "mnist"]
    assert table.loc["mnist", "best"] == mean_with_interval(best)


def test_overfitting_is_the_rise_of_the_test_cost_over_its_lowest(tmp_path):
    one_run(
        tmp_path,
        **{
            "accuracy/test": [0.1, 0.9, 0.9, 0.9],
            # lower before training than ever after, as nobody would count
            "cost/test": [0.01, 0.3, 0.2, 0.25],
            "ee/mean": [0.0, 0.1, 0.3, 0.7],
        },
    )
    row = overfitting_table(read_collection(tmp_path), window=1).iloc[0]
    assert row["cost rise"].value == pytest.approx(0.05)
    assert row["ee rise"].value == pytest.approx(0.6)
    assert row["ee rise since"].value == pytest.approx(0.4)


def test_runs_that_overfit_more_and_gain_more_entropy_are_correlated(tmp_path):
    for seed, (cost, entropy) in enumerate([(0.2, 0.3), (0.25, 0.5), (0.4, 0.4), (0.5, 0.9)]):
        columns = {"accuracy/test": [0.1, 0.9, 0.9], "cost/test": [0.9, 0.2, cost], "ee/mean": [0.0, 0.1, entropy]}
        write_run(tmp_path / f"{seed}", seed=seed, table=steps(**columns))
    row = overfitting_and_rise(read_collection(tmp_path), window=1).iloc[0]
    assert row["runs"] == 4
    assert row["correlation"].value == pytest.approx(0.8)
    assert row["correlation"].low < 0.8
    # of one run there is none
    write_run(tmp_path / "alone" / "run", data="fmnist", table=steps(**columns))
    assert math.isnan(overfitting_and_rise(read_collection(tmp_path / "alone"))["correlation"].iloc[0].value)


def test_runs_are_compared_seed_by_seed_in_one_setting_alone(tmp_path):
    generator = np.random.default_rng(0)
    for sharing in ("full", "sibling"):
        for seed in (0, 1, 2):
            of_seed = generator.normal(scale=0.1)
            for weight in (0, -0.1, 0.1):
                if (sharing, seed, weight) == ("sibling", 2, 0.1):
                    continue
                table = curves(epochs=3)
                # seeds differ by far more than the weights do
                table["accuracy/test"] = 0.5 + of_seed + weight / 10 * (seed + 1)
                folder = tmp_path / f"{sharing},{seed},{weight}"
                write_run(folder, seed=seed, epochs=3, table=table, model={"sharing": sharing})
                with_setting(folder, "entropy_weight", weight)
    # of other halves of the images, so to be compared with none of these
    write_run(tmp_path / "up_down", seed=0, flatten="up_down", epochs=3, model={"sharing": "full"})
    # of a study that has but begun
    lonely = write_run(tmp_path / "lonely", data="fmnist", epochs=3)
    with_setting(lonely, "entropy_weight", 0.1)
    metrics = {"accuracy": lambda run: last(run.column("accuracy/test"))}
    table = contrast_table(read_collection(tmp_path), "entropy_weight", 0, metrics)
    assert list(table["data"].unique()) == ["mnist"]
    assert list(zip(table["network"], table["value"], table["runs"], strict=True)) == [
        ("full sharing, left/right", 0, 3),
        ("full sharing, left/right", -0.1, 3),
        ("full sharing, left/right", 0.1, 3),
        ("sibling sharing, left/right", 0, 3),
        ("sibling sharing, left/right", -0.1, 3),
        ("sibling sharing, left/right", 0.1, 2),
    ]
    differences = list(table["accuracy difference"])
    assert math.isnan(differences[0].value)
    assert differences[1].value == pytest.approx(-0.02)
    # Student's interval of -0.01, -0.02, -0.03
    assert differences[1].high - differences[1].value == pytest.approx(4.3027 * 0.01 / 3**0.5, rel=1e-4)
    assert differences[5].value == pytest.approx(0.015)


def with_recall(seed=0, slope=1.0, epochs=3):
    table = curves(seed=seed, epochs=epochs)
    for label in range(10):
        table[f"recall/class_{label}"] = 1 - slope * table[f"ee/class_{label}"] / 10
    return table


def test_a_class_with_more_entropy_and_more_errors_is_seen(tmp_path):
    for seed, slope in ((0, 1.0), (1, 1.0), (2, -1.0)):
        table = with_recall(seed, slope)
        table.loc[table.index[-1], "recall/class_3"] = np.nan
        write_run(tmp_path / f"{seed}", seed=seed, epochs=3, table=table)
    # from before the recall was measured
    write_run(tmp_path / "3", seed=3, epochs=3)
    runs = read_collection(tmp_path).runs
    assert [entropy_and_error(run) for run in runs[:3]] == pytest.approx([1, 1, -1])
    assert math.isnan(entropy_and_error(runs[3]))
    # the last epoch in which all was measured
    end = classes_at_the_end(runs[0])
    assert end["entropy"].iloc[0] == runs[0].column("ee/class_0")[1]
    assert classes_at_the_end(runs[3])["entropy"].iloc[0] == last(runs[3].column("ee/class_0"))
    row = class_table(read_collection(tmp_path)).iloc[0]
    assert row["correlation"].value == pytest.approx(1 / 3)
    assert (row["runs"], row["runs with errors"]) == (4, 3)


def test_concordance_is_kendalls():
    order = np.arange(6.0)
    assert concordance_of(np.stack([order, order**2, order + 7]))[0] == pytest.approx(1)
    entropies = np.random.default_rng(0).random((2, 6))
    # of two, it follows from their Spearman correlation
    assert concordance_of(entropies)[0] == pytest.approx((1 + spearmanr(*entropies).statistic) / 2)
    assert math.isnan(concordance_of(entropies[:1])[0])
    assert math.isnan(concordance_of(np.ones((3, 6)))[0])


def test_the_claims_tell_wide_networks_apart_also_over_all_epochs(tmp_path):
    rng = np.random.default_rng(0)
    points = {}
    for d in (2, 18, 30):
        # narrow networks cost more and are less entangled: a correlation that wide ones do not have
        entropy, cost = rng.normal(size=(2, 90)) + (np.array([[-9], [9]]) if d == 2 else 0)
        entropies, costs = ([np.nan, *values] for values in (entropy, cost))
        write_run(
            tmp_path / f"{d}", d=d, table=steps(**{"ee/mean": entropies, "cost/train": costs, "cost/test": costs})
        )
        points[d] = np.array([entropy[30:], cost[30:]])
    told = {row[0]: row[2] for row in claims(read_collection(tmp_path))}
    for kind, widths in (("", (2, 18, 30)), (", d ≥ 18", (18, 30))):
        expected = spearmanr(*np.hstack([points[d] for d in widths])).statistic
        for cost in ("train", "test"):
            value = told[f"EE ~ {cost} cost, all epochs of all runs{kind}"].split()[0].replace("−", "-")
            assert float(value) == pytest.approx(expected, abs=0.0051)


def test_sums_of_networks_are_taken_from_their_measurement(tmp_path, monkeypatch):
    for tables in (measurements, networks):
        monkeypatch.setattr(tables, "MEASUREMENTS", tmp_path)
    assert len(list(sums())) == 1
    of_all = {"data": "fmnist", "size": 28, "d": 20, "epochs": 80, "parameters": 713680, "mirror": False, "seconds": 9}
    rows = [
        {**of_all, "seeds": [seed, seed + 1], "accuracy": 0.93 + seed / 1000, "cost": 0.1, "ee": 0.5} for seed in (0, 2)
    ]
    together = {**of_all, "seeds": [0, 1, 2, 3], "mirror": True, "accuracy": 0.94, "cost": 0.09}
    alone = [{**rows[0], "seeds": [0], "mirror": mirror, "parameters": 356840} for mirror in (False, True)]
    (tmp_path / "sums.json").write_text(json.dumps({"rows": [*alone, *rows, together]}))
    _, _, _, of_two, of_four = sums()
    assert of_two[1:] == ("2", "no", "28x28", "713680", "80", "2", "93.10 ± 0.14%", "0.1000 ± 0.0000", "0.500 ± 0.000")
    assert of_four[1:] == ("4", "yes", "28x28", "713680", "80", "1", "94.00%", "0.0900", "")
    added = [row for row in published(Collection(())) if "ours" in row[1]]
    # A network alone is among the runs.
    names = ["**ours**, with mirror images", "**ours**, sum of 2", "**ours**, sum of 4, with mirror images"]
    assert [row[1] for row in added] == names
    assert {row[0] for row in added} == {"Fashion-MNIST"}
