"""Data of the user's own, as docs/data.md tells of them: trained on, resumed and evaluated by the command line."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.image import imread

from commands import evaluate_command, train_command

DOCS = Path(__file__).parents[2] / "docs" / "data.md"
QUICK = ("model.d=2", "trainer.max_epochs=1", "logger=none", "hydra.run.dir=run")


def section(title: str) -> str:
    """A section of the page, without those that follow."""
    return re.split(r"^##+ ", DOCS.read_text().partition(f"# {title}\n")[2], flags=re.MULTILINE)[0]


def trained(folder: Path, *arguments: str) -> pd.DataFrame:
    """Train for an epoch; return the rows of `metrics.csv`."""
    done = train_command(*arguments, *QUICK, folder=folder)
    assert done.returncode == 0, done.stderr
    return pd.read_csv(folder / "run" / "metrics.csv")


def evaluated(folder: Path, *arguments: str) -> dict:
    """Evaluate the run of `trained`, with all figures; return `evaluation.json`."""
    done = evaluate_command("run=run", "figures=[png]", *arguments, folder=folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads((folder / "run" / "evaluation" / "evaluation.json").read_text())


def assert_told(done: subprocess.CompletedProcess[str], message: str) -> None:
    """One message, and no traceback."""
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert re.search(message, done.stderr), done.stderr


@pytest.mark.parametrize(
    ("title", "size"),
    [("Your own arrays", [1, 64]), ("A source of your own", [4, 8]), ("Your own pixel order", [8, 8])],
)
def test_every_example_of_the_page_trains_and_is_evaluated(title, size, tmp_path):
    text = section(title)
    (code,) = re.findall(r"```python\n(# (\w+\.py).*?)```", text, flags=re.DOTALL)
    (tmp_path / code[1]).write_text(code[0])
    given = []
    for program, arguments in re.findall(r"^    (python|qcnn-train) (.+)$", text, flags=re.MULTILINE):
        if program == "qcnn-train":
            given = arguments.split()
            rows = trained(tmp_path, *given)
        else:
            subprocess.run([sys.executable, arguments], cwd=tmp_path, check=True)
    assert len(rows) == 2
    assert rows["ee/mean"].notna().all()
    # Of the settings an evaluation is given those that the page says it needs.
    needed = re.findall(r"evaluate run=DIR (\S+)`", text)
    evaluation = evaluated(tmp_path, *needed)
    assert np.array(evaluation["pixel_entropies"]).shape[1:] == tuple(size)
    assert evaluation["accuracy"] == pytest.approx(rows["accuracy/test"].iloc[-1])
    assert evaluation["mean_entanglement_entropy"] == pytest.approx(rows["ee/mean"].iloc[-1], rel=1e-6)


def test_a_chain_of_grey_levels_is_trained_on_and_drawn(tmp_path):
    random = np.random.default_rng(0)
    y = np.arange(200) % 2
    x = (random.integers(0, 100, (200, 64)) + 100 * y[:, np.newaxis]).astype(np.uint8)
    np.savez(tmp_path / "chains.npz", x_train=x, y_train=y)
    rows = trained(tmp_path, "data=arrays", "data.path=chains.npz", "model.sharing=sibling")
    assert rows["cost/train"].iloc[-1] < rows["cost/train"].iloc[0]
    assert np.array(evaluated(tmp_path, "data.path=chains.npz")["pixel_entropies"]).shape == (2, 1, 64)
    figures = list((tmp_path / "run" / "evaluation").glob("*.png"))
    assert tmp_path / "run" / "evaluation" / "pixel_entropies.png" in figures
    for path in figures:
        # Nothing is cut off at the left or right edge, however few classes there are.
        assert imread(path)[:, [0, -1], :3].min() == 1, path


def test_a_run_is_not_resumed_with_other_images_or_another_order(tmp_path):
    random = np.random.default_rng(0)
    images = {"x_train": random.random((40, 4, 8)), "y_train": np.arange(40) % 2}
    np.savez(tmp_path / "spins.npz", **images)
    np.save(tmp_path / "order.npy", np.arange(32))
    settings = ("data=arrays", "data.path=spins.npz", "data.flatten=order.npy", "data.batch_size=10")
    trained(tmp_path, *settings)
    # As if it had been interrupted before the second epoch.
    more = (*settings, *QUICK, "trainer.max_epochs=2")
    checkpoint = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    checkpoint["hyper_parameters"]["trainer"]["max_epochs"] = 2
    torch.save(checkpoint, tmp_path / "run" / "checkpoints" / "last.ckpt")
    (tmp_path / "run" / "summary.json").unlink()

    np.save(tmp_path / "order.npy", np.arange(32)[::-1])
    assert_told(train_command(*more, folder=tmp_path), "data.flatten gives another pixel order than")
    np.save(tmp_path / "order.npy", np.arange(32))
    np.savez(tmp_path / "spins.npz", **images | {"x_train": 1 - images["x_train"]})
    assert_told(train_command(*more, folder=tmp_path), "data=arrays are not those of the run")
    np.savez(tmp_path / "spins.npz", **images)
    done = train_command(*more, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert list(pd.read_csv(tmp_path / "run" / "metrics.csv")["epoch"]) == [-1, 0, 1]

    np.savez(tmp_path / "spins.npz", **images | {"x_train": 1 - images["x_train"]})
    done = evaluate_command("run=run", "data.path=spins.npz", "figures=[]", folder=tmp_path)
    assert "the network was trained with other images" in done.stdout + done.stderr


OWN_PARTS = """
import pathlib

import numpy as np
import torch

from qcnn_lightning.data.sources import LabelledImages, Source

pathlib.Path("imported").touch()


def backwards(height, width):
    return np.arange(height * width)[::-1]


class Noise(Source):
    def load(self, shape):
        images = torch.randint(256, (40, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        return LabelledImages({"train": (images, torch.arange(40) % 2)}, ("a", "b"))
"""


def test_an_evaluation_imports_nothing_that_only_the_run_folder_names(tmp_path):
    (tmp_path / "mine.py").write_text(OWN_PARTS)
    settings = ("data=own", "data.name=mine.Noise", "data.size=4", "data.batch_size=10", "data.flatten=mine.backwards")
    trained(tmp_path, *settings)
    (tmp_path / "imported").unlink()
    refused = evaluate_command("run=run", folder=tmp_path)
    assert_told(refused, r"trained with mine.Noise, somebody's own code, which was not executed.*own=\[mine.Noise\]$")
    assert not (tmp_path / "imported").exists()
    assert len(evaluated(tmp_path, "own=[mine.Noise]")["classes"]) == 2


def test_an_order_that_the_checkpoint_does_not_hold_is_not_imported(tmp_path):
    (tmp_path / "mine.py").write_text(OWN_PARTS)
    trained(tmp_path, "data=digits", "data.flatten=mine.backwards")
    (tmp_path / "imported").unlink()
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(last, weights_only=True)
    for order in (None, "mine.backwards"):
        checkpoint["ImageDataModule"]["pixel_order"] = order
        torch.save(checkpoint, last)
        refused = evaluate_command("run=run", folder=tmp_path)
        assert_told(refused, "data.flatten=mine.backwards is not ours, .* refused, nothing was executed")
    assert not (tmp_path / "imported").exists()
