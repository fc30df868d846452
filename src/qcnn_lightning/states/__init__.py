"""Quantum states, one per class: norms, overlaps, Schmidt spectra, entropies (eq. 11-16, 30, 31, 34-45).

`qcnn_lightning.states.contraction` has the same states as nodes of the TensorNetwork library. It is not imported here:
that library takes a second to load.
"""

from qcnn_lightning.states.class_densities import ClassDensities as ClassDensities
from qcnn_lightning.states.dense_tree import DenseTreeState as DenseTreeState
from qcnn_lightning.states.density import DensityState as DensityState
from qcnn_lightning.states.load import load_state as load_state
from qcnn_lightning.states.mps import MPSState as MPSState
from qcnn_lightning.states.state import State as State
from qcnn_lightning.states.state import StoredState as StoredState
from qcnn_lightning.states.tree import NetworkState as NetworkState
