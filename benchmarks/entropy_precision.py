"""How many digits of the entropies are right: float64 against mpmath with 60 digits.

    python benchmarks/entropy_precision.py reproduction/networks/mnist_sibling.ckpt
    python benchmarks/entropy_precision.py multirun/<sweep>/<job>/evaluation/state.safetensors

takes a trained network's checkpoint, or a state that `NetworkState.save` wrote, and recomputes each class's entropy of
half the image against the other half; `--profile` goes on to the first block of every level. The multiprecision way is
the plain one: Gram matrices, a Cholesky factor, eigenvalues. At d = 18, N = 256 it takes minutes per class (a fraction
of that if gmpy2 is installed).
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import torch
from torch import Tensor

from qcnn_lightning import NetworkState
from qcnn_lightning.runs.checkpoint import read_checkpoint
from qcnn_lightning.runs.rebuild import network_of

DIGITS = 60


def exact(tensor: Tensor) -> np.ndarray:
    """Return the same numbers with 60 digits."""
    return np.vectorize(mpmath.mpf, otypes=[object])(tensor.numpy(force=True))


def cholesky(gram: np.ndarray) -> np.ndarray:
    """Return C with gram = C C^T, with as many columns as gram has rank; pivoted, as rank is often lost."""
    remainder, columns = gram.copy(), []
    negligible = max(gram.diagonal()) * mpmath.mpf(10) ** (10 - DIGITS)
    while (largest := remainder.diagonal().max()) > negligible:
        pivot = remainder.diagonal().argmax()
        column = remainder[:, pivot] / mpmath.sqrt(largest)
        columns.append(column)
        remainder = remainder - np.outer(column, column)
    return np.stack(columns, axis=1)


def entropy(density: np.ndarray) -> mpmath.mpf:
    """Return -tr rho log rho of a density matrix that need not be normalised."""
    eigenvalues = mpmath.eigsy(mpmath.matrix(density.tolist()), eigvals_only=True)
    total = mpmath.fsum(eigenvalues)
    return -mpmath.fsum(p / total * mpmath.log(p / total) for p in eigenvalues if p > 0)


def exact_numbers(
    site_tensors: Sequence[Tensor], top: Tensor, label: int, num_levels: int = 1
) -> tuple[list[float], float]:
    """Return one class's entropies and norm, all computed with 60 digits.

    Args:
        site_tensors: as `NetworkState` takes them.
        top: as `NetworkState` takes it.
        label: the class.
        num_levels: of how many levels, from half the image down.

    Returns:
        The entropies of the first block of each of these levels, nats, the largest block last; log <Psi|Psi>.
    """
    with mpmath.workdps(DIGITS):
        tensors = [exact(tensor) for tensor in site_tensors]
        coefficients = exact(top[label])
        grams, mapped = [exact(torch.eye(site_tensors[0].shape[-1]))], []
        for tensor in tensors:
            mapped.append([matrix @ grams[-1] @ matrix.T for matrix in tensor])
            grams.append(mapped[-1][0] * mapped[-1][-1])
        environment, entropies = np.outer(coefficients, coefficients), []
        for level in reversed(range(len(tensors) - num_levels, len(tensors))):
            left = tensors[level][0]
            environment = left.T @ (environment * mapped[level][-1]) @ left
            factor = cholesky(grams[level])
            entropies.append(float(entropy(factor.T @ environment @ factor)))
        return entropies[::-1], float(mpmath.log(coefficients @ grams[-1] @ coefficients))


def main() -> None:
    """Compare class by class, print as it goes, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("states", nargs="+", type=Path, help="what NetworkState.save wrote, or checkpoints")
    parser.add_argument("--classes", type=int, nargs="+", help="only these (default: all)")
    parser.add_argument("--profile", action="store_true", help="every level, not only half the image")
    parser.add_argument("--json", type=Path, help="write the comparison here")
    arguments = parser.parse_args()
    measured = [compare(path, arguments.classes, arguments.profile) for path in arguments.states]
    if arguments.json:
        arguments.json.write_text(json.dumps(measured, indent=1) + "\n")


def compare(path: Path, classes: list[int] | None, profile: bool) -> dict[str, Any]:
    """Return the exact numbers of a file's states and the errors of ours; print them."""
    if path.suffix == ".ckpt":
        state = NetworkState.from_network(network_of(read_checkpoint(path)))
    else:
        state = NetworkState.load(path)
    levels = state.num_levels if profile else 1
    spectra = [state.block_entropies(level)[:, 0] for level in range(state.num_levels - levels, state.num_levels)]
    entropies, log_norm = torch.stack(spectra, dim=1), state.log_norm()
    print(state)
    print(f"{'class':>5}  {'entropy of half the image':>25}  {'largest error':>13}  {'error of log norm':>17}")
    rows = []
    for label in classes or range(state.num_classes):
        exact_entropies, exact_log_norm = exact_numbers(state.site_tensors, state.top, label, levels)
        errors = (entropies[label] - torch.tensor(exact_entropies, dtype=torch.float64)).abs()
        norm_error = abs(log_norm[label].item() - exact_log_norm)
        rows.append({"class": label, "entropies": exact_entropies, "errors": errors.tolist(), "norm": norm_error})
        print(f"{label:>5}  {exact_entropies[-1]:>25.16f}  {errors.max():>13.1e}  {norm_error:>17.1e}", flush=True)
    return {"state": repr(state), "of": path.stem, "digits": DIGITS, "classes": rows}


if __name__ == "__main__":
    main()
