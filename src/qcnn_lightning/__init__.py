"""q-CNNs on PyTorch Lightning, and the entanglement of their quantum states."""

from importlib.metadata import version

from qcnn_lightning.models import QCNN as QCNN
from qcnn_lightning.models import Model as Model
from qcnn_lightning.states import NetworkState as NetworkState
from qcnn_lightning.states import State as State

__version__ = version("qcnn-lightning")
