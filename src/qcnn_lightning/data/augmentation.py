"""Shifted, mirrored, partly erased, brighter and darker training images, drawn anew in every epoch.

Images lie in memory in tree order, so a shift or a reflection permutes sites: a row of a table tells each site where
its grey level comes from. An erased square is a row of a table of the sites that are left, a contrast a row of a table
of grey levels. Altering a batch takes a few indexing operations on 8-bit tensors, in any pixel order.
"""

import itertools

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64, UInt8
from torch import Tensor

from qcnn_lightning.data.batches import Batches, TrainingBatches
from qcnn_lightning.data.flattening import PADDING
from qcnn_lightning.errors import InputError, checked_settings

CONTRASTS = 31
"""The number of contrasts."""


class Augmentation:
    """Random shifts, reflections, erasures (arXiv 1708.04552) and contrasts of training images.

    Site s of an altered image is levels[c][x[sources[t][s]] filled[t][s] left[e][s]], with drawn t, e, c.

    Attributes:
        sources: int64 (transforms, N), the site that each site's grey level comes from; any site where `filled` is 0.
        filled: uint8 (transforms, N), 0 at black sites: moved in from outside the image, or padding.
        probabilities: float64 (transforms,). Transform 0 changes nothing.
        left: uint8 (erasures, N), 0 at erased sites.
        erasure_probabilities: float64 (erasures,). Erasure 0 changes nothing.
        levels: uint8 (contrasts, 256), the new grey level of each; contrasts are equally likely.
    """

    sources: Int64[Tensor, "transforms sites"]
    filled: UInt8[Tensor, "transforms sites"]
    probabilities: Float64[Tensor, " transforms"]
    left: UInt8[Tensor, "erasures sites"]
    erasure_probabilities: Float64[Tensor, " erasures"]
    levels: UInt8[Tensor, "contrasts 256"]

    @checked_settings
    def __init__(
        self,
        pixel_order: Int64[Tensor, " sites"],
        image_shape: tuple[int, int],
        shift: int = 0,
        shift_fraction: float = 0.5,
        flip: bool = False,
        erase: int = 0,
        erase_fraction: float = 0.5,
        contrast: float = 0.0,
    ):
        """Tabulate the transforms. The last six arguments are the keys of `data.augment`.

        Args:
            pixel_order: site of the chain -> pixel of the row-major image, or `flattening.PADDING`.
            image_shape: (height, width), pixels.
            shift: largest move in pixels, vertically and horizontally; all moves but none are equally likely, and black
                moves in.
            shift_fraction: fraction of the images that are moved.
            flip: mirror half of the images, left to right, before they are moved.
            erase: side of a black square in pixels. Its center is any pixel, so part of it may lie outside.
            erase_fraction: fraction of the images that get a black square.
            contrast: grey levels are multiplied by one of `CONTRASTS` equally likely numbers from 1 - contrast to
                1 + contrast, and cut off at white.

        Raises:
            InputError: `shift`, `shift_fraction`, `erase`, `erase_fraction` or `contrast` is out of range.
        """
        height, width = image_shape
        if not 0 <= shift < min(height, width):
            raise InputError(
                f"data.augment.shift={shift} must be from 0 to {min(height, width) - 1} pixels for images of "
                f"{height} x {width}."
            )
        if not 0 <= erase <= min(height, width):
            raise InputError(
                f"data.augment.erase={erase} must be from 0 to {min(height, width)} pixels for images of "
                f"{height} x {width}."
            )
        fractions = {"shift_fraction": shift_fraction, "erase_fraction": erase_fraction, "contrast": contrast}
        for key, fraction in fractions.items():
            if not 0 <= fraction <= 1:
                raise InputError(f"data.augment.{key}={fraction} must lie between 0 and 1.")
        shown = pixel_order != PADDING
        site_of_pixel = torch.empty(height * width, dtype=torch.int64)
        site_of_pixel[pixel_order[shown]] = shown.nonzero().squeeze(1)
        row, column = (place.flatten() for place in torch.meshgrid(*map(torch.arange, image_shape), indexing="ij"))
        steps = sorted(range(-shift, shift + 1), key=abs)
        displacements = list(itertools.product(steps, steps))
        sources, filled = [], []
        for mirrored in (False, True) if flip else (False,):
            for down, right in displacements:
                from_row, from_column = row - down, column - right
                inside = (from_row >= 0) & (from_row < height) & (from_column >= 0) & (from_column < width)
                if mirrored:
                    from_column = width - 1 - from_column
                from_pixel = torch.where(inside, from_row * width + from_column, 0)
                sources.append(_on_chain(site_of_pixel[from_pixel], pixel_order, shown))
                filled.append(_on_chain(inside, pixel_order, shown))
        self.sources = torch.stack(sources)
        self.filled = torch.stack(filled).to(torch.uint8)
        moved = len(displacements) - 1
        of_displacement = [1 - shift_fraction, *[shift_fraction / moved] * moved] if moved else [1.0]
        self.probabilities = torch.tensor(of_displacement, dtype=torch.float64).repeat(2 if flip else 1)
        self.probabilities /= self.probabilities.sum()
        left = [torch.ones(height * width, dtype=torch.bool)]
        for down, right in itertools.product(range(height), range(width)) if erase else ():
            top, first = down - erase // 2, right - erase // 2
            inside = (row >= top) & (row < top + erase) & (column >= first) & (column < first + erase)
            left.append(~inside)
        self.left = torch.stack([_on_chain(each, pixel_order, shown) for each in left]).to(torch.uint8)
        erasures = len(left) - 1
        of_erasure = [1 - erase_fraction, *[erase_fraction / erasures] * erasures] if erasures else [1.0]
        self.erasure_probabilities = torch.tensor(of_erasure, dtype=torch.float64)
        factors = torch.linspace(1 - contrast, 1 + contrast, CONTRASTS) if contrast else torch.ones(1)
        self.levels = (factors[:, None] * torch.arange(256)).round().clamp(max=255).to(torch.uint8)

    @property
    def changes_nothing(self) -> bool:
        """Whether every image stays as it is, for certain."""
        certain = bool(self.probabilities[0] == 1) and bool(self.erasure_probabilities[0] == 1)
        return certain and len(self.levels) == 1

    def draw(
        self, num_images: int, seed: int, epoch: int
    ) -> tuple[Int64[Tensor, " images"], Int64[Tensor, " images"], Int64[Tensor, " images"]]:
        """Draw a transform, an erasure and a contrast for every training image; only seed and epoch matter.

        Args:
            num_images: size of the training set.
            seed: the run's seed.
            epoch: number of the epoch.
        """
        drawn = []
        # Branches of their own: independent of the order of the batches.
        of_contrasts = torch.full((len(self.levels),), 1 / len(self.levels), dtype=torch.float64)
        every = (self.probabilities, self.erasure_probabilities, of_contrasts)
        for branch, probabilities in enumerate(every, start=1):
            state = np.random.SeedSequence((seed, epoch), spawn_key=(branch,)).generate_state(1, np.uint64)
            generator = torch.Generator().manual_seed(int(state[0]))
            uniform = torch.rand(num_images, dtype=torch.float64, generator=generator)
            drawn.append(torch.bucketize(uniform, probabilities.cumsum(0)[:-1], right=True))
        return drawn[0], drawn[1], drawn[2]

    def move_to(self, device: torch.device) -> None:
        """Keep the tables where the images are."""
        self.sources, self.filled = self.sources.to(device), self.filled.to(device)
        self.left, self.levels = self.left.to(device), self.levels.to(device)

    def __call__(
        self,
        images: UInt8[Tensor, "batch sites"],
        transforms: Int64[Tensor, " batch"],
        erasures: Int64[Tensor, " batch"],
        contrasts: Int64[Tensor, " batch"],
    ) -> UInt8[Tensor, "batch sites"]:
        """Return every image altered by its transform, erasure and contrast."""
        altered = images.gather(1, self.sources[transforms]).mul_(self.filled[transforms])
        if len(self.left) > 1:
            altered.mul_(self.left[erasures])
        return self.levels[contrasts].gather(1, altered.long()) if len(self.levels) > 1 else altered


