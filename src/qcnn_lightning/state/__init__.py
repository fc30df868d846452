"""The same network as quantum states, one a class: norms, overlaps, Schmidt spectra, entropies (eq. 11-45)."""
