"""Convolutional arithmetic circuits: the q-CNN without batch norm (refs 23, 24 of the paper)."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Inexact, Int
from torch import Tensor, nn

from qcnn_lightning.errors import InputError, checked_settings
from qcnn_lightning.models.channels import channel_schedule
from qcnn_lightning.models.model import check_choice
from qcnn_lightning.models.tree import SHARINGS, TreeModel, check_start, matrices_of
from qcnn_lightning.states.dense_gram import children
from qcnn_lightning.states.density import DensityState
from qcnn_lightning.states.tree import NetworkState

ARITHMETICS = ("powers_of_two", "logarithms")


class ConvAC(TreeModel):
    """The q-CNN's tree without batch norm: its own tensors are those of its states.

    zeta^(0)_p = (f_0(x_p), .., f_d0(x_p)); xi_n = a_n zeta_n at every node n of a level; zeta'_n = xi_2n * xi_2n+1;
    alpha = a zeta (eq. 5-10). Above the pixels no channel is constant.

    Args:
        num_sites: N = 2^L, pixels of the flattened image.
        num_classes: number of classes.
        d: channel multiplier.
        basis: "fourier" (d_0 must be even), "legendre", "levels" (d_0 + 1 grey levels), or your own class.
        channels: "linear" for d_l = d (l + 1), "constant" for d_l = d, or the L + 1 numbers d_0 .. d_L.
        sharing: "full", one matrix per level; "sibling", one for left and one for right children; "none", one per node.
        start: "product_state", near a product state; "default", PyTorch's initialisation; or the `.safetensors` file of
            a `NetworkState`, with d_0, d_1 + 1 .. d_L + 1 of it as channels.
        spread: size of the random part of the weights at the product-state start.
        arithmetic: "powers_of_two", one taken out of every block after every level; or "logarithms", with signs, of all
            features, as refs 27, 28 compute. Both give the same scores up to round-off.
        scores: "normalised", with squares p(y|x), which never over- or underflow; or "amplitude", alpha_y(x) itself.
        dtype: of the weights: "real" or "complex".
        white: where the grey level 1 lies in the basis's interval [0, 1]; x lies at white x.

    Raises:
        InputError: a value that no circuit can have.
    """

    @checked_settings
    def __init__(
        self,
        num_sites: int | np.integer,
        num_classes: int | np.integer,
        d: int | np.integer,
        basis: str = "fourier",
        channels: str | Sequence[int] = "linear",
        sharing: str = "full",
        start: str = "product_state",
        spread: float = 0.3,
        arithmetic: str = "powers_of_two",
        scores: str = "normalised",
        dtype: str = "real",
        white: int | float = 1.0,
    ):
        num_levels = max(int(num_sites).bit_length() - 1, 0)
        self.channels = channel_schedule(channels, int(d), num_levels)
        super().__init__(num_sites, num_classes, basis, self.channels[0], white, scores, dtype)
        check_choice("sharing", sharing, SHARINGS)
        check_start(start)
        check_choice("arithmetic", arithmetic, ARITHMETICS)
        if spread <= 0:
            raise InputError(f"model.spread={spread}: must be positive")
        self.d, self.sharing, self.arithmetic_of_features = int(d), sharing, arithmetic
        columns = (self.channels[0] + 1, *self.channels[1:])
        self.levels = nn.ParameterList()
        for level in range(num_levels):
            shape = (matrices_of(sharing, self.num_sites >> level), columns[level + 1], columns[level])
            self.levels.append(self.drawn(*shape, legs=1, start=start, spread=spread, of_pixels=level == 0))
        constant = 1 / self.num_classes
        self.top = self.drawn(self.num_classes, columns[-1], legs=1, start=start, spread=spread, constant=constant)
        self.begin(start, NetworkState)

    def amplitudes(
        self, features: Tensor, levels: Sequence[Tensor], top: Tensor
    ) -> tuple[Inexact[Tensor, "batch classes"], Int[Tensor, " batch"]]:
        """Return a and e with alpha_y(x) = a 2^e; the arguments are those of `TreeModel.amplitudes`."""
        if self.arithmetic_of_features == "powers_of_two":
            return super().amplitudes(features, levels, top)
        features = features.to(top.dtype)
        logarithm, sign = log_and_sign(features)
        for tensor in levels:
            logarithm, sign = log_and_sign(*mapped_by_logarithms(logarithm, sign, tensor))
            logarithm, sign = logarithm[0::2] + logarithm[1::2], sign[0::2] * sign[1::2]
        amplitude, scale = mapped_by_logarithms(logarithm, sign, top.unsqueeze(0))
        # The rest of the factor e^c is between 0.7 and 1.4.
        exponent = (scale[0] / math.log(2)).round()
        return amplitude[0] * (scale[0] - math.log(2) * exponent).exp(), exponent[:, 0].long()

    def joined(self, features: Inexact[Tensor, "nodes batch _"], tensor: Tensor) -> Inexact[Tensor, "nodes//2 batch _"]:
        """Return (a zeta_2n) * (a' zeta_2n+1)."""
        if len(tensor) == 2 < len(features):
            left, right = children(features)
            return (left @ tensor[0].mT) * (right @ tensor[1].mT)
        left, right = children(mapped_by(features, tensor))
        return left * right

    def state(self, statistics: None = None) -> NetworkState | DensityState:
        """Return the states with <x|Psi_y> = alpha_y(x), double precision, on the CPU; differentiable.

        Normalised scores are these amplitudes up to one factor per image.
        """
        site_tensors, top = self.state_tensors()
        if self.sharing == "none" or self.is_complex:
            return DensityState(site_tensors, top, self.basis.name, white=self.white)
        return NetworkState(site_tensors, top, self.basis.name, white=self.white)


def mapped_by(features: Inexact[Tensor, "nodes batch _"], matrices: Tensor) -> Inexact[Tensor, "nodes batch _"]:
    """Return a_n zeta_n, with 1 matrix for all nodes, 2 for left and right children, or one for each."""
    if len(matrices) == 1:
        return features @ matrices[0].mT
    if len(matrices) < len(features):
        matrices = matrices.repeat(len(features) // len(matrices), 1, 1)
    return features @ matrices.mT


def mapped_by_logarithms(
    logarithm: Float[Tensor, "nodes batch _"], sign: Inexact[Tensor, "nodes batch _"], matrices: Tensor
) -> tuple[Inexact[Tensor, "nodes batch _"], Float[Tensor, "nodes batch 1"]]:
    """Return b and c with a_n zeta_n = b e^c, c the largest logarithm of every block."""
    largest = logarithm.detach().amax(-1, keepdim=True)
    largest = torch.where(largest.isfinite(), largest, 0)
    return mapped_by(sign * (logarithm - largest).exp(), matrices), largest


def log_and_sign(x: Inexact[Tensor, "*shape"], scale: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return log |x| + scale and the sign, or the phase, of x; at x = 0 the logarithm is -inf without a gradient."""
    size = x.abs()
    logarithm = torch.where(size > 0, torch.where(size > 0, size, 1).log(), -torch.inf)
    return logarithm if scale is None else logarithm + scale, x.sgn()
