import inspect
import os
import shutil
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_module
from PIL import Image
from torch import Tensor, nn
from torchvision.datasets import MNIST, FashionMNIST

from composing import data_module, ready
from qcnn_lightning.data.augmentation import Augmentation
from qcnn_lightning.data.datamodule import ImageDataModule
from qcnn_lightning.data.flattening import PADDING
from qcnn_lightning.data.sources import SOURCES, idx
from qcnn_lightning.errors import InputError

ALTERED = ("data.augment.shift=1", "data.augment.shift_fraction=0.7", "data.augment.flip=true")


@pytest.fixture(scope="module")
def digits() -> ImageDataModule:
    return ready(data_module("digits"))


@pytest.fixture
def tiny_module(tiny, tiny_set, tmp_path):
    """Build `data=mnist` with the tiny data set below a temporary root in its place."""
    tiny.write(tmp_path / "root")
    return lambda *overrides: data_module(
        "mnist", f"data.root={tmp_path / 'root'}", "data.size=4", "data.batch_size=2", *overrides
    )


@pytest.fixture
def real_module(project_data):
    """Build a data module of a real data set; skip where no source is within reach, except in CI."""

    def build(name: str, *overrides: str) -> ImageDataModule:
        module = data_module(name, f"data.root={project_data}", *overrides)
        try:
            # A system's package of the files would do for us, but torchvision looks for them below the root.
            idx.idx_files(idx.DATA_SETS[name], project_data)
            return ready(module)
        except InputError as error:
            if "could not be found or fetched" in str(error) and "CI" not in os.environ:
                pytest.skip(str(error))
            raise

    return build


def square_images(images: Tensor, module: ImageDataModule) -> Tensor:
    """Undo the flattening: (images, sites) -> (images, height, width)."""
    shown = module.pixel_order != PADDING
    square = torch.empty(len(images), int(shown.sum()), dtype=images.dtype)
    square[:, module.pixel_order[shown]] = images[:, shown]
    return square.view(-1, *module.image_shape)


