import itertools
import json

import matplotlib as mpl
import numpy as np
import pytest
import yaml
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.text import Text
from synthetic import curves, write_run, write_sweep

from qcnn_lightning.figure_style import FORMATS, STYLE, letters_of, make_drawable, save, styled
from qcnn_lightning.report.figures import (
    accuracy_against_parameters,
    compare_variants,
    entropy_against_d,
    entropy_against_likelihood,
    entropy_per_class,
    entropy_profile,
    figure_2,
    figure_3a,
    figure_3b,
    planned_figures,
    typical_run,
)
from qcnn_lightning.report.groups import read_collection
from qcnn_lightning.report.layout import Choices, draw_all
from qcnn_lightning.report.svg import chart_of


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    root = tmp_path_factory.mktemp("sweep")
    write_sweep(root, d=(2, 18), flatten=("left_right", "up_down"), epochs=40, profile_levels=4)
    return read_collection(root)


def lines(axes):
    return [line for line in axes.lines if len(line.get_xdata()) > 1]


def test_figure_2_shows_the_mean_over_seeds(sweep):
    chosen = [experiment for experiment in sweep.groups if experiment.variant == "d = 18"]
    accuracy, cost, left_right, up_down = figure_2(chosen, Choices(window=2)).axes
    for axes, expected in ((accuracy, 4), (cost, 4), (left_right, 2), (up_down, 2)):
        assert len(lines(axes)) == expected
        # As many bands as curves: there are two seeds.
        assert len(axes.collections) == expected
    trends = {
        (item.data, item.bipartition): np.mean([run.entropy_trend(2) for run in item.runs], axis=0) for item in chosen
    }
    for axes, bipartition in ((left_right, "left/right"), (up_down, "up/down")):
        drawn = [line.get_ydata() for line in lines(axes)]
        for data in ("mnist", "fmnist"):
            assert any(np.allclose(trends[data, bipartition], values) for values in drawn)
        assert "nats" in axes.get_ylabel()


def test_figure_2_has_no_empty_panel_where_only_one_bipartition_was_measured(tmp_path):
    write_run(tmp_path, epochs=3)
    panels = figure_2(read_collection(tmp_path).groups, Choices()).axes
    assert [axes.get_ylabel() for axes in panels] == ["accuracy", "cost", "mean EE, left/right (nats)"]
    assert all(lines(axes) for axes in panels)


def test_every_figure_names_its_axes_and_its_seeds(sweep):
    chosen = [group for group in sweep.groups if group.variant == "d = 18"]
    for figure in (
        figure_2(chosen, Choices()),
        figure_3a(chosen, Choices(first_epoch=20)),
        entropy_per_class(chosen),
        entropy_against_d(sweep, Choices()),
        accuracy_against_parameters(sweep),
        compare_variants(sweep, Choices()),
    ):
        assert "2 seeds" in figure.get_suptitle()
        for axes in figure.axes:
            outer = axes.get_subplotspec()
            if outer is not None and outer.is_last_row():
                assert axes.get_xlabel()
            if outer is not None and outer.is_first_col():
                assert axes.get_ylabel()


def test_figure_3_starts_at_its_first_epoch_and_has_an_island_per_run(sweep):
    panels = figure_3b(sweep, Choices(first_epoch=30)).axes
    assert len(panels) == 4
    for axes in panels:
        assert len(lines(axes)) == 8
        assert {len(line.get_xdata()) for line in lines(axes)} == {10}
    chosen = [experiment for experiment in sweep.groups if experiment.variant == "d = 18"]
    train, test = figure_3a(chosen, Choices(first_epoch=20)).axes
    assert {len(line.get_xdata()) for line in lines(train) + lines(test)} == {20}
    assert (train.get_xlabel(), test.get_xlabel()) == ("train cost", "test cost")


