"""The machine that runs the tests is shared, by their own workers at least."""

import os

from hypothesis import settings

# A slow example says nothing about the code.
settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")

if "PYTEST_XDIST_WORKER" in os.environ:
    # There is a worker for every core, so a thread for every worker. PyTorch reads these when it is imported.
    for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(threads, "1")
