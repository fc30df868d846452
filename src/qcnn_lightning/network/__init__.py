"""The classifier as a neural network: representation, batch norm, 1x1 convolution, product pooling (eq. 1-10)."""

from qcnn_lightning.network.basis import Basis as Basis
from qcnn_lightning.network.basis import make_basis as make_basis
from qcnn_lightning.network.qcnn import QCNN as QCNN
