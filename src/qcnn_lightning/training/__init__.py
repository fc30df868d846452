"""Training with Lightning, the entanglement of the network measured every epoch beside its cost."""
