import json

import pytest

from qcnn_lightning.errors import InputError
from qcnn_lightning.training.wandb_charts import CHARTS, LINES
from qcnn_lightning.training.workspace import describe, publish


@pytest.fixture(autouse=True)
def nobody_logged_in(monkeypatch):
    monkeypatch.setenv("NETRC", "/dev/null")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)


def test_offline_the_view_is_written_down(tmp_path):
    path = tmp_path / "new" / "view.json"
    assert publish("physicists", "qcnn_lightning", path) is None
    document = json.loads(path.read_text())
    panels = [
        panel["config"]
        for section in document["view"]["spec"]["section"]["panelBankConfig"]["sections"]
        for panel in section["panels"]
    ]
    axes = {(panel.get("xAxis"), panel.get("metricRegex") or tuple(panel.get("metrics") or ())) for panel in panels}
    for metric, cost in LINES.items():
        assert {(cost, (metric,)), (cost, "^ee/class_[0-9]+$"), (f"summary:{cost}", ())} <= axes
    for metrics in (("ee/mean",), ("accuracy/train", "accuracy/test"), "^ee/class_[0-9]+$"):
        assert ("epoch", metrics) in axes
    # The charts that `tracking` logs, from the tables that it logs, with the same presets.
    charts = {panel["stringSettings"]["title"]: panel for panel in panels if "panelDefId" in panel}
    assert set(charts) == {chart.strings["title"] for chart in CHARTS}
    for chart in CHARTS:
        panel = charts[chart.strings["title"]]
        assert (panel["panelDefId"], panel["fieldSettings"]) == (chart.preset, chart.fields)
        assert chart.table in json.dumps(panel)
    # A line or a point per run, not the mean of a group.
    (run_set,) = document["view"]["spec"]["section"]["runSets"]
    assert not run_set["grouping"]
    assert not any(panel.get("aggregate") for panel in panels)
    assert "Entanglement entropy against test cost" in describe(path)
    assert "against test cost, a point per epoch" in describe(path)
    assert "Schmidt probabilities" in describe(path)


def test_the_view_of_another_project_is_not_overwritten(tmp_path):
    path = tmp_path / "view.json"
    publish("physicists", "qcnn_lightning", path)
    before = path.read_text()
    with pytest.raises(InputError, match="physicists/qcnn_lightning"):
        publish("others", "qcnn_lightning", path)
    assert path.read_text() == before


def test_a_file_that_is_something_else_is_told(tmp_path):
    path = tmp_path / "view.json"
    path.write_text("[]")
    with pytest.raises(InputError, match=r"view\.json"):
        publish("physicists", "qcnn_lightning", path)
