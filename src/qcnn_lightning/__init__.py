"""q-CNNs on PyTorch Lightning, and the entanglement of their quantum states."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from qcnn_lightning.terminal import end_at_interrupt, is_starting

if is_starting(__name__):
    end_at_interrupt()

if TYPE_CHECKING:
    from qcnn_lightning.models import QCNN, Density, Model
    from qcnn_lightning.states import DensityState, NetworkState, State

    __version__: str

__all__ = ["QCNN", "Density", "DensityState", "Model", "NetworkState", "State", "__version__"]

PLACES = dict.fromkeys(("QCNN", "Density", "Model"), "models")
PLACES |= dict.fromkeys(("DensityState", "NetworkState", "State"), "states")


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: PyTorch takes seconds, and who reads runs needs none of it."""
    if name == "__version__":
        from importlib.metadata import version

        return version("qcnn-lightning")
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{PLACES[name]}"), name)
