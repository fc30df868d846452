import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import RegularGridInterpolator
from scipy.ndimage import affine_transform, map_coordinates
from torch import Tensor

from qcnn_lightning.data.augmentation import BENT_POINTS, CONTRASTS, Augmentation, Drawn
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


def drawn_of(**given_: Tensor) -> Drawn:
    """Drawn numbers that change nothing but what is given."""
    count = len(next(iter(given_.values())))
    nothing = torch.zeros(count, dtype=torch.int64)
    still = {
        "turns": torch.zeros(count, 2).double(),
        "bends": torch.zeros(count, 2, BENT_POINTS**2).double(),
    }
    return Drawn(**dict.fromkeys(Drawn._fields, nothing) | still | given_)


@pytest.mark.parametrize("flatten", FLATTENINGS)
@given(size=st.sampled_from([2, 4, 5, 9, 12, 16]), shift=st.integers(0, 1), flip=st.booleans())
def test_every_transform_is_a_shift_or_reflection_of_the_image(flatten, size, shift, flip):
    order = pixel_order(flatten, size, size)
    augmentation = Augmentation(order, (size, size), shift=shift, flip=flip)
    image = images_of(1, size)
    transforms = torch.arange(len(augmentation.probabilities))
    altered = augmentation(lay_on_chain(image, order).expand(len(transforms), -1), drawn_of(transforms=transforms))
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
    drawn = augmentation.draw(200_000, seed=1, epoch=0).transforms
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
    altered = augmentation(lay_on_chain(image, order).expand(len(erasures), -1), drawn_of(erasures=erasures))
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
    drawn = augmentation.draw(200_000, seed=1, epoch=0).erasures
    counts = torch.bincount(drawn, minlength=65) / len(drawn)
    torch.testing.assert_close(counts.double(), augmentation.erasure_probabilities, rtol=0, atol=0.006)


def test_contrasts_multiply_the_grey_levels_about_one():
    augmentation = Augmentation(pixel_order("left_right", 8, 8), (8, 8), contrast=0.3)
    images = images_of(1, 8).reshape(1, 64).expand(2000, -1)
    drawn = augmentation.draw(2000, seed=0, epoch=0).contrasts
    altered = augmentation(images, drawn_of(contrasts=drawn))
    factors = torch.linspace(0.7, 1.3, CONTRASTS)[drawn]
    right = (images * factors[:, None]).clamp(max=255)
    assert ((altered - right).abs() <= 0.501).all()
    assert len(drawn.unique()) == CONTRASTS
    assert factors.mean() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("shape", [(9, 9), (8, 12)])
