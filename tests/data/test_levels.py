import numpy as np
import pytest
import torch
from scipy.stats import kstest

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


def test_dequantised_pixels_are_spread_evenly_between_their_level_and_the_next():
    images = torch.arange(256, dtype=torch.uint8).repeat(400).reshape(1, -1, 16)
    spread = rounded_to_levels(images, 256, "dequantised", seed=0)
    assert spread.dtype == torch.float32
    assert torch.equal((spread * 256).floor().to(torch.uint8), images)
    offset = (spread.double() * 256 - images).flatten().numpy()
    assert kstest(offset, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(offset, images.flatten().numpy())[0, 1]) < 0.02
    few = rounded_to_levels(images, 4, "dequantised", seed=0)
    nearest = rounded_to_levels(images, 4, "threshold", seed=0).double() / 255 * 3
    assert torch.equal((few * 4).floor(), nearest.round().float())


def test_dequantised_images_are_drawn_anew_and_altered_in_no_other_way():
    module = ready(data_module("digits", "data.levels=17", "data.rounding=dequantised", "data.redraw=true"))
    loader = module.train_dataloader()
    epochs = []
    for number in (0, 1):
        loader.sampler.set_epoch(number)
        epochs.append(torch.cat([images for item in loader for images, _ in item]).sort(0).values)
    assert not torch.equal(*epochs)
    torch.testing.assert_close(*epochs, atol=1 / 17, rtol=0)
    with pytest.raises(InputError, match=r"data\.augment alters uint8 images, .* floats, as they are dequantised"):
        ready(data_module("digits", "data.levels=17", "data.rounding=dequantised", "data.augment.shift=1"))


def test_a_data_module_binarises_every_split_always_the_same_way_whatever_is_held_out():
    first = ready(data_module("digits", "data.levels=2"))
    again = ready(data_module("digits", "data.levels=2", seed=3))
    assert all(set(images.unique().tolist()) == {0, 255} for images, _ in first.splits.values())
    assert all(torch.equal(first.splits[split][0], again.splits[split][0]) for split in first.splits)
    held_out = ready(data_module("digits", "data.levels=2", "data.val_size=100"))
    assert torch.equal(held_out.splits["test"][0], first.splits["test"][0])
    other = ready(data_module("digits", "data.levels=2", "data.rounding=threshold"))
    assert not torch.equal(other.splits["test"][0], first.splits["test"][0])


def test_training_images_are_drawn_anew_in_every_epoch_and_no_others():
    once, anew = (
        ready(data_module("digits", "data.levels=2", "data.val_size=100", *more)) for more in ([], ["data.redraw=true"])
    )
    assert all(torch.equal(once.splits[split][0], anew.splits[split][0]) for split in ("val", "test"))

    def epoch(module, number):
        loader = module.train_dataloader()
        loader.sampler.set_epoch(number)
        batches = [batch for item in loader for batch in item]
        order = torch.cat([labels for _, labels in batches])
        return torch.cat([images for images, _ in batches]), order

    first, second, again = (epoch(anew, number) for number in (0, 1, 0))
    assert torch.equal(first[0], again[0])
    assert set(first[0].unique().tolist()) == {0, 255}
    # The order is that of images drawn once; so are pixels that are black or white for certain.
    images, labels = epoch(once, 0)
    assert torch.equal(first[1], labels)
    grey = ready(data_module("digits", "data.val_size=100"))
    certain, _ = epoch(grey, 0)
    kept = (certain == 0) | (certain == 255)
    assert torch.equal(first[0][kept], images[kept])
    assert not torch.equal(first[0], images)
    drawn = torch.stack([epoch(anew, number)[0][epoch(grey, number)[0] == 128].double().mean() for number in range(3)])
    assert (drawn - 128).abs().max() < 8
    assert not torch.equal(first[0], second[0])
    # So are those of a data module that shares the images.
    sharing = data_module("digits", "data.levels=2", "data.val_size=100", "data.redraw=true")
    sharing.take_images_of(anew)
    assert torch.equal(epoch(ready(sharing), 1)[0], second[0])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("data.levels=1", r"data\.levels=1 must be from 2 to 256"),
        ("data.levels=257", r"data\.levels=257 must be from 2 to 256"),
        ("data.rounding=random", r"data\.rounding=random: choose one of bernoulli, threshold, dequantised"),
        ("data.augment.contrast=0.1", r"data\.augment\.contrast=0\.1 would give images of data\.levels=2 other"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(setting, message):
    with pytest.raises(InputError, match=message):
        data_module("digits", "data.levels=2", setting)


def test_dequantised_pixels_need_their_levels():
    with pytest.raises(InputError, match=r"data\.rounding=dequantised needs data\.levels=K"):
        data_module("digits", "data.rounding=dequantised")


@pytest.mark.parametrize("settings", [(), ("data.levels=2", "data.rounding=threshold")])
def test_only_drawn_levels_can_be_drawn_anew(settings):
    with pytest.raises(InputError, match=r"data\.redraw=True draws grey levels anew: it needs data\.levels=K"):
        data_module("digits", "data.redraw=true", *settings)
