"""q-CNNs on PyTorch Lightning, and the entanglement of the quantum states they are."""

from importlib.metadata import version

from qcnn_lightning.network import QCNN as QCNN
from qcnn_lightning.state import NetworkState as NetworkState

__version__ = version("qcnn-lightning")
