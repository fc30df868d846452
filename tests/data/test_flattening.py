import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qcnn_lightning.data.flattening import (
    FLATTENINGS,
    PADDING,
    checked_order,
    lay_on_chain,
    lay_on_image,
    mirror_levels,
    padded_num_sites,
    pixel_order,
)
from qcnn_lightning.errors import InputError

flattenings = st.sampled_from(FLATTENINGS)
sizes = st.integers(2, 40)
shapes = st.tuples(st.integers(1, 20), st.integers(1, 20)).filter(lambda shape: shape != (1, 1))
FRAMED = [3, 6, 7, 12, 14, 15, 24, 28, 30]
SPREAD = [5, 9, 10, 11, 17, 18, 20, 22]


def interleave(high: int, low: int) -> int:
    """Morton code: bits of the two numbers in turn, starting with the highest of `high`."""
    return sum(((high >> bit & 1) << (2 * bit + 1)) | ((low >> bit & 1) << (2 * bit)) for bit in range(16))


def halved(pixels: list[tuple[int, int]], flatten: str, level: int, num_levels: int) -> list[tuple[int, int] | None]:
    """The rule that makes every order, as one would write it down: halve what is left, until one site is."""
    if level == num_levels:
        return pixels or [None]
    columns = {"left_right": True, "up_down": False, "z_left_right": level % 2 == 0, "z_up_down": level % 2 == 1}
    pixels = sorted(pixels, key=lambda pixel: pixel[::-1] if columns[flatten] else pixel)
    half = (len(pixels) + 1) // 2
    return [each for part in (pixels[:half], pixels[half:]) for each in halved(part, flatten, level + 1, num_levels)]


@pytest.mark.parametrize("shape", [(4, 4), (8, 2), (12, 12), (28, 28), (1, 8)])
@pytest.mark.parametrize("flatten", FLATTENINGS)
def test_exchanging_the_children_of_some_levels_mirrors_the_image(flatten, shape):
    order = pixel_order(flatten, *shape)
    images = torch.arange(shape[0] * shape[1]).view(1, *shape) + 1
    sites = torch.arange(len(order)) ^ sum(2**level for level in mirror_levels(order, *shape))
    assert torch.equal(lay_on_chain(images.flip(2), order), lay_on_chain(images, order)[:, sites])


@pytest.mark.parametrize("size", [3, 10])
def test_not_every_mirror_image_is_an_exchange_of_children(size):
    with pytest.raises(InputError, match=f"{size} x {size} pixels in this order is no exchange"):
        mirror_levels(pixel_order("left_right", size, size), size, size)


@given(flattenings, shapes)
def test_orders_of_rectangles_halve_the_image_or_its_frame_of_powers_of_two(flatten, shape):
    height, width = shape
    num_levels = (height * width - 1).bit_length()
    frame = [2 ** (side - 1).bit_length() for side in shape]
    if frame[0] * frame[1] != 2**num_levels:
        frame = [height, width]
    top, left = (frame[0] - height) // 2, (frame[1] - width) // 2
    sites = halved([(row - top, column - left) for row, column in np.ndindex(*frame)], flatten, 0, num_levels)
    shown = [pixel is not None and 0 <= pixel[0] < height and 0 <= pixel[1] < width for pixel in sites]
    expected = [pixel[0] * width + pixel[1] if there else PADDING for pixel, there in zip(sites, shown, strict=True)]
    assert pixel_order(flatten, height, width).tolist() == expected


@given(flattenings, st.integers(1, 8))
def test_chain_is_in_tree_order_already(flatten, num_levels):
    assert pixel_order(flatten, 1, 2**num_levels).tolist() == list(range(2**num_levels))


@given(flattenings, shapes)
def test_every_pixel_stands_at_exactly_one_site(flatten, shape):
    order = pixel_order(flatten, *shape)
    assert len(order) == padded_num_sites(*shape)
    assert sorted(order[order != PADDING].tolist()) == list(range(shape[0] * shape[1]))


