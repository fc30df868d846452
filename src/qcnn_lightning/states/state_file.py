"""The file of a state: safetensors with metadata that say how to rebuild its amplitudes (docs/state_format.md)."""

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from qcnn_lightning.errors import InputError
from qcnn_lightning.files import replace_atomically
from qcnn_lightning.states.layout import ImageLayout

FORMAT = "qcnn_lightning.NetworkState 2"
FORMAT_OF_DENSITY = "qcnn_lightning.DensityState 1"
FORMAT_OF_EPOCHS = "qcnn_lightning.NetworkState of epochs 1"
FORMAT_OF_DENSITIES = "qcnn_lightning.DensityState of epochs 1"
EARLIER_FORMATS = ("qcnn_lightning.NetworkState with checksum", "qcnn_lightning.NetworkState")
"""The last one has no checksum."""

COMPLEX = "complex: the last axis of site tensors and top is real and imaginary part"

POOLING = "product: phi_i = (site_tensor_left phi_left)_i (site_tensor_right phi_right)_i"


def grey_levels(white: float) -> str:
    """Return the rule from grey levels to points x of the basis's interval, in words."""
    factor = "" if white == 1 else f"{white} "
    return f"x = {factor}g / 255 for 8-bit g; black is x = 0, white is x = {white:g}"


def write_state(path: str | Path, state: Any) -> None:
    """Write a `NetworkState` or a `DensityState`.

    Raises:
        InputError: the file cannot be written.
    """
    file_format = FORMAT_OF_DENSITY if _is_density(state) else FORMAT
    padding = _padding_of(state)
    _write(path, _tensors_of(state) | padding, _metadata_of(state, file_format), state.layout)


def write_epochs(path: str | Path, states: Mapping[int, Any]) -> None:
    """Write the states of several epochs of one run; every tensor has the epochs as its first axis.

    Raises:
        InputError: the file cannot be written.
    """
    epochs = sorted(states)
    by_epoch = [_tensors_of(states[epoch]) for epoch in epochs]
    tensors = {name: torch.stack([tensors[name] for tensors in by_epoch]) for name in by_epoch[0]}
    last = states[epochs[-1]]
    file_format = FORMAT_OF_DENSITIES if _is_density(last) else FORMAT_OF_EPOCHS
    tensors |= {"epochs": torch.tensor(epochs)} | _padding_of(last)
    _write(path, tensors, _metadata_of(last, file_format), last.layout)


def _is_density(state: Any) -> bool:
    return hasattr(state, "padding")


def _padding_of(state: Any) -> dict[str, Tensor]:
    return {"padding": state.padding.long().cpu()} if _is_density(state) else {}


def _tensors_of(state: Any) -> dict[str, Tensor]:
    named = {f"site_tensor_{level}": tensor for level, tensor in enumerate(state.site_tensors)} | {"top": state.top}
    real = {name: torch.view_as_real(tensor) if tensor.is_complex() else tensor for name, tensor in named.items()}
    return {name: tensor.detach().cpu() for name, tensor in real.items()}


def _metadata_of(state: Any, file_format: str) -> dict[str, str]:
    metadata = {
        "format": file_format,
        "version": version("qcnn-lightning"),
        "basis": state.basis.name,
        "num_levels": str(state.num_levels),
        "pooling": POOLING,
        "grey_levels": grey_levels(state.white),
    }
    if state.top.is_complex():
        metadata["numbers"] = COMPLEX
    if state.white != 1:
        metadata["white"] = repr(state.white)
    if state.class_names is not None:
        metadata["class_names"] = json.dumps(state.class_names)
    return metadata


def _write(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str], layout: ImageLayout | None) -> None:
    if layout is not None:
        tensors["pixel_order"] = torch.tensor(layout.pixel_order)
        metadata["image_shape"] = json.dumps([layout.height, layout.width])
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    metadata["sha256"] = digest(tensors, metadata)
    replace_atomically(Path(path), save(tensors, metadata=metadata))


def read_state(path: str | Path, density: bool = False) -> tuple[tuple[list[Tensor], Tensor], dict[str, Any]]:
    """Return site tensors and top, and the other arguments of `NetworkState` or `DensityState`.

    Args:
        path: of the file.
        density: whether it holds a `DensityState`.

    Raises:
        InputError: the file is missing, is not a safetensors file, holds no such state, or was altered.
    """
    formats = (FORMAT_OF_DENSITY,) if density else (FORMAT, *EARLIER_FORMATS)
    tensors, description = _read(path, formats)
    return (tensors["site_tensors"], tensors["top"]), description


def read_epochs(
    path: str | Path, density: bool = False
) -> tuple[dict[int, tuple[list[Tensor], Tensor]], dict[str, Any]]:
    """Return site tensors and top of every epoch, and the other arguments of the state.

    Args:
        path: of the file.
        density: whether it holds `DensityState`s.

    Raises:
        InputError: as `read_state`.
    """
    tensors, description = _read(path, (FORMAT_OF_DENSITIES if density else FORMAT_OF_EPOCHS,), "epochs")
    by_epoch = {
        epoch: ([of_epochs[place] for of_epochs in tensors["site_tensors"]], tensors["top"][place])
        for place, epoch in enumerate(tensors["epochs"].tolist())
    }
    return by_epoch, description


def _read(path: str | Path, formats: tuple[str, ...], *names: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return site tensors, top and tensors of other names, and the arguments that every state has."""
    if not Path(path).is_file():
        raise InputError(f"{path} cannot be read as a state: there is no such regular file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no dictionary
        if metadata.get("format") not in formats:
            raise InputError(
                f"{path} is no such file, or of a later version: its format is {metadata.get('format')}, expected "
                f"{formats[0]}"
            )
        expected = metadata.pop("sha256", None)
        if metadata["format"] != EARLIER_FORMATS[-1] and expected != digest(tensors, metadata):
            raise InputError(f"{path} was altered since it was written: its checksum differs")
        white = float(metadata.get("white", 1))
        rules = (("pooling", POOLING), ("grey_levels", grey_levels(white)), ("numbers", COMPLEX))
        for key, ours in rules:
            if metadata.get(key, ours) != ours:
                raise InputError(f"{path} has {key}={metadata[key]!r}, which this version does not know: {ours!r}")
        if metadata.get("numbers") == COMPLEX:
            tensors = {
                name: torch.view_as_complex(tensor) if tensor.is_floating_point() else tensor
                for name, tensor in tensors.items()
            }
        site_tensors = [tensors[f"site_tensor_{level}"] for level in range(int(metadata["num_levels"]))]
        wanted = {"site_tensors": site_tensors} | {name: tensors[name] for name in ("top", *names)}
        description: dict[str, Any] = {"basis": metadata["basis"], "white": white}
        if "class_names" in metadata:
            description["class_names"] = json.loads(metadata["class_names"])
        if "pixel_order" in tensors:
            description["layout"] = ImageLayout.of(tensors["pixel_order"], json.loads(metadata["image_shape"]))
        if formats[0] in (FORMAT_OF_DENSITY, FORMAT_OF_DENSITIES):
            description["padding"] = tensors["padding"].bool()
        return wanted, description
    except InputError:
        raise
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path} cannot be read as a state: {error}") from error


def digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return the SHA-256 of metadata and tensors, with their names and shapes."""
    result = hashlib.sha256(repr(sorted(metadata.items())).encode())
    for name, tensor in sorted(tensors.items()):
        result.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        result.update(tensor.numpy().tobytes())
    return result.hexdigest()
