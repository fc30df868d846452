"""Time of the mutual information of one pixel with all 255 others: ten classes, d = 18, sibling or full sharing.

    python benchmarks/mutual_information_time.py [--sharing full] [--checkpoint FILE] [--threads 2]

With full sharing pixels at the same distance in the tree are alike; sibling sharing is the slow case. Elapsed time, and
the processor time of all threads: on a busy machine the latter tells more, though a shared cache makes it longer, too.
"""

import argparse
import os
import time
from pathlib import Path

import torch

from qcnn_lightning import QCNN
from qcnn_lightning.runs.checkpoint import read_checkpoint
from qcnn_lightning.runs.rebuild import network_of

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="of a trained network; else an untrained one of d = 18")
    parser.add_argument("--sharing", default="sibling", choices=("full", "sibling"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--site", type=int, default=100)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.checkpoint is None:
        torch.manual_seed(0)
        network = QCNN(256, 10, 18, sharing=given.sharing, start="default", kernel="plain")
        network.fix_population_statistics(torch.rand(200, 256))
    else:
        network = network_of(read_checkpoint(given.checkpoint))
    with torch.no_grad():
        state = network.state()
    print(state)
    elapsed, processor = time.perf_counter(), time.process_time()
    information = state.mutual_information_map(given.site)
    elapsed, processor = time.perf_counter() - elapsed, time.process_time() - processor
    print(
        f"{elapsed:.1f} s, {processor:.1f} s of processor time, {given.threads} threads, load {os.getloadavg()[0]:.1f}"
    )
    print(f"largest mutual information of pixel {given.site}: {information.nan_to_num(0).max():.6f} nats")
