"""What all tests have: shapes and types that are checked, and a machine shared with other workers."""

import os

from jaxtyping import install_import_hook

# Here and not by pytest's option, which the workers of pytest-xdist do not see.
install_import_hook(["qcnn_lightning", "reproduction"], "beartype.beartype")

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before PyTorch is imported: a worker for every core, so a thread for every worker.
    for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(threads, "1")
