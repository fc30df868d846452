"""Samples of a trained density, from the command line."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from commands import command, train_command
from composing import data_module, ready
from qcnn_lightning.data.flattening import lay_on_image, pixel_order
from qcnn_lightning.evaluation.evaluate import last_checkpoint
from qcnn_lightning.runs.find import find_runs
from qcnn_lightning.runs.rebuild import network_of

TRAIN = (
    *("data=digits", "data.levels=2", "data.flatten=z_left_right", "model=density", "model.d=8", "model.spread=0.5"),
    *("cost=negative_log_likelihood", "optimizer.lr=0.02", "trainer.max_epochs=12", "logger=none", "hydra.run.dir=run"),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with the run of a density of binarised digits."""
    folder = tmp_path_factory.mktemp("density")
    done = train_command(*TRAIN, folder=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def images():
    module = ready(data_module("digits", "data.levels=2", "data.flatten=z_left_right"))
    test, labels = module.splits["test"]
    return lay_on_image(test, module.pixel_order, module.image_shape).numpy() / 255, labels.numpy()


def sample(folder, *arguments):
    done = command("qcnn_lightning.sample", *arguments, folder=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_samples_are_a_picture_and_an_array_and_the_seed_decides_them(trained):
    said = sample(trained, "run=run", "n=10")
    assert "10 samples: run/samples.png, run/samples.npy" in said
    first = np.load(trained / "run" / "samples.npy")
    assert first.shape == (10, 8, 8)
    assert set(np.unique(first)) == {0, 1}
    with Image.open(trained / "run" / "samples.png") as picture:
        assert picture.size == (4 * 9, 3 * 9)
    sample(trained, "run=run", "n=10", "out=again.png")
    assert np.array_equal(np.load(trained / "again.npy"), first)
    sample(trained, "run=run", "n=10", "seed=1", "out=other.png")
    assert not np.array_equal(np.load(trained / "other.npy"), first)


def test_samples_of_a_class_have_the_means_of_its_pixels(trained):
    sample(trained, "run=run", "n=400", "label=0", "out=zeros.png")
    order = pixel_order("z_left_right", 8, 8)
    state = network_of(last_checkpoint(trained / "run")).state()
    unknown = torch.full((1, 64), torch.nan)
    white = lay_on_image(state.pixel_probabilities(unknown, label=0)[..., 1], order, (8, 8))[0]
    assert np.abs(np.load(trained / "zeros.npy").mean(0) - white.numpy()).max() < 5 * 0.5 / 400**0.5


def test_half_an_image_is_completed_and_the_other_half_stays(trained, images):
    shown, _ = images
    said = sample(trained, "run=run", "n=30", "observed=half", "out=half.png")
    assert "of 30 images classified correctly by p(y | observed pixels)" in said
    drawn = np.load(trained / "half.npy")
    assert np.array_equal(drawn[:, :, :4], shown[:30, :, :4])
    assert not np.array_equal(drawn[:, :, 4:], shown[:30, :, 4:])


def test_a_mask_says_which_pixels_stay(trained, images):
    shown, labels = images
    mask = np.zeros((8, 8), dtype=np.uint8)
    mask[2:7, 1:5] = 255
    Image.fromarray(mask).save(trained / "mask.png")
    sample(trained, "run=run", "n=20", "label=3", "observed=mask.png", "out=masked.png")
    drawn = np.load(trained / "masked.npy")
    assert np.array_equal(drawn[:, 2:7, 1:5], shown[labels == 3][:20, 2:7, 1:5])


def test_classification_survives_missing_pixels(trained):
    def accuracy(missing):
        said = sample(trained, "run=run", "n=360", f"missing={missing}", "out=missing.png")
        return float(said.split("%")[0])

    everything, half, nothing = accuracy(0), accuracy(0.5), accuracy(1)
    assert everything > 20  # a tenth would be chance
    assert everything > nothing
    assert half > nothing


CLASSES = ("zero", "one", "two")
JOINED = ("runs=multirun/classes", "data.path=three.npz")


@pytest.fixture(scope="module")
def by_class(tmp_path_factory):
    """A folder with three digits as arrays, and the sweep of a density for each."""
    folder = tmp_path_factory.mktemp("classes")
    digits = ready(data_module("digits"))
    arrays = {"class_names": np.array(CLASSES)}
    for split in ("train", "test"):
        pixels, labels = digits.splits[split]
        own = labels < len(CLASSES)
        upright = lay_on_image(pixels[own], digits.pixel_order, digits.image_shape)
        arrays |= {f"x_{split}": upright.numpy(), f"y_{split}": labels[own].numpy()}
    np.savez(folder / "three.npz", **arrays)
    kept = [setting for setting in TRAIN if not setting.startswith(("data=", "hydra.run.dir", "trainer"))]
    of_classes = ("data=arrays", "data.path=three.npz", "data.classes=[zero],[one],[two]", "cost.labels=false")
    shape = ("trainer.max_epochs=8", "data.batch_size=20", "sweep.name=classes")
    done = train_command("-m", *of_classes, *kept, *shape, folder=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_densities_of_every_class_classify_and_complete_images_together(by_class):
    overrides = (f"data.path={by_class / 'three.npz'}", "data.levels=2", "data.flatten=z_left_right")
    module = ready(data_module("arrays", *overrides))
    test, labels = module.splits["test"]
    number = f"n={len(labels)}"
    half = float(sample(by_class, *JOINED, number, "missing=0.5").split("%")[0])
    said = sample(by_class, *JOINED, number, "missing=0")
    everything = float(said.split("%")[0])
    assert "multirun/classes/ensemble-samples.png" in said
    shown = lay_on_image(test, module.pixel_order, module.image_shape).numpy() / 255
    assert np.array_equal(np.load(by_class / "multirun" / "classes" / "ensemble-samples.npy"), shown)
    assert everything >= half > 70
    done = command("qcnn_lightning.evaluate", *JOINED, "figures=[]", folder=by_class)
    assert done.returncode == 0, done.stderr
    numbers = json.loads((by_class / "multirun" / "classes" / "ensemble-evaluation" / "evaluation.json").read_text())
    assert 100 * numbers["accuracy"] == pytest.approx(everything, abs=0.006)
    # p(y, x) of the densities together, by hand.
    runs = {run.settings["data.classes"]: run for run in find_runs(by_class / "multirun" / "classes")}
    states = [network_of(runs[f'["{name}"]'].checkpoint()).state() for name in CLASSES]
    sizes = module.splits["train"][1].bincount().double()
    joint = torch.stack([state.log_probability(test) for state in states], -1) + (sizes / sizes.sum()).log()
    assert numbers["cost"] == pytest.approx(-joint.logsumexp(-1).mean().item(), rel=1e-5)
    own = joint.softmax(-1).gather(1, labels[:, None])
    for label, row in enumerate(numbers["classes"]):
        assert row["mean_probability"] == pytest.approx(own[labels == label].mean().item(), abs=1e-4)


def test_a_class_of_such_densities_has_samples_of_its_own(by_class):
    sample(by_class, *JOINED, "n=100", "label=one", "out=ones.png")
    assert "100 samples: any.png" in sample(by_class, *JOINED, "n=100", "out=any.png")
    ones, anything = (np.load(by_class / f"{name}.npy") for name in ("ones", "any"))
    assert ones.shape == anything.shape == (100, 8, 8)
    assert not np.array_equal(ones, anything)


def test_some_of_the_classes_are_no_density_of_all(by_class):
    runs = sorted(str(path.parent.relative_to(by_class)) for path in by_class.glob("multirun/classes/*/metrics.csv"))
    assert len(runs) == 3
    kept = [run for run in runs if "[two]" not in run]
    for module in ("evaluate", "sample"):
        done = command(f"qcnn_lightning.{module}", f"runs=[{','.join(kept)}]", "data.path=three.npz", folder=by_class)
        assert done.returncode == 2
        told = "runs of the classes zero, one: a density of all classes needs one of each of zero, one, two"
        assert told in done.stderr


def test_the_state_in_a_file_is_evaluated_and_sampled_without_its_run(trained):
    for module, given in (("evaluate", ("figures=[]",)), ("sample", ("n=20", "missing=0.5"))):
        done = command(f"qcnn_lightning.{module}", "run=run", *given, folder=trained)
        assert done.returncode == 0, done.stderr
    of_run = json.loads((trained / "run" / "evaluation" / "evaluation.json").read_text())
    missing = np.load(trained / "run" / "samples.npy")
    sample(trained, "run=run", "n=20", "label=2")
    drawn = np.load(trained / "run" / "samples.npy")
    elsewhere = trained / "elsewhere"
    elsewhere.mkdir()
    (trained / "run" / "evaluation" / "state.safetensors").rename(elsewhere / "state.safetensors")
    file = "state=elsewhere/state.safetensors"
    done = command("qcnn_lightning.evaluate", file, "run=run", "figures=[]", folder=trained)
    assert done.returncode == 0, done.stderr
    of_file = json.loads((elsewhere / "state-evaluation" / "evaluation.json").read_text())
    for key in ("accuracy", "confusion", "overlaps", "num_images"):
        assert of_file[key] == of_run[key]
    assert of_file["cost"] == pytest.approx(of_run["cost"], rel=1e-5)
    assert of_file["model"] == {"state": "elsewhere/state.safetensors"}
    assert "20 samples: elsewhere/state-samples.png" in sample(trained, file, "n=20", "label=2")
    assert np.array_equal(np.load(elsewhere / "state-samples.npy"), drawn)
    sample(trained, file, "run=run", "n=20", "missing=0.5")
    assert np.array_equal(np.load(elsewhere / "state-samples.npy"), missing)
    for module in ("evaluate", "sample"):
        done = command(f"qcnn_lightning.{module}", file, *(["missing=0.5"] * (module == "sample")), folder=trained)
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert "state=elsewhere/state.safetensors lies in no run folder: give run=DIR or checkpoint=FILE" in line
    (elsewhere / "state.safetensors").rename(trained / "run" / "evaluation" / "state.safetensors")
    inside = "state=run/evaluation/state.safetensors"
    assert "classified correctly" in sample(trained, inside, "n=20", "missing=0.5")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "give one of run=DIR, runs=[DIR,DIR], checkpoint=FILE and state=FILE"),
        (
            ("state=nowhere.safetensors",),
            "nowhere.safetensors cannot be read as a state: there is no such regular file",
        ),
        (("state=run/metrics.csv",), "run/metrics.csv cannot be read as a state"),
        (("run=nowhere",), "nowhere: no such folder"),
        (("run=run", "n=0"), "n=0: must be a whole number, 1 or more"),
        (("run=run", "seed=-1"), "seed=-1"),
        (("run=run", "label=eleven"), "label=eleven: there is no such class"),
        (("run=run", "observed=half", "missing=0.5"), "not both"),
        (("run=run", "missing=1.5"), "missing=1.5: must be from 0 to 1"),
        (("run=run", "observed=there.png"), "observed=there.png: say half"),
        (("run=run", "observed=run/samples.png"), "has 27 x 36 pixels: the images have 8 x 8"),
        (("run=run", "observed=half", "n=361"), "n=361: split=test has 360 such images"),
        (("run=run", "out=samples.jpg"), "out=samples.jpg: the picture is a .png file"),
        (("run=run", "split=val", "observed=half"), "split=val: the run held no images out"),
        (("run=run", "lable=3"), "the nearest is label"),
    ],
)
def test_a_mistake_is_told_in_one_line(trained, arguments, told):
    sample(trained, "run=run", "n=10")
    done = command("qcnn_lightning.sample", *arguments, folder=trained)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert told in line


def test_a_classifier_has_no_samples(tmp_path):
    done = train_command(
        "data=digits",
        "model.d=2",
        "model.kernel=plain",
        "trainer.max_epochs=1",
        "logger=none",
        "hydra.run.dir=run",
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    done = command("qcnn_lightning.sample", "run=run", folder=tmp_path)
    assert done.returncode == 2
    assert "QCNN is no density; samples need model=density or model=mps" in done.stderr
