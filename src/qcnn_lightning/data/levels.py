"""Images with K grey levels, K = 2 is a binarised image; and dequantised ones, for densities on [0, 1]^N."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, Real
from torch import Tensor
from torch.utils.data import Dataset

from qcnn_lightning.basis import MOST_LEVELS
from qcnn_lightning.data.batches import Batch, Batches, TrainingBatches
from qcnn_lightning.errors import InputError

DEQUANTISED = "dequantised"
ROUNDINGS = ("bernoulli", "threshold", DEQUANTISED)


OTHER_GREY_LEVELS = ("contrast", "rotate", "zoom", "elastic")
"""Keys of `data.augment` that give images grey levels of their own."""


def check_levels(levels: int | None, rounding: str, redraw: bool, augment: Mapping[str, Any]) -> None:
    """Check the settings of grey levels.

    Args:
        levels: `data.levels`.
        rounding: `data.rounding`.
        redraw: `data.redraw`.
        augment: `data.augment`.

    Raises:
        InputError: one cannot be used.
    """
    if rounding not in ROUNDINGS:
        raise InputError(f"data.rounding={rounding}: choose one of {', '.join(ROUNDINGS)}.")
    if redraw and (levels is None or rounding == "threshold"):
        raise InputError(
            f"data.redraw={redraw} draws grey levels anew: it needs data.levels=K and data.rounding=bernoulli or "
            f"dequantised; here they are {levels} and {rounding}."
        )
    if levels is None and rounding == DEQUANTISED:
        raise InputError(f"data.rounding={rounding} needs data.levels=K, the grey levels before: 256 for 8-bit images.")
    if levels is None:
        return
    if not 2 <= levels <= MOST_LEVELS:
        raise InputError(f"data.levels={levels} must be from 2 to {MOST_LEVELS}, or null to leave the images alone.")
    for key in OTHER_GREY_LEVELS:
        if augment.get(key):
            raise InputError(
                f"data.augment.{key}={augment[key]} would give images of data.levels={levels} other grey levels: "
                "choose 0."
            )


def rounded_to_levels(images: Real[Tensor, "*shape"], levels: int, rounding: str, seed: int) -> Real[Tensor, "*shape"]:
    """Return images with grey levels 255 k / (K - 1), k = 0 .. K - 1, rounded to uint8; or dequantised ones.

    With x in [0, 1], "threshold" takes the nearest level, k = floor(x (K - 1) + 1/2). "bernoulli" takes one of the two
    levels around x at random, k = floor(x (K - 1) + u) with u uniform on [0, 1): the mean over draws is x. For K = 2 a
    pixel is then white with probability x, the usual protocol for binarised MNIST. "dequantised" takes the nearest
    level and returns float32 numbers (k + u) / K: a density p on [0, 1]^N of these bounds the likelihood of the levels,
    -log P(k) <= N log K - E_u log p (arXiv 1511.01844).

    Args:
        images: uint8, or floats in [0, 1].
        levels: K.
        rounding: one of `ROUNDINGS`.
        seed: of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for part in images.split(5000):
        x = part.float() / 255 if part.dtype == torch.uint8 else part
        offset = torch.rand(x.shape, generator=generator) if rounding == "bernoulli" else 0.5
        level = (x * (levels - 1) + offset).floor().clamp(max=levels - 1)
        if rounding == DEQUANTISED:
            parts.append(((level + torch.rand(x.shape, generator=generator)) / levels).float())
        else:
            parts.append((level * (255 / (levels - 1))).round().to(torch.uint8))
    return torch.cat(parts)


class RedrawnBatches(Dataset[list[Batch]]):
    """Batches of training images whose grey levels are drawn anew in every epoch, by seed and epoch.

    Args:
        batches: of images, which are replaced.
        images: before they were rounded, in tree order.
        levels: K.
        rounding: as `rounded_to_levels` takes it.
        order: the sampler, which knows seed and epoch.
    """

    def __init__(
        self,
        batches: Batches,
        images: Real[Tensor, "images sites"],
        levels: int,
        rounding: str,
        order: TrainingBatches,
    ):
        self.batches, self.images, self.levels, self.rounding, self.order = batches, images, levels, rounding, order
        self._epoch: int | None = None

    def __getitem__(self, indices: Sequence[Int64[Tensor, " _"]]) -> list[Batch]:
        if self._epoch != self.order.epoch:
            self._epoch = self.order.epoch
            # A branch of its own: independent of the order and of the augmentation.
            mixed = np.random.SeedSequence((self.order.seed, self._epoch), spawn_key=(0,)).generate_state(1)
            drawn = rounded_to_levels(self.images, self.levels, self.rounding, int(mixed[0]))
            self.batches.images = drawn.to(self.batches.labels.device)
        return self.batches[indices]
