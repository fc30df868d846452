"""The same network as quantum states, one a class: norms, overlaps, Schmidt spectra, entropies (eq. 11-45).

The states as nodes of the TensorNetwork library are in `qcnn_lightning.state.tensornetwork`, which is not imported here
because that library takes a second to load.
"""

from qcnn_lightning.state.network_state import NetworkState as NetworkState