@pytest.mark.parametrize(("epochs", "first"), [(20, 6), (60, 20), (90, 30), (100, 30)])
def test_unless_told_figure_3_starts_at_epoch_30_or_at_a_third_of_the_run(tmp_path, epochs, first):
    write_run(tmp_path, epochs=epochs)
    collection = read_collection(tmp_path)
    for figure in (figure_3a(collection.groups, Choices()), figure_3b(collection, Choices())):
        assert {len(line.get_xdata()) for axes in figure.axes for line in lines(axes)} == {epochs - first}
        assert f"from epoch {first}" in figure.get_suptitle()


def test_runs_of_different_lengths_each_start_by_their_own_and_figure_3_says_so(tmp_path):
    write_run(tmp_path / "short", epochs=20)
    write_run(tmp_path / "long", epochs=100, seed=1)
    figure = figure_3b(read_collection(tmp_path), Choices())
    assert {len(line.get_xdata()) for axes in figure.axes for line in lines(axes)} == {14, 70}
    assert figure.get_suptitle() == "2 runs, seeds 0, 1, from epoch 6 to 30, depending on the run's length"


def test_a_run_that_has_only_begun_starts_by_the_length_that_it_shall_have(tmp_path):
    run = write_run(tmp_path, epochs=60) / "metrics.csv"
    run.write_text("".join(run.read_text().splitlines(keepends=True)[:27]))
    (begun,) = read_collection(tmp_path).runs
    assert (begun.last_epoch, begun.first_epoch()) == (24, 20)


def test_the_heat_map_holds_every_class_and_epoch(sweep):
    chosen = [experiment for experiment in sweep.groups if experiment.data == "mnist"]
    figure = entropy_per_class(chosen)
    mesh = figure.axes[0].collections[0]
    expected = np.mean([run.metrics[run.class_columns].to_numpy() for run in chosen[0].runs], axis=0).T
    np.testing.assert_allclose(mesh.get_array().reshape(expected.shape), expected)


def test_runs_of_many_kinds_have_titles_and_legends_that_fit(tmp_path):
    settings = {"sharing": "sibling", "start": "product_state", "basis": "legendre", "channels": "constant"}
    write_run(tmp_path / "runs/a", epochs=12, profile_levels=4, model=settings)
    write_run(tmp_path / "runs/b", d=2, epochs=40, profile_levels=4, flatten="z_left_right", seed=1)
    write_run(tmp_path / "runs/c", d=2, epochs=40, profile_levels=4, model=settings | {"start": "default"})
    collection = read_collection(tmp_path / "runs")
    # What does not fit is a warning of matplotlib, and so an error here.
    names, _ = draw_all(collection, tmp_path / "figures", Choices(), [planned_figures], ["png"])
    assert "entropy_profile_mnist" in names
    with mpl.rc_context(STYLE):
        figure = entropy_against_d(collection, Choices())
        figure.canvas.draw()
        (legend,) = figure.legends
        box = legend.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width
    # Only what is drawn is in the legend: twelve epochs are none of figure 3.
    (legend,) = figure_3b(collection, Choices(first_epoch=30)).legends
    assert len(legend.get_texts()) == 2


def test_a_variant_is_not_named_twice_by_a_class_and_its_settings(tmp_path):
    for name, scheduler in (
        ("a", {"_target_": "torch.optim.lr_scheduler.StepLR", "step_size": 10}),
        ("b", {"_target_": "torch.optim.lr_scheduler.OneCycleLR", "max_lr": 0.1}),
    ):
        config = write_run(tmp_path / name, epochs=2) / ".hydra/config.yaml"
        config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | {"scheduler": scheduler}))
    assert {item.variant for item in read_collection(tmp_path).groups} == {
        "scheduler = StepLR",
        "scheduler = OneCycleLR",
    }
    config.write_text(config.read_text().replace("OneCycleLR", "StepLR"))
    variants = {item.variant for item in read_collection(tmp_path).groups}
    assert variants == {"max lr = none, step size = 10", "max lr = 0.1, step size = none"}


