"""`benchmarks/gpu.py` on a CPU, small: the script is ready when a GPU is."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"
SMALL = ("--d", "2", "--networks", "1", "3", "--images", "120", "--steps", "2", "--sites", "16")


def measured(monkeypatch, output: Path, *arguments: str) -> list[dict]:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *SMALL, *arguments, "--output", str(output)])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    return json.loads(output.read_text())["rows"]


def test_the_script_checks_the_numbers_and_times_steps_and_epochs(tmp_path, monkeypatch, capsys):
    rows = measured(monkeypatch, tmp_path / "gpu.json", "--device", "cpu", "--modes", "plain", "captured")
    (device,) = (row for row in rows if row["part"] == "device")
    assert device["flop_per_s"] > 0
    assert device["bytes_per_s"] > 0
    (check,) = (row for row in rows if row["part"] == "check")
    assert check["first"] < 1e-5
    assert check["tenth"] < 1e-4
    steps = [row for row in rows if row["part"] == "step"]
    assert [(row["networks"], row["mode"]) for row in steps] == [(1, "plain"), (3, "plain")]
    assert all(0 < row["floor_s"] < row["step_s"] < row["epoch_s"] for row in steps)
    assert steps[1]["flop"] == 3 * steps[0]["flop"]
    assert "no GPU" in capsys.readouterr().out


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA graph needs a GPU")
def test_captured_steps_are_the_plain_ones(tmp_path, monkeypatch):
    rows = measured(monkeypatch, tmp_path / "gpu.json", "--modes", "plain", "captured")
    plain, captured = (row for row in rows if row["part"] == "check")
    assert captured["tenth"] == pytest.approx(plain["tenth"], abs=1e-6)
