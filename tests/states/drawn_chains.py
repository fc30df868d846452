"""Matrix product states with random tensors."""

import torch
from torch import Tensor

from qcnn_lightning import MPSState


def drawn_tensors(
    num_sites=6, local=3, bond=4, classes=3, class_site=None, seed=0, dtype=torch.float64
) -> tuple[list[Tensor], Tensor, int]:
    """Site tensors with bonds of at most `bond` that a chain can use, and the class tensor."""
    class_site = num_sites // 2 if class_site is None else class_site
    random = torch.Generator().manual_seed(seed)
    bonds = [
        min(max(1, bond - place % 2), local**place, local ** (num_sites - place)) for place in range(num_sites + 1)
    ]
    if class_site == num_sites:
        bonds = [min(bond, local**place) for place in range(num_sites + 1)]
    tensors = [
        torch.randn(bonds[place], local, bonds[place + 1], generator=random, dtype=dtype) for place in range(num_sites)
    ]
    right = 1 if class_site == num_sites else bonds[class_site]
    class_tensor = torch.randn(bonds[class_site], classes, right, generator=random, dtype=dtype)
    return tensors, class_tensor, class_site


def drawn_chain(
    num_sites=6, local=3, bond=4, classes=3, class_site=None, seed=0, dtype=torch.float64, **settings
) -> MPSState:
    tensors = drawn_tensors(num_sites, local, bond, classes, class_site, seed, dtype)
    return MPSState(*tensors, **{"basis": "legendre", **settings})
