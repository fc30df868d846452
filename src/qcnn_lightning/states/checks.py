"""Checks of the tensors that make a state."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qcnn_lightning.errors import InputError
from qcnn_lightning.states.layout import ImageLayout


def as_tensor(array: Any) -> Any:
    """Return an array of NumPy's as a tensor, anything else as it is."""
    return torch.from_numpy(array) if isinstance(array, np.ndarray) else array


def check_tensors(site_tensors: Sequence[Any], top: Any, own_matrices: bool = False) -> None:
    """Check that tensors make a tree tensor network.

    Args:
        site_tensors: from the pixels up.
        top: of the classes.
        own_matrices: whether every node of a level may have its own matrix, and all may be complex.

    Raises:
        InputError: they do not.
    """
    named = _named(site_tensors, top, or_complex=own_matrices)
    for level, (name, tensor) in enumerate(named[:-1]):
        nodes = 2 ** (len(site_tensors) - level)
        numbers = (1, 2, nodes) if own_matrices else (1, 2)
        if tensor.ndim != 3 or tensor.shape[0] not in numbers or tensor.shape[2] < (1 if own_matrices and level else 2):
            raise InputError(
                f"{name} has shape {tuple(tensor.shape)}: expected (s, d_{level + 1} + 1, d_{level} + 1), "
                "s = 1 matrix for all sites, or s = 2 for left and right children"
                + (f", or s = {nodes}, one for each" if own_matrices else "")
            )
    _check_fit(named, "(classes, d_L + 1)")


def check_dense_tensors(site_tensors: Sequence[Any], top: Any) -> None:
    """Check that tensors make a tree of dense tensors.

    Args:
        site_tensors: from the pixels up, (s, d_{l+1}, d_l, d_l).
        top: of the classes.

    Raises:
        InputError: they do not.
    """
    named = _named(site_tensors, top, or_complex=True)
    for name, tensor in named:
        if tensor.dtype != top.dtype:
            raise InputError(f"{name} has dtype {tensor.dtype}, top has {top.dtype}: expected one for all")
    for level, (name, tensor) in enumerate(named[:-1]):
        nodes = 2 ** (len(site_tensors) - 1 - level)
        if tensor.ndim != 4 or tensor.shape[2] != tensor.shape[3] or tensor.shape[0] not in {1, min(2, nodes), nodes}:
            raise InputError(
                f"{name} has shape {tuple(tensor.shape)}: expected (s, d_{level + 1}, d_{level}, d_{level}), s = 1 "
                f"tensor for all nodes, 2 for nodes in turn, or {nodes}, one for each"
            )
    _check_fit(named, "(classes, d_L)")


def check_chain(site_tensors: Sequence[Any], class_tensor: Any, class_site: Any) -> None:
    """Check that tensors make a matrix product state.

    Args:
        site_tensors: (left, local, right), left to right.
        class_tensor: (left, classes, right).
        class_site: the sites to its left.

    Raises:
        InputError: they do not.
    """
    if len(site_tensors) < 2:
        raise InputError(f"site_tensors has {len(site_tensors)} tensors: a matrix product state has at least two sites")
    if not isinstance(class_site, int) or not 0 <= class_site <= len(site_tensors):
        raise InputError(f"class_site={class_site}: expected the sites to its left, 0 to {len(site_tensors)}")
    named = [(f"site_tensors[{place}]", tensor) for place, tensor in enumerate(site_tensors)]
    named.insert(class_site, ("class_tensor", class_tensor))
    for name, tensor in named:
        _check_numbers(name, tensor, or_complex=True)
    for name, tensor in named:
        if tensor.dtype != class_tensor.dtype:
            raise InputError(f"{name} is {tensor.dtype}, class_tensor {class_tensor.dtype}: expected one dtype for all")
        if tensor.ndim != 3 or not tensor.numel():
            raise InputError(f"{name} has shape {tuple(tensor.shape)}: expected (left, local or classes, right)")
    local = {tensor.shape[1] for tensor in site_tensors}
    if len(local) > 1 or min(local) < 2:
        raise InputError(f"site_tensors have {sorted(local)} local functions: expected one number, at least 2")
    bond = 1
    for name, tensor in named:
        if tensor.shape[0] != bond:
            raise InputError(f"{name} has shape {tuple(tensor.shape)}: its left bond must be {bond}")
        bond = tensor.shape[2]
    if bond != 1:
        raise InputError(f"{named[-1][0]} has shape {tuple(named[-1][1].shape)}: the last right bond must be 1")


def checked_label(label: int, num_classes: int) -> int:
    """Return the number of a class; negative ones count from the last.

    Raises:
        InputError: there is no such class.
    """
    if not -num_classes <= label < num_classes:
        raise InputError(f"label={label}: there is no such class; expected 0 to {num_classes - 1}")
    return label


def checked_names(
    class_names: Sequence[str] | None, num_classes: int, layout: ImageLayout | None, num_sites: int
) -> tuple[str, ...] | None:
    """Return the names of a state's classes, which fit the state, as its layout does.

    Raises:
        InputError: other numbers of names or sites than the state has.
    """
    if layout is not None and len(layout.pixel_order) != num_sites:
        raise InputError(f"layout has {len(layout.pixel_order)} sites, the state has {num_sites}")
    if class_names is None:
        return None
    if len(class_names) != num_classes:
        raise InputError(f"class_names has {len(class_names)} names, the state has {num_classes} classes")
    return tuple(class_names)


def _named(site_tensors: Sequence[Any], top: Any, or_complex: bool) -> list[tuple[str, Any]]:
    """Return the tensors of a tree with their names, from the pixels up.

    Raises:
        InputError: there is no level, or one fails `_check_numbers`.
    """
    if not len(site_tensors):
        raise InputError("site_tensors is empty: a state has at least one level, so two pixels")
    named = [(f"site_tensors[{level}]", tensor) for level, tensor in enumerate(site_tensors)] + [("top", top)]
    for name, tensor in named:
        _check_numbers(name, tensor, or_complex)
    return named


def _check_fit(named: Sequence[tuple[str, Tensor]], shape_of_top: str) -> None:
    """Check that the top is a matrix, and that every tensor takes the channels that the one below gives.

    Raises:
        InputError: one does not.
    """
    top = named[-1][1]
    if top.ndim != 2 or not len(top):
        raise InputError(f"top has shape {tuple(top.shape)}: expected {shape_of_top}")
    for (name, tensor), (name_above, above) in itertools.pairwise(named):
        if tensor.shape[1] != above.shape[-1]:
            raise InputError(
                f"{name_above} has shape {tuple(above.shape)}: its last dimension must be {tensor.shape[1]}, the "
                f"channels that {name}, {tuple(tensor.shape)}, gives"
            )


def _check_numbers(name: str, tensor: Any, or_complex: bool = False) -> None:
    """Check that it is a finite tensor in float64, or in complex128 where that is allowed.

    Raises:
        InputError: it is not.
    """
    if not isinstance(tensor, Tensor):
        raise InputError(f"{name} is a {type(tensor).__name__}: expected a float64 tensor or array")
    if tensor.dtype != torch.float64 and not (or_complex and tensor.dtype == torch.complex128):
        raise InputError(f"{name} has dtype {tensor.dtype}: entropies need torch.float64")
    if not tensor.isfinite().all():
        raise InputError(f"{name} has entries that are infinite or not a number")
