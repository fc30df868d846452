"""`data.classes`: the images of some classes, as all others see them."""

import pytest
import torch

from composing import data_module, ready
from qcnn_lightning.data.images import class_number
from qcnn_lightning.errors import InputError

SETTINGS = ("data.levels=2", "data.val_size=200")


@pytest.fixture(scope="module")
def everything():
    return ready(data_module("digits", *SETTINGS))


@pytest.mark.parametrize("classes", ["[3]", "['3']", "[7,3]"])
def test_splits_are_the_parts_of_those_of_all_classes(everything, classes):
    chosen = ready(data_module("digits", *SETTINGS, f"data.classes={classes}"))
    assert chosen.class_names == everything.class_names
    kept = torch.tensor([3, 7] if "7" in classes else [3])
    assert list(chosen.splits) == list(everything.splits)
    for split, (images, labels) in everything.splits.items():
        own = torch.isin(labels, kept)
        assert own.any()
        assert torch.equal(chosen.splits[split][0], images[own])
        assert torch.equal(chosen.splits[split][1], labels[own])


def test_images_that_are_drawn_anew_are_those_of_the_classes():
    grey = ready(data_module("digits", "data.val_size=200", "data.classes=[3]")).splits["train"][0]
    anew = ready(data_module("digits", *SETTINGS, "data.classes=[3]", "data.redraw=true", "data.batches_per_item=99"))
    loader = anew.train_dataloader()
    loader.sampler.set_epoch(0)
    drawn = torch.cat([images for item in loader for images, _ in item])
    assert drawn.shape == grey.shape
    assert torch.equal(drawn.unique(), torch.tensor([0, 255], dtype=torch.uint8))
    # The mean over draws is the grey level: five standard errors of a coin.
    assert (drawn.double().mean(0) - grey.double().mean(0)).abs().max() < 5 * 127.5 / len(grey) ** 0.5


def test_a_name_comes_before_a_number():
    assert [class_number("data.classes", given, ["1", "2", "3"]) for given in (1, "3", 0)] == [0, 2, 0]
    assert [class_number("data.classes", given, ["cat", "dog"]) for given in (1, "cat")] == [1, 0]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("[ten]", r"data\.classes=ten: there is no such class; choose 0 to 9"),
        ("[10]", r"data\.classes=10: there is no such class"),
        ("[]", r"data\.classes=\[\]: give a list of classes, each once"),
        ("[3,3]", r"data\.classes=\[3, 3\]: give a list of classes, each once"),
        ("'3'", r"data\.classes=3: give a list of classes"),
    ],
)
def test_classes_that_there_are_not_are_told(classes, message):
    with pytest.raises(InputError, match=message):
        ready(data_module("digits", f"data.classes={classes}"))
