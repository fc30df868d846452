import errno
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from qcnn_lightning.data.images import LabelledImages, cache_path, grey, prepare_cache, read_cache, resized
from qcnn_lightning.errors import InputError

CONTENT = "0123abcd"
SHAPE = (4, 4)


def labelled(count: int = 7, size: int = 4) -> LabelledImages:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, size, size), dtype=torch.uint8, generator=generator)
    labels = torch.arange(count) % 2
    return LabelledImages(
        {"train": (images, labels), "test": (images[:2].clone(), labels[:2].clone())}, ("Katze", "Hündin")
    )


@pytest.fixture
def path(tmp_path) -> Path:
    path = cache_path(tmp_path / "cache", "pets", SHAPE, CONTENT)
    prepare_cache(path, SHAPE, CONTENT, labelled)
    return path


def assert_same(found: LabelledImages, expected: LabelledImages) -> None:
    assert found.class_names == expected.class_names
    assert list(found.splits) == list(expected.splits)
    for split, tensors in expected.splits.items():
        assert all(map(torch.equal, found.splits[split], tensors))


def test_cache_gives_back_what_was_written(path):
    assert_same(read_cache(path, SHAPE, CONTENT), labelled())


def test_cache_is_prepared_once(path):
    def again() -> LabelledImages:
        raise AssertionError("prepared twice")

    prepare_cache(path, SHAPE, CONTENT, again)


def test_cache_is_keyed_by_content_and_size(tmp_path):
    paths = {cache_path(tmp_path, "pets", shape, content) for shape in (SHAPE, (4, 5)) for content in ("a", "b")}
    assert len(paths) == 4


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), flipped=st.integers(1, 255))
def test_cache_with_an_altered_byte_is_refused_or_gives_the_same_images(path, place, flipped):
    content = bytearray(path.read_bytes())
    altered = path.with_name("altered.safetensors")
    content[int(place * len(content))] ^= flipped
    altered.write_bytes(content)
    try:
        found = read_cache(altered, SHAPE, CONTENT)
    except InputError:
        return
    assert_same(found, labelled())  # a blank of the header became another blank


def test_cache_with_an_altered_pixel_is_refused_with_both_sums(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"was altered: expected SHA-256 [0-9a-f]{64}, got [0-9a-f]{64}\. Delete"):
        read_cache(path, SHAPE, CONTENT)


@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_truncated_cache_is_refused(path, kept):
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match="truncated or damaged") as caught:
        read_cache(path, SHAPE, CONTENT)
    assert str(path) in str(caught.value)


def test_cache_of_other_content_is_refused(path):
    with pytest.raises(InputError, match="made from other images or settings"):
        read_cache(path, SHAPE, "another")


def test_processes_that_prepare_the_same_cache_do_not_collide(tmp_path):
    path = cache_path(tmp_path, "pets", SHAPE, CONTENT)
    prepared, start = [], threading.Barrier(8)

    def prepare() -> LabelledImages:
        prepared.append(threading.get_ident())
        return labelled()

    def run() -> None:
        start.wait()
        prepare_cache(path, SHAPE, CONTENT, prepare)
        read_cache(path, SHAPE, CONTENT)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(prepared) == 1
    assert_same(read_cache(path, SHAPE, CONTENT), labelled())


def test_full_disk_names_the_cache_and_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    path = cache_path(tmp_path, "pets", SHAPE, CONTENT)
    with pytest.raises(InputError, match="No space left on device") as caught:
        prepare_cache(path, SHAPE, CONTENT, labelled)
    assert str(path) in str(caught.value)
    assert [each.name for each in tmp_path.iterdir() if each.suffix != ".lock"] == []


def test_what_a_killed_process_left_of_any_cache_is_removed(tmp_path):
    path = cache_path(tmp_path, "pets", SHAPE, CONTENT)
    other = cache_path(tmp_path, "plants", SHAPE, CONTENT)
    for prepared in (path, other):
        prepared.with_name(f".{prepared.name}.4711").write_bytes(b"half")
    prepare_cache(path, SHAPE, CONTENT, labelled)
    assert [each.name for each in tmp_path.iterdir() if each.suffix != ".lock"] == [path.name]


def test_cache_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(InputError, match=f"data.cache={tmp_path / 'cache'} cannot be written"):
        prepare_cache(cache_path(tmp_path / "cache", "pets", SHAPE, CONTENT), SHAPE, CONTENT, labelled)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "F", "I;16", "I;16B"]
)
def test_white_stays_white_and_black_stays_black_in_every_mode(mode):
    levels = np.zeros((4, 6), dtype=np.uint8)
    levels[:, 3:] = 255
    image = Image.fromarray(levels)
    if mode.startswith("I;16"):
        wide = levels.astype("<u2" if mode == "I;16" else ">u2") * 257
        image = Image.frombytes(mode, image.size, wide.tobytes())
    elif mode in ("HSV", "LA", "CMYK", "YCbCr"):
        image = image.convert("RGB").convert(mode) if mode != "LA" else image.convert("LA")
    else:
        image = image.convert(mode)
    assert grey(image).mode == "L"
    assert np.array_equal(np.asarray(grey(image)), levels)


def test_sixteen_bit_levels_are_scaled_not_clipped():
    levels = np.arange(256, dtype=np.uint16).reshape(16, 16)
    assert np.array_equal(np.asarray(grey(Image.fromarray(levels * 257))), levels)


def test_transparent_pixels_are_white():
    assert np.asarray(grey(Image.new("RGBA", (2, 2), (0, 0, 0, 0)))).min() == 255


def test_resizing_to_the_same_size_changes_nothing():
    levels = np.random.default_rng(0).integers(0, 256, (3, 9, 9), dtype=np.uint8)
    assert np.array_equal(resized(map(Image.fromarray, levels), (9, 9)).numpy(), levels)


@given(st.integers(0, 255), st.integers(2, 30), st.integers(2, 30))
def test_resizing_keeps_a_uniform_image_uniform(level, size, new_size):
    assert (resized([Image.new("L", (size, size), level)], (new_size, new_size)) == level).all()
