"""The files of states: safetensors with metadata that say how to rebuild amplitudes (docs/state_format.md)."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from qcnn_lightning.errors import InputError
from qcnn_lightning.files import replace_atomically
from qcnn_lightning.states.layout import ImageLayout

EARLIER_FORMATS = ("qcnn_lightning.NetworkState with checksum", "qcnn_lightning.NetworkState")
"""The last one has no checksum."""


@dataclass(frozen=True)
class Kind:
    """What is particular in the files of one class of states.

    Attributes:
        name: of the class.
        rule: key and words of the rule that joins the tensors.
        count: key of the number of site tensors, an attribute of the state.
        others: the state's other tensors, by the names of its attributes and of the constructor's arguments.
        numbers: further whole numbers that the constructor takes.
        version: of the format.
        earlier: formats that can be read as well.
    """

    name: str
    rule: tuple[str, str]
    count: str = "num_levels"
    others: tuple[str, ...] = ("top",)
    numbers: tuple[str, ...] = ()
    version: int = 1
    earlier: tuple[str, ...] = ()

    @property
    def format(self) -> str:
        """What `format` says in the file of one state."""
        return f"qcnn_lightning.{self.name} {self.version}"

    @property
    def format_of_epochs(self) -> str:
        """What `format` says in the file of the states of several epochs."""
        return f"qcnn_lightning.{self.name} of epochs 1"

    @property
    def complex_numbers(self) -> str:
        """What `numbers` says in the file of complex tensors."""
        return f"complex: the last axis of site tensors and {self.others[0]} is real and imaginary part"


PRODUCT = ("pooling", "product: phi_i = (site_tensor_left phi_left)_i (site_tensor_right phi_right)_i")
DENSE = ("pooling", "dense: phi_i = sum_jk site_tensor_ijk phi_left_j phi_right_k")
CHAIN = (
    "contraction",
    "alpha_y = A_1(x_1) .. A_c(x_c) T_y A_{c+1}(x_{c+1}) .. A_N(x_N) with A_p(x) = sum_i f_i(x) site_tensor_i",
)
NETWORK_STATE = Kind("NetworkState", PRODUCT, version=2, earlier=EARLIER_FORMATS)
DENSITY_STATE = Kind("DensityState", PRODUCT, others=("top", "padding", "local"))
DENSE_TREE_STATE = Kind("DenseTreeState", DENSE)
MPS_STATE = Kind("MPSState", CHAIN, "num_sites", ("class_tensor", "padding"), ("class_site",))


# beartype cannot check Self.
Stored = TypeVar("Stored", bound="StoredInFiles")


class StoredInFiles:
    """States that write and read files which describe themselves (docs/state_format.md)."""

    kind: ClassVar[Kind]

    def save(self, path: str | Path) -> None:
        """Write a safetensors file.

        Raises:
            InputError: the file cannot be written.
        """
        write_state(path, self)

    @classmethod
    def load(cls: type[Stored], path: str | Path) -> Stored:
        """Read states that `save` wrote, in this or an earlier format.

        Raises:
            InputError: the file is missing, is not a safetensors file, holds no states of this class, or was altered.
        """
        return cls(**read_state(path, cls.kind))

    @classmethod
    def load_epochs(cls: type[Stored], path: str | Path) -> dict[int, Stored]:
        """Read the states of a run's epochs, `states.safetensors` of its folder; epoch -1 is before training.

        Raises:
            InputError: as `load`.
        """
        return {epoch: cls(**arguments) for epoch, arguments in read_epochs(path, cls.kind).items()}


def grey_levels(white: float) -> str:
    """Return the rule from grey levels to points x of the basis's interval, in words."""
    factor = "" if white == 1 else f"{white} "
    return f"x = {factor}g / 255 for 8-bit g; black is x = 0, white is x = {white:g}"


def write_state(path: str | Path, state: Any) -> None:
    """Write a state; `state.kind` says how.

    Raises:
        InputError: the file cannot be written.
    """
    _write(path, _tensors_of(state), _metadata_of(state, state.kind.format), state.layout)


def write_epochs(path: str | Path, states: Mapping[int, Any]) -> None:
    """Write the states of several epochs of one run; every tensor but `padding` has the epochs as its first axis.

    Raises:
        InputError: the file cannot be written.
    """
    epochs = sorted(states)
    by_epoch = [_tensors_of(states[epoch]) for epoch in epochs]
    last = states[epochs[-1]]
    tensors = {
        name: by_epoch[-1][name] if name == "padding" else torch.stack([tensors[name] for tensors in by_epoch])
        for name in by_epoch[0]
    }
    metadata = _metadata_of(last, last.kind.format_of_epochs)
    _write(path, tensors | {"epochs": torch.tensor(epochs)}, metadata, last.layout)


