"""Train q-CNNs, and measure the entanglement of their quantum states.

    import qcnn_lightning as ql

    run = ql.train("data=digits", "model.d=6", max_epochs=20)   # what qcnn-train does; the same call resumes
    run.metrics                                                 # a row per epoch
    run.plot()                                                  # entanglement entropy against cost
    run.network                                                 # a QCNN
    run.state().entanglement_entropy()                          # of every class, nats, exact
    runs = ql.sweep("data=digits", d=[2, 4], seed=range(3))     # runs.table
    run = ql.load("multirun/paper/seed=0")

Read the help of these:

    train, sweep           train a network, or one for every combination of settings
    load, load_sweep       what has been trained: TrainedRun, Sweep
    QCNN                   the network, a torch.nn.Module
    NetworkState           its states: entropies, spectra, overlaps, probabilities, samples
    ConvAC                 the network without batch norm, a convolutional arithmetic circuit
    TTN, DenseTreeState    a tree of dense tensors; every tree's state is one, and can be compressed
    Density, DensityState  the same tree as a probability of images: likelihoods, samples, conditionals
    Linear, CNN            ordinary classifiers of the same images, without states
    MPS, MPSState          a matrix product state, the class on a leg of its own
    Model, State           the protocols for networks and states of your own
    InputError             what a setting or file that cannot be used raises
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from qcnn_lightning.terminal import end_at_interrupt, is_starting

if is_starting(__name__):
    end_at_interrupt()

if TYPE_CHECKING:
    from qcnn_lightning.errors import InputError
    from qcnn_lightning.from_python import load, load_sweep, sweep, train
    from qcnn_lightning.models import CNN, MPS, QCNN, TTN, ConvAC, Density, Linear, Model
    from qcnn_lightning.states import DenseTreeState, DensityState, MPSState, NetworkState, State
    from qcnn_lightning.trained_run import Sweep, TrainedRun

    __version__: str

__all__ = [
    "CNN",
    "MPS",
    "QCNN",
    "TTN",
    "ConvAC",
    "DenseTreeState",
    "Density",
    "DensityState",
    "InputError",
    "Linear",
    "MPSState",
    "Model",
    "NetworkState",
    "State",
    "Sweep",
    "TrainedRun",
    "__version__",
    "load",
    "load_sweep",
    "sweep",
    "train",
]

PLACES = {
    "CNN": "models",
    "ConvAC": "models",
    "MPS": "models",
    "QCNN": "models",
    "TTN": "models",
    "DenseTreeState": "states",
    "Density": "models",
    "DensityState": "states",
    "InputError": "errors",
    "Linear": "models",
    "MPSState": "states",
    "Model": "models",
    "NetworkState": "states",
    "State": "states",
    "Sweep": "trained_run",
    "TrainedRun": "trained_run",
    "load": "from_python",
    "load_sweep": "from_python",
    "sweep": "from_python",
    "train": "from_python",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: PyTorch takes seconds, and who reads runs needs none of it."""
    if name == "__version__":
        from importlib.metadata import version

        return version("qcnn-lightning")
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """This package, in which `train` is the function, whether or not the command's module was imported as well."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in PLACES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
