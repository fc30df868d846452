"""Small trees of every kind, real and complex, and what dense vectors say of them."""

import itertools

import numpy as np
import torch

from qcnn_lightning.states import DenseTreeState, DensityState

SHARINGS = ("full", "sibling", "none")


def normal(generator, dtype, *shape):
    return torch.randn(*shape, generator=generator, dtype=dtype)


def nodes_of(sharing, nodes):
    return min({"full": 1, "sibling": 2, "none": nodes}[sharing], nodes)


def dense_tree(num_sites, sharing="none", dtype=torch.float64, local=3, channels=4, classes=3, seed=0):
    random = torch.Generator().manual_seed(seed)
    num_levels = num_sites.bit_length() - 1
    widths = [local, *(channels + level % 2 for level in range(num_levels))]
    tensors = []
    for level in range(num_levels):
        nodes = nodes_of(sharing, num_sites >> (level + 1))
        tensors.append(normal(random, dtype, nodes, widths[level + 1], widths[level], widths[level]))
    return DenseTreeState(tensors, normal(random, dtype, classes, widths[-1]), "legendre")


def product_tree(num_sites, sharing="none", dtype=torch.float64, local=3, channels=4, classes=3, seed=0):
    random = torch.Generator().manual_seed(seed)
    num_levels = num_sites.bit_length() - 1
    widths = [local, *(channels + level % 2 for level in range(num_levels))]
    tensors = [
        normal(random, dtype, nodes_of(sharing, num_sites >> level), widths[level + 1], widths[level])
        for level in range(num_levels)
    ]
    return DensityState(tensors, normal(random, dtype, classes, widths[-1]), "legendre")


TREES = {"dense": dense_tree, "product": product_tree}
KINDS = list(itertools.product(TREES, SHARINGS, (torch.float64, torch.complex128)))


def vectors_of(state):
    """The state vectors, node after node, (classes, local, local, ..)."""
    local = state.site_tensors[0].shape[-1]
    blocks = [np.eye(local, dtype=complex)] * state.num_sites
    for tensor in (tensor.numpy(force=True) for tensor in state.site_tensors):
        pairs = list(zip(blocks[0::2], blocks[1::2], strict=True))
        if tensor.ndim == 4:
            blocks = [
                np.einsum("ijk,ja,kb->iab", tensor[n % len(tensor)], *pair).reshape(tensor.shape[1], -1)
                for n, pair in enumerate(pairs)
            ]
        else:
            own = [(tensor[2 * n % len(tensor)], tensor[(2 * n + 1) % len(tensor)]) for n in range(len(pairs))]
            blocks = [
                np.einsum("ia,ib->iab", left @ a, right @ b).reshape(len(left), -1)
                for (left, right), (a, b) in zip(own, pairs, strict=True)
            ]
    return (state.top.numpy(force=True) @ blocks[0]).reshape(-1, *[local] * state.num_sites)


def spectrum_of(vector, sites):
    """Schmidt probabilities of some sites against the rest, descending."""
    rest = [site for site in range(vector.ndim) if site not in sites]
    matrix = vector.transpose(*sites, *rest).reshape(vector.shape[0] ** len(sites), -1)
    squares = np.linalg.svd(matrix, compute_uv=False) ** 2
    return squares / squares.sum()


def entropy_of(probabilities):
    positive = probabilities[probabilities > 1e-300]
    return -(positive * np.log(positive)).sum()
