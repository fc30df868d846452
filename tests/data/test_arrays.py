import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from composing import data_module, ready
from qcnn_lightning.data.flattening import lay_on_image
from qcnn_lightning.errors import InputError

RANDOM = np.random.default_rng(0)
SMALL = ("data.batch_size=2",)


def arrays(**changed: np.ndarray | None) -> dict[str, np.ndarray]:
    """Six training and three test images of 2 x 3 floats in two classes; None leaves an array out."""
    whole = {
        "x_train": RANDOM.random((6, 2, 3)),
        "y_train": np.array([0, 1, 0, 1, 0, 1]),
        "x_test": RANDOM.random((3, 2, 3)),
        "y_test": np.array([1, 0, 1]),
    }
    return {key: array for key, array in (whole | changed).items() if array is not None}


@pytest.fixture
def arrays_module(tmp_path):
    """Build `data=arrays` with these arrays in a file."""

    def build(*overrides: str, **of_file: np.ndarray):
        np.savez(tmp_path / "spins.npz", **of_file)
        return data_module("arrays", f"data.path={tmp_path / 'spins.npz'}", *SMALL, *overrides)

    return build


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)).filter(lambda shape: shape != (1, 1)),
    dtype=st.sampled_from([np.uint8, np.float16, np.float32, np.float64]),
)
def test_images_of_any_shape_are_laid_on_the_chain_unchanged(arrays_module, shape, dtype):
    images = RANDOM.integers(0, 256, (9, *shape))
    images = (images / 255 if dtype != np.uint8 else images).astype(dtype)
    module = ready(arrays_module(**arrays(x_train=images[:6], x_test=images[6:])))
    assert module.image_shape == shape
    assert module.num_sites // 2 < shape[0] * shape[1] <= module.num_sites
    for split, given_images, labels in (("train", images[:6], [0, 1, 0, 1, 0, 1]), ("test", images[6:], [1, 0, 1])):
        on_chain, found = module.splits[split]
        assert on_chain.dtype == (torch.uint8 if dtype == np.uint8 else torch.float32)
        upright = lay_on_image(on_chain, module.pixel_order, module.image_shape)
        assert np.array_equal(upright.numpy(), given_images.astype(upright.numpy().dtype))
        assert found.tolist() == labels


@pytest.mark.parametrize("flatten", ["left_right", "z_up_down"])
def test_chains_keep_their_order_whatever_flatten_says(arrays_module, flatten):
    chains = RANDOM.integers(0, 256, (6, 16), dtype=np.uint8)
    module = ready(arrays_module(f"data.flatten={flatten}", **arrays(x_train=chains, x_test=chains[:3])))
    assert (module.num_sites, module.image_shape) == (16, (1, 16))
    assert np.array_equal(module.splits["train"][0].numpy(), chains)


def test_without_test_images_a_part_of_each_class_is_held_out(arrays_module):
    of_file = arrays(x_train=RANDOM.random((20, 4, 4)), y_train=np.arange(20) % 2, x_test=None, y_test=None)
    module = ready(arrays_module(**of_file))
    assert {split: labels.bincount().tolist() for split, (_, labels) in module.splits.items()} == {
        "train": [8, 8],
        "test": [2, 2],
    }


@pytest.mark.parametrize(
    ("labels", "more", "names", "numbers"),
    [
        ([0, 1, 2, 2, 1, 0], {}, ("0", "1", "2"), [0, 1, 2, 2, 1, 0]),
        ([7, -3, 7, -3, 7, -3], {}, ("-3", "7"), [1, 0, 1, 0, 1, 0]),
        (["up", "down"] * 3, {}, ("down", "up"), [1, 0] * 3),
        ([0, 1] * 3, {"class_names": np.array(["cold", "hot"])}, ("cold", "hot"), [0, 1] * 3),
    ],
)
def test_labels_are_numbers_or_texts_and_classes_have_names(arrays_module, labels, more, names, numbers):
    # one brighter than the other, so that they are known again
    images = np.arange(6, dtype=np.uint8)[:, None, None].repeat(4, axis=1)
    of_file = arrays(x_train=images, y_train=np.array(labels), x_test=None, y_test=None)
    module = ready(arrays_module(**of_file, **more))
    assert module.class_names == names
    found = torch.cat([labels for _, labels in module.splits.values()])
    brightness = torch.cat([images.sum(1) for images, _ in module.splits.values()])
    assert found[brightness.argsort()].tolist() == numbers


