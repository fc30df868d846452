"""The quantum states of a network: |Psi_y>, one per class, with <x|Psi_y> = alpha_y(x), the score (eq. 30, 31).

A `NetworkState` is the tree tensor network of eq. 11-16: its site tensors and nothing else. Everything is exact up to
round-off in float64, needs no state vector, and can be differentiated with respect to the site tensors.
"""

import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional

from qcnn_lightning.basis import make_basis
from qcnn_lightning.errors import InputError
from qcnn_lightning.files import replace_atomically
from qcnn_lightning.pixels import check_images
from qcnn_lightning.states.entropy import block_spectra_below, cut_spectrum, renyi_entropy, von_neumann_entropy
from qcnn_lightning.states.gram import (
    Environment,
    binary_exponent,
    build_tree,
    take_out_powers_of_two,
    times_power_of_two,
)

LARGEST_DENSE_SIZE = 2**24
IMAGES_AT_A_TIME = 500
FILE_FORMAT = "qcnn_lightning.NetworkState with checksum"
FORMAT_WITHOUT_CHECKSUM = "qcnn_lightning.NetworkState"


class NetworkState:
    """One quantum state per class, given by the site tensors of a tree tensor network.

    Args:
        site_tensors: ã^(0) .. ã^(L-1), each (s, d_{l+1} + 1, d_l + 1): s = 1 if left and right children share it, s = 2
            if each has its own, the left one first. Index 0 is the constant channel (eq. 12, 15).
        top: ã^(L), (classes, d_L + 1) (eq. 16).
        basis: local basis, as `make_basis` takes it (eq. 19).

    All tensors are float64 and on one device. They are kept as given: gradients reach their origin.

    Raises:
        InputError: no level, shapes that do not fit together, another dtype, entries that are not finite, or an unknown
            basis.
    """

    def __init__(self, site_tensors: Sequence[Tensor], top: Tensor, basis: str = "fourier"):
        _check_tensors(site_tensors, top)
        self.site_tensors = tuple(site_tensors)
        self.top = top
        self.basis = make_basis(basis, site_tensors[0].shape[-1] - 1)

    @classmethod
    def from_network(cls, network: Any, statistics: Any = None) -> "NetworkState":
        """Return the states |Psi_y> of a network (eq. 15, 16, 30).

        The site tensors are float64 on the CPU, whatever the network's device and dtype. Gradients flow back to the
        network's parameters, except under `torch.no_grad()`.

        Args:
            network: a `QCNN`, or any model with `site_tensors(statistics)` and `basis`; in training or evaluation mode.
            statistics: of levels 0 .. L, as `QCNN.statistics_of` returns them; None for those of evaluation.

        Raises:
            InputError: no statistics are given, and the network has measured none.
        """
        site_tensors, top = network.site_tensors(statistics)
        return cls(site_tensors, top, basis=network.basis.name)

    def __deepcopy__(self, memo: Any) -> "NetworkState":
        """Return a copy with tensors of its own: leaves, from which no gradient reaches the network."""
        site_tensors, top = ([tensor.detach().clone() for tensor in part] for part in (self.site_tensors, [self.top]))
        return type(self)(site_tensors, top[0], self.basis.name)

    @property
    def num_levels(self) -> int:
        """L, the pooling levels."""
        return len(self.site_tensors)

    @property
    def num_sites(self) -> int:
        """N = 2^L, the pixels."""
        return 2**self.num_levels

    @property
    def num_classes(self) -> int:
        """The number of states."""
        return len(self.top)

    @property
    def channels(self) -> tuple[int, ...]:
        """d_0 .. d_L, without the constant channel."""
        return tuple(tensor.shape[-1] - 1 for tensor in (*self.site_tensors, self.top))

    def __repr__(self) -> str:
        matrices = {len(tensor) for tensor in self.site_tensors}
        sharing = "full" if matrices == {1} else "sibling" if matrices == {2} else "mixed"
        return (
            f"NetworkState(num_sites={self.num_sites}, num_classes={self.num_classes}, channels={self.channels}, "
            f"basis={self.basis.name!r}, sharing={sharing!r})"
        )

    def log_norm(self) -> Float[Tensor, " classes"]:
        """Return log <Psi_y|Psi_y> = log (m_y^2 + C_yy) + 2 e_y log 2 (eq. 36; theory.md, eq. P1).

        Minus infinity for a state that vanishes.
        """
        classes = build_tree(self.site_tensors, self.top).classes
        return classes.gram().diagonal().log() + 2 * math.log(2) * classes.exponent.double()

    def overlaps(self) -> Float[Tensor, "classes classes"]:
        """Return <Psi_y|Psi_y'> / sqrt(<Psi_y|Psi_y> <Psi_y'|Psi_y'>) (eq. 36); NaN where a state vanishes."""
        gram = build_tree(self.site_tensors, self.top).classes.gram()
        norm = gram.diagonal().sqrt()
        return gram / torch.outer(norm, norm)

    def block_spectra(self, level: int) -> Float[Tensor, "classes blocks rank"]:
        """Return the Schmidt probabilities of every aligned block of 2^level pixels against the rest (eq. 45).

        p_k = lambda_k / sum_k' lambda_k', lambda_k the eigenvalues of B^T W B (theory.md, eq. B3).

        Args:
            level: 0 (one pixel) to L-1 (half the image).

        Returns:
            p_k of the N / 2^level blocks, left to right, descending in k = 1 .. d_level + 1. p_k below 2e-15 of the
            largest is round-off and is zero.

        Raises:
            InputError: no such level.
        """
        if not 0 <= level < self.num_levels:
            raise InputError(
                f"level={level}: a state of {self.num_sites} pixels has levels 0 (one pixel) "
                f"to {self.num_levels - 1} (half the image)"
            )
        return self._spectra(level, num_levels=1)[0]

    def schmidt_spectrum(self) -> Float[Tensor, "classes rank"]:
        """Return the Schmidt probabilities p_k between the two halves of the image, descending (eq. 40, 45)."""
        return self.block_spectra(self.num_levels - 1)[:, 0]

    def entanglement_entropy(self) -> Float[Tensor, " classes"]:
        """Return S = -sum_k p_k log p_k between the two halves of the image, nats (eq. 38, 44)."""
        return von_neumann_entropy(self.schmidt_spectrum())

    def renyi_entropy(self, alpha: int | float) -> Float[Tensor, " classes"]:
        """Return the Rényi entropy log(sum_k p_k^alpha) / (1 - alpha) between the two halves of the image, nats.

        Args:
            alpha: order, from 0 to infinity; 1 is the entanglement entropy. Orders below 1 depend on the smallest p_k,
                but p_k below 2e-15 of the largest is lost to round-off.

        Raises:
            InputError: alpha is negative or NaN.
        """
        return renyi_entropy(self.schmidt_spectrum(), alpha)

    def effective_schmidt_rank(self) -> Float[Tensor, " classes"]:
        """Return e^S with S between the two halves of the image: so many equal Schmidt values have this entropy."""
        return self.entanglement_entropy().exp()

    def block_entropies(self, level: int) -> Float[Tensor, "classes blocks"]:
        """Return S = -sum_k p_k log p_k of every aligned block of 2^level pixels with the rest, nats (eq. 38, 44).

        Args:
            level: 0 (one pixel) to L-1 (half the image).

        Returns:
            Entropies of the N / 2^level blocks, left to right.

        Raises:
            InputError: no such level.
        """
        return von_neumann_entropy(self.block_spectra(level))

    def entropy_profile(self) -> Float[Tensor, "classes levels"]:
        """Return the mean over the blocks of `block_entropies(l)`, nats, for l = 0 .. L-1."""
        return torch.stack(
            [von_neumann_entropy(spectra).mean(-1) for spectra in self._spectra(0, self.num_levels)], dim=-1
        )

    def _spectra(self, lowest: int, num_levels: int) -> list[Float[Tensor, "classes _ _"]]:
        """Return the block spectra of `num_levels` levels, from `lowest` up."""
        tree = build_tree(self.site_tensors, self.top)
        image = Environment.of_everything(tree.states, tree.top)
        *lower, top = tree.levels[lowest:]
        distinct = block_spectra_below(lower, image.of_children(top), num_levels) if lower else []
        if len(lower) < num_levels:
            # Both halves of a pure state have the same spectrum.
            half = cut_spectrum(top.below, image.of_child(top, side=0))
            distinct.append(half.repeat_interleave(len(top.mapped), dim=0))
        return [self._of_all_blocks(spectra, level) for level, spectra in enumerate(distinct, start=lowest)]

    def _of_all_blocks(self, distinct: Float[Tensor, "_ _"], level: int) -> Float[Tensor, "classes _ _"]:
        """Repeat the spectra of blocks that have the same tensors up to the top."""
        matrices = [len(tensor) for tensor in reversed(self.site_tensors[level:])]
        by_path = distinct.unflatten(0, (self.num_classes, *matrices))
        return by_path.expand(-1, *(2 for _ in matrices), -1).flatten(1, -2)

    def amplitude(self, x: Tensor) -> Float[Tensor, "batch classes"]:
        """Return alpha_y(x) = <x|Psi_y>, the scores in evaluation (eq. 31).

        Args:
            x: (batch, N) grey levels in tree order, uint8 or floats in [0, 1].

        Raises:
            InputError: x has another shape, dtype or range.
        """
        return times_power_of_two(*self._scaled_amplitude(x))

    def conditional_probability(self, x: Tensor) -> Float[Tensor, "batch classes"]:
        """Return p(y|x) = alpha_y(x)^2 / sum_y' alpha_y'(x)^2, even if amplitudes over- or underflow (eq. 34).

        Args:
            x: (batch, N) grey levels in tree order, uint8 or floats in [0, 1].

        Returns:
            Probabilities of the classes; NaN for an image on which all amplitudes vanish.

        Raises:
            InputError: x has another shape, dtype or range.
        """
        amplitude, exponent = self._scaled_amplitude(x)
        magnitude = torch.where(amplitude.detach() != 0, binary_exponent(amplitude) + exponent, -(2**62))
        weights = times_power_of_two(amplitude, exponent - magnitude.amax(-1, keepdim=True)).square()
        return weights / weights.sum(-1, keepdim=True)

    def log_amplitude(self, x: Tensor) -> tuple[Float[Tensor, "batch classes"], Float[Tensor, "batch classes"]]:
        """Return log |<x|Psi_y>| and the sign of <x|Psi_y> (-1, 0, 1), even if amplitudes over- or underflow (eq. 31).

        Args:
            x: (batch, N) grey levels in tree order, uint8 or floats in [0, 1].

        Raises:
            InputError: x has another shape, dtype or range.
        """
        amplitude, exponent = self._scaled_amplitude(x)
        return amplitude.abs().log() + math.log(2) * exponent, amplitude.sign()

    def _scaled_amplitude(self, x: Tensor) -> tuple[Float[Tensor, "batch classes"], Int[Tensor, "batch classes"]]:
        """Return a and e with alpha_y(x) = a 2^e.

        Powers of two are taken out of every channel, because site tensors scale whole channels, and out of every site
        of every image, because images differ.
        """
        check_images(x, self.num_sites)
        # A whole test set's features in float64 would fill the memory.
        contracted = [self._contract(self.represent(images)) for images in x.split(IMAGES_AT_A_TIME)]
        amplitudes, exponents = zip(*contracted, strict=True)
        return torch.cat(amplitudes), torch.cat(exponents)

    def _contract(
        self, features: Float[Tensor, "batch sites functions"]
    ) -> tuple[Float[Tensor, "batch classes"], Int[Tensor, "batch classes"]]:
        """Contract represented images with the tree, from pixels to classes."""
        channel_exponent = features.new_zeros(features.shape[-1], dtype=torch.int64)
        site_exponent = features.new_zeros(features.shape[:-1], dtype=torch.int64)
        for site_tensor in self.site_tensors:
            scaled, row_exponent = take_out_powers_of_two(site_tensor, channel_exponent)
            left = functional.linear(features[:, 0::2], scaled[0])
            right = functional.linear(features[:, 1::2], scaled[-1])
            features = left * right
            channel_exponent = row_exponent[0] + row_exponent[-1]
            site_exponent = site_exponent[:, 0::2] + site_exponent[:, 1::2]

            shift = binary_exponent(features.detach().abs().amax(-1))
            features = times_power_of_two(features, -shift.unsqueeze(-1))
            site_exponent = site_exponent + shift
            shift = binary_exponent(features.detach().abs().amax((0, 1)))
            features = times_power_of_two(features, -shift)
            channel_exponent = channel_exponent + shift
        scaled, row_exponent = take_out_powers_of_two(self.top, channel_exponent)
        return functional.linear(features[:, 0], scaled), site_exponent + row_exponent

    def represent(self, x: Tensor) -> Float[Tensor, "batch sites functions"]:
        """Return f_i(x_p), i = 0 .. d_0: the factors <x_p| of <x| in the local basis (eq. 12, 23, 28, 29).

        Args:
            x: (batch, N) grey levels in tree order, uint8 or floats in [0, 1].

        Raises:
            InputError: x has another shape, dtype or range.
        """
        check_images(x, self.num_sites)
        x = x.to(self.top.device)
        if x.dtype == torch.uint8:
            grey_levels = torch.arange(256, dtype=torch.float64, device=x.device) / 255
            return functional.embedding(x.int(), self._local_functions(grey_levels))
        return self._local_functions(x.double())

    def _local_functions(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape functions"]:
        return torch.cat((torch.ones_like(x).unsqueeze(-1), self.basis(x)), dim=-1)

    def dense(self) -> Float[Tensor, "classes dimension"]:
        """Return the state vectors Psi_{y; i_1 .. i_N}, flattened with i_1 slowest (eq. 27, 30); small systems only.

        |phi_I^(0)> = |f_I>, |phi_i^(l+1)> = |eta_0,i> (x) |eta_1,i> with |eta_k,i> = sum_I ã_k,iI |phi_I^(l)> (eq. 8,
        15), |Psi_y> = sum_I ã_yI |phi_I^(L)> (eq. 16).

        Raises:
            InputError: max(d_L + 1, classes) vectors of (d_0 + 1)^N numbers would be more than 2^24 numbers.
        """
        local_dimension = self.channels[0] + 1
        size = max(self.channels[-1] + 1, self.num_classes) * local_dimension**self.num_sites
        if size > LARGEST_DENSE_SIZE:
            raise InputError(
                f"the state vectors have {local_dimension}^{self.num_sites} entries each: dense() takes small systems, "
                f"up to {LARGEST_DENSE_SIZE} numbers in all"
            )
        states = torch.eye(local_dimension, dtype=self.top.dtype, device=self.top.device)
        for site_tensor in self.site_tensors:
            left, right = site_tensor[0] @ states, site_tensor[-1] @ states
            states = (left.unsqueeze(-1) * right.unsqueeze(-2)).flatten(1)
        return self.top @ states

    def save(self, path: str | Path) -> None:
        """Write a safetensors file: site_tensor_0 .. site_tensor_{L-1} and top, with basis and checksum as metadata.

        Raises:
            InputError: the file cannot be written.
        """
        tensors = {f"site_tensor_{level}": tensor for level, tensor in enumerate(self.site_tensors)} | {"top": self.top}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        metadata = {"format": FILE_FORMAT, "basis": self.basis.name, "num_levels": str(self.num_levels)}
        metadata["sha256"] = _digest(tensors, metadata)
        replace_atomically(Path(path), save(tensors, metadata=metadata))

    @classmethod
    def load(cls, path: str | Path) -> "NetworkState":
        """Read a state that `save` wrote.

        Raises:
            InputError: the file is missing, is not a safetensors file, holds no state, or was altered.
        """
        if not Path(path).is_file():
            raise InputError(f"{path} cannot be read as a state: there is no such regular file")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no dictionary
            if metadata.get("format") not in (FILE_FORMAT, FORMAT_WITHOUT_CHECKSUM):
                raise InputError(f"{path} was not written by NetworkState.save")
            digest = metadata.pop("sha256", None)
            if metadata["format"] == FILE_FORMAT and digest != _digest(tensors, metadata):
                raise InputError(f"{path} was altered since it was written: its checksum differs")
            site_tensors = [tensors[f"site_tensor_{level}"] for level in range(int(metadata["num_levels"]))]
            return cls(site_tensors, tensors["top"], basis=metadata["basis"])
        except (OSError, SafetensorError, KeyError) as error:
            raise InputError(f"{path} cannot be read as a state: {error}") from error


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return the SHA-256 of metadata and tensors, with their names and shapes."""
    digest = hashlib.sha256(repr(sorted(metadata.items())).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _check_tensors(site_tensors: Sequence[Any], top: Any) -> None:
    """Raise InputError unless the tensors make a tree tensor network."""
    if not len(site_tensors):
        raise InputError("site_tensors is empty: a state has at least one level, so two pixels")
    named = [(f"site_tensors[{level}]", tensor) for level, tensor in enumerate(site_tensors)] + [("top", top)]
    for name, tensor in named:
        if not isinstance(tensor, Tensor):
            raise InputError(f"{name} is a {type(tensor).__name__}: expected a float64 tensor")
        if tensor.dtype != torch.float64:
            raise InputError(f"{name} has dtype {tensor.dtype}: entropies need torch.float64")
        if not tensor.isfinite().all():
            raise InputError(f"{name} has entries that are infinite or not a number")
    for level, (name, tensor) in enumerate(named[:-1]):
        if tensor.ndim != 3 or tensor.shape[0] not in (1, 2) or tensor.shape[2] < 2:
            raise InputError(
                f"{name} has shape {tuple(tensor.shape)}: expected (s, d_{level + 1} + 1, d_{level} + 1), "
                "s = 1 matrix for all sites, or s = 2 for left and right children"
            )
    if top.ndim != 2 or not len(top):
        raise InputError(f"top has shape {tuple(top.shape)}: expected (classes, d_L + 1)")
    for (name, tensor), (name_above, above) in itertools.pairwise(named):
        if tensor.shape[1] != above.shape[-1]:
            raise InputError(
                f"{name_above} has shape {tuple(above.shape)}: its last dimension must be {tensor.shape[1]}, the "
                f"number of rows of {name}, {tuple(tensor.shape)}"
            )
