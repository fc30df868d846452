"""Every example of docs/extend.md, typed as it stands there."""

import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from commands import Command, command, evaluate_command, train_command

PAGE = (Path(__file__).parents[1] / "docs" / "extend.md").read_text()
COMMANDS = re.findall(r"^    qcnn-train (.*)$", PAGE, flags=re.MULTILINE)
WITH_STATE = [example for example in COMMANDS if "Perceptron" not in example]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the page's mine.py."""
    folder = tmp_path_factory.mktemp("own")
    blocks = re.findall(r"```python\n# mine\.py\n(.*?)```", PAGE, flags=re.DOTALL)
    (folder / "mine.py").write_text("\n\n".join(blocks))
    (script,) = re.findall(r"```python\n# make_spins\.py\n(.*?)```", PAGE, flags=re.DOTALL)
    subprocess.run([sys.executable, "-c", script], cwd=folder, check=True)
    return folder


def trained(example, folder):
    """Train as the page says, two epochs; return the run's folder."""
    run = folder / f"run-{COMMANDS.index(example)}"
    if not (run / "summary.json").exists():
        short = ("trainer.max_epochs=2", "logger=none", f"hydra.run.dir={run}")
        ended = train_command(*shlex.split(example), *short, folder=folder)
        assert ended.returncode == 0, ended.stdout + ended.stderr
    return run


@pytest.mark.parametrize("example", COMMANDS)
def test_an_example_trains_and_logs_entropies_where_it_has_a_state(example, folder):
    table = pd.read_csv(trained(example, folder) / "metrics.csv")
    assert table["epoch"].tolist() == [-1, 0, 1]
    assert table["cost/train"].iloc[-1] < table["cost/train"].iloc[0]
    assert ("ee/mean" in table) == (example in WITH_STATE)
    assert ("mine/largest_weight" in table) == ("LargestWeight" in example)


def test_own_parts_are_evaluated_where_the_user_names_them_again(folder):
    (example,) = (example for example in COMMANDS if "ConvAC" in example)
    run = trained(example, folder)
    refused = evaluate_command(f"run={run}", "figures=[]", folder=folder)
    assert refused.returncode == 2
    assert "mine.ConvAC, somebody's own code, which was not executed; if it is yours, say own=[mine.ConvAC]" in (
        refused.stderr
    )
    done = evaluate_command(f"run={run}", "own=[mine.ConvAC]", "figures=[]", folder=folder)
    assert done.returncode == 0, done.stderr
    assert "mean entanglement entropy" in done.stdout
    assert "warning" not in done.stdout
    assert (run / "evaluation" / "state.safetensors").exists()


def test_own_parts_together_resume_after_a_kill_to_the_last_digit_and_stand_in_a_report(folder):
    parts = ("model=own", "model._target_=mine.ConvAC", "cost._target_=mine.PowerDistance")
    settings = ("data=digits", *parts, "data.flatten=mine.columns_first", "trainer.max_epochs=8", "logger=none")

    def start(run):
        return Command("qcnn_lightning.train", *settings, f"hydra.run.dir=own_parts/{run}", folder=folder)

    metrics = {run: folder / "own_parts" / run / "metrics.csv" for run in ("whole", "killed")}
    whole, killed = start("whole"), start("killed")
    while not metrics["killed"].exists() or metrics["killed"].read_text().count("\n") < 4:
        assert killed.poll() is None
        time.sleep(0.01)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    assert start("killed").wait() == 0
    assert whole.wait() == 0
    one, other = (pd.read_csv(path).filter(regex="^(?!time/)") for path in metrics.values())
    pd.testing.assert_frame_equal(one, other, check_exact=True)

    run = "run=own_parts/killed"
    evaluated = evaluate_command(run, "own=[mine.ConvAC,mine.PowerDistance]", "figures=[]", folder=folder)
    assert evaluated.returncode == 0, evaluated.stderr
    assert f"{other['accuracy/test'].iloc[-1]:.2%}" in evaluated.stdout
    reported = command("qcnn_lightning.report", "runs=own_parts", "figures=[]", "resamples=10", folder=folder)
    assert reported.returncode == 0, reported.stderr
    assert "report of 2 runs" in reported.stdout
    assert "left out" not in reported.stdout


def test_the_circuits_scores_are_its_states_amplitudes(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    import mine

    torch.manual_seed(0)
    circuit = mine.ConvAC(16, 3, d=4, spread=1.0).double()
    x = torch.randint(256, (20, 16), dtype=torch.uint8)
    torch.testing.assert_close(circuit.state().amplitude(x), circuit(x), rtol=1e-10, atol=1e-12)
