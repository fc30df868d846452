"""Turned, bent, shifted, mirrored, partly erased, brighter and darker training images, drawn anew in every epoch.

Images lie in memory in tree order, so a shift or a reflection permutes sites: a row of a table tells each site where
its grey level comes from. An erased square is a row of a table of the sites that are left, a contrast a row of a table
of grey levels. Altering a batch takes a few indexing operations on 8-bit tensors, in any pixel order. Only images that
are turned, made larger or smaller, or bent are laid out as pixels meanwhile.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64, UInt8
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

from qcnn_lightning.data.batches import Batches, TrainingBatches
from qcnn_lightning.data.flattening import PADDING, lay_on_chain, lay_on_image
from qcnn_lightning.errors import InputError, checked_settings

CONTRASTS = 31
"""The number of contrasts."""
BENT_POINTS = 5
"""How many points of an image, in each direction, are displaced where it is bent."""


class Drawn(NamedTuple):
    """What alters each of some images.

    Attributes:
        transforms: int64 (images,), rows of `Augmentation.sources`.
        erasures: int64 (images,), rows of `Augmentation.left`.
        contrasts: int64 (images,), rows of `Augmentation.levels`.
        turns: float64 (images, 2), the angle and the zoom as parts of the largest, from -1 to 1.
        bends: float64 (images, 2, points), from how far right, and below, each of BENT_POINTS^2 points comes, as
            parts of the farthest, from -1 to 1; no points where images are not bent.
    """

    transforms: Int64[Tensor, " images"]
    erasures: Int64[Tensor, " images"]
    contrasts: Int64[Tensor, " images"]
    turns: Float64[Tensor, "images 2"]
    bends: Float64[Tensor, "images 2 points"]

    def of(self, indices: Int64[Tensor, " chosen"]) -> "Drawn":
        """Return what alters these images."""
        return Drawn(*(drawn[indices] for drawn in self))

    def to(self, device: torch.device) -> "Drawn":
        """Return it where the images are."""
        return Drawn(*(drawn.to(device) for drawn in self))


class Augmentation:
    """Random turns, bends, shifts, reflections, erasures (arXiv 1708.04552) and contrasts of training images.

    Site s of an altered image is levels[c][x[sources[t][s]] filled[t][s] left[e][s]], with drawn t, e, c; x is turned
    and bent before that.

    Attributes:
        rotate: largest angle, radians.
        zoom: most by which an image is made larger or smaller, as part of its size.
        elastic: farthest that a point is displaced, pixels.
        turn_fraction: fraction of the images that are turned, made larger or smaller, and bent.
        following: float32 (BENT_POINTS^2, pixels), what part of each point's displacement each pixel has.
        sources: int64 (transforms, N), the site that each site's grey level comes from; any site where `filled` is 0.
        filled: uint8 (transforms, N), 0 at black sites: moved in from outside the image, or padding.
        probabilities: float64 (transforms,). Transform 0 changes nothing.
        left: uint8 (erasures, N), 0 at erased sites.
        erasure_probabilities: float64 (erasures,). Erasure 0 changes nothing.
        levels: uint8 (contrasts, 256), the new grey level of each; contrasts are equally likely.
    """

    following: Float32[Tensor, "points pixels"]
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
        rotate: int | float = 0.0,
        zoom: int | float = 0.0,
        elastic: int | float = 0.0,
        turn_fraction: float = 1.0,
    ):
        """Tabulate the transforms. All arguments but the first two are the keys of `data.augment`.

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
            rotate: largest angle in degrees by which an image is turned about its centre; every angle up to it, either
                way, is equally likely. Grey levels are interpolated bilinearly; black comes in.
            zoom: an image is made larger or smaller about its centre, by any factor from 1 - zoom to 1 + zoom.
            elastic: an image is bent (Simard, Steinkraus, Platt, ICDAR 2003): BENT_POINTS^2 evenly spaced points come
                from up to so many pixels away, down and right independently and evenly; the points between them follow,
                bilinearly.
            turn_fraction: fraction of the images that are turned, made larger or smaller, and bent.

        Raises:
            InputError: a setting is out of range.
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
        fractions = {"shift_fraction": shift_fraction, "erase_fraction": erase_fraction}
        fractions |= {"contrast": contrast, "turn_fraction": turn_fraction}
        for key, fraction in fractions.items():
            if not 0 <= fraction <= 1:
                raise InputError(f"data.augment.{key}={fraction} must lie between 0 and 1.")
        if not 0 <= rotate <= 180:
            raise InputError(f"data.augment.rotate={rotate} must lie between 0 and 180 degrees.")
        if not 0 <= zoom < 1:
            raise InputError(f"data.augment.zoom={zoom} must be at least 0 and less than 1.")
        if not 0 <= elastic < min(height, width):
            raise InputError(
                f"data.augment.elastic={elastic} must be at least 0 and less than {min(height, width)} pixels for "
                f"images of {height} x {width}."
            )
        self.rotate, self.zoom, self.elastic = math.radians(rotate), zoom, elastic
        self.turn_fraction = turn_fraction
        single = torch.eye(BENT_POINTS**2).reshape(1, -1, BENT_POINTS, BENT_POINTS)
        self.following = interpolate(single, image_shape, mode="bilinear", align_corners=True)[0].flatten(1)
        self._pixel_order, self._image_shape = pixel_order, image_shape
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
        return certain and len(self.levels) == 1 and not self.turns_images

    @property
    def turns_images(self) -> bool:
        """Whether images are turned, made larger or smaller, or bent."""
        return bool(self.turn_fraction and (self.rotate or self.zoom or self.elastic))

    def draw(self, num_images: int, seed: int, epoch: int) -> Drawn:
        """Draw what alters every training image; only seed and epoch matter.

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
            uniform = _uniform(num_images, seed, epoch, branch)
            drawn.append(torch.bucketize(uniform, probabilities.cumsum(0)[:-1], right=True))
        turned = _uniform(num_images, seed, epoch, 7) < self.turn_fraction
        turns = torch.stack([_uniform(num_images, seed, epoch, branch) for branch in (4, 5)], 1)
        points = BENT_POINTS**2 if self.elastic else 0
        bends = _uniform(num_images * 2 * points, seed, epoch, 6).reshape(num_images, 2, points)
        turns, bends = (2 * turns - 1) * turned[:, None], (2 * bends - 1) * turned[:, None, None]
        return Drawn(drawn[0], drawn[1], drawn[2], turns, bends)

    def move_to(self, device: torch.device) -> None:
        """Keep the tables where the images are."""
        self.sources, self.filled = self.sources.to(device), self.filled.to(device)
        self.left, self.levels = self.left.to(device), self.levels.to(device)
        self.following = self.following.to(device)

    def __call__(self, images: UInt8[Tensor, "batch sites"], drawn: Drawn) -> UInt8[Tensor, "batch sites"]:
        """Return every image altered by what was drawn for it."""
        if self.turns_images:
            images = self._turned(images, drawn)
        altered = images.gather(1, self.sources[drawn.transforms]).mul_(self.filled[drawn.transforms])
        if len(self.left) > 1:
            altered.mul_(self.left[drawn.erasures])
        return self.levels[drawn.contrasts].gather(1, altered.long()) if len(self.levels) > 1 else altered

    def _turned(self, images: UInt8[Tensor, "batch sites"], drawn: Drawn) -> UInt8[Tensor, "batch sites"]:
        """Return images turned and made larger or smaller about their centres, and bent."""
        height, width = self._image_shape
        angle, size = self.rotate * drawn.turns[:, 0], 1 + self.zoom * drawn.turns[:, 1]
        along, across = angle.cos() / size, angle.sin() / size
        # Where each pixel comes from, in halves of the image's width and height.
        still = torch.zeros_like(along)
        maps = torch.stack((along, -across * height / width, still, across * width / height, along, still), 1)
        grid = affine_grid(maps.float().reshape(-1, 2, 3), [len(images), 1, height, width], align_corners=False)
        if self.elastic:
            away = drawn.bends.float() @ self.following
            grid.flatten(1, 2).add_(away.mT * away.new_tensor((2 * self.elastic / width, 2 * self.elastic / height)))
        pixels = lay_on_image(images, self._pixel_order.to(images.device), self._image_shape).unsqueeze(1).float()
        turned = grid_sample(pixels, grid, align_corners=False).round().to(torch.uint8)
        return lay_on_chain(turned.squeeze(1), self._pixel_order.to(images.device))


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
            self._drawn = drawn.to(self.images.device)
        return self.augmentation(super().chosen(indices), self._drawn.of(indices))


def _uniform(count: int, seed: int, epoch: int, branch: int) -> Float64[Tensor, " count"]:
    """Return random numbers from 0 to 1 of a branch of their own."""
    state = np.random.SeedSequence((seed, epoch), spawn_key=(branch,)).generate_state(1, np.uint64)
    generator = torch.Generator().manual_seed(int(state[0]))
    return torch.rand(count, dtype=torch.float64, generator=generator)


def _on_chain(
    of_pixels: Int64[Tensor, " pixels"] | Bool[Tensor, " pixels"],
    pixel_order: Int64[Tensor, " sites"],
    shown: Bool[Tensor, " sites"],
) -> Int64[Tensor, " sites"] | Bool[Tensor, " sites"]:
    """Return the value of the pixel at each site; 0 at padding sites."""
    chain = of_pixels.new_zeros(len(pixel_order))
    chain[shown] = of_pixels[pixel_order[shown]]
    return chain