def test_bars_are_standard_deviations_over_seeds(sweep):
    axes = entropy_against_d(sweep, Choices()).axes[0]
    experiment = next(item for item in sweep.groups if (item.data, item.d) == ("mnist", 18))
    values = [run.entropy_trend(2).iloc[-1] for run in experiment.runs]
    bars = [segment for bars in axes.containers for segment in bars[2][0].get_segments()]
    ends = [(segment[0][0], *sorted(segment[:, 1])) for segment in bars]
    expected = (18, np.mean(values) - np.std(values, ddof=1), np.mean(values) + np.std(values, ddof=1))
    assert any(np.allclose(end, expected) for end in ends)


def test_the_typical_run_is_the_median(tmp_path):
    for seed, accuracy in enumerate((0.2, 0.9, 0.5)):
        write_run(tmp_path / str(seed), seed=seed, table=curves(epochs=2).assign(**{"accuracy/test": accuracy}))
    (experiment,) = read_collection(tmp_path).groups
    assert typical_run(experiment).seed == 2


def test_every_figure_is_drawn(tmp_path):
    write_sweep(tmp_path / "runs", data=("mnist",), d=(2,), epochs=35, profile_levels=3)
    names, left_out = draw_all(
        read_collection(tmp_path / "runs"), tmp_path / "figures", Choices(), [planned_figures], ["svg"]
    )
    assert names == [
        "figure_2",
        "figure_3a",
        "figure_3b",
        "entropy_per_class_mnist",
        "entropy_profile_mnist",
        "entropy_against_d",
        "accuracy_against_parameters",
    ]
    assert left_out == []
    written = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert written == sorted(f"{name}.svg" for name in names)


def test_the_same_runs_give_the_same_bytes(sweep, tmp_path):
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        with mpl.rc_context(STYLE):
            save(figure_3b(sweep, Choices()), tmp_path / place / "figure", FORMATS)
    for form in FORMATS:
        first, second = (tmp_path / place / f"figure.{form}" for place in ("a", "b"))
        assert first.read_bytes() == second.read_bytes(), form


def test_what_cannot_be_drawn_is_named(tmp_path):
    write_run(tmp_path / "run", table=curves(epochs=1).drop(columns=[f"ee/class_{label}" for label in range(10)]))
    names, left_out = draw_all(
        read_collection(tmp_path / "run"), tmp_path / "figures", Choices(), [planned_figures], ["png"]
    )
    undrawn = {item.what: item.why for item in left_out}
    assert set(undrawn) == {
        f"figure {name}" for name in ("figure_3a", "figure_3b", "entropy_per_class_mnist", "entropy_profile_mnist")
    }
    assert "profile/level_0" in undrawn["figure entropy_profile_mnist"]
    assert "ee/class_0" in undrawn["figure entropy_per_class_mnist"]
    assert "figure_2" in names


