"""How a model is computed: see `kernel.py` for what a kernel is."""