@pytest.mark.parametrize(("name", "title"), [("mnist", MNIST), ("fmnist", FashionMNIST)])
@pytest.mark.parametrize("flatten", ["left_right", "z_up_down"])
def test_real_images_are_those_torchvision_reads_resized_by_pil(name, title, flatten, real_module, project_data):
    module = real_module(name, f"data.flatten={flatten}")
    assert (module.num_sites, module.num_classes, module.image_shape) == (256, 10, (16, 16))
    assert module.evaluation_splits == tuple(module.splits) == ("train", "test")
    for split, count in (("train", 60000), ("test", 10000)):
        images, labels = module.splits[split]
        assert images.shape == (count, 256)
        assert images.dtype == torch.uint8
        original = title(project_data, train=split == "train")
        assert torch.equal(labels, original.targets)
        for index in range(0, count, count // 50):
            resized = original[index][0].resize((16, 16), Image.Resampling.BILINEAR)
            assert np.array_equal(square_images(images[index : index + 1], module)[0], np.asarray(resized))


def test_fashion_mnist_classes_are_torchvisions(real_module):
    module = real_module("fmnist")
    assert list(module.class_names) == FashionMNIST.classes


def test_digits_are_scikit_learns_and_both_splits_hold_each_class_in_proportion(digits):
    from sklearn.datasets import load_digits

    assert (digits.num_sites, digits.num_classes, digits.image_shape) == (64, 10, (8, 8))
    assert digits.class_names == tuple("0123456789")
    images = torch.cat([square_images(digits.splits[split][0], digits) for split in ("train", "test")])
    labels = torch.cat([digits.splits[split][1] for split in ("train", "test")])
    assert [len(digits.splits[split][1]) for split in ("train", "test")] == [1437, 360]
    original = load_digits()

    def sorted_rows(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        rows = np.concatenate([images.reshape(len(images), -1), labels[:, None]], axis=1)
        return rows[np.lexsort(rows.T)]

    assert np.array_equal(
        sorted_rows((images.numpy() / 255 * 16).round(), labels.numpy()), sorted_rows(original.images, original.target)
    )
    assert images.max() == 255
    proportion = torch.bincount(digits.splits["test"][1]) / torch.bincount(labels)
    assert torch.allclose(proportion, torch.tensor(0.2), atol=0.01)


def test_splits_population_and_evaluation_do_not_depend_on_the_seed(digits):
    other = ready(data_module("digits", seed=7))
    for split, tensors in digits.splits.items():
        assert all(map(torch.equal, other.splits[split], tensors))
    assert torch.equal(other.population_sample(), digits.population_sample())


def test_population_sample_is_made_of_distinct_training_images():
    module = ready(data_module("digits", "data.population_size=100"))
    sample = module.population_sample()
    assert sample.shape == (100, 64)
    rows = {row.numpy().tobytes() for row in module.splits["train"][0]}
    sampled = [row.numpy().tobytes() for row in sample]
    assert set(sampled) <= rows
    assert len(set(sampled)) == 100


def test_validation_images_are_held_out_of_training(digits):
    module = ready(data_module("digits", "data.val_size=100"))
    assert module.evaluation_splits == ("train", "val", "test")
    assert [len(labels) for _, labels in module.splits.values()] == [1337, 100, 360]
    parts = torch.cat([module.splits["train"][0], module.splits["val"][0]])
    assert torch.equal(parts.unique(dim=0), digits.splits["train"][0].unique(dim=0))
    assert torch.equal(module.splits["test"][0], digits.splits["test"][0])
    assert len(module.val_dataloader()) == 3


def test_loaders_give_every_image_once_with_its_label(digits):
    loaders = dict(zip(digits.evaluation_splits, digits.val_dataloader(), strict=True))
    loaders["test again"] = digits.test_dataloader()
    for split, loader in loaders.items():
        expected = digits.splits[split.split()[0]]
        batches = list(loader)
        assert torch.equal(torch.cat([images for images, _ in batches]), expected[0])
        assert torch.equal(torch.cat([labels for _, labels in batches]), expected[1])
    batches = [batch for together in digits.train_dataloader() for batch in together]
    assert [len(labels) for _, labels in batches] == 28 * [50] + [37]
    assert all(images.dtype == torch.uint8 and labels.dtype == torch.int64 for images, labels in batches)
    seen = torch.cat([torch.cat([images, labels[:, None].byte()], 1) for images, labels in batches])
    images, labels = digits.splits["train"]
    assert torch.equal(seen.unique(dim=0), torch.cat([images, labels[:, None].byte()], 1).unique(dim=0))


class Recorder(pl.LightningModule):
    """Trains nothing to speak of, and remembers every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen: dict[tuple[str, int], list[bytes]] = {}

    def remember(self, stage: str, images: Tensor) -> None:
        self.seen.setdefault((stage, self.current_epoch), []).append(images.numpy().tobytes())

    def training_step(self, batches, _) -> Tensor:
        for images, _ in batches:
            self.remember("train", images)
        return self.weight * batches[0][0].float().mean()

    def validation_step(self, batch, _, dataloader_idx: int = 0) -> None:
        self.remember(f"evaluate {dataloader_idx}", batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(epochs: int, folder: Path, *overrides: str, checkpoint: Path | None = None) -> Recorder:
    recorder = Recorder()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)  # Lightning's own
        trainer = pl.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            default_root_dir=folder,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(recorder, datamodule=data_module("digits", *overrides), ckpt_path=checkpoint)
        trainer.save_checkpoint(folder / "last.ckpt")
    return recorder


@pytest.mark.parametrize("overrides", [(), ALTERED])
def test_resumed_run_sees_the_batches_the_whole_run_saw(overrides, tmp_path):
    whole = fit(3, tmp_path, *overrides)
    fit(2, tmp_path, *overrides)
    resumed = fit(3, tmp_path, *overrides, checkpoint=tmp_path / "last.ckpt")
    assert resumed.seen["train", 2] == whole.seen["train", 2]
    orders = [whole.seen["train", epoch] for epoch in range(3)]
    assert all(one != other for one, other in pairwise(orders))
    assert whole.seen["evaluate 0", 0] == whole.seen["evaluate 0", 1]
    assert {stage for stage, _ in whole.seen} == {"train", "evaluate 0", "evaluate 1"}


def test_training_images_alone_are_altered_each_by_its_own_transform_in_every_epoch():
    plain, altered = (ready(data_module("digits", *overrides)) for overrides in ((), ALTERED))
    assert torch.equal(plain.population_sample(), altered.population_sample())
    for loaders in zip(plain.val_dataloader(), altered.val_dataloader(), strict=True):
        for (images, labels), (same, same_labels) in zip(*loaders, strict=True):
            assert torch.equal(images, same)
            assert torch.equal(labels, same_labels)
    augmentation = Augmentation(altered.pixel_order, altered.image_shape, shift=1, shift_fraction=0.7, flip=True)
    images, labels = altered.splits["train"]
    before = images.clone()
    loader = altered.train_dataloader()
    for epoch in (0, 1, 5):
        loader.sampler.set_epoch(epoch)
        expected = augmentation(images, augmentation.draw(len(images), altered.seed, epoch))
        order = torch.cat([indices for together in loader.sampler for indices in together])
        batches = [batch for together in loader for batch in together]
        assert torch.equal(torch.cat([images for images, _ in batches]), expected[order])
        assert torch.equal(torch.cat([labels for _, labels in batches]), labels[order])
        assert not torch.equal(expected, images)
    assert torch.equal(images, before)


def test_idx_set_is_prepared_once_and_the_cache_outlives_the_files(tiny, tiny_set, tiny_module, tmp_path):
    first = ready(tiny_module())
    shutil.rmtree(tmp_path / "root" / "cache", ignore_errors=False)
    tiny_set.fetch.clear()
    again = ready(tiny_module())
    for name in tiny.files:
        (tmp_path / "root" / name).unlink()
    from_cache = ready(tiny_module())
    for split in ("train", "test"):
        assert torch.equal(first.splits[split][0], again.splits[split][0])
        assert torch.equal(first.splits[split][0], from_cache.splits[split][0])
    assert np.array_equal(square_images(first.splits["test"][0], first), tiny.arrays["t10k-images-idx3-ubyte"])


@pytest.mark.parametrize("cached", [False, True])
def test_damaged_idx_file_stops_the_run_with_or_without_a_cache(tiny, tiny_module, tmp_path, cached):
    if cached:
        ready(tiny_module())
    path = tmp_path / "root" / "t10k-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="expected SHA-256") as caught:
        tiny_module().prepare_data()
    assert str(path) in str(caught.value)


def test_damaged_cache_stops_the_run(tiny_module, tmp_path):
    ready(tiny_module())
    (path,) = (tmp_path / "root" / "cache").glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    module = tiny_module()
    module.prepare_data()
    with pytest.raises(InputError, match="was altered"):
        module.setup()


def test_other_flattenings_share_the_cache(tiny_module, tmp_path):
    modules = [ready(tiny_module(f"data.flatten={flatten}")) for flatten in ("up_down", "z_left_right")]
    assert len(list((tmp_path / "root" / "cache").glob("*.safetensors"))) == 1
    one, other = (square_images(module.splits["train"][0], module) for module in modules)
    assert torch.equal(one, other)
    assert not torch.equal(modules[0].splits["train"][0], modules[1].splits["train"][0])


@pytest.fixture
def own_images(tmp_path) -> Path:
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        folder = tmp_path / "own" / "train" / name
        folder.mkdir(parents=True)
        for index in range(10):
            Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / f"{index}.png")
    return tmp_path / "own"


def folder_module(root: Path, *overrides: str) -> ImageDataModule:
    return data_module(
        "folder",
        f"data.root={root}",
        f"data.cache={root.parent / 'cache'}",
        "data.size=8",
        "data.batch_size=4",
        *overrides,
    )


def test_folder_without_test_images_holds_out_a_part_of_each_class(own_images):
    module = ready(folder_module(own_images))
    assert module.class_names == ("cat", "dog")
    assert {split: labels.bincount().tolist() for split, (_, labels) in module.splits.items()} == {
        "train": [8, 8],
        "test": [2, 2],
    }
    parts = torch.cat([images for images, _ in module.splits.values()])
    assert len(parts.unique(dim=0)) == 20
    again = ready(folder_module(own_images))
    assert torch.equal(module.splits["test"][0], again.splits["test"][0])


def test_folder_with_test_images_uses_them(own_images):
    shutil.copytree(own_images / "train" / "dog", own_images / "test" / "dog")
    module = ready(folder_module(own_images))
    assert module.splits["train"][1].bincount().tolist() == [10, 10]
    assert module.splits["test"][1].tolist() == 10 * [1]


def test_changed_folder_is_prepared_anew(own_images):
    ready(folder_module(own_images))
    (own_images / "train" / "cat" / "0.png").unlink()
    assert sum(len(labels) for _, labels in ready(folder_module(own_images)).splits.values()) == 19


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.name=cifar", "data.name=cifar .*arrays, digits, folder, mnist, fmnist"),
        ("data.flatten=spiral", "data.flatten=spiral .*left_right"),
        ("data.size=0", "data.size=0 "),
        ("data.batch_size=0", "data.batch_size=0 "),
        ("data.batch_size=-5", "data.batch_size=-5 "),
        ("data.evaluation_batch_size=0", "data.evaluation_batch_size=0 "),
        ("data.population_size=0", "data.population_size=0 "),
        ("data.val_size=-1", "data.val_size=-1 "),
        ("data.seed=-1", "seed=-1 "),
        ("+data.test_fraction=1.5", r"data.test_fraction=1.5 "),
    ],
)
def test_setting_out_of_range_is_refused_at_once(override, message):
    with pytest.raises(InputError, match=message):
        data_module("digits", override)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.batch_size=1438"], "data.batch_size=1438 is more than the 1437 training images"),
        (["data.batch_size=1437", "data.val_size=1"], "data.batch_size=1437 is more than the 1436 training images"),
        (["data.val_size=1437"], "data.val_size=1437 must be less than the 1437 training images"),
    ],
)
def test_setting_that_does_not_fit_the_images_is_refused(overrides, message):
    module = data_module("digits", *overrides)
    with pytest.raises(InputError, match=message):
        module.setup()


def test_folder_needs_a_root():
    with pytest.raises(InputError, match=r"data=folder needs data.root=DIR"):
        data_module("folder")


def test_batch_with_fewer_images_than_devices_is_refused(digits):
    class Devices:
        global_rank, world_size = 0, 64

    module = ready(data_module("digits"))
    module.trainer = Devices()
    with pytest.raises(InputError, match="fewer than the 64 devices"):
        module.train_dataloader()


def test_every_data_set_has_its_config_and_defaults_agree():
    parameters = inspect.signature(ImageDataModule).parameters
    for name in SOURCES:
        with initialize_config_module("qcnn_lightning.conf", version_base="1.3"):
            config = compose(overrides=[f"+data={name}", "+seed=0"]).data
        assert config.name == name
        assert set(config) <= set(parameters) | set(inspect.signature(SOURCES[name]).parameters)
        for key in ("evaluation_batch_size", "population_size"):
            assert config[key] == parameters[key].default


def test_images_are_not_known_before_setup():
    with pytest.raises(RuntimeError, match="setup"):
        data_module("digits").num_classes  # noqa: B018


def test_size_other_than_the_files_is_resized_to(tiny_module):
    module = ready(tiny_module("data.size=2"))
    assert (module.num_sites, module.image_shape) == (4, (2, 2))
    assert module.class_names == ("a", "b", "c")
