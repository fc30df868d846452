"""Images of any folder, classified by a trained network."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from commands import command, train_command
from composing import evaluation_of

# With full sharing a tree cannot tell an image from its mirror image.
TRAIN = (
    "data=folder",
    "data.root=photos",
    "data.size=8",
    "data.batch_size=4",
    "model.d=4",
    "model.basis=legendre",
    "model.sharing=sibling",
)


def write_images(folder, bright_side, number=12, size=12):
    folder.mkdir(parents=True)
    generator = np.random.default_rng(bright_side)
    for index in range(number):
        image = generator.integers(0, 60, (size, size), dtype=np.uint8)
        half = image[:, : size // 2] if bright_side == 0 else image[:, size // 2 :]
        half += np.uint8(180)
        Image.fromarray(image).save(folder / f"{index:02}.png")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a run that tells =left from right images."""
    folder = tmp_path_factory.mktemp("trained")
    for split in ("train", "test"):
        write_images(folder / "photos" / split / "=left", 0)
        write_images(folder / "photos" / split / "right", 1)
    done = train_command(*TRAIN, "trainer.max_epochs=20", "logger=none", "hydra.run.dir=run", folder=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_own_images_are_classified_as_the_evaluation_does(trained):
    done = command("qcnn_lightning.predict", "run=run", "images=photos/test", folder=trained)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(trained / "photos" / "test-predictions.csv")
    evaluation, _ = evaluation_of(f"run={trained / 'run'}", f"data.root={trained / 'photos'}", f"out={trained / 'out'}")
    expected = evaluation.classification.probabilities
    assert table["p/right"].to_numpy() == pytest.approx(expected[:, 1].numpy(), rel=1e-5, abs=1e-6)
    assert (table["image"].str.split("/").str[0] == table["class"]).mean() > 0.9
    # A spreadsheet would take it for a formula.
    assert set(table["class"]) == {"'=left", "right"}
    assert table["probability"].to_numpy() == pytest.approx(table[["p/=left", "p/right"]].max(axis=1).to_numpy())
    assert f"24 images: {'photos/test-predictions.csv'}" in done.stdout


def test_images_are_rounded_to_the_grey_levels_of_the_run(trained):
    levels = ("data.levels=2", "model.basis=levels", "model.channels=[1,3,3,3,3,3,3]", "trainer.max_epochs=1")
    done = train_command(*TRAIN, *levels, "logger=none", "hydra.run.dir=binary", folder=trained)
    assert done.returncode == 0, done.stderr
    done = command("qcnn_lightning.predict", "run=binary", "images=photos/test", "out=binary.csv", folder=trained)
    assert done.returncode == 0, done.stderr
    evaluation, _ = evaluation_of(
        f"run={trained / 'binary'}", f"data.root={trained / 'photos'}", f"out={trained / 'b'}"
    )
    expected = evaluation.classification.probabilities
    table = pd.read_csv(trained / "binary.csv")
    assert table["p/right"].to_numpy() == pytest.approx(expected[:, 1].numpy(), rel=1e-5, abs=1e-6)


def test_the_table_is_named_after_the_folder_one_is_in(trained):
    done = command("qcnn_lightning.predict", "run=../../run", "images=.", folder=trained / "photos" / "test")
    assert done.returncode == 0, done.stderr
    assert str(trained / "photos" / "test-predictions.csv") in done.stdout


def test_images_of_another_size_are_resized(trained, tmp_path):
    write_images(tmp_path / "large ones", 1, size=40)
    done = command("qcnn_lightning.predict", f"run={trained / 'run'}", "images=large ones", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (pd.read_csv(tmp_path / "large ones-predictions.csv")["class"] == "right").mean() > 0.9


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "give run=DIR"),
        (("run=run", "images=nowhere"), "images=nowhere: no such folder"),
        (("run=nowhere", "images=photos"), "nowhere"),
        (("run=run", "images=run/checkpoints"), "no image is there"),
        (("run=run", "image=photos"), "the nearest is images"),
    ],
)
def test_a_mistake_is_told_in_one_line(trained, arguments, told):
    done = command("qcnn_lightning.predict", *arguments, folder=trained)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert told in line
