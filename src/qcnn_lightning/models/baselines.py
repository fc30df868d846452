"""Ordinary classifiers of the same images, to compare with: a linear model and a convolutional network.

They have no states. alpha_y(x) = sqrt(softmax(z(x))_y) of their outputs z, so alpha_y^2 = p(y|x), as eq. 34 has it:
`cost=cross_entropy` is their usual cost.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from qcnn_lightning.errors import InputError, checked_settings
from qcnn_lightning.models.model import Model
from qcnn_lightning.pixels import check_images, lay_on_image


class Linear(Model):
    """Logistic regression: a weight for every site and class.

    Args:
        num_sites: N, pixels of the flattened image and padding.
        num_classes: number of classes.
    """

    @checked_settings
    def __init__(self, num_sites: int | np.integer, num_classes: int | np.integer):
        super().__init__()
        self.num_sites, self.num_classes = int(num_sites), int(num_classes)
        self.layer = nn.Linear(self.num_sites, self.num_classes)

    def forward(self, x: Tensor) -> Float[Tensor, "batch classes"]:
        """Return alpha_y(x), the square root of softmax(W x + b)_y.

        Args:
            x: (batch, N) grey levels in tree order, uint8 or floats in [0, 1].

        Raises:
            InputError: x has another shape, dtype or range.
        """
        check_images(x, self.num_sites)
        return root_of_softmax(self.layer(as_floats(x, self.layer.weight.dtype)))


class CNN(Model):
    """Three 3x3 convolutions with batch norm, a hidden layer and dropout; it sees the pixels as a picture.

    Args:
        num_sites: N, pixels of the flattened image and padding.
        num_classes: number of classes.
        width: channels of the first convolution; the others have 4 and 12 times as many, the hidden layer 13 times. 16
            makes 762 000 parameters for ten classes.

    Raises:
        InputError: the width is below 1.
    """

    order: Tensor
    image_shape: Tensor

    @checked_settings
    def __init__(self, num_sites: int | np.integer, num_classes: int | np.integer, width: int | np.integer = 16):
        super().__init__()
        if width < 1:
            raise InputError(f"model.width={width}: must be at least 1")
        self.num_sites, self.num_classes, width = int(num_sites), int(num_classes), int(width)
        self.layers = nn.Sequential(
            *convolution(1, width),
            nn.MaxPool2d(2),
            *convolution(width, 4 * width),
            nn.MaxPool2d(2),
            *convolution(4 * width, 12 * width),
            nn.AdaptiveAvgPool2d(4),  # nothing to do for 16x16 pixels
            nn.Flatten(),
            nn.Linear(12 * width * 16, 13 * width),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(13 * width, self.num_classes),
        )
        # Kept in checkpoints. Rows until `mark_order` says what is where.
        height = 1 << (self.num_sites.bit_length() - 1) // 2
        self.register_buffer("order", torch.arange(self.num_sites))
        self.register_buffer("image_shape", torch.tensor([height, self.num_sites // height]))

    def mark_order(self, order: Tensor, image_shape: Sequence[int]) -> None:
        """Note which pixel is at which site.

        Raises:
            InputError: images of fewer than 4 rows or columns, of which two poolings leave nothing.
        """
        if min(image_shape) < 4:
            height, width = image_shape
            raise InputError(f"images of {height} x {width} pixels: model=cnn needs 4 x 4 or more; say model=linear")
        self.order.copy_(order)
        self.image_shape.copy_(torch.tensor(image_shape))

    def forward(self, x: Tensor) -> Float[Tensor, "batch classes"]:
        """Return alpha_y(x), the square root of softmax(z(x))_y.

        Args:
            x: (batch, N) grey levels in tree order, uint8 or floats in [0, 1].

        Raises:
            InputError: x has another shape, dtype or range.
        """
        check_images(x, self.num_sites)
        height, width = self.image_shape.tolist()
        picture = lay_on_image(x, self.order, (height, width)).unsqueeze(1)
        return root_of_softmax(self.layers(as_floats(picture, next(self.parameters()).dtype)))


def convolution(in_channels: int, out_channels: int) -> list[nn.Module]:
    """Return a 3x3 convolution with batch norm."""
    return [nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU()]


def as_floats(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return grey levels in [0, 1]."""
    return x.to(dtype) / 255 if x.dtype == torch.uint8 else x.to(dtype)


def root_of_softmax(z: Float[Tensor, "batch classes"]) -> Float[Tensor, "batch classes"]:
    """Return sqrt(softmax(z)_y), by logarithms: then the gradient is finite where a probability underflows."""
    return (functional.log_softmax(z, dim=-1) / 2).exp()
