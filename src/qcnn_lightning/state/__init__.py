"""The same network as quantum states, one a class: norms, overlaps, Schmidt spectra, entropies (eq. 11-45)."""

from qcnn_lightning.state.network_state import NetworkState as NetworkState
