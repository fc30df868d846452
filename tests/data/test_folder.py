from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qcnn_lightning.data.datamodule import ImageDataModule
from qcnn_lightning.data.sources.folder import ImageFolder
from qcnn_lightning.errors import InputError


def draw(path: Path, level: int = 128, mode: str = "L", size: tuple[int, int] = (9, 7)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, level).convert(mode).save(path)
    return path


@pytest.fixture
def root(tmp_path) -> Path:
    draw(tmp_path / "train" / "cat" / "1.png", 10)
    draw(tmp_path / "train" / "cat" / "deeper" / "2.PNG", 20, "RGB", (30, 5))
    draw(tmp_path / "train" / "ant" / "3.bmp", 30, "RGB")
    draw(tmp_path / "train" / "ant" / "4.tiff", 40, "RGBA")
    draw(tmp_path / "train" / "dog" / "5.gif", 50, "P")
    draw(tmp_path / "test" / "dog" / "6.webp", 255)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / "train" / "cat" / "._1.png").write_text("left by another system")
    (tmp_path / "train" / ".hidden").mkdir()
    return tmp_path


def test_classes_are_folders_in_alphabetical_order_and_any_format_is_read(root):
    folder = ImageFolder(root)
    images = folder.load((6, 6))
    assert images.class_names == folder.class_names == ("ant", "cat", "dog")
    pixels, labels = images.splits["train"]
    assert labels.tolist() == [0, 0, 1, 1, 2]
    assert pixels.shape == (5, 6, 6)
    assert pixels.float().mean(dim=(1, 2)).tolist() == [30, 40, 10, 20, 50]
    pixels, labels = images.splits["test"]
    assert labels.tolist() == [2]
    assert np.all(pixels.numpy() == 255)


def test_content_changes_with_any_byte_and_any_name(root):
    content = ImageFolder(root).content()
    assert ImageFolder(root).content() == content
    draw(root / "train" / "cat" / "1.png", 11)
    altered = ImageFolder(root).content()
    (root / "train" / "cat" / "1.png").rename(root / "train" / "cat" / "0.png")
    assert len({content, altered, ImageFolder(root).content()}) == 3


def test_missing_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match=f"data.root={tmp_path / 'absent'} has no folder train/"):
        ImageFolder(tmp_path / "absent")


def test_empty_folder_is_refused(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(InputError, match="is empty"):
        ImageFolder(tmp_path)


def test_one_class_is_refused_by_name(tmp_path):
    draw(tmp_path / "train" / "cat" / "1.png")
    with pytest.raises(InputError, match="holds one class, cat"):
        ImageFolder(tmp_path)


def test_class_without_images_is_refused_by_name(root):
    (root / "train" / "bee").mkdir()
    with pytest.raises(InputError, match="bee holds no image"):
        ImageFolder(root)


def test_test_class_unknown_in_training_is_refused_by_name(root):
    draw(root / "test" / "emu" / "1.png")
    with pytest.raises(InputError, match=r"holds the class emu, .* ant, cat, dog"):
        ImageFolder(root)


def test_test_folder_without_images_is_refused(root):
    (root / "test" / "dog" / "6.webp").unlink()
    with pytest.raises(InputError, match="test holds no image"):
        ImageFolder(root)


@pytest.mark.parametrize(
    "damage", [lambda content: content[: len(content) // 2], lambda content: b"", lambda content: b"x" * 99]
)
@pytest.mark.parametrize("suffix", ["png", "jpg", "tiff", "gif", "bmp"])
def test_broken_image_is_named(root, damage, suffix):
    random = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    path = root / "train" / "dog" / f"broken.{suffix}"
    Image.fromarray(random).save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError) as caught:
        ImageFolder(root).load((8, 8))
    assert str(path) in str(caught.value)


def test_copies_that_other_programs_hide_are_no_images(root):
    before = ImageFolder(root).files
    draw(root / "train" / "cat" / ".ipynb_checkpoints" / "1-checkpoint.png")
    draw(root / "train" / "dog" / "@eaDir" / "5.gif" / "SYNOPHOTO_THUMB_M.jpg")
    draw(root / "train" / "__MACOSX" / "1.png")
    draw(root / "train" / "@eaDir" / "1.png")
    assert ImageFolder(root).files == before
    assert ImageFolder(root).class_names == ("ant", "cat", "dog")


def test_what_is_left_out_is_named(root, caplog):
    (root / "train" / "cat" / "1.HEIC").write_bytes(b"")
    (root / "train" / "cat" / "2.heic").write_bytes(b"")
    (root / "train" / "cat" / "film.mpg").write_bytes(b"")
    draw(root / "elsewhere" / "1.png")
    (root / "train" / "dog" / "more").symlink_to(root / "elsewhere")
    ImageFolder(root).load((4, 4))
    (told,) = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert told == (
        f"left out below {root / 'train'}: 1 files with suffix .HEIC, which PIL cannot read, "
        "1 files with suffix .heic, which PIL cannot read, 1 files with suffix .mpg, which PIL cannot read, "
        "1 links to folders"
    )


def test_validation_images_are_tested_on_where_there_are_no_test_images(root, caplog):
    (root / "test").rename(root / "val")
    assert [path.name for path, _ in ImageFolder(root).files["test"]] == ["6.webp"]
    assert f"the images below {root / 'val'} are the test images" in caplog.text
    draw(root / "test" / "cat" / "7.png")
    assert [path.name for path, _ in ImageFolder(root).files["test"]] == ["7.png"]
    assert f"{root / 'val'} is left out: data.val_size holds" in caplog.text


def test_a_class_without_a_training_image_is_named(tmp_path):
    for name, count in (("cat", 30), ("dog", 30), ("rare", 1)):
        for number in range(count):
            draw(tmp_path / "train" / name / f"{number}.png")
    settings = {"name": "folder", "root": str(tmp_path), "cache": str(tmp_path / "cache")}
    more = {"size": 4, "flatten": "left_right", "val_size": 0, "batch_size": 1, "seed": 0}
    module = ImageDataModule(**settings, **more, test_fraction=0.97)
    module.prepare_data()
    with pytest.raises(InputError, match=r"no training image of the class (cat|dog|rare) \(data=folder\) is left"):
        module.setup()