def test_images_are_resized_only_if_asked_to(arrays_module):
    for x in (RANDOM.random((6, 3, 5)), RANDOM.integers(0, 256, (6, 3, 5), dtype=np.uint8)):
        module = ready(arrays_module("data.size=4", **arrays(x_train=x, x_test=x[:3])))
        assert module.image_shape == (4, 4)
        images = module.splits["train"][0]
        assert images.shape == (6, 16)
        assert images.is_floating_point() == (x.dtype != np.uint8)
        assert images.float().mean().item() == pytest.approx(x.mean(), rel=0.1)


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"x_train": None}, "it has no x_train;"),
        ({"x_train": None, "y_train": None}, "it has no x_train and no y_train"),
        ({"y_test": None}, "it has no y_test;"),
        ({"x_test": None}, "it has no x_test;"),
        ({"x_train": np.array([None] * 6)}, "holds Python objects, which are refused"),
        ({"x_train": RANDOM.random(6)}, r"x_train has shape \(6,\)"),
        ({"x_train": np.zeros((0, 2, 3))}, r"x_train has shape \(0, 2, 3\), not \(images, height, width\)"),
        ({"x_train": np.zeros((6, 2, 3), dtype=int)}, "x_train has dtype int64, neither uint8 nor a float"),
        ({"x_train": np.full((6, 2, 3), 1.5)}, r"x_train has entries from 1.5 to 1.5, which must lie in \[0, 1\]"),
        ({"x_test": np.full((3, 2, 3), -0.1)}, "x_test has entries from -0.1"),
        ({"x_train": np.full((6, 2, 3), np.nan)}, "x_train has entries from nan"),
        ({"x_train": RANDOM.random((6, 12))}, "x_train holds chains of 12 sites, but a tree has a power of two"),
        ({"x_train": RANDOM.random((6, 1))}, "x_train holds chains of 1 sites"),
        ({"x_train": RANDOM.random((5, 2, 3))}, "x_train holds 5 images, but y_train 6 labels"),
        ({"x_test": RANDOM.random((3, 3, 2))}, r"x_test holds images of .*\(3, 2\).*, but x_train of .*\(2, 3\)"),
        ({"x_test": np.zeros((3, 2, 3), dtype=np.uint8)}, r"x_test holds images of .*uint8.*float32"),
        ({"y_train": np.zeros(6)}, r"y_train has shape \(6,\) and dtype float64"),
        ({"y_train": np.zeros((6, 2), dtype=int)}, r"y_train has shape \(6, 2\)"),
        ({"y_train": np.zeros(6, dtype=int)}, "y_train holds 1 class, not two or more"),
        ({"y_test": np.array([0, 1, 2])}, "y_test holds the label 2, which y_train does not"),
        ({"class_names": np.array(["a", "b", "c"])}, r"class_names has shape \(3,\) .* for 2 classes"),
    ],
)
def test_what_cannot_be_used_is_told_with_what_is_expected(arrays_module, tmp_path, changed, problem):
    with pytest.raises(InputError, match=problem) as caught:
        arrays_module(**arrays(**changed))
    message = str(caught.value)
    assert message.startswith(f"data.path={tmp_path / 'spins.npz'}: ")
    assert "; expected an .npz file with x_train, (images, height, width) or (images, sites), uint8 or" in message


@pytest.mark.parametrize("content", [b"", b"x" * 99, b"PK\x03\x04" + b"x" * 99, "cut"])
def test_file_that_is_none_of_numpys_is_named(tmp_path, content):
    path = tmp_path / "spins.npz"
    np.savez(path, **arrays())
    path.write_bytes(path.read_bytes()[:-50] if content == "cut" else content)
    with pytest.raises(InputError, match=r"spins.npz: it is damaged, not an .npz file"):
        data_module("arrays", f"data.path={path}")


def test_missing_file_and_missing_path_are_told(tmp_path):
    with pytest.raises(InputError, match=r"spins.npz: no such file; expected"):
        data_module("arrays", f"data.path={tmp_path / 'spins.npz'}")
    with pytest.raises(InputError, match=r"data=arrays needs data.path=FILE.npz"):
        data_module("arrays")


def test_settings_that_do_not_go_with_floats_or_chains_are_refused(arrays_module):
    with pytest.raises(InputError, match=r"data.augment alters uint8 images, .* are floats"):
        ready(arrays_module("data.augment.flip=true", **arrays()))
    chains = arrays(x_train=RANDOM.random((6, 16)), x_test=RANDOM.random((3, 16)))
    with pytest.raises(InputError, match=r"data.size=8: .*spins.npz holds chains, which cannot be resized"):
        arrays_module("data.size=8", **chains)
    with pytest.raises(InputError, match=r"data=arrays has no test images: data.test_fraction must say"):
        ready(arrays_module("data.test_fraction=null", **arrays(x_test=None, y_test=None)))
