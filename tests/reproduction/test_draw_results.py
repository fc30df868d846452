import json
import shutil
import subprocess
from pathlib import Path

import pytest
from synthetic import curves, write_run
from test_study_tables import with_recall, with_setting

from commands import command
from reproduction.keep_runs import keep_study

PROJECT = Path(__file__).parents[2]
# Among the reports are some that have no runs yet.
TABLES = (
    "accuracies reproduction",
    "correlations reproduction",
    "claims reproduction",
    "paper reproduction paper_start",
    "settling paper_start reproduction",
    "within_runs reproduction",
    "overfitting reproduction",
    "overfitting_correlation reproduction",
    "bipartitions reproduction",
    "starts reproduction paper_start",
    "interventions intervention",
    "classes intervention",
    "published reproduction best_mnist",
    "choices ablation",
    "baselines",
    "entropy_precision",
    "entropy_time",
    "entropy_seconds",
)


@pytest.fixture
def project(tmp_path) -> Path:
    return make_project(tmp_path)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A project in which everything has been drawn, a figure of old being there before; to be read alone."""
    project = make_project(tmp_path_factory.mktemp("drawn"))
    old = project / "reproduction/figures/reproduction/figure_of_old.png"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"")
    done = draw(project)
    assert done.returncode == 0, done.stderr
    return project, done


def make_project(tmp_path: Path) -> Path:
    """Write a project with stored runs of two studies, and a page with empty tables."""
    for folder in ("reproduction/tables", "benchmarks/results", "docs"):
        (tmp_path / folder).mkdir(parents=True)
    for script in (PROJECT / "reproduction").rglob("*.py"):
        shutil.copy(script, tmp_path / script.relative_to(PROJECT))
    for measured in (PROJECT / "benchmarks" / "results").glob("entropy_*.json"):
        shutil.copy(measured, tmp_path / "benchmarks/results")
    for choice, loss in (("none", 0.0), ("order", 0.02)):
        for seed in (0, 1):
            table = curves(seed=seed, epochs=3)
            table["accuracy/val"] = table["accuracy/test"] - loss
            folder = write_run(tmp_path / "multirun/ablation" / f"{choice},{seed}", seed=seed, epochs=3, table=table)
            (folder / ".hydra/overrides.yaml").write_text(f"[ablation={choice}, seed={seed}]")
    for study, flatten, start in (
        ("reproduction", "left_right", "product_state"),
        ("up_down", "up_down", "product_state"),
        ("paper_start", "left_right", "default"),
    ):
        folder = write_run(tmp_path / "multirun" / study / "run", flatten=flatten, epochs=36)
        with_setting(folder, "model.start", start)
    for weight in (0, 0.1):
        folder = write_run(tmp_path / "multirun/intervention" / f"{weight}", epochs=3, table=with_recall())
        with_setting(folder, "entropy_weight", weight)
    for study in (tmp_path / "multirun").iterdir():
        keep_study(study, tmp_path / "reproduction/metrics")
    pages = "".join(f"Before {name}.\n<!-- table: {name} -->\nold\n<!-- end of table -->\n" for name in TABLES)
    shown = "![](figures/reproduction/figure_2.png)\n![](figures/reproduction/figure_of_runs_to_come.png)\n"
    (tmp_path / "reproduction/README.md").write_text(pages + shown + "End.\n")
    (tmp_path / "docs/results.md").write_text("<!-- table: claims reproduction -->\n<!-- end of table -->\n")
    (tmp_path / "README.md").write_text("![](reproduction/figures/intervention/against_entropy_weight.png)\n")
    rows = [
        {
            "data": "mnist",
            "network": "cnn",
            "size": 16,
            "parameters": 7,
            "epochs": 2,
            "seconds": 9,
            "accuracy/test": accuracy,
        }
        for accuracy in (0.98, 0.99)
    ]
    (tmp_path / "benchmarks/results/baselines.json").write_text(json.dumps({"rows": rows}))
    return tmp_path


def draw(project: Path) -> subprocess.CompletedProcess[str]:
    return command("reproduction.draw_results", folder=project)


def test_one_command_draws_all_figures_and_writes_all_tables(drawn):
    project, _ = drawn
    page = (project / "reproduction/README.md").read_text()
    assert "old" not in page
    assert page.count("Before") == len(TABLES)
    assert page.endswith("figure_of_runs_to_come.png)\nEnd.\n")
    # the same losses for both seeds
    assert "held-out accuracy" in page
    assert "| order | 81000 | 2 |" in page
    assert "| −2.00 |" in page
    assert "| MNIST | cnn | 16x16 | 7 | 2 | 2 | 98.50 ± 0.71% | 9 |" in page
    # two studies, one report
    assert "left/right" in page
    assert "up/down" in page
    rows = {name: page.split(f"<!-- table: {name} -->")[1].split("<!--")[0].splitlines()[3:] for name in TABLES}
    assert all(rows.values())
    assert [row.split(" | ")[0] for row in rows["entropy_time"]] == ["| 8", "| 16", "| 32", "| 64", "| 128", "| 256"]
    # paired by the seed
    assert [row.split(" | ")[2] for row in rows["bipartitions reproduction"]] == ["left/right", "up/down"]
    assert [row.split(" | ")[2] for row in rows["interventions intervention"]] == ["0", "0.1"]
    assert [row.split(" | ")[2] for row in rows["starts reproduction paper_start"]] == ["product_state", "default"]
    assert "\n".join(rows["claims reproduction"]) in (project / "docs/results.md").read_text()
    # of the same network, so the same twice
    claims = dict(row.split(" | ", 1) for row in rows["claims reproduction"])
    for cost in ("train", "test"):
        together = f"| EE ~ {cost} cost, all epochs of all runs"
        assert claims[f"{together}, d ≥ 18"] == claims[together]
        told = claims[f"| EE ~ {cost} cost, within a run"]
        assert "of 2 runs" in told
        assert claims[f"| EE ~ {cost} cost, within a run, d ≥ 18"] == told
    assert "0.00 nats |" in claims["| EE, up/down − left/right"]
    assert "+1.00" in rows["classes intervention"][0]
    assert any("99.31%" in row for row in rows["published reproduction best_mnist"])
    assert any("convolutional network" in row for row in rows["published reproduction best_mnist"])


def test_only_the_figures_that_pages_show_are_kept(drawn):
    project, done = drawn
    figures = project / "reproduction/figures"
    found = sorted(str(path.relative_to(figures)) for path in figures.glob("*/*"))
    assert found == ["intervention/against_entropy_weight.png", "reproduction/figure_2.png"]
    assert "figure_of_runs_to_come" in done.stdout


@pytest.mark.parametrize(
    ("name", "told"), [("wishes", "wishes"), ("time_to_accuracy", "time_to_accuracy.json"), ("settling", "any report")]
)
def test_a_table_that_cannot_be_is_told(project, name, told):
    shutil.rmtree(project / "reproduction/metrics")
    for page in ("README.md", "docs/results.md"):
        (project / page).write_text("")
    (project / "reproduction/README.md").write_text(f"<!-- table: {name} -->\n<!-- end of table -->\n")
    done = draw(project)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
