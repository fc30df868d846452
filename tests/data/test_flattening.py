import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qcnn_lightning.data.flattening import (
    FLATTENINGS,
    PADDING,
    lay_on_chain,
    lay_on_image,
    padded_num_sites,
    pixel_order,
)
from qcnn_lightning.errors import InputError

flattenings = st.sampled_from(FLATTENINGS)
sizes = st.integers(2, 40)
FRAMED = [3, 6, 7, 12, 14, 15, 24, 28, 30]
SPREAD = [5, 9, 10, 11, 17, 18, 20, 22]


def interleave(high: int, low: int) -> int:
    """Morton code: bits of the two numbers in turn, starting with the highest of `high`."""
    return sum(((high >> bit & 1) << (2 * bit + 1)) | ((low >> bit & 1) << (2 * bit)) for bit in range(16))


@given(flattenings, sizes)
def test_every_pixel_stands_at_exactly_one_site(flatten, size):
    order = pixel_order(flatten, size)
    assert len(order) == padded_num_sites(size)
    assert sorted(order[order != PADDING].tolist()) == list(range(size**2))


@given(sizes)
def test_num_sites_is_the_smallest_power_of_two_that_holds_the_pixels(size):
    num_sites = padded_num_sites(size)
    assert num_sites & (num_sites - 1) == 0
    assert num_sites // 2 < size**2 <= num_sites


@pytest.mark.parametrize("size", [2, 4, 8, 16, 32])
def test_orders_of_power_of_two_squares(size):
    image = np.arange(size**2).reshape(size, size)
    morton = {
        (row, column): (interleave(column, row), interleave(row, column)) for row, column in np.ndindex(size, size)
    }
    assert pixel_order("up_down", size).tolist() == image.ravel().tolist()
    assert pixel_order("left_right", size).tolist() == image.T.ravel().tolist()
    for flatten, which in (("z_left_right", 0), ("z_up_down", 1)):
        along_chain = sorted(morton, key=lambda place: morton[place][which])
        assert pixel_order(flatten, size).tolist() == [image[place] for place in along_chain]


@pytest.mark.parametrize("flatten", ["z_left_right", "z_up_down"])
@pytest.mark.parametrize("size", [4, 8, 16, 32])
def test_aligned_blocks_of_z_orders_are_square_patches(flatten, size):
    for k in range(1, size.bit_length()):
        for block in pixel_order(flatten, size).split(4**k):
            row, column = block // size, block % size
            assert len(block) == 4**k
            assert row.max() - row.min() == column.max() - column.min() == 2**k - 1
            assert row.min() % 2**k == column.min() % 2**k == 0


@given(flattenings, sizes)
def test_halves_of_the_tree_are_halves_of_the_image(flatten, size):
    first, second = (half[half != PADDING] for half in pixel_order(flatten, size).chunk(2))
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
    side = int(padded_num_sites(size) ** 0.5)
    images = torch.randint(1, 256, (3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(size))
    before = (side - size) // 2
    framed = torch.nn.functional.pad(images, (before, side - size - before) * 2)
    assert torch.equal(
        lay_on_chain(images, pixel_order(flatten, size)), lay_on_chain(framed, pixel_order(flatten, side))
    )


@pytest.mark.parametrize("size", SPREAD)
@given(flatten=flattenings)
def test_padding_is_spread_evenly_where_no_square_fits(size, flatten):
    padding = pixel_order(flatten, size) == PADDING
    for level in range(1, len(padding).bit_length()):
        in_block = padding.view(2**level, -1).sum(dim=1)
        assert in_block.max() - in_block.min() <= 1


@given(flattenings, sizes)
def test_padding_is_black_and_pixels_keep_their_grey_level(flatten, size):
    images = torch.randint(1, 256, (2, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(size))
    order = pixel_order(flatten, size)
    chain = lay_on_chain(images, order)
    assert chain.dtype == torch.uint8
    for site, pixel in enumerate(order.tolist()):
        expected = torch.zeros(2, dtype=torch.uint8) if pixel == PADDING else images[:, pixel // size, pixel % size]
        assert torch.equal(chain[:, site], expected)


@given(flattenings, sizes)
def test_what_is_laid_on_the_chain_is_laid_back_on_the_image(flatten, size):
    images = torch.randint(0, 256, (2, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(size))
    order = pixel_order(flatten, size)
    chain = lay_on_chain(images, order)
    assert torch.equal(lay_on_image(chain, order), images)
    assert torch.equal(lay_on_image(chain.double(), order), images.double())
    assert torch.equal(lay_on_image(chain[0], order), images[0])


def test_unknown_flatten_is_told_the_valid_ones():
    with pytest.raises(InputError, match=r"data.flatten=spiral .*left_right, up_down, z_left_right, z_up_down"):
        pixel_order("spiral", 16)


@pytest.mark.parametrize("size", [1, 0, -3])
def test_too_small_size_is_refused(size):
    with pytest.raises(InputError, match=f"data.size={size} "):
        pixel_order("up_down", size)
