"""q-CNNs on PyTorch Lightning, and the entanglement of the quantum states they are."""

import os
from importlib.metadata import version

# Else OpenMP's threads spin for milliseconds after each of PyTorch's operations, and where other processes need the
# cores, everything waits for threads that spin. OpenMP reads this once, when PyTorch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from qcnn_lightning.network import QCNN as QCNN
from qcnn_lightning.state import NetworkState as NetworkState

__version__ = version("qcnn-lightning")
