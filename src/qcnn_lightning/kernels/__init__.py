"""Kernels: ways to compute a model. `kernel.py` has the protocol."""
