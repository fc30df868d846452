"""q-CNNs on PyTorch Lightning, and the entanglement of the quantum states they are."""

import os
from importlib.metadata import version

# Else OpenMP's threads spin for milliseconds after each of PyTorch's operations, and where other processes need the
# cores, everything waits for threads that spin. OpenMP reads this once, when PyTorch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from qcnn_lightning.models import QCNN as QCNN
from qcnn_lightning.models import Model as Model
from qcnn_lightning.states import NetworkState as NetworkState
from qcnn_lightning.states import State as State

__version__ = version("qcnn-lightning")
