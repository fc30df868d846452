"""Folders of images as people have them: each ends in the right images, or in one message that names the file."""

import io
import struct

import numpy as np
import pytest
from PIL import Image
from test_folder import draw

from composing import data_module, ready
from qcnn_lightning.data.sources.folder import ImageFolder
from qcnn_lightning.errors import InputError

RAMP = np.tile(np.arange(0, 240, 20, dtype=np.uint8), (12, 1))
"""Grey levels that rise from left to right."""


@pytest.fixture
def root(tmp_path):
    for name, level in (("cat", 40), ("dog", 200)):
        for number in range(6):
            draw(tmp_path / "train" / name / f"{number}.png", level, size=(12, 12))
    return tmp_path


def saved(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def last_cat(root):
    """The last image of the class cat, 12 x 12, as it was read."""
    images, labels = ImageFolder(root).load((12, 12)).splits["train"]
    return images[labels == 0][-1].numpy().astype(int)


RGB = Image.fromarray(np.dstack([RAMP] * 3))
FOUR_COLOURS = RGB.quantize(4)


@pytest.mark.parametrize(
    ("name", "image", "options", "tolerance"),
    [
        ("z.jpg", Image.fromarray(RAMP).convert("CMYK"), {"quality": 100}, 4),
        ("z.jpg", RGB.convert("YCbCr"), {"quality": 100}, 4),
        ("z.JPG", Image.fromarray(RAMP), {"quality": 100}, 4),
        ("z.JPEG", Image.fromarray(RAMP), {"quality": 100}, 4),
        ("z.webp", Image.fromarray(RAMP), {"lossless": True}, 1),
        ("z.png", Image.fromarray(RAMP).convert("P"), {}, 1),
        ("z.gif", FOUR_COLOURS, {"save_all": True, "append_images": [FOUR_COLOURS] * 2}, 80),
        ("z.bmp", Image.fromarray(RAMP), {}, 0),
        ("z.png", Image.fromarray(RAMP.astype(np.uint16) * 257), {}, 0),
        ("z.tif", Image.fromarray(RAMP.astype(np.uint16) * 257), {}, 0),
        ("z.png", Image.fromarray(np.dstack([RAMP, np.full_like(RAMP, 255)])), {}, 0),
    ],
)
def test_every_format_gives_the_same_grey_levels(root, name, image, options, tolerance):
    saved(root / "train" / "cat" / name, image, **options)
    assert np.abs(last_cat(root) - RAMP).max() <= tolerance


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_numbers_without_an_agreed_white_fill_the_grey_levels(root, kind):
    saved(root / "train" / "cat" / "z.tif", Image.fromarray(RAMP.astype(kind) * 100))
    expected = np.rint(255 * (RAMP / RAMP.max())).astype(int)
    assert np.array_equal(last_cat(root), expected)


def test_black_and_white_stays_so(root):
    saved(root / "train" / "cat" / "z.png", Image.fromarray(RAMP > 100))
    assert set(np.unique(last_cat(root))) == {0, 255}


def exif(payload):
    """A JPEG file with these bytes as its EXIF part."""
    buffer = io.BytesIO()
    RGB.save(buffer, "JPEG", quality=100)
    jpeg = buffer.getvalue()
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload + jpeg[2:]


HEADER = b"Exif\0\0II*\0"
ENTRY = struct.Struct("<HHII")


@pytest.mark.parametrize(
    "payload",
    [
        HEADER,
        b"Exif\0\0" + bytes(range(200)),
        HEADER + b"\xff\xff\xff\x7f",
        HEADER + struct.pack("<IH", 8, 1) + ENTRY.pack(0x0112, 2, 3, 0x00333639) + bytes(4),
        HEADER + struct.pack("<IH", 8, 1) + ENTRY.pack(0x8769, 4, 1, 0x7FFFFFFF) + bytes(4),
    ],
    ids=["short", "garbage", "offset", "orientation is text", "broken part"],
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
def test_a_damaged_exif_part_leaves_the_image_as_it_is(root, payload):
    (root / "train" / "cat" / "z.jpg").write_bytes(exif(payload))
    assert np.abs(last_cat(root) - RAMP).max() <= 4


def test_exif_turns_the_image(root):
    turned = HEADER + struct.pack("<IH", 8, 1) + ENTRY.pack(0x0112, 3, 1, 6) + bytes(4)
    (root / "train" / "cat" / "z.jpg").write_bytes(exif(turned))
    assert np.abs(last_cat(root) - RAMP.T).max() <= 4


def test_a_truncated_image_is_named(root):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    path = saved(root / "train" / "cat" / "cut.jpg", Image.fromarray(noise))
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(InputError, match=r"cut\.jpg"):
        ImageFolder(root).load((8, 8))


def test_an_image_too_large_to_be_meant_is_named_before_it_takes_memory(root):
    saved(root / "train" / "cat" / "huge.png", Image.new("L", (20000, 10000), 128))
    with pytest.raises(InputError, match=r"huge\.png .*decompression bomb"):
        ImageFolder(root).load((8, 8))


def test_links_and_folders_within_classes(root, tmp_path, caplog):
    draw(root / "train" / "cat" / "2024" / "may" / "x.png", 40)
    (root / "train" / "cat" / "broken.png").symlink_to("/nonexistent/a.png")
    draw(root / "elsewhere" / "1.png", 120)
    (root / "train" / "bird").symlink_to(root / "elsewhere")
    folder = ImageFolder(root)
    assert folder.class_names == ("bird", "cat", "dog")
    labels = folder.load((4, 4)).splits["train"][1]
    assert labels.bincount().tolist() == [1, 7, 6]
    assert "left out below" in caplog.text


def test_a_folder_of_classes_without_train_is_told_what_is_expected(tmp_path):
    draw(tmp_path / "cat" / "1.png")
    draw(tmp_path / "dog" / "1.png")
    with pytest.raises(InputError, match=r"has no folder train/: expected <data\.root>/train/<class>"):
        ImageFolder(tmp_path)


def module_of(root, *overrides):
    places = (f"data.root={root}", f"data.cache={root / 'cache'}", "data.size=4", "data.batch_size=2")
    return data_module("folder", *places, *overrides)


def test_one_image_of_a_class_among_many(root):
    draw(root / "train" / "bird" / "1.png", 120)
    labels = ready(module_of(root)).splits["train"][1]
    assert labels.bincount(minlength=3)[0] == 1


def test_classes_of_very_different_sizes_are_held_out_in_proportion(root):
    for number in range(200):
        draw(root / "train" / "cat" / f"more{number}.png", 40)
    module = ready(module_of(root))
    train, test = (module.splits[split][1].bincount(minlength=2) for split in ("train", "test"))
    assert (train + test).tolist() == [206, 6]
    assert abs(test[0] / 206 - 0.2) < 0.01
    assert test[1] >= 1


def test_a_class_without_test_images_is_still_a_class(root):
    draw(root / "test" / "cat" / "1.png", 40)
    module = ready(module_of(root))
    assert module.class_names == ("cat", "dog")
    assert module.splits["test"][1].tolist() == [0]


def test_twelve_bit_levels_in_sixteen_bit_files_are_dark_and_told_apart(tmp_path):
    for name, level in (("cat", 50), ("dog", 200)):
        for number in range(4):
            image = Image.fromarray(np.full((4, 4), level * 16, dtype=np.uint16))
            saved(tmp_path / "train" / name / f"{number}.png", image)
    images, labels = ImageFolder(tmp_path).load((4, 4)).splits["train"]
    assert [int(images[labels == label].float().mean()) for label in (0, 1)] == [50 * 16 // 257, 200 * 16 // 257]


NAMES = ("a cat & co", "Ærøskøbing", "猫", "10", "2", "x=y,z", "[red]", "[x]", "$x$y", "100$ to 200$")


def test_any_name_is_a_class(tmp_path):
    for number, name in enumerate(NAMES):
        for image in range(3):
            draw(tmp_path / "train" / name / f"{image}.png", 20 * number + 5)
    module = ready(module_of(tmp_path))
    assert module.class_names == tuple(sorted(NAMES))
    images, labels = module.splits["train"]
    for image, label in zip(images, labels, strict=True):
        assert image.max() == 20 * NAMES.index(module.class_names[label]) + 5


def test_what_killed_processes_left_in_the_cache_is_removed(root):
    cache = root / "cache"
    cache.mkdir()
    (cache / ".folder-9x9-0123.safetensors.4711").write_bytes(b"half")
    (cache / ".notes.txt").write_text("theirs")
    ready(module_of(root))
    assert not [path for path in cache.iterdir() if path.suffix == ".4711"]
    assert (cache / ".notes.txt").exists()