class AlteredBatches(Batches):
    """Batches of training images, altered anew in every epoch.

    Args:
        images: uint8 (images, sites).
        labels: int64 (images,).
        augmentation: how images are altered.
        order: the sampler, which knows seed and epoch.
    """

    def __init__(self, images: Tensor, labels: Tensor, augmentation: Augmentation, order: TrainingBatches):
        super().__init__(images, labels)
        self.augmentation, self.order = augmentation, order
        self._epoch: int | None = None

    def chosen(self, indices: Int64[Tensor, " chosen"]) -> UInt8[Tensor, "chosen sites"]:
        """Return these images as this epoch alters them."""
        if self._epoch != self.order.epoch:
            self._epoch = self.order.epoch
            drawn = self.augmentation.draw(len(self.labels), self.order.seed, self._epoch)
            self._drawn = [of_kind.to(self.images.device) for of_kind in drawn]
        return self.augmentation(super().chosen(indices), *(drawn[indices] for drawn in self._drawn))


def _on_chain(
    of_pixels: Int64[Tensor, " pixels"] | Bool[Tensor, " pixels"],
    pixel_order: Int64[Tensor, " sites"],
    shown: Bool[Tensor, " sites"],
) -> Int64[Tensor, " sites"] | Bool[Tensor, " sites"]:
    """Return the value of the pixel at each site; 0 at padding sites."""
    chain = of_pixels.new_zeros(len(pixel_order))
    chain[shown] = of_pixels[pixel_order[shown]]
    return chain
