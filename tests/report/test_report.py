import html
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic import curves, write_run, write_sweep

from qcnn_lightning.errors import InputError
from qcnn_lightning.report.report import ReportSettings, default_folder, write_report

QUICK = ReportSettings(first_epoch=5, window=2, confidence=0.95, resamples=20, formats=())
WATCH = [sys.executable, "-m", "qcnn_lightning.report", "figures=[]", "watch=true"]
# Of what hangs; a busy machine may take a while.
TIMEOUT_S = 600


def contents(page):
    """What the page's script knows."""
    return json.loads(re.search(r'id="report">\n(.*)\n</script>', page.read_text())[1])


def visible_text(page):
    """What a reader sees, in one line."""
    return html.unescape(re.sub(r"<script.*?</script>|<style.*?</style>|<.*?>", " ", page.read_text(), flags=re.DOTALL))


def chart_named(page, y_label, x_label="epoch"):
    """The chart with these axes."""
    name = f'data-x-label="{x_label}" data-y-label="{y_label}"'
    (svg,) = (svg for svg in contents(page)["charts"].values() if name in svg)
    return svg


def curve(svg, marks):
    """The x and y of a path, read off as the page does; `marks` are its classes."""
    width, height = map(float, re.search(r'class="data".*?viewBox="0 0 (\d+) (\d+)"', svg).groups())
    limits = [tuple(map(float, re.search(rf'data-{axis}="(\S+) (\S+) linear"', svg).groups())) for axis in "xy"]
    steps = np.array(re.findall(r"-?\d+", re.search(rf'<path class="{marks}" d="([^"]*)"', svg)[1]), dtype=float)
    x, y = steps.reshape(-1, 2).cumsum(axis=0).T
    (left, right), (low, high) = limits
    return left + (right - left) * x / width, low + (high - low) * (1 - y / height)


def command(*arguments, **more):
    return subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=TIMEOUT_S, check=False, **more
    )


def test_the_report_holds_every_run_and_every_epoch(tmp_path):
    write_sweep(tmp_path / "sweep", d=(2, 18), epochs=12)
    report = write_report([tmp_path / "sweep"], tmp_path / "out", QUICK)
    shown = contents(report.page)
    assert len(shown["runs"]) == report.num_runs == 8
    cost = chart_named(report.page, "cost")
    for index, run in enumerate(shown["runs"]):
        metrics = pd.read_csv(tmp_path / "sweep" / run["name"] / "metrics.csv")
        for column, marks in (("cost/test", f"r{index}"), ("cost/train", f"r{index} dashed")):
            epochs, values = curve(cost, marks)
            assert epochs == pytest.approx(metrics["epoch"].tolist(), abs=0.01)
            assert values == pytest.approx(metrics[column].tolist(), abs=0.001)
        assert run["command"].startswith("python -m qcnn_lightning.train data=")
        assert (report.page.parent / run["link"].replace("%3D", "=").replace("%2C", ",")).samefile(
            tmp_path / "sweep" / run["name"]
        )
    assert [entry["key"] for entry in shown["filters"]] == ["data.name", "model.d", "seed", "data.flatten"]
    tables = {
        name: pd.read_csv(report.page.parent / name) for name in ("runs.csv", "accuracies.csv", "correlations.csv")
    }
    assert len(tables["runs.csv"]) == 8
    assert len(tables["accuracies.csv"]) == 4
    assert set(tables["correlations.csv"]["cost"]) == {"train", "test"}


@pytest.mark.parametrize(("first_epoch", "shown"), [(None, (4, 6)), (5, (5, 5))])
def test_the_page_compares_entropy_and_cost_of_every_run_from_its_first_epoch_on_and_says_which(
    tmp_path, first_epoch, shown
):
    write_run(tmp_path / "a", epochs=12)
    write_run(tmp_path / "b", epochs=20, seed=1)
    settings = ReportSettings(**{**vars(QUICK), "first_epoch": first_epoch})
    page = write_report([tmp_path], tmp_path / "out", settings).page
    for index, (epochs, first) in enumerate(zip((12, 20), shown, strict=True)):
        for cost in ("train", "test"):
            islands = chart_named(page, "mean EE (nats)", f"{cost} cost")
            assert len(curve(islands, f"r{index}")[0]) == epochs - first
        assert contents(page)["runs"][index]["correlation"] is not None
    since = "from epoch 5" if first_epoch else "from epoch 4 to 6, depending on the run's length"
    assert visible_text(page).replace("From epoch", "from epoch").count(since) == 3