@given(shapes)
def test_num_sites_is_the_smallest_power_of_two_that_holds_the_pixels(shape):
    num_sites = padded_num_sites(*shape)
    assert num_sites & (num_sites - 1) == 0
    assert num_sites // 2 < shape[0] * shape[1] <= num_sites


@pytest.mark.parametrize("size", [2, 4, 8, 16, 32])
def test_orders_of_power_of_two_squares(size):
    image = np.arange(size**2).reshape(size, size)
    morton = {
        (row, column): (interleave(column, row), interleave(row, column)) for row, column in np.ndindex(size, size)
    }
    assert pixel_order("up_down", size, size).tolist() == image.ravel().tolist()
    assert pixel_order("left_right", size, size).tolist() == image.T.ravel().tolist()
    for flatten, which in (("z_left_right", 0), ("z_up_down", 1)):
        along_chain = sorted(morton, key=lambda place: morton[place][which])
        assert pixel_order(flatten, size, size).tolist() == [image[place] for place in along_chain]


@pytest.mark.parametrize("flatten", ["z_left_right", "z_up_down"])
@pytest.mark.parametrize("size", [4, 8, 16, 32])
def test_aligned_blocks_of_z_orders_are_square_patches(flatten, size):
    for k in range(1, size.bit_length()):
        for block in pixel_order(flatten, size, size).split(4**k):
            row, column = block // size, block % size
            assert len(block) == 4**k
            assert row.max() - row.min() == column.max() - column.min() == 2**k - 1
            assert row.min() % 2**k == column.min() % 2**k == 0


