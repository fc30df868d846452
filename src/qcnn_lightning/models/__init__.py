"""Models: images in, scores of the classes out, and the quantum states behind them, where there are any."""

from qcnn_lightning.models.model import Model as Model
from qcnn_lightning.models.qcnn import QCNN as QCNN
