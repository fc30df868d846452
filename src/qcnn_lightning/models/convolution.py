"""One level of the q-CNN: batch norm and 1x1 convolution as one affine map, then product pooling (eq. 2-8).

Batch norm with given statistics is affine, and so is the convolution after it: a matrix and a shift (eq. 15). The
forward pass and the site tensors take both from `affine_map`, so scores and states cannot disagree. Tensors may have a
leading axis of several networks (`networks.py`).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from qcnn_lightning.models.statistics import ChannelStatistics, FixedStatistics, batch_statistics

ROWS = 512
"""Rows of a batch (sites of its images) summed in one go for a matrix's gradient. A GPU sums parts side by side."""


class NormalisedConvolution(nn.Module):
    """Batch norm and 1x1 convolution without bias: xi = a (w zeta + z) (eq. 2-6).

    Args:
        in_channels: d_l.
        out_channels: d_{l+1}.
        matrices: 1 if all sites share one matrix a, 2 if left and right children have their own.
        epsilon: added to the variance (eq. 4).
    """

    def __init__(self, in_channels: int, out_channels: int, matrices: int, epsilon: float = 1e-5):
        super().__init__()
        self.epsilon = epsilon
        self.gamma = nn.Parameter(torch.ones(in_channels))
        self.beta = nn.Parameter(torch.zeros(in_channels))
        self.weight = nn.Parameter(torch.empty(matrices, out_channels, in_channels))
        self.statistics = FixedStatistics(in_channels)
        # PyTorch's own initialisation of Linear and of a Conv1d of width 1.
        nn.init.uniform_(self.weight, -(in_channels**-0.5), in_channels**-0.5)

    @torch.no_grad()
    def start_near_constant(self, gamma: float, constant: float) -> None:
        """Set gamma_i = gamma, beta_i = 1, and shift every row of a until sum_i a_ji = constant (theory.md, eq. I1).

        The output is then constant + gamma a (zeta - mu) / sqrt(var + epsilon) (eq. I2).
        """
        self.gamma.fill_(gamma)
        self.beta.fill_(1)
        self.weight.add_((constant - self.weight.sum(-1, keepdim=True)) / self.weight.shape[-1])

    def affine_map(
        self, mean: Float[Tensor, "*networks in_channels"], var: Float[Tensor, "*networks in_channels"]
    ) -> tuple[
        Float[Tensor, "*networks matrices out_channels in_channels"], Float[Tensor, "*networks matrices out_channels"]
    ]:
        """Return a diag(w) and a z with w = gamma / sqrt(var + epsilon), z = beta - mean w (eq. 4, 15).

        Device and dtype are those of the statistics.
        """
        gamma, beta, weight = (p.to(device=mean.device, dtype=mean.dtype) for p in (self.gamma, self.beta, self.weight))
        return affine_map(gamma, beta, weight, mean, var, self.epsilon)

    def site_tensor(
        self, statistics: ChannelStatistics | None = None
    ) -> Float[Tensor, "matrices out_channels extended"]:
        """Return (a z, a diag(w)), float64, on the CPU: eq. 16, or eq. 15 without its first row.

        Args:
            statistics: to normalise by; None for the fixed ones.
        """
        given = self.statistics() if statistics is None else (statistics.mean, statistics.var)
        # To the CPU first: some devices have no float64.
        mean, var = (statistic.cpu().double() for statistic in given)
        matrix, shift = self.affine_map(mean, var)
        return torch.cat((shift.unsqueeze(-1), matrix), dim=-1)

    def forward(
        self, features: Float[Tensor, "*networks batch sites in_channels"]
    ) -> tuple[
        Float[Tensor, "*networks matrices out_channels in_channels"], Float[Tensor, "*networks matrices out_channels"]
    ]:
        """Return `affine_map` by the batch's statistics in training, by the fixed ones in evaluation."""
        if not self.training:
            return self.affine_map(*self.statistics())
        batch = batch_statistics(features)
        self.statistics.update_running(batch)
        return self.affine_map(batch.mean, batch.var)


def affine_map(
    gamma: Float[Tensor, "*networks in_channels"],
    beta: Float[Tensor, "*networks in_channels"],
    weight: Float[Tensor, "*networks matrices out_channels in_channels"],
    mean: Float[Tensor, "*networks in_channels"],
    var: Float[Tensor, "*networks in_channels"],
    epsilon: float,
) -> tuple[
    Float[Tensor, "*networks matrices out_channels in_channels"], Float[Tensor, "*networks matrices out_channels"]
]:
    """Return a diag(w) and a z with w = gamma / sqrt(var + epsilon), z = beta - mean w (eq. 4, 15)."""
    scale = gamma / torch.sqrt(var + epsilon)
    offset = beta - mean * scale
    # One network's digits stay what they were: a batched product rounds otherwise.
    shift = weight @ offset if offset.ndim == 1 else (weight @ offset[..., None, :, None]).squeeze(-1)
    return weight * scale[..., None, None, :], shift


def mapped(
    features: Float[Tensor, "*networks batch sites in_channels"],
    matrix: Float[Tensor, "*networks out_channels in_channels"],
    shift: Float[Tensor, "*networks out_channels"],
) -> Float[Tensor, "*networks batch sites out_channels"]:
    """Return matrix zeta_p + shift at every site (eq. 2-6)."""
    if matrix.ndim == 2:
        return functional.linear(features, matrix, shift)
    networks, batch, sites, channels = features.shape
    parts = parts_of(batch, sites)
    rows = features.reshape(networks * parts, -1, channels)
    matrices = matrix.unsqueeze(1).expand(-1, parts, -1, -1).flatten(0, 1)
    return torch.bmm(rows, matrices.mT).view(networks, batch, sites, -1) + shift[:, None, None]


def parts_of(batch: int, sites: int) -> int:
    """Return into how many equal parts to cut a batch, so that each has `ROWS` rows or a few more."""
    possible = (images for images in range(1, batch) if batch % images == 0 and images * sites >= ROWS)
    return batch // next(possible, batch)


def product_pooling(
    features: Float[Tensor, "*networks batch sites in_channels"],
    matrix: Float[Tensor, "*networks matrices out_channels in_channels"],
    shift: Float[Tensor, "*networks matrices out_channels"],
) -> Float[Tensor, "*networks batch sites//2 out_channels"]:
    """Map every site and multiply the two children of every node, channel by channel (eq. 6, 8).

    xi_p = matrix zeta_p + shift and zeta'_p = xi_2p * xi_{2p+1}, elementwise. Of two matrices the first maps left
    children, the second right ones.
    """
    if matrix.shape[-3] == 1:
        every = mapped(features, matrix[..., 0, :, :], shift[..., 0, :])
        return every[..., 0::2, :] * every[..., 1::2, :]
    left = mapped(features[..., 0::2, :], matrix[..., 0, :, :], shift[..., 0, :])
    right = mapped(features[..., 1::2, :], matrix[..., 1, :, :], shift[..., 1, :])
    return left * right