@given(flattenings, sizes)
def test_halves_of_the_tree_are_halves_of_the_image(flatten, size):
    first, second = (half[half != PADDING] for half in pixel_order(flatten, size, size).chunk(2))
    across = (lambda pixel: pixel % size) if flatten.endswith("left_right") else (lambda pixel: pixel // size)
    if size % 2 == 0:
        assert across(first).max() == size // 2 - 1
        assert across(second).min() == size // 2
        assert len(first) == len(second) == size**2 // 2
    else:  # the middle column or row goes to one half or is shared
        assert across(first).max() <= across(second).min() <= size // 2 + 1


@pytest.mark.parametrize("size", FRAMED)
@given(flatten=flattenings)
def test_padding_is_a_frame_where_the_square_fits(size, flatten):
    side = int(padded_num_sites(size, size) ** 0.5)
    images = torch.randint(1, 256, (3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(size))
    before = (side - size) // 2
    framed = torch.nn.functional.pad(images, (before, side - size - before) * 2)
    assert torch.equal(
        lay_on_chain(images, pixel_order(flatten, size, size)), lay_on_chain(framed, pixel_order(flatten, side, side))
    )


@pytest.mark.parametrize("size", SPREAD)
@given(flatten=flattenings)
def test_padding_is_spread_evenly_where_no_square_fits(size, flatten):
    padding = pixel_order(flatten, size, size) == PADDING
    for level in range(1, len(padding).bit_length()):
        in_block = padding.view(2**level, -1).sum(dim=1)
        assert in_block.max() - in_block.min() <= 1


@given(flattenings, shapes)
def test_padding_is_black_and_pixels_keep_their_grey_level(flatten, shape):
    images = torch.randint(1, 256, (2, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(shape[0]))
    order = pixel_order(flatten, *shape)
    chain = lay_on_chain(images, order)
    assert chain.dtype == torch.uint8
    for site, pixel in enumerate(order.tolist()):
        shown = images[:, pixel // shape[1], pixel % shape[1]]
        assert torch.equal(chain[:, site], torch.zeros(2, dtype=torch.uint8) if pixel == PADDING else shown)


@given(flattenings, shapes)
def test_what_is_laid_on_the_chain_is_laid_back_on_the_image(flatten, shape):
    images = torch.randint(0, 256, (2, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(shape[0]))
    order = pixel_order(flatten, *shape)
    chain = lay_on_chain(images, order)
    assert torch.equal(lay_on_image(chain, order, shape), images)
    assert torch.equal(lay_on_image(chain.double(), order, shape), images.double())
    assert torch.equal(lay_on_image(chain[0], order, shape), images[0])


def test_unknown_flatten_is_told_the_valid_ones():
    valid = r"left_right, up_down, z_left_right, z_up_down, .* mine.my_order, or a .npy file"
    with pytest.raises(InputError, match=rf"data.flatten=spiral .*{valid}"):
        pixel_order("spiral", 16, 16)


@pytest.mark.parametrize("shape", [(1, 1), (0, 4), (-3, -3)])
def test_too_small_image_is_refused(shape):
    with pytest.raises(InputError, match=f"image of {shape[0]} x {shape[1]} pixels is too small"):
        pixel_order("up_down", *shape)


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Write `mine.py` into the current folder, as a user would."""

    def write(text: str) -> None:
        (tmp_path / "mine.py").write_text(f"import numpy as np\n{text}")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
        monkeypatch.delitem(sys.modules, "mine", raising=False)

    yield write
    sys.modules.pop("mine", None)


def test_own_function_and_own_file_give_the_order(mine, tmp_path):
    mine("def backwards(height, width):\n    return np.arange(height * width)[::-1]")
    assert pixel_order("mine.backwards", 2, 4).tolist() == [7, 6, 5, 4, 3, 2, 1, 0]
    np.save(tmp_path / "order.npy", np.array([0, 1, 2, 7, -1, 3, 4, 5], dtype=np.int16))
    # 7 is no pixel of a 2 x 3 image, so it is padding like -1
    assert pixel_order(str(tmp_path / "order.npy"), 2, 3).tolist() == [0, 1, 2, PADDING, PADDING, 3, 4, 5]


@given(shapes, st.randoms(use_true_random=False))
def test_any_permutation_of_all_sites_is_an_order(shape, random):
    permutation = list(range(padded_num_sites(*shape)))
    random.shuffle(permutation)
    images = torch.arange(shape[0] * shape[1]).view(1, *shape)
    order = checked_order(permutation, *shape, "mine")
    assert torch.equal(lay_on_image(lay_on_chain(images, order), order, shape), images)


@pytest.mark.parametrize(
    ("order", "problem"),
    [
        ([0, 1, 2, 3], r"shape \(4,\)"),
        ([[0, 1, 2, 3], [4, 5, 6, 7]], r"shape \(2, 4\)"),
        ([0.0, 1, 2, 3, 4, 5, 6, 7], "dtype float64"),
        ([0, 1, 2, 3, 3, 5, -1, -1], "pixel 3 stands at 2 sites"),
        ([0, 1, 2, 3, 5, -1, -1, -1], "pixel 4 stands at 0 sites"),
        ([0, 1, 2, 3, 4, 5, -1, -2], "it holds -2"),
        (None, "dtype object"),
    ],
)
def test_own_order_that_is_none_is_told_what_is_expected(order, problem):
    with pytest.raises(
        InputError, match=f"^mine is not an order .* 2 x 3 image: .*{problem}.*; expected 8 integers, .* 0 to 5"
    ):
        checked_order(order, 2, 3, "mine")


def test_own_file_that_cannot_be_read_is_named_and_never_unpickled(tmp_path):
    with pytest.raises(InputError, match=r"absent.npy: no such file"):
        pixel_order(str(tmp_path / "absent.npy"), 2, 2)
    np.save(tmp_path / "order.npy", np.array([print], dtype=object))
    with pytest.raises(InputError, match=r"order.npy cannot be read"):
        pixel_order(str(tmp_path / "order.npy"), 2, 2)
