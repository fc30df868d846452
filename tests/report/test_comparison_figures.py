from synthetic import write_sweep

from qcnn_lightning.report.comparison_figures import compare_variants, planned_comparisons
from qcnn_lightning.report.figures import Choices, draw_all, planned_figures
from qcnn_lightning.report.groups import read_collection


def test_variants_have_a_colour_each_in_all_panels(tmp_path):
    write_sweep(tmp_path, d=(2, 18), epochs=5)
    collection = read_collection(tmp_path)
    figure = compare_variants(collection, Choices())
    assert len(figure.axes) == 4
    colours = [{line.get_color() for line in axes.lines} for axes in figure.axes]
    assert len(colours[0]) == 2
    assert all(found == colours[0] for found in colours)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["d=2", "d=18", "test", "train"]


def test_only_what_is_asked_for_is_drawn(tmp_path):
    write_sweep(tmp_path / "sweep", d=(2, 18), epochs=5)
    out, plans = tmp_path / "figures", [planned_figures, planned_comparisons]
    names, _ = draw_all(read_collection(tmp_path / "sweep"), out, Choices(), ["png"], plans, only={"variants"})
    assert names == ["variants"]
    assert [path.name for path in out.iterdir()] == ["variants.png"]