def test_no_measured_columns_at_all(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,other\n-1,1\n0,2\n")
    collection = read_collection(tmp_path)
    assert isinstance(figure_2(collection.groups, Choices()), str)
    assert isinstance(entropy_against_d(collection, Choices()), str)
    assert isinstance(accuracy_against_parameters(collection), str)


def test_variants_have_a_colour_each_in_all_panels(tmp_path):
    write_sweep(tmp_path, d=(2, 18), epochs=5)
    figure = compare_variants(read_collection(tmp_path), Choices())
    assert len(figure.axes) == 4
    colours = [{line.get_color() for line in axes.lines} for axes in figure.axes]
    assert len(colours[0]) == 2
    assert all(found == colours[0] for found in colours)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["d = 2", "d = 18", "test", "train"]


def test_costs_in_nats_are_shown_as_they_are(tmp_path):
    for d in (2, 18):
        table = curves(epochs=5).assign(**{"cost/train": [700.0, 120, 100, 95, 92, 91], "cost/test": 93.0 + d})
        write_run(tmp_path / str(d), d=d, table=table)
    above, _ = compare_variants(read_collection(tmp_path), Choices()).axes
    low, high = above.get_ylim()
    assert low < 91
    assert 111 < high < 200
    panels = figure_2(read_collection(tmp_path).groups, Choices()).axes
    (cost,) = [axes for axes in panels if axes.get_ylabel().startswith("cost")]
    assert cost.get_ylim()[1] > 600
    assert "not shown" not in cost.get_ylabel()


def test_a_run_that_learns_nothing_is_shown_beside_one_that_learns(tmp_path):
    for d, end in ((2, 0.1), (18, 1.37)):
        table = curves(epochs=3).assign(**{"cost/train": [50.0, 1.4, 1.38, end], "cost/test": end})
        write_run(tmp_path / str(d), d=d, table=table)
    above, _ = compare_variants(read_collection(tmp_path), Choices()).axes
    assert above.get_ylabel() == "cost (above 2 not shown)"
    assert above.get_ylim() == (0, 2)


def test_only_what_is_asked_for_is_drawn(tmp_path):
    write_sweep(tmp_path / "sweep", d=(2, 18), epochs=5)
    collection, out = read_collection(tmp_path / "sweep"), tmp_path / "figures"
    names, _ = draw_all(collection, out, Choices(), [planned_figures], ["png"], only={"variants"})
    assert names == ["variants"]
    assert [path.name for path in out.iterdir()] == ["variants.png"]


def test_bands_and_bars_end_at_what_is_possible(tmp_path):
    for seed, (accuracy, entropy) in enumerate(((1.0, 0.0), (0.9, 0.9), (1.0, 0.0))):
        numbers = {"accuracy/test": accuracy, "accuracy/train": accuracy, "ee/mean": entropy}
        write_run(tmp_path / str(seed), seed=seed, table=curves(epochs=4).assign(**numbers))
    collection = read_collection(tmp_path)
    accuracies, _, entropies = figure_2(collection.groups, Choices()).axes
    for axes, low, high in ((accuracies, 0, 1), (entropies, 0, np.inf)):
        bands = np.concatenate([path.vertices for band in axes.collections for path in band.get_paths()])
        assert bands[:, 1].min() >= low
        assert bands[:, 1].max() <= high
    for figure, high in ((entropy_against_d(collection, Choices()), 9), (accuracy_against_parameters(collection), 1)):
        (bars,) = figure.axes[0].containers
        ends = np.concatenate(bars[2][0].get_segments())[:, 1]
        assert 0 <= ends.min() < ends.max() <= high


def test_an_outlier_does_not_squeeze_the_other_points_and_is_counted(tmp_path):
    table = curves(epochs=90)
    table.loc[table["epoch"] == 60, "cost/test"] = 1.2
    write_run(tmp_path, table=table)
    collection = read_collection(tmp_path)
    for figure in (figure_3a(collection.groups, Choices()), figure_3b(collection, Choices())):
        train, test = figure.axes
        assert test.get_xlim()[1] < 0.5
        assert test.get_xlabel() == "test cost (1 of 60 points, up to 1.2, not shown)"
        assert train.get_xlabel() == "train cost"


def test_profiles_are_seen_whole(sweep):
    figure = entropy_profile([group for group in sweep.groups if group.data == "mnist"])
    for axes in figure.axes:
        assert axes.get_ylim()[1] >= max(line.get_ydata().max() for line in axes.lines)


def test_names_of_many_classes_do_not_cover_one_another(tmp_path):
    names = [f"a_rather_long_name_of_class_{label}" for label in range(47)]
    summary = write_run(tmp_path, epochs=3, num_classes=47) / "summary.json"
    summary.write_text(json.dumps(json.loads(summary.read_text()) | {"class_names": names}))
    with mpl.rc_context(STYLE):
        figure = entropy_per_class(read_collection(tmp_path).groups)
        FigureCanvasAgg(figure).draw()
        boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert len(boxes) > 5
    assert all(above.y0 >= below.y1 for above, below in itertools.pairwise(boxes))
    assert min(box.x0 for box in boxes) >= 0


def test_a_run_has_a_short_name_that_no_other_has(tmp_path):
    write_sweep(tmp_path, d=(2, 18), seeds=(0, 1), epochs=1)
    write_run(tmp_path / "again", data="mnist", d=18, seed=1, epochs=1)
    names = list(read_collection(tmp_path).run_names.values())
    assert "Fashion-MNIST, d = 18, seed 1" in names
    assert "MNIST, d = 18, seed 1 (again)" in names
    assert len(set(names)) == len(names) == 9


def figure_called(*names):
    figure = Figure()
    axes = figure.subplots()
    axes.set_title(names[0])
    axes.set_yticks(range(len(names)), names)
    return figure


def fonts_called(*names):
    return [entry for entry in font_manager.fontManager.ttflist if entry.name in names]


def test_letters_that_no_font_has_are_written_by_their_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(font_manager.fontManager, "ttflist", fonts_called("DejaVu Sans"))
    save(figure_called("猫", "größe", "dog"), tmp_path / "drawn", FORMATS)
    save(figure_called(r"\u732b", "größe", "dog"), tmp_path / "expected", FORMATS)
    assert (tmp_path / "drawn.png").read_bytes() == (tmp_path / "expected.png").read_bytes()


def test_letters_that_another_font_has_are_drawn_with_it(tmp_path, monkeypatch):
    # A letter that only one of matplotlib's own fonts has stands for one of a font that somebody has installed.
    other = next(entry for entry in fonts_called("STIXGeneral") if entry.style == "normal")
    letter = min(letters_of(other.fname) - letters_of(font_manager.findfont("DejaVu Sans")))
    monkeypatch.setattr(font_manager.fontManager, "ttflist", fonts_called("DejaVu Sans", "STIXGeneral"))
    figure = figure_called(f"a {letter}", "b")
    make_drawable(figure)
    title = figure.axes[0].title
    assert title.get_text() == f"a {letter}"
    assert title.get_fontfamily() == ["DejaVu Sans", "STIXGeneral"]
    monkeypatch.undo()
    save(figure, tmp_path / "drawn", FORMATS)


def test_logarithmic_axes_and_colour_bars_have_plain_numbers():
    with styled():
        figure = Figure()
        curve, image = figure.subplots(1, 2)
        curve.semilogy([1, 2, 3], [0.001, 0.1, 1])
        figure.colorbar(image.imshow([[0.01, 1.0]], norm=LogNorm()))
        make_drawable(figure)
        figure.draw_without_rendering()
        words = {text.get_text() for text in figure.findobj(Text)}
    assert {"0.001", "0.1", "1"} < words
    assert not any("$" in word for word in words)


def test_the_page_has_letters_as_they_are():
    chart = chart_of(figure_called("猫", "dog"))
    assert chart.svg.count("猫") == 2


def test_entropies_of_densities_are_drawn_against_their_likelihood(tmp_path):
    for weight in (0, 1):
        table = curves("mnist", 18, 0, "left_right", 4)
        table["nats/test"] = [500.0, 130.0, 110.0, 105.0 + weight, 101.0 + weight][: len(table)]
        table["ee/mixture"] = table["ee/mean"] + 1
        write_run(tmp_path / f"{weight}", epochs=4, table=table, model={"spread": weight})
    write_run(tmp_path / "classifier", epochs=4)
    collection = read_collection(tmp_path)
    assert "entropy_against_likelihood" in dict(planned_figures(collection, Choices(), []))
    mean, mixture = entropy_against_likelihood(collection).axes
    (first, *_) = [run for run in collection.runs if "nats/test" in run.metrics]
    for axes, column in ((mean, "ee/mean"), (mixture, "ee/mixture")):
        lines = [line for line in axes.lines if len(line.get_xdata()) > 1]
        assert len(lines) == 2
        # Before training the likelihood is that of noise.
        assert list(lines[0].get_xdata()) == list(first.column("nats/test").loc[0:])
        assert list(lines[0].get_ydata()) == list(first.column(column).loc[0:])
