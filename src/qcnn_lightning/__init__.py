"""q-CNNs on PyTorch Lightning, and the entanglement of the quantum states they are."""

from qcnn_lightning.network import QCNN as QCNN
