"""The quantum states of a network: |Psi_y>, one a class, with <x|Psi_y> = alpha_y(x) the network's output (eq. 30, 31).

A `NetworkState` is the tree tensor network of eq. 11-16: its site tensors and nothing else. All numbers here are exact
up to round-off in float64, none needs a state vector, and all can be differentiated with respect to the site tensors.
"""

import itertools
import math
from collections.abc import Sequence
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
FILE_FORMAT = "qcnn_lightning.NetworkState"


class NetworkState:
    """One quantum state per class, given by the site tensors of a tree tensor network.

    Args:
        site_tensors: one tensor a level, level 0 (the pixels) first, each (s, d_{l+1} + 1, d_l + 1): s = 1 if the two
            children of a node share it, s = 2 if they have their own, the left child's first. Index 0 is the constant
            channel (eq. 15).
        top: (classes, d_L + 1), the classification layer (eq. 16).
        basis: name of the local basis, "fourier" or "legendre" (eq. 19).

    All tensors are float64 and on one device. They are kept as given, so that gradients reach whatever they came from.

    Raises:
        InputError: fewer than one level, shapes that do not fit together, another dtype, entries that are not finite,
            or an unknown basis.
    """

    def __init__(self, site_tensors: Sequence[Tensor], top: Tensor, basis: str = "fourier"):
        _check_tensors(site_tensors, top)
        self.site_tensors = tuple(site_tensors)
        self.top = top
        self.basis = make_basis(basis, site_tensors[0].shape[-1] - 1)

    @classmethod
    def from_network(cls, network: Any, statistics: Any = None) -> "NetworkState":
        """Read the states off a network.

        The site tensors are computed in float64 on the CPU, whatever the network's device and dtype. Gradients flow
        back to the network's parameters; call under `torch.no_grad()` if you do not want them.

        Args:
            network: a `QCNN`, or any model with `site_tensors(statistics)` and a `basis`; in whatever mode.
            statistics: of every level, to normalise by, as `QCNN.statistics_of` measures them on a batch; those that
                evaluation uses if None.

        Raises:
            InputError: the network has measured no statistics, and none are given.
        """
        site_tensors, top = network.site_tensors(statistics)
        return cls(site_tensors, top, basis=network.basis.name)

    @property
    def num_levels(self) -> int:
        """L, the number of pooling levels."""
        return len(self.site_tensors)

    @property
    def num_sites(self) -> int:
        """N = 2^L, the number of pixels."""
        return 2**self.num_levels

    @property
    def num_classes(self) -> int:
        """How many states these are."""
        return len(self.top)

    @property
    def channels(self) -> tuple[int, ...]:
        """d_0 .. d_L, not counting the constant channel."""
        return tuple(tensor.shape[-1] - 1 for tensor in (*self.site_tensors, self.top))

    def __repr__(self) -> str:
        matrices = {len(tensor) for tensor in self.site_tensors}
        sharing = "full" if matrices == {1} else "sibling" if matrices == {2} else "mixed"
        return (
            f"NetworkState(num_sites={self.num_sites}, num_classes={self.num_classes}, channels={self.channels}, "
            f"basis={self.basis.name!r}, sharing={sharing!r})"
        )

    def log_norm(self) -> Float[Tensor, " classes"]:
        """Return log <Psi_y|Psi_y> (the norm of eq. 36); minus infinity for a state that vanishes."""
        classes = build_tree(self.site_tensors, self.top).classes
        return classes.gram().diagonal().log() + 2 * math.log(2) * classes.exponent.double()

    def overlaps(self) -> Float[Tensor, "classes classes"]:
        """Return <Psi_y|Psi_y'> of the normalised states (eq. 36); not a number where a state vanishes."""
        gram = build_tree(self.site_tensors, self.top).classes.gram()
        norm = gram.diagonal().sqrt()
        return gram / torch.outer(norm, norm)

    def block_spectra(self, level: int) -> Float[Tensor, "classes blocks rank"]:
        """Return the Schmidt probabilities of every aligned block of 2^level pixels against the rest, descending.

        Args:
            level: 0 (one pixel) to L-1 (half the image).

        Returns:
            Probabilities p of the N / 2^level blocks, left to right; `rank` = d_level + 1 bounds their Schmidt rank.
            Probabilities below 2e-15 of the largest cannot be told from round-off and are zero.

        Raises:
            InputError: no such level.
        """
        if not 0 <= level < self.num_levels:
            raise InputError(
                f"level={level}: a state of {self.num_sites} pixels can be cut at levels 0 (one pixel) "
                f"to {self.num_levels - 1} (half the image)"
            )
        return self._spectra(level, num_levels=1)[0]

    def schmidt_spectrum(self) -> Float[Tensor, "classes rank"]:
        """Return the Schmidt probabilities p of half the image against the other half, descending (eq. 40, 45)."""
        return self.block_spectra(self.num_levels - 1)[:, 0]

    def entanglement_entropy(self) -> Float[Tensor, " classes"]:
        """Return the entanglement entropy of half the image with the other half, nats (eq. 38)."""
        return von_neumann_entropy(self.schmidt_spectrum())

    def renyi_entropy(self, alpha: int | float) -> Float[Tensor, " classes"]:
        """Return the Rényi entropy log(sum p^alpha) / (1 - alpha) of half the image with the other half, nats.

        Args:
            alpha: order, from 0 to infinity; 1 is the entanglement entropy. Below 1 the smallest Schmidt probabilities
                count, of which those below 2e-15 of the largest are lost to round-off.

        Raises:
            InputError: alpha is negative or not a number.
        """
        return renyi_entropy(self.schmidt_spectrum(), alpha)

    def effective_schmidt_rank(self) -> Float[Tensor, " classes"]:
        """Return exp(S): how many equal Schmidt values have the state's half-image entanglement entropy S."""
        return self.entanglement_entropy().exp()

    def block_entropies(self, level: int) -> Float[Tensor, "classes blocks"]:
        """Return the entanglement entropy of every aligned block of 2^level pixels with the rest, nats, left to right.

        Args:
            level: 0 (one pixel) to L-1 (half the image).

        Raises:
            InputError: no such level.
        """
        return von_neumann_entropy(self.block_spectra(level))

    def entropy_profile(self) -> Float[Tensor, "classes levels"]:
        """Return the mean entropy of the blocks of 2^l pixels, nats, for l = 0 .. L-1."""
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
            # Both halves of a pure state have one spectrum.
            half = cut_spectrum(top.below, image.of_child(top, side=0))
            distinct.append(half.repeat_interleave(len(top.mapped), dim=0))
        return [self._of_all_blocks(spectra, level) for level, spectra in enumerate(distinct, start=lowest)]

    def _of_all_blocks(self, distinct: Float[Tensor, "_ _"], level: int) -> Float[Tensor, "classes _ _"]:
        """Repeat the spectra of blocks that share their tensors all the way up."""
        matrices = [len(tensor) for tensor in reversed(self.site_tensors[level:])]
        by_path = distinct.unflatten(0, (self.num_classes, *matrices))
        return by_path.expand(-1, *(2 for _ in matrices), -1).flatten(1, -2)

    def amplitude(self, x: Tensor) -> Float[Tensor, "batch classes"]:
        """Return alpha_y(x) = <x|Psi_y>, the network's output in evaluation (eq. 31).

        Args:
            x: (batch, N) pixels, uint8 grey levels or floats in [0, 1].

        Raises:
            InputError: x has another shape, dtype or range.
        """
        return times_power_of_two(*self._scaled_amplitude(x))

    def conditional_probability(self, x: Tensor) -> Float[Tensor, "batch classes"]:
        """Return p(y|x) = alpha_y(x)^2 / sum_y' alpha_y'(x)^2 (eq. 34), also where the amplitudes over- or underflow.

        Args:
            x: (batch, N) pixels, uint8 grey levels or floats in [0, 1].

        Returns:
            Probabilities of the classes; not a number for an image on which every amplitude vanishes.

        Raises:
            InputError: x has another shape, dtype or range.
        """
        amplitude, exponent = self._scaled_amplitude(x)
        magnitude = torch.where(amplitude.detach() != 0, binary_exponent(amplitude) + exponent, -(2**62))
        weights = times_power_of_two(amplitude, exponent - magnitude.amax(-1, keepdim=True)).square()
        return weights / weights.sum(-1, keepdim=True)

    def log_amplitude(self, x: Tensor) -> tuple[Float[Tensor, "batch classes"], Float[Tensor, "batch classes"]]:
        """Return log |<x|Psi_y>| and the sign of <x|Psi_y>, -1, 0 or 1, also where amplitudes over- or underflow.

        Args:
            x: (batch, N) pixels, uint8 grey levels or floats in [0, 1].

        Raises:
            InputError: x has another shape, dtype or range.
        """
        amplitude, exponent = self._scaled_amplitude(x)
        return amplitude.abs().log() + math.log(2) * exponent, amplitude.sign()

    def _scaled_amplitude(self, x: Tensor) -> tuple[Float[Tensor, "batch classes"], Int[Tensor, "batch classes"]]:
        """Return amplitudes without, and the exponents of, their powers of two.

        Powers of two are taken out of every channel, for the site tensors may make all features of a channel large or
        small, and out of every site of every image, for images differ.
        """
        check_images(x, self.num_sites)
        # In float64, the features of a whole test set would fill the memory.
        contracted = [self._contract(self.represent(images)) for images in x.split(IMAGES_AT_A_TIME)]
        amplitudes, exponents = zip(*contracted, strict=True)
        return torch.cat(amplitudes), torch.cat(exponents)

    def _contract(
        self, features: Float[Tensor, "batch sites functions"]
    ) -> tuple[Float[Tensor, "batch classes"], Int[Tensor, "batch classes"]]:
        """Contract represented images with the tree, from the pixels to the classes."""
        channel_exponent = features.new_zeros(features.shape[-1], dtype=torch.int64)
        site_exponent = features.new_zeros(features.shape[:-1], dtype=torch.int64)
        for site_tensor in self.site_tensors:
            balanced, row_exponent = take_out_powers_of_two(site_tensor, channel_exponent)
            left = functional.linear(features[:, 0::2], balanced[0])
            right = functional.linear(features[:, 1::2], balanced[-1])
            features = left * right
            channel_exponent = row_exponent[0] + row_exponent[-1]
            site_exponent = site_exponent[:, 0::2] + site_exponent[:, 1::2]

            shift = binary_exponent(features.detach().abs().amax(-1))
            features = times_power_of_two(features, -shift.unsqueeze(-1))
            site_exponent = site_exponent + shift
            shift = binary_exponent(features.detach().abs().amax((0, 1)))
            features = times_power_of_two(features, -shift)
            channel_exponent = channel_exponent + shift
        balanced, row_exponent = take_out_powers_of_two(self.top, channel_exponent)
        return functional.linear(features[:, 0], balanced), site_exponent + row_exponent

    def represent(self, x: Tensor) -> Float[Tensor, "batch sites functions"]:
        """Return <x| in the local basis, constant function first (eq. 23).

        Args:
            x: (batch, N) pixels, uint8 grey levels or floats in [0, 1].

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
        """Return the state vectors Psi_{y; i_1 .. i_N}, flattened with i_1 slowest (eq. 30); for small systems only.

        Raises:
            InputError: the vectors of one block, (d_0 + 1)^N entries each, would take more than 2^24 numbers.
        """
        local_dimension = self.channels[0] + 1
        size = max(self.channels[-1] + 1, self.num_classes) * local_dimension**self.num_sites
        if size > LARGEST_DENSE_SIZE:
            raise InputError(
                f"the state vectors have {local_dimension}^{self.num_sites} entries each: dense() is for small "
                f"systems, up to {LARGEST_DENSE_SIZE} numbers in all"
            )
        states = torch.eye(local_dimension, dtype=self.top.dtype, device=self.top.device)
        for site_tensor in self.site_tensors:
            left, right = site_tensor[0] @ states, site_tensor[-1] @ states
            states = (left.unsqueeze(-1) * right.unsqueeze(-2)).flatten(1)
        return self.top @ states

    def save(self, path: str | Path) -> None:
        """Write the state to a safetensors file: site_tensor_0 .. site_tensor_{L-1}, top, and the basis as metadata.

        Raises:
            InputError: the file cannot be written.
        """
        tensors = {f"site_tensor_{level}": tensor for level, tensor in enumerate(self.site_tensors)} | {"top": self.top}
        content = save(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            metadata={"format": FILE_FORMAT, "basis": self.basis.name, "num_levels": str(self.num_levels)},
        )
        replace_atomically(Path(path), content)

    @classmethod
    def load(cls, path: str | Path) -> "NetworkState":
        """Read a state that `save` wrote.

        Raises:
            InputError: the file is missing, is not a safetensors file, or does not hold a state.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != FILE_FORMAT:
                    raise InputError(f"{path}: a safetensors file, but not one that NetworkState.save wrote")
                site_tensors = [file.get_tensor(f"site_tensor_{level}") for level in range(int(metadata["num_levels"]))]
                return cls(site_tensors, file.get_tensor("top"), basis=metadata["basis"])
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path}: not a state that can be read: {error}") from error


def _check_tensors(site_tensors: Sequence[Any], top: Any) -> None:
    """Raise InputError unless the tensors make a tree tensor network."""
    if not len(site_tensors):
        raise InputError("site_tensors is empty: a state has at least one level, two pixels")
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
                "s = 1 matrix for all sites or s = 2, one each for left and right children"
            )
    if top.ndim != 2 or not len(top):
        raise InputError(f"top has shape {tuple(top.shape)}: expected (classes, d_L + 1)")
    for (name, tensor), (name_above, above) in itertools.pairwise(named):
        if tensor.shape[1] != above.shape[-1]:
            raise InputError(
                f"{name_above} has shape {tuple(above.shape)}: its last dimension must be {tensor.shape[1]}, the "
                f"number of rows of {name}, which has shape {tuple(tensor.shape)}"
            )