def test_whatever_else_varies_can_be_filtered(tmp_path):
    write_run(tmp_path / "a", epochs=2, model={"sharing": "full"})
    write_run(tmp_path / "b", epochs=2, model={"sharing": "sibling"})
    page = write_report([tmp_path], tmp_path / "out", QUICK).page
    filters = contents(page)["filters"]
    assert "sharing all full sibling" in " ".join(visible_text(page).split())
    assert [(entry["key"], entry["values"]) for entry in filters][4:] == [("model.sharing", ["full", "sibling"])]


def test_what_was_left_out_is_in_the_page(tmp_path):
    write_run(tmp_path / "one", epochs=1)
    write_run(tmp_path / "bare", seed=1, table=curves(epochs=9).drop(columns=["ee/mean", "cost/test"]))
    (write_run(tmp_path / "empty", seed=2) / "metrics.csv").write_text("")
    report = write_report([tmp_path], tmp_path / "out", QUICK)
    assert {item.what for item in report.left_out} >= {"one", "bare", "empty"}
    shown = " ".join(visible_text(report.page).split())
    for item in report.left_out:
        assert f"{item.what} : {item.why}" in shown


def test_runs_with_other_class_counts_and_lengths_are_drawn_together(tmp_path):
    write_run(tmp_path / "a", epochs=12)
    write_run(tmp_path / "b", data="digits", epochs=8, num_classes=3)
    report = write_report([tmp_path], tmp_path / "out", ReportSettings(**{**vars(QUICK), "formats": ("png",)}))
    heat_maps = [svg for svg in contents(report.page)["charts"].values() if ">class</text>" in svg]
    assert [[f">{label}</text>" in svg for label in ("2", "9")] for svg in heat_maps] == [[True, False], [True, True]]
    assert "figure_2" in report.figures


def test_names_cannot_smuggle_markup_into_the_page(tmp_path):
    write_run(tmp_path / "</script><script>alert(1)", data="<img src=x onerror=alert(1)>", epochs=2)
    page = write_report([tmp_path], tmp_path / "out", QUICK).page
    assert "alert(1)" in page.read_text()
    for text in (page.read_text(), *contents(page)["charts"].values()):
        assert "<script>alert" not in text
        assert "<img src=x" not in text


@pytest.mark.parametrize(
    "names", [["x/../../../../outside/victim"], ["a/b", "a_b"], ["n" * 300, "n" * 299], [r"$\frac$", "$"]]
)
def test_a_name_from_somebody_elses_run_stays_a_file_name(tmp_path, names):
    for name in names:
        run = write_run(tmp_path / "runs" / str(names.index(name)), data=name, epochs=9, profile_levels=3)
        summary = json.loads((run / "summary.json").read_text())
        (run / "summary.json").write_text(json.dumps(summary | {"class_names": [name] * 10}))
    out = tmp_path / "room" / "for" / "a" / "deep" / "report"
    report = write_report([tmp_path / "runs"], out, ReportSettings(**{**vars(QUICK), "formats": ("svg",)}))
    assert len(set(report.figures)) == len(report.figures) == 5 + 2 * len(names)
    written = {path.name for path in (out / "figures").iterdir()}
    assert written == {f"{name}.svg" for name in report.figures}
    assert all(re.fullmatch(r"[\w=.-]+", name, re.ASCII) for name in written)
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "room"}
    links = re.findall(r'<a href="([^"]*\.(?:svg|csv))">', report.page.read_text())
    assert len(links) == len(report.figures) + 3
    assert all((out / link.replace("%3D", "=")).is_file() for link in links)


@pytest.mark.parametrize("name", ["report.html", "runs.csv", "figures", "figures/figure_2.svg"])
def test_a_link_out_of_the_report_is_refused_before_anything_is_written(tmp_path, name):
    write_run(tmp_path / "runs" / "a", epochs=9)
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "out").mkdir()
    # That the folder itself is a link is the user's own choice.
    (tmp_path / "report").symlink_to(tmp_path / "out")
    (tmp_path / "out" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "out" / name).symlink_to(outside if name == "figures" else outside / "victim")
    settings = ReportSettings(**{**vars(QUICK), "formats": ("svg",)})
    with pytest.raises(InputError, match="leads out of") as raised:
        write_report([tmp_path / "runs"], tmp_path / "report", settings)
    assert name in str(raised.value)
    assert not list(outside.iterdir())
    assert [path.name for path in (tmp_path / "out").iterdir()] == [Path(name).parts[0]]
    (tmp_path / "out" / name).unlink()
    assert write_report([tmp_path / "runs"], tmp_path / "report", settings).page.is_file()


def test_a_report_that_nobody_placed_stays_beside_the_runs(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "report").symlink_to(tmp_path)
    with pytest.raises(InputError, match="leads out of"):
        default_folder([tmp_path / "runs"])


