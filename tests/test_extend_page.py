"""Every example of docs/extend.md, typed as it stands there."""

import re
import shlex
from pathlib import Path

import pandas as pd
import pytest
import torch

from commands import evaluate_command, train_command

PAGE = (Path(__file__).parents[1] / "docs" / "extend.md").read_text()
COMMANDS = re.findall(r"^    python -m qcnn_lightning\.train (.*)$", PAGE, flags=re.MULTILINE)
WITH_STATE = [command for command in COMMANDS if "Perceptron" not in command]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the page's mine.py."""
    folder = tmp_path_factory.mktemp("own")
    blocks = re.findall(r"```python\n# mine\.py\n(.*?)```", PAGE, flags=re.DOTALL)
    (folder / "mine.py").write_text("\n\n".join(blocks))
    return folder


def trained(command, folder):
    """Train as the page says, two epochs; return the run's folder."""
    run = folder / f"run-{COMMANDS.index(command)}"
    if not (run / "summary.json").exists():
        short = ("trainer.max_epochs=2", "logger=none", f"hydra.run.dir={run}")
        ended = train_command(*shlex.split(command), *short, folder=folder)
        assert ended.returncode == 0, ended.stdout + ended.stderr
    return run


@pytest.mark.parametrize("command", COMMANDS)
def test_an_example_trains_and_logs_entropies_where_it_has_a_state(command, folder):
    table = pd.read_csv(trained(command, folder) / "metrics.csv")
    assert table["epoch"].tolist() == [-1, 0, 1]
    assert table["cost/train"].iloc[-1] < table["cost/train"].iloc[0]
    assert ("ee/mean" in table) == (command in WITH_STATE)
    assert ("mine/largest_weight" in table) == ("LargestWeight" in command)


def test_own_parts_are_evaluated_where_the_user_names_them_again(folder):
    (command,) = (command for command in COMMANDS if "ConvAC" in command)
    run = trained(command, folder)
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


def test_the_circuits_scores_are_its_states_amplitudes(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    import mine

    torch.manual_seed(0)
    circuit = mine.ConvAC(16, 3, d=4, spread=1.0).double()
    x = torch.randint(256, (20, 16), dtype=torch.uint8)
    torch.testing.assert_close(circuit.state().amplitude(x), circuit(x), rtol=1e-10, atol=1e-12)
