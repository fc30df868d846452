"""Images drawn from a trained density, and images completed: what is missing given what is seen (theory.md, eq. N2)."""

import io
import math
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
from qcnn_lightning.data.sources.folder import read_image
from qcnn_lightning.data.split_images import STORED_AS
from qcnn_lightning.errors import InputError
from qcnn_lightning.evaluation.evaluate import check_fit, last_checkpoint, make_folder, rebuild_data
from qcnn_lightning.evaluation.predict import class_names, order_of, size_of
from qcnn_lightning.files import replace_atomically
from qcnn_lightning.runs.checkpoint import StoredCheckpoint
from qcnn_lightning.runs.rebuild import network_of
from qcnn_lightning.runs.settings import without_paths
from qcnn_lightning.states import DensityState, MPSState

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


def sample(config: DictConfig) -> tuple[Samples, Path]:
    """Draw images from the density of a run; write them as a picture and as an array.

    Args:
        config: composed from `conf/sample.yaml`.

    Returns:
        The samples, and the picture's file; the array `.npy` stands beside it.

    Raises:
        InputError: a run that is no density or cannot be read, a setting that cannot be used, an observation that does
            not fit, or a file that cannot be written.
    """
    check_numbers_of(config)
    folder = Path(str(config.run))
    checkpoint = last_checkpoint(folder)
    own = [str(path) for path in config.own]
    network: Any = network_of(checkpoint, own)
    with torch.no_grad():
        state = network.state()
    if not isinstance(state, DensityState | MPSState):
        raise InputError(
            f"run={folder}: its {type(network).__name__} is no density; samples need model=density or model=mps"
        )
    label = label_of(config.label, class_names(checkpoint, state.num_classes))
    if config.observed is None and config.missing is None:
        size = size_of(checkpoint)
        order = order_of(checkpoint, size)
        drawn = Samples(lay_on_image(state.sample(config.n, label, seed=config.seed), order, (size, size)))
    else:
        drawn = completed_images(config, checkpoint, network, state, label)
    out = folder / "samples.png" if config.out is None else Path(str(config.out)).expanduser()
    if out.suffix != ".png":
        raise InputError(f"out={out}: the picture is a .png file; the array stands beside it")
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
    if config.run is None:
        raise InputError("give run=DIR, a trained density")
    if not isinstance(config.n, int) or config.n < 1:
        raise InputError(f"n={config.n}: must be a whole number, 1 or more")
    if not isinstance(config.seed, int) or not 0 <= config.seed < 2**32:
        raise InputError(f"seed={config.seed}: must be a whole number from 0 to {2**32 - 1}")
    if config.observed is not None and config.missing is not None:
        raise InputError("give observed=half|mask.png or missing=0.5, not both")
    missing = config.missing
    if missing is not None and not (isinstance(missing, int | float) and 0 <= missing <= 1):
        raise InputError(f"missing={missing}: must be from 0 to 1, the part of the pixels that is missing")


def label_of(given: Any, names: list[str]) -> int | None:
    """Return the number of the class that `label` names, by its number or name; None for all classes.

    Raises:
        InputError: there is no such class.
    """
    if given is None:
        return None
    if isinstance(given, int) and 0 <= given < len(names):
        return given
    if str(given) in names:
        return names.index(str(given))
    raise InputError(f"label={given}: there is no such class; choose 0 to {len(names) - 1}, or {', '.join(names)}")


def completed_images(
    config: DictConfig, checkpoint: StoredCheckpoint, network: Any, state: DensityState | MPSState, label: int | None
) -> Samples:
    """Hide pixels of test images, draw them given the others, and classify by p(y | observed pixels).

    Args:
        config: composed from `conf/sample.yaml`.
        checkpoint: of the run.
        network: its model.
        state: the model's states.
        label: images of this class alone, and p(x | y); None for the first test images, and p(x).
    """
    settings = without_paths(checkpoint.config)
    kept = checkpoint.content.get(STORED_AS, {}).get("pixel_order")
    own = [str(path) for path in config.own]
    datamodule = rebuild_data(settings, config.data, checkpoint.path, own, kept, network.num_sites)
    check_fit(network, datamodule, config.split)
    images, labels = datamodule.splits[config.split]
    chosen = torch.arange(len(labels)) if label is None else (labels == label).nonzero().flatten()
    if len(chosen) < config.n:
        raise InputError(f"n={config.n}: split={config.split} has {len(chosen)} such images")
    images, labels = images[chosen[: config.n]], labels[chosen[: config.n]]
    order, shape = datamodule.pixel_order, datamodule.image_shape
    if config.missing is not None:
        generator = torch.Generator().manual_seed(config.seed)
        known = torch.rand(images.shape, generator=generator) >= config.missing
    elif str(config.observed) == HALF:
        known = torch.arange(len(order)) < len(order) // 2
    else:
        known = lay_on_chain(mask_of(Path(str(config.observed)), shape).unsqueeze(0), order)[0] > 0
    grey = images.double() / (255 if images.dtype == torch.uint8 else 1)
    observed = torch.where(known, grey, math.nan)
    taken_for = state.log_joint(observed).argmax(-1)
    drawn = state.sample(config.n, label, observed, config.seed)
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
