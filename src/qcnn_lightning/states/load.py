"""The state in a file, whatever its class."""

from pathlib import Path

from safetensors import SafetensorError, safe_open

from qcnn_lightning.errors import InputError
from qcnn_lightning.states.dense_tree import DenseTreeState
from qcnn_lightning.states.density import DensityState
from qcnn_lightning.states.mps import MPSState
from qcnn_lightning.states.tree import NetworkState

CLASSES = (NetworkState, DensityState, DenseTreeState, MPSState)


def load_state(path: str | Path) -> NetworkState | DensityState | DenseTreeState | MPSState:
    """Read a state that its `save` wrote. The basis that it names is imported, if it is somebody's own.

    Raises:
        InputError: the file is missing, is not a safetensors file, holds no state, or was altered.
    """
    found = metadata_of(path).get("format")
    for state in CLASSES:
        if found in (state.kind.format, *state.kind.earlier):
            return state.load(path)
        if found == state.kind.format_of_epochs:
            raise InputError(f"{path} holds the states of several epochs: {state.__name__}.load_epochs reads it")
    raise InputError(f"{path} holds no state that this version knows: its format is {found}")


def metadata_of(path: str | Path) -> dict[str, str]:
    """Return what a file says of itself; nothing is imported.

    Raises:
        InputError: the file is missing, or is not a safetensors file.
    """
    if not Path(path).is_file():
        raise InputError(f"{path} cannot be read as a state: there is no such regular file")
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read as a state: {error}") from error
