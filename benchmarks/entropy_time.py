"""Time of the entropies of all classes: against TensorNetwork's contraction, and at the size of a real network.

    python benchmarks/entropy_time.py

First table: half-image entropies, `NetworkState` against `TensorNetworkState`. The former uses that blocks with the
same weights are alike; the latter has the TensorNetwork library contract every branch of the tree and decompose towards
the cut. Second table: `NetworkState` alone for 256 pixels. Processor time of one thread, so that other load on the
machine matters little; the two ways of the first table are timed in turns, and what counts is their ratio.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from qcnn_lightning import QCNN, NetworkState
from qcnn_lightning.states.contraction import TensorNetworkState

NUM_CLASSES = 10
BESIDE_TENSORNETWORK = {"d": 4, "sites": (8, 16, 32, 64, 128, 256)}
ALONE = {"d": (18, 40), "sites": 256}


def network_state(num_sites: int, d: int, sharing: str) -> NetworkState:
    """Return the states of a network as PyTorch initialises it; what its weights are does not change the time."""
    network = QCNN(num_sites, NUM_CLASSES, d, sharing=sharing, start="default")
    network.fix_population_statistics(torch.rand(200, num_sites))
    with torch.no_grad():
        return NetworkState.from_network(network)


def in_turns(ways: Sequence[Callable[[], Tensor]], repeats: int) -> tuple[list[float], list[Tensor]]:
    """Return the median processor time of each way, in seconds, and its result."""
    results = [way() for way in ways]
    times: list[list[float]] = [[] for _ in ways]
    for _ in range(repeats):
        for way, taken in zip(ways, times, strict=True):
            start = time.process_time()
            way()
            taken.append(time.process_time() - start)
    return [median(taken) for taken in times], results


def beside_tensornetwork(sharing: str, repeats: int) -> list[dict[str, object]]:
    """Time both ways to the same entropies, from few pixels to 256."""
    print(f"\nhalf-image entropies, d = {BESIDE_TENSORNETWORK['d']}, sharing = {sharing}")
    print(f"{'N':>4}  {'NetworkState':>12}  {'TensorNetwork':>13}  {'ratio':>6}  {'largest difference':>18}")
    rows: list[dict[str, object]] = []
    for num_sites in BESIDE_TENSORNETWORK["sites"]:
        state = network_state(num_sites, BESIDE_TENSORNETWORK["d"], sharing)
        # A new TensorNetworkState each time, for it remembers what it contracted.
        ways = [state.entanglement_entropy, lambda state=state: TensorNetworkState(state).entanglement_entropy()]
        (ours, theirs), (entropies, judged) = in_turns(ways, repeats)
        difference = (entropies - judged).abs().max().item()
        rows.append({"sharing": sharing, "N": num_sites, "ours": ours, "theirs": theirs, "difference": difference})
        milliseconds = f"{ours * 1e3:>9.1f} ms  {theirs * 1e3:>10.1f} ms"
        print(f"{num_sites:>4}  {milliseconds}  {theirs / ours:>6.1f}  {difference:>18.1e}", flush=True)
    return rows


def alone(sharing: str, repeats: int) -> list[dict[str, object]]:
    """Time what `NetworkState` computes of a network of 256 pixels."""
    print(f"\n{ALONE['sites']} pixels, {NUM_CLASSES} classes, sharing = {sharing}")
    print(f"{'d':>4}  {'norms':>9}  {'half image':>10}  {'whole profile':>13}  {'half image + gradients':>22}")
    rows: list[dict[str, object]] = []
    for d in ALONE["d"]:
        state = network_state(ALONE["sites"], d, sharing)
        leaves = [tensor.clone().requires_grad_() for tensor in (*state.site_tensors, state.top)]
        trained = NetworkState(leaves[:-1], leaves[-1])
        ways = [
            state.log_norm,
            state.entanglement_entropy,
            state.entropy_profile,
            lambda trained=trained, leaves=leaves: torch.autograd.grad(trained.entanglement_entropy().sum(), leaves)[0],
        ]
        times, _ = in_turns(ways, repeats)
        names = ("norms", "half_image", "profile", "half_image_and_gradients")
        rows.append({"sharing": sharing, "d": d} | dict(zip(names, times, strict=True)))
        print(f"{d:>4}  {times[0]:>7.3f} s  {times[1]:>8.3f} s  {times[2]:>11.3f} s  {times[3]:>20.3f} s", flush=True)
    return rows


def main() -> None:
    """Print the tables, and write them as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sharing", choices=["full", "sibling"], nargs="+", default=["full", "sibling"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the tables here, in seconds")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    torch.set_num_threads(1)
    tables = {
        table.__name__: [row for sharing in arguments.sharing for row in table(sharing, arguments.repeats)]
        for table in (beside_tensornetwork, alone)
    }
    if arguments.json:
        arguments.json.write_text(json.dumps({"torch": torch.__version__, "unit": "seconds"} | tables, indent=2))


if __name__ == "__main__":
    main()