def test_the_page_is_the_same_for_the_same_runs_and_names_no_address(tmp_path):
    write_sweep(tmp_path / "runs", d=(2,), epochs=3)
    pages = [write_report([tmp_path / "runs"], tmp_path / out, QUICK).page.read_text() for out in ("a", "b")]
    assert pages[0] == pages[1]
    assert "default-src 'none'" in pages[0]
    assert "unsafe-eval" not in pages[0]
    assert not re.search(r"(?:src|href)=.https?:", pages[0])
    assert 'http-equiv="refresh"' not in pages[0]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"window": 0}, "window=0"),
        ({"resamples": 0}, "resamples=0"),
        ({"confidence": 1.5}, "confidence=1.5"),
        ({"formats": ("gif",)}, "gif"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(change, named):
    with pytest.raises(InputError, match=named):
        ReportSettings(**{**vars(QUICK), **change})


def test_the_report_goes_where_the_runs_are(tmp_path):
    assert default_folder([tmp_path / "a/b", tmp_path / "a/c"]) == tmp_path / "a/report"
    assert default_folder([tmp_path / "a"]) == tmp_path / "a/report"


def test_the_command_writes_a_report_and_nothing_else(tmp_path):
    write_run(tmp_path / "multirun/x/data=mnist,seed=0", epochs=2)
    done = command("qcnn_lightning.report", "runs=multirun/x/data=mnist,seed=0", "figures=[]", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "report of 1 runs" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["multirun"]
    assert (tmp_path / "multirun/x/data=mnist,seed=0/report/report.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["qcnn_lightning.report", "runs=nowhere"], "nowhere"),
        (["qcnn_lightning.report", "runs=.", "figures=png"], "figures=png: give a list"),
        (["qcnn_lightning.report", "runs=.", "figures=null"], "figures=None: give a list"),
        (["qcnn_lightning.report", "runs=.", "confidence=high"], "confidence=high: must be between 0 and 1"),
        (["qcnn_lightning.runs", "nowhere"], "nowhere"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(tmp_path, arguments, named):
    done = command(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert named in done.stderr


def test_watching_writes_the_page_again_until_interrupted(tmp_path):
    folder = write_run(tmp_path / "run", epochs=3)
    page = tmp_path / "out/report.html"
    watcher = subprocess.Popen(
        [*WATCH, f"runs={tmp_path}", f"out={page.parent}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        cwd=tmp_path,
        # A suite that runs in the background ignores Ctrl-C, and its children would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        wait_for(lambda: page.is_file() and len(curve(chart_named(page, "cost"), "r0")[0]) == 4, watcher)
        assert 'http-equiv="refresh"' in page.read_text()
        curves(epochs=5).to_csv(folder / "metrics.csv", index=False)
        wait_for(lambda: len(curve(chart_named(page, "cost"), "r0")[0]) == 6, watcher)
    finally:
        watcher.send_signal(signal.SIGINT)
        output = watcher.communicate(timeout=TIMEOUT_S)[0].decode()
    assert watcher.returncode == 0, output
    assert "Traceback" not in output


def wait_for(condition, process):
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert process.poll() is None, process.stdout.read().decode()
        assert time.monotonic() < deadline, "the page was not written"
        time.sleep(0.1)


@pytest.mark.parametrize("second", [["ant", "bee"], ["ant", "bee", "猫"]])
def test_runs_on_two_folders_of_images_are_drawn_together_and_no_repetitions_of_each_other(tmp_path, second):
    for index, names in enumerate((["cat", "dog"], second)):
        run = write_run(tmp_path / f"r{index}", data="folder", seed=index, epochs=12, num_classes=len(names))
        summary = json.loads((run / "summary.json").read_text())
        (run / "summary.json").write_text(json.dumps(summary | {"class_names": names}))
    settings = ReportSettings(**{**vars(QUICK), "formats": ("svg", "png")})
    report = write_report([tmp_path], tmp_path / "out", settings)
    assert not [item for item in report.left_out if item.what.startswith("r")]
    accuracies = pd.read_csv(tmp_path / "out" / "accuracies.csv")
    assert accuracies["seeds"].tolist() == [1, 1]
    assert accuracies["variant"].tolist() == [
        f"classes = {json.dumps(names, ensure_ascii=False)}" for names in (["cat", "dog"], second)
    ]


def test_runs_on_other_folders_with_the_same_classes_are_no_repetitions_either(tmp_path):
    for index, root in enumerate(("/pets", "/photos")):
        run = write_run(tmp_path / f"r{index}", data="folder", seed=index, epochs=9)
        config = (run / ".hydra/config.yaml").read_text()
        (run / ".hydra/config.yaml").write_text(config.replace("data:\n", f"data:\n  root: {root}\n"))
    write_report([tmp_path], tmp_path / "out", QUICK)
    assert pd.read_csv(tmp_path / "out" / "accuracies.csv")["variant"].tolist() == ["root = /pets", "root = /photos"]
