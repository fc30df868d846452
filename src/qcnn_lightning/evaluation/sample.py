"""Images drawn from a trained density, and images completed: what is missing given what is seen (theory.md, eq. N2)."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor

from qcnn_lightning.data.flattening import lay_on_chain, lay_on_image
from qcnn_lightning.data.images import class_number
from qcnn_lightning.data.sources.folder import read_image
from qcnn_lightning.data.split_images import STORED_AS, SplitImages
from qcnn_lightning.errors import InputError
from qcnn_lightning.evaluation.ensemble import ClassModel, check_same_images, class_model, one_of_each_class
from qcnn_lightning.evaluation.evaluate import check_fit, find_checkpoints, make_folder, rebuild_data
from qcnn_lightning.evaluation.predict import class_names, order_of, size_of
from qcnn_lightning.evaluation.state_model import StateModel, check_layout, state_of
from qcnn_lightning.files import replace_atomically
from qcnn_lightning.runs.rebuild import network_of
from qcnn_lightning.runs.settings import without_paths
from qcnn_lightning.states import ClassDensities, DensityState, MPSState

HALF = "half"
UNKNOWN = 128
"""Grey level at which the picture shows a missing pixel."""


@dataclass(frozen=True)
class Samples:
    """Images drawn from a density.

    Attributes:
        images: grey levels in [0, 1].
        observed: what was known of them, missing pixels NaN; None if nothing was.
        labels: of the images that were observed, or None.
        taken_for: the class with the largest p(y | observed pixels), or None.
    """

    images: Float[Tensor, "samples height width"]
    observed: Float[Tensor, "samples height width"] | None = None
    labels: Int64[Tensor, " samples"] | None = None
    taken_for: Int64[Tensor, " samples"] | None = None

    @property
    def accuracy(self) -> float | None:
        """The part of the observed images whose class p(y | observed pixels) finds."""
        if self.labels is None or self.taken_for is None:
            return None
        return (self.labels == self.taken_for).double().mean().item()


@dataclass(frozen=True)
class Subject:
    """What is sampled.

    Attributes:
        state: log p(y, x), and samples.
        class_names: in the order of the labels.
        order: the pixel at every site.
        shape: of the images, (height, width).
        images: the data, or None where nothing is observed.
        out: the picture's file if none is given.
    """

    state: DensityState | MPSState | ClassDensities
    class_names: Sequence[str]
    order: Int64[Tensor, " sites"]
    shape: tuple[int, int]
    images: SplitImages | None
    out: Path


def sample(config: DictConfig) -> tuple[Samples, Path]:
    """Draw images from the density of a run, of one run per class, or in a file; write a picture and an array.

    Args:
        config: composed from `conf/sample.yaml`.

    Returns:
        The samples, and the picture's file; the array `.npy` stands beside it.

    Raises:
        InputError: a run that is no density or cannot be read, a setting that cannot be used, an observation that does
            not fit, or a file that cannot be written.
    """
    check_numbers_of(config)
    subject = subject_of(config)
    out = subject.out if config.out is None else Path(str(config.out)).expanduser()
    if out.suffix != ".png":
        raise InputError(f"out={out}: the picture is a .png file; the array stands beside it")
    label = None if config.label is None else class_number("label", config.label, subject.class_names)
    if subject.images is None:
        drawn = Samples(
            lay_on_image(subject.state.sample(config.n, label, seed=config.seed), subject.order, subject.shape)
        )
    else:
        drawn = completed_images(config, subject, subject.images, label)
    make_folder(out.parent)
    replace_atomically(out, as_png(picture(drawn)))
    array = io.BytesIO()
    np.save(array, drawn.images.numpy())
    replace_atomically(out.with_suffix(".npy"), array.getvalue())
    return drawn, out


def check_numbers_of(config: DictConfig) -> None:
    """Check the settings that nobody else does.

    Raises:
        InputError: one cannot be used.
    """
    if not isinstance(config.n, int) or config.n < 1:
        raise InputError(f"n={config.n}: must be a whole number, 1 or more")
    if not isinstance(config.seed, int) or not 0 <= config.seed < 2**32:
        raise InputError(f"seed={config.seed}: must be a whole number from 0 to {2**32 - 1}")
    if config.observed is not None and config.missing is not None:
        raise InputError("give observed=half|mask.png or missing=0.5, not both")
    missing = config.missing
    if missing is not None and not (isinstance(missing, int | float) and 0 <= missing <= 1):
        raise InputError(f"missing={missing}: must be from 0 to 1, the part of the pixels that is missing")


@torch.no_grad()
def subject_of(config: DictConfig) -> Subject:
    """Return the density that is sampled, with the images of its run if some pixels are observed.

    Raises:
        InputError: as `sample`.
    """
    own = [str(path) for path in config.own]
    file = None if config.state is None else Path(str(config.state))
    observes = config.observed is not None or config.missing is not None
    state: Any = None if file is None else state_of(file, own)
    if file is not None and not observes:
        if state.layout is None:
            raise InputError(f"state={file} does not say where its pixels stand in the image")
        layout = state.layout
        names = state.class_names or [str(label) for label in range(state.num_classes)]
        beside = file.with_name(f"{file.stem}-samples.png")
        order, shape = torch.tensor(layout.pixel_order), (layout.height, layout.width)
        return Subject(density(state, f"state={file}"), names, order, shape, None, beside)
    checkpoints, folder = find_checkpoints(config)
    out = folder.with_name(f"{folder.name.replace('evaluation', 'samples')}.png")
    checkpoint, places = checkpoints[0], one_of_each_class(checkpoints)
    if len(checkpoints) > 1 and places is None:
        raise InputError("runs that are sampled together are densities of one class each (data.classes=[3])")
    networks: list[Any] = [StateModel(state)] if file is not None else [network_of(one, own) for one in checkpoints]
    if places is None and not observes:
        state = density(networks[0].state(), f"{checkpoint.path}: {type(networks[0]).__name__}")
        size = size_of(checkpoint)
        return Subject(
            state, class_names(checkpoint, state.num_classes), order_of(checkpoint, size), (size, size), None, out
        )
    settings = without_paths(checkpoint.config)
    if places is not None:
        check_same_images(checkpoints, "test", of_classes=True)
        settings = settings | {"data": settings["data"] | {"classes": None}}
    order = checkpoint.content.get(STORED_AS, {}).get("pixel_order")
    images = rebuild_data(settings, config.data, checkpoint.path, own, order, networks[0].num_sites)
    network = networks[0] if places is None else class_model([networks[place] for place in places], images)
    check_fit(network, images, config.split)
    if isinstance(network, ClassModel):
        state = network.densities()
    else:
        state = density(network.state(), f"{checkpoint.path}: {type(network).__name__}")
    if file is not None:
        check_layout(state, images, file)
    shown = images if observes else None
    return Subject(state, images.class_names, images.pixel_order, images.image_shape, shown, out)


def density(state: Any, what: str) -> Any:
    """Return a state that has samples.

    Raises:
        InputError: it has none.
    """
    if not isinstance(state, DensityState | MPSState):
        raise InputError(f"{what} is no density; samples need model=density or model=mps")
    return state


def completed_images(config: DictConfig, subject: Subject, datamodule: SplitImages, label: int | None) -> Samples:
    """Hide pixels of test images, draw them given the others, and classify by p(y | observed pixels).

    Args:
        config: composed from `conf/sample.yaml`.
        subject: what is sampled.
        datamodule: its images.
        label: images of this class alone, and p(x | y); None for the first test images, and p(x).
    """
    images, labels = datamodule.splits[config.split]
    chosen = torch.arange(len(labels)) if label is None else (labels == label).nonzero().flatten()
    if len(chosen) < config.n:
        raise InputError(f"n={config.n}: split={config.split} has {len(chosen)} such images")
    images, labels = images[chosen[: config.n]], labels[chosen[: config.n]]
    order, shape = subject.order, subject.shape
    if config.missing is not None:
        generator = torch.Generator().manual_seed(config.seed)
        known = torch.rand(images.shape, generator=generator) >= config.missing
    elif str(config.observed) == HALF:
        known = torch.arange(len(order)) < len(order) // 2
    else:
        known = lay_on_chain(mask_of(Path(str(config.observed)), shape).unsqueeze(0), order)[0] > 0
    grey = images.double() / (255 if images.dtype == torch.uint8 else 1)
    observed = torch.where(known, grey, math.nan)
    taken_for = subject.state.log_joint(observed).argmax(-1)
    drawn = subject.state.sample(config.n, label, observed, config.seed)
    return Samples(lay_on_image(drawn, order, shape), lay_on_image(observed, order, shape), labels, taken_for)


def mask_of(path: Path, shape: tuple[int, int]) -> Bool[Tensor, "height width"]:
    """Return which pixels of an image are observed: those that are white in a picture of its size.

    Raises:
        InputError: no such picture, or another size.
    """
    if not path.is_file():
        raise InputError(f"observed={path}: say half, or give a picture whose white pixels are observed; no such file")
    mask = torch.from_numpy(np.array(read_image(path)))
    if mask.shape != shape:
        raise InputError(
            f"observed={path} has {mask.shape[0]} x {mask.shape[1]} pixels: the images have {shape[0]} x {shape[1]}"
        )
    return mask >= 128


def picture(samples: Samples) -> UInt8[Tensor, "height width"]:
    """Return the images side by side; above each row, if pixels were observed, what was known, the others grey."""
    rows = [samples.images] if samples.observed is None else [samples.observed, samples.images]
    number, height, width = samples.images.shape
    columns = math.ceil(number**0.5)
    border = 1
    blocks = []
    for images in rows:
        shown = (255 * images).nan_to_num(UNKNOWN).round().to(torch.uint8)
        framed = torch.full((-(-number // columns) * columns, height + border, width + border), 255, dtype=torch.uint8)
        framed[:number, :height, :width] = shown
        blocks.append(framed.unflatten(0, (-1, columns)).transpose(1, 2).flatten(2))
    return torch.stack(blocks, dim=1).flatten(0, 2)


def as_png(pixels: UInt8[Tensor, "height width"]) -> bytes:
    """Return a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(file, format="png")
    return file.getvalue()
