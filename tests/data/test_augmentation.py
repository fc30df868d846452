import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from qcnn_lightning.data.augmentation import CONTRASTS, Augmentation
from qcnn_lightning.data.flattening import FLATTENINGS, PADDING, lay_on_chain, lay_on_image, pixel_order
from qcnn_lightning.errors import InputError


def moved(image: np.ndarray, down: int, right: int, mirrored: bool) -> bytes:
    """Shift an image inside a frame of zeros: nothing of the table is used."""
    height, width = image.shape
    framed = np.pad(image[:, ::-1] if mirrored else image, ((height, height), (width, width)))
    return framed[height - down : 2 * height - down, width - right : 2 * width - right].tobytes()


def images_of(count: int, size: int) -> Tensor:
    # no grey level is 0, so that black can only have come in from outside
    return torch.randint(1, 256, (count, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("flatten", FLATTENINGS)
@given(size=st.sampled_from([2, 4, 5, 9, 12, 16]), shift=st.integers(0, 1), flip=st.booleans())
def test_every_transform_is_a_shift_or_reflection_of_the_image(flatten, size, shift, flip):
    order = pixel_order(flatten, size, size)
    augmentation = Augmentation(order, (size, size), shift=shift, flip=flip)
    image = images_of(1, size)
    transforms = torch.arange(len(augmentation.probabilities))
    same = torch.zeros_like(transforms)
    altered = augmentation(lay_on_chain(image, order).expand(len(transforms), -1), transforms, same, same)
    assert not altered[:, order == PADDING].any()
    steps = range(-shift, shift + 1)
    right = [
        moved(image[0].numpy(), down, across, mirrored)
        for mirrored in ([False, True] if flip else [False])
        for down in steps
        for across in steps
    ]
    assert sorted(each.numpy().tobytes() for each in lay_on_image(altered, order, (size, size))) == sorted(right)
    assert torch.equal(lay_on_image(altered, order, (size, size))[0], image[0])


@pytest.mark.parametrize(("shift", "fraction", "flip"), [(1, 0.5, False), (2, 0.9, True), (0, 0.5, True)])
def test_transforms_are_drawn_as_often_as_asked(shift, fraction, flip):
    augmentation = Augmentation(pixel_order("left_right", 8, 8), (8, 8), shift, fraction, flip)
    drawn, *_ = augmentation.draw(200_000, seed=1, epoch=0)
    num_displacements = (2 * shift + 1) ** 2
    still = (drawn % num_displacements == 0).double().mean()
    mirrored = (drawn >= num_displacements).double().mean()
    # five standard deviations at most
    assert still == pytest.approx(1 - fraction if shift else 1, abs=0.006)
    assert mirrored == pytest.approx(0.5 if flip else 0, abs=0.006)
    counts = torch.bincount(drawn, minlength=len(augmentation.probabilities)) / len(drawn)
    torch.testing.assert_close(counts.double(), augmentation.probabilities, rtol=0, atol=0.006)


@pytest.mark.parametrize("flatten", FLATTENINGS)
@given(size=st.sampled_from([2, 5, 8]), erase=st.integers(1, 2))
def test_every_erasure_makes_a_square_about_a_pixel_black(flatten, size, erase):
    order = pixel_order(flatten, size, size)
    augmentation = Augmentation(order, (size, size), erase=erase)
    image = images_of(1, size)
    erasures = torch.arange(len(augmentation.erasure_probabilities))
    nothing = torch.zeros_like(erasures)
    altered = augmentation(lay_on_chain(image, order).expand(len(erasures), -1), nothing, erasures, nothing)
    black = lay_on_image(altered, order, (size, size)) == 0
    assert not black[0].any()
    reach = range(-(erase // 2), erase - erase // 2)
    for center, erased in enumerate(black[1:]):
        down, right = divmod(center, size)
        square = {(down + i, right + j) for i in reach for j in reach}
        assert {tuple(place) for place in erased.nonzero().tolist()} == {
            (i, j) for i, j in square if 0 <= i < size and 0 <= j < size
        }


def test_erasures_are_drawn_as_often_as_asked():
    augmentation = Augmentation(pixel_order("left_right", 8, 8), (8, 8), erase=3, erase_fraction=0.3)
    _, drawn, _ = augmentation.draw(200_000, seed=1, epoch=0)
    counts = torch.bincount(drawn, minlength=65) / len(drawn)
    torch.testing.assert_close(counts.double(), augmentation.erasure_probabilities, rtol=0, atol=0.006)


def test_contrasts_multiply_the_grey_levels_about_one():
    augmentation = Augmentation(pixel_order("left_right", 8, 8), (8, 8), contrast=0.3)
    images = images_of(1, 8).reshape(1, 64).expand(2000, -1)
    *_, drawn = augmentation.draw(2000, seed=0, epoch=0)
    same = torch.zeros_like(drawn)
    altered = augmentation(images, same, same, drawn)
    factors = torch.linspace(0.7, 1.3, CONTRASTS)[drawn]
    right = (images * factors[:, None]).clamp(max=255)
    assert ((altered - right).abs() <= 0.501).all()
    assert len(drawn.unique()) == CONTRASTS
    assert factors.mean() == pytest.approx(1, abs=0.02)


def test_without_settings_nothing_changes():
    order = pixel_order("z_left_right", 8, 8)
    augmentation = Augmentation(order, (8, 8))
    assert augmentation.changes_nothing
    assert Augmentation(order, (8, 8), shift=3, shift_fraction=0.0).changes_nothing
    assert Augmentation(order, (8, 8), erase=3, erase_fraction=0.0).changes_nothing
    assert not Augmentation(order, (8, 8), shift=1).changes_nothing
    assert not Augmentation(order, (8, 8), erase=3).changes_nothing
    assert not Augmentation(order, (8, 8), contrast=0.1).changes_nothing
    images = lay_on_chain(images_of(5, 8), order)
    assert torch.equal(augmentation(images, *augmentation.draw(5, seed=0, epoch=0)), images)


def test_draws_depend_on_seed_and_epoch_alone():
    augmentation = Augmentation(pixel_order("left_right", 8, 8), (8, 8), shift=1, erase=2, contrast=0.2)

    def draw(seed: int, epoch: int) -> list[int]:
        torch.rand(seed + epoch)  # whatever else draws random numbers
        return torch.cat(augmentation.draw(100, seed, epoch)).tolist()

    draws = {(seed, epoch): draw(seed, epoch) for seed in range(4) for epoch in range(4)}
    assert draws == {key: draw(*key) for key in reversed(draws)}
    assert len({tuple(each) for each in draws.values()}) == len(draws)


def test_the_images_in_memory_stay_as_they_are():
    order = pixel_order("left_right", 4, 4)
    augmentation = Augmentation(order, (4, 4), shift=2, shift_fraction=1.0, flip=True, erase=3, contrast=0.5)
    images = lay_on_chain(images_of(50, 4), order)
    before = images.clone()
    assert not torch.equal(augmentation(images, *augmentation.draw(50, seed=0, epoch=0)), before)
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"shift": -1}, "data.augment.shift=-1"),
        ({"shift": 8}, "data.augment.shift=8"),
        ({"shift_fraction": 1.5}, "data.augment.shift_fraction=1.5"),
        ({"shift_fraction": -0.1}, "data.augment.shift_fraction=-0.1"),
        ({"erase": -1}, "data.augment.erase=-1"),
        ({"erase": 9}, "data.augment.erase=9"),
        ({"erase_fraction": 1.1}, "data.augment.erase_fraction=1.1"),
        ({"contrast": 1.1}, "data.augment.contrast=1.1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, named):
    with pytest.raises(InputError, match=named):
        Augmentation(pixel_order("left_right", 8, 8), (8, 8), **settings)
