"""q-CNNs on PyTorch Lightning, and the entanglement of the quantum states they are."""
