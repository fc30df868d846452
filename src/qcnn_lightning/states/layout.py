"""Where a state's sites stand in the image, and what its classes are called: what a stranger must know to read it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Shaped
from torch import Tensor

from qcnn_lightning.errors import InputError
from qcnn_lightning.pixels import PADDING, lay_on_image


@dataclass(frozen=True)
class ImageLayout:
    """The image behind the sites.

    Args:
        pixel_order: the pixel at each site, row * width + column; -1 at sites without a pixel.
        height: of the image, pixels.
        width: of the image, pixels.

    Raises:
        InputError: some pixel stands at no site or at several.
    """

    pixel_order: tuple[int, ...]
    height: int
    width: int

    def __post_init__(self) -> None:
        if sorted(pixel for pixel in self.pixel_order if pixel != PADDING) != list(range(self.height * self.width)):
            raise InputError(
                f"pixel_order is no order of the pixels of a {self.height} x {self.width} image: expected each of 0 to "
                f"{self.height * self.width - 1} once, and {PADDING} at sites without a pixel"
            )

    @classmethod
    def of(cls, pixel_order: Sequence[int] | Tensor, image_shape: Sequence[int]) -> "ImageLayout":
        """Return the layout of a pixel order and an image of (height, width)."""
        height, width = map(int, image_shape)
        return cls(tuple(map(int, pixel_order)), height, width)

    def on_image(self, values: Shaped[Tensor, "*shape sites"]) -> Shaped[Tensor, "*shape height width"]:
        """Lay values at the sites, such as entropies, on the image."""
        return lay_on_image(values, torch.tensor(self.pixel_order), (self.height, self.width))
