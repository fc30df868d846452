"""The suite's workers share the machine: one for every core, and so a thread for every worker."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before PyTorch is imported, which reads them once.
    for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(threads, "1")