@given(angle=st.floats(-1, 1), size=st.floats(-1, 1))
def test_images_are_turned_and_zoomed_about_their_centre_as_by_scipy(shape, angle, size):
    order = pixel_order("z_left_right", *shape)
    augmentation = Augmentation(order, shape, rotate=40.0, zoom=0.3)
    image = torch.randint(256, (1, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    altered = augmentation(lay_on_chain(image, order), drawn_of(turns=torch.tensor([[angle, size]]).double()))
    radians, factor = np.deg2rad(40) * angle, 1 + 0.3 * size
    # scipy's axes are down and right.
    turn = np.array([[np.cos(radians), np.sin(radians)], [-np.sin(radians), np.cos(radians)]]) / factor
    centre = (np.array(shape) - 1) / 2
    # Black lies around the image, as in the frame, and interpolation reaches into it.
    framed = np.pad(image[0].numpy().astype(float), 30)
    right = affine_transform(framed, turn, offset=centre + 30 - turn @ (centre + 30), order=1)[30:-30, 30:-30]
    assert np.abs(lay_on_image(altered, order, shape)[0].numpy() - right).max() <= 0.51


@pytest.mark.parametrize("shape", [(9, 9), (8, 12)])
@given(seed=st.integers(0, 100), turn=st.sampled_from([0.0, 20.0]))
def test_points_of_bent_images_come_from_where_scipy_finds_them(shape, seed, turn):
    order = pixel_order("z_left_right", *shape)
    augmentation = Augmentation(order, shape, rotate=turn, elastic=1.5)
    image = torch.randint(256, (1, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    drawn = augmentation.draw(1, seed, epoch=0)
    altered = lay_on_image(augmentation(lay_on_chain(image, order), drawn), order, shape)[0].numpy()
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).astype(float)
    points = [np.linspace(0, side - 1, BENT_POINTS) for side in shape]
    right, down = (
        RegularGridInterpolator(points, each.numpy())(np.clip(places, 0, np.array(shape) - 1))
        for each in drawn.bends[0].reshape(2, BENT_POINTS, BENT_POINTS)
    )
    radians, centre = np.deg2rad(turn) * float(drawn.turns[0, 0]), (np.array(shape) - 1) / 2
    rotation = np.array([[np.cos(radians), np.sin(radians)], [-np.sin(radians), np.cos(radians)]])
    come_from = (places - centre) @ rotation.T + centre + 1.5 * np.stack([down, right], -1)
    framed = np.pad(image[0].numpy().astype(float), 30)
    bent = map_coordinates(framed, np.moveaxis(come_from + 30, -1, 0), order=1)
    assert np.abs(altered - bent).max() <= 0.51


def test_points_are_displaced_evenly_and_no_displacement_changes_nothing():
    order = pixel_order("left_right", 8, 8)
    augmentation = Augmentation(order, (8, 8), elastic=2.0)
    bends = augmentation.draw(4000, seed=1, epoch=0).bends.flatten(1)
    quarters = torch.histc(bends.float(), 4, -1, 1) / bends.numel()
    torch.testing.assert_close(quarters, torch.full((4,), 0.25), rtol=0, atol=0.005)
    between = torch.corrcoef(bends.mT) - torch.eye(bends.shape[1])
    assert between.abs().max() < 0.1
    images = lay_on_chain(images_of(3, 8), order)
    assert torch.equal(augmentation(images, drawn_of(turns=torch.zeros(3, 2).double())), images)


def test_so_many_images_are_turned_and_bent_as_asked():
    order = pixel_order("left_right", 8, 8)
    augmentation = Augmentation(order, (8, 8), rotate=30.0, zoom=0.2, elastic=1.0, turn_fraction=0.3)
    drawn = augmentation.draw(20_000, seed=1, epoch=0)
    turned = drawn.turns.any(1)
    assert abs(turned.double().mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / 20_000)
    assert torch.equal(drawn.bends.flatten(1).any(1), turned)
    all_turned = Augmentation(order, (8, 8), rotate=30.0, zoom=0.2, elastic=1.0).draw(20_000, seed=1, epoch=0)
    assert torch.equal(drawn.turns[turned], all_turned.turns[turned])
    assert Augmentation(order, (8, 8), rotate=30.0, elastic=1.0, turn_fraction=0.0).changes_nothing


def test_turns_are_spread_evenly_and_no_turn_changes_nothing():
    order = pixel_order("left_right", 8, 8)
    augmentation = Augmentation(order, (8, 8), rotate=10.0, zoom=0.2)
    turns = augmentation.draw(100_000, seed=1, epoch=0).turns
    quarters = torch.histc(turns[:, 0].float(), 4, -1, 1), torch.histc(turns[:, 1].float(), 4, -1, 1)
    torch.testing.assert_close(torch.stack(quarters) / len(turns), torch.full((2, 4), 0.25), rtol=0, atol=0.007)
    assert abs(float(torch.corrcoef(turns.mT)[0, 1])) < 0.02
    images = lay_on_chain(images_of(3, 8), order)
    assert torch.equal(augmentation(images, drawn_of(turns=torch.zeros(3, 2).double())), images)


def test_without_settings_nothing_changes():
    order = pixel_order("z_left_right", 8, 8)
    augmentation = Augmentation(order, (8, 8))
    assert augmentation.changes_nothing
    assert Augmentation(order, (8, 8), shift=3, shift_fraction=0.0).changes_nothing
    assert Augmentation(order, (8, 8), erase=3, erase_fraction=0.0).changes_nothing
    assert not Augmentation(order, (8, 8), shift=1).changes_nothing
    assert not Augmentation(order, (8, 8), erase=3).changes_nothing
    assert not Augmentation(order, (8, 8), contrast=0.1).changes_nothing
    assert not Augmentation(order, (8, 8), rotate=5.0).changes_nothing
    assert not Augmentation(order, (8, 8), zoom=0.1).changes_nothing
    assert not Augmentation(order, (8, 8), elastic=0.5).changes_nothing
    images = lay_on_chain(images_of(5, 8), order)
    assert torch.equal(augmentation(images, augmentation.draw(5, seed=0, epoch=0)), images)


def test_draws_depend_on_seed_and_epoch_alone():
    augmentation = Augmentation(pixel_order("left_right", 8, 8), (8, 8), shift=1, erase=2, contrast=0.2, elastic=1.0)

    def draw(seed: int, epoch: int) -> list[int]:
        torch.rand(seed + epoch)  # whatever else draws random numbers
        return torch.cat([drawn.flatten() for drawn in augmentation.draw(100, seed, epoch)]).tolist()

    draws = {(seed, epoch): draw(seed, epoch) for seed in range(4) for epoch in range(4)}
    assert draws == {key: draw(*key) for key in reversed(draws)}
    assert len({tuple(each) for each in draws.values()}) == len(draws)


def test_the_images_in_memory_stay_as_they_are():
    order = pixel_order("left_right", 4, 4)
    augmentation = Augmentation(order, (4, 4), shift=2, shift_fraction=1.0, flip=True, erase=3, contrast=0.5)
    images = lay_on_chain(images_of(50, 4), order)
    before = images.clone()
    assert not torch.equal(augmentation(images, augmentation.draw(50, seed=0, epoch=0)), before)
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
        ({"turn_fraction": 1.2}, "data.augment.turn_fraction=1.2"),
        ({"rotate": -1.0}, "data.augment.rotate=-1"),
        ({"rotate": 181.0}, "data.augment.rotate=181"),
        ({"zoom": 1.0}, "data.augment.zoom=1"),
        ({"elastic": -0.5}, "data.augment.elastic=-0.5"),
        ({"elastic": 8.0}, "data.augment.elastic=8"),
    ],
)
def test_settings_out_of_range_are_refused(settings, named):
    with pytest.raises(InputError, match=named):
        Augmentation(pixel_order("left_right", 8, 8), (8, 8), **settings)
