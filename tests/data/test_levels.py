import pytest
import torch

from composing import data_module, ready
from qcnn_lightning.data.levels import rounded_to_levels
from qcnn_lightning.errors import InputError


@pytest.mark.parametrize("levels", [2, 3, 7, 256])
def test_the_threshold_takes_the_nearest_level(levels):
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16)
    rounded = rounded_to_levels(images, levels, "threshold", seed=0)
    known = (255 * torch.arange(levels, dtype=torch.float64) / (levels - 1)).round()
    assert set(rounded.unique().tolist()) == set(known.tolist())
    assert (rounded.double() - images.double()).abs().max() <= 255 / (levels - 1) / 2 + 0.5


@pytest.mark.parametrize("levels", [2, 3])
def test_the_mean_over_bernoulli_draws_is_the_grey_level(levels):
    grey = torch.tensor([0, 1, 60, 127, 128, 200, 254, 255], dtype=torch.uint8)
    drawn = rounded_to_levels(grey.expand(20000, 1, 8).contiguous(), levels, "bernoulli", seed=0)
    # Five standard errors of a coin; bytes of three levels are rounded by 1/2.
    assert (drawn.double().mean(0).flatten() - grey.double()).abs().max() < 5 * 127.5 / 20000**0.5 + 0.5
    assert (drawn[:, 0, 0] == 0).all()
    assert (drawn[:, 0, -1] == 255).all()


def test_floats_are_drawn_as_bytes_are():
    grey = torch.randint(256, (100, 4, 4), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    for rounding in ("bernoulli", "threshold"):
        as_bytes = rounded_to_levels(grey, 4, rounding, seed=2)
        assert torch.equal(rounded_to_levels(grey.float() / 255, 4, rounding, seed=2), as_bytes)


def test_a_data_module_binarises_every_split_always_the_same_way_whatever_is_held_out():
    first = ready(data_module("digits", "data.levels=2"))
    again = ready(data_module("digits", "data.levels=2", seed=3))
    assert all(set(images.unique().tolist()) == {0, 255} for images, _ in first.splits.values())
    assert all(torch.equal(first.splits[split][0], again.splits[split][0]) for split in first.splits)
    held_out = ready(data_module("digits", "data.levels=2", "data.val_size=100"))
    assert torch.equal(held_out.splits["test"][0], first.splits["test"][0])
    other = ready(data_module("digits", "data.levels=2", "data.rounding=threshold"))
    assert not torch.equal(other.splits["test"][0], first.splits["test"][0])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("data.levels=1", r"data\.levels=1 must be from 2 to 256"),
        ("data.levels=257", r"data\.levels=257 must be from 2 to 256"),
        ("data.rounding=random", r"data\.rounding=random: choose one of bernoulli, threshold"),
        ("data.augment.contrast=0.1", r"data\.augment\.contrast=0\.1 would give images of data\.levels=2 other"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(setting, message):
    with pytest.raises(InputError, match=message):
        data_module("digits", "data.levels=2", setting)