def _tensors_of(state: Any) -> dict[str, Tensor]:
    named = {f"site_tensor_{place}": tensor for place, tensor in enumerate(state.site_tensors)}
    named |= {name: getattr(state, name) for name in state.kind.others}
    real = {name: torch.view_as_real(t.resolve_conj()) if t.is_complex() else t for name, t in named.items()}
    return {name: (t.long() if t.dtype == torch.bool else t).detach().cpu() for name, t in real.items()}


def _metadata_of(state: Any, file_format: str) -> dict[str, str]:
    kind: Kind = state.kind
    metadata = {
        "format": file_format,
        "version": version("qcnn-lightning"),
        "basis": state.basis.name,
        **{name: str(getattr(state, name)) for name in (kind.count, *kind.numbers)},
        kind.rule[0]: kind.rule[1],
        "grey_levels": grey_levels(state.white),
    }
    if state.site_tensors[0].is_complex():
        metadata["numbers"] = kind.complex_numbers
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


def read_state(path: str | Path, kind: Kind) -> dict[str, Any]:
    """Return the arguments of a state's constructor.

    Raises:
        InputError: the file is missing, is not a safetensors file, holds no such state, or was altered.
    """
    return _read(path, kind, (kind.format, *kind.earlier))


def read_epochs(path: str | Path, kind: Kind) -> dict[int, dict[str, Any]]:
    """Return the arguments of the state's constructor of every epoch.

    Raises:
        InputError: as `read_state`.
    """
    arguments = _read(path, kind, (kind.format_of_epochs,), "epochs")
    epochs = arguments.pop("epochs").tolist()
    return {
        epoch: {
            **arguments,
            "site_tensors": [of_epochs[place] for of_epochs in arguments["site_tensors"]],
            **{name: arguments[name][place] for name in kind.others if name != "padding"},
        }
        for place, epoch in enumerate(epochs)
    }


def _read(path: str | Path, kind: Kind, formats: tuple[str, ...], *names: str) -> dict[str, Any]:
    """Return the constructor's arguments, and tensors of other names."""
    if not Path(path).is_file():
        raise InputError(f"{path} cannot be read as a state: there is no such regular file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no dictionary
        if metadata.get("format") not in formats:
            raise InputError(
                f"{path} holds no such state, or is of a later version: its format is {metadata.get('format')}, "
                f"expected {formats[0]}"
            )
        expected = metadata.pop("sha256", None)
        if metadata["format"] != EARLIER_FORMATS[-1] and expected != digest(tensors, metadata):
            raise InputError(f"{path} was altered since it was written: its checksum differs")
        white = float(metadata.get("white", 1))
        for key, ours in (kind.rule, ("grey_levels", grey_levels(white)), ("numbers", kind.complex_numbers)):
            if metadata.get(key, ours) != ours:
                raise InputError(f"{path} has {key}={metadata[key]!r}, which this version does not know: {ours!r}")
        if "numbers" in metadata:
            # Copies: numbers in a file lie at multiples of 8 bytes, PyTorch's operators need 16 of complex ones.
            tensors = {
                n: torch.view_as_complex(t.clone()) if t.is_floating_point() and n != "local" else t
                for n, t in tensors.items()
            }
        sites = [tensors[f"site_tensor_{place}"] for place in range(int(metadata[kind.count]))]
        arguments: dict[str, Any] = {"site_tensors": sites, "basis": metadata["basis"], "white": white}
        arguments |= {name: tensors[name] for name in (*kind.others, *names)}
        arguments |= {name: int(metadata[name]) for name in kind.numbers}
        if "padding" in arguments:
            arguments["padding"] = arguments["padding"].bool()
        if "class_names" in metadata:
            arguments["class_names"] = json.loads(metadata["class_names"])
        if "pixel_order" in tensors:
            arguments["layout"] = ImageLayout.of(tensors["pixel_order"], json.loads(metadata["image_shape"]))
        return arguments
    except InputError:
        raise
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"{path} cannot be read as a state: {error}") from error


def digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return the SHA-256 of metadata and tensors, with their names and shapes."""
    result = hashlib.sha256(repr(sorted(metadata.items())).encode())
    for name, tensor in sorted(tensors.items()):
        result.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        result.update(tensor.numpy().tobytes())
    return result.hexdigest()
