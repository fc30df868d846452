"""The q-CNN as its paper reads and anyone would first write it: the opponent of `throughput.py`.

BatchNorm1d, Conv1d of width 1, slicing and multiplying (eq. 1-10), all of it PyTorch's own; float images in memory.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn


class TextbookQCNN(nn.Module):
    """A q-CNN on float images (batch, sites) in tree order.

    Args:
        num_sites: N = 2^L.
        num_classes: number of classes.
        d: channel multiplier; d_l = d (l + 1).
        sharing: "full" or "sibling".
    """

    def __init__(self, num_sites: int, num_classes: int, d: int, sharing: str = "full"):
        super().__init__()
        levels = num_sites.bit_length() - 1
        channels = [d * (level + 1) for level in range(levels + 1)]
        self.d = d
        self.sibling = sharing == "sibling"
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for width in channels)
        self.left = nn.ModuleList(nn.Conv1d(a, b, 1, bias=False) for a, b in pairwise(channels))
        self.right = nn.ModuleList(
            nn.Conv1d(a, b, 1, bias=False) for a, b in pairwise(channels if self.sibling else [])
        )
        self.classification = nn.Linear(channels[-1], num_classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return alpha_y(x)."""
        phases = 2 * math.pi * x[:, None] * torch.arange(1, self.d // 2 + 1, dtype=x.dtype)[:, None]
        features = math.sqrt(2) * torch.stack((phases.cos(), phases.sin()), 2).flatten(1, 2)
        for level, convolution in enumerate(self.left):
            features = self.norms[level](features)
            if self.sibling:
                features = convolution(features[..., 0::2]) * self.right[level](features[..., 1::2])
            else:
                features = convolution(features)
                features = features[..., 0::2] * features[..., 1::2]
        return self.classification(self.norms[-1](features).squeeze(-1))
