"""Quantum states, one a class: norms, overlaps, Schmidt spectra, entropies (eq. 11-16, 30, 31, 34-45).

The tree's states as nodes of the TensorNetwork library are in `qcnn_lightning.states.contraction`. It is not imported
here, because that library takes a second to load.
"""

from qcnn_lightning.states.state import State as State
from qcnn_lightning.states.tree import NetworkState as NetworkState
