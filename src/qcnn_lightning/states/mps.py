"""The states of a matrix product state, one per class: a tensor per site, and the classes on a tensor of their own.

Norms, overlaps, amplitudes, the entropies of all cuts, probabilities and samples, exact up to round-off in float64. The
mathematics is in `chain.py` and in theory.md, section A.
"""

import importlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Inexact, Int
from torch import Tensor

from qcnn_lightning.basis import make_basis
from qcnn_lightning.errors import InputError
from qcnn_lightning.pixels import Images, check_images, checked_white
from qcnn_lightning.states.chain import (
    carried_vectors,
    isometries,
    joined,
    overlaps_of_arms,
    overlaps_of_chains,
    rescaled,
    reversed_chain,
    schmidt_values,
)
from qcnn_lightning.states.chain_likelihood import ChainLikelihood
from qcnn_lightning.states.checks import as_tensor, check_chain, checked_label, checked_names
from qcnn_lightning.states.ensemble import check_comparable, checked_weights, summed_chains
from qcnn_lightning.states.entropy import renyi_entropy, spectrum_of_grams, von_neumann_entropy
from qcnn_lightning.states.gram import binary_exponent, times_power_of_two
from qcnn_lightning.states.layout import ImageLayout
from qcnn_lightning.states.state_file import MPS_STATE, StoredInFiles

IMAGES_AT_A_TIME = 500
LARGEST_DENSE_SIZE = 2**24


class MPSState(ChainLikelihood, StoredInFiles):
    """One quantum state per class: |Psi_y> = sum A_1 .. A_c T_y A_{c+1} .. A_N |f_i1 .. f_iN> (theory.md, eq. A1).

    Args:
        site_tensors: A_p, (left bond, local functions with the constant one, right bond), left to right; the outer
            bonds of the first and the last are 1.
        class_tensor: T, (left bond, classes, right bond).
        class_site: c, the sites to the left of T, from 0 to N.
        basis: local basis, as `make_basis` takes it.
        padding: whether a site has no pixel; such sites have the constant function alone and count in no probability.
        class_names: what the classes are called.
        layout: where the sites stand in the image.
        white: where the grey level 1 lies in the basis's interval [0, 1]; x lies at white x.

    All tensors are float64, or all complex128, and on one device, or NumPy arrays; gradients reach their origin.

    Raises:
        InputError: tensors that do not fit together, another dtype, entries that are not finite, or an unknown basis.
    """

    kind = MPS_STATE

    def __init__(
        self,
        site_tensors: Sequence[Tensor | np.ndarray],
        class_tensor: Tensor | np.ndarray,
        class_site: int,
        basis: str = "fourier",
        padding: Tensor | np.ndarray | None = None,
        class_names: Sequence[str] | None = None,
        layout: ImageLayout | None = None,
        white: int | float = 1.0,
    ):
        self.class_site = class_site
        self.class_tensor = as_tensor(class_tensor)
        tensors = tuple(as_tensor(tensor) for tensor in site_tensors)
        check_chain(tensors, self.class_tensor, class_site)
        self.basis, self.white = make_basis(basis, tensors[0].shape[1] - 1), checked_white(white)
        none = torch.zeros(len(tensors), dtype=torch.bool)
        self.padding: Tensor = (none if padding is None else as_tensor(padding)).to(self.class_tensor.device)
        if self.padding.shape != (len(tensors),) or self.padding.dtype != torch.bool or self.padding.all():
            raise InputError(f"padding: expected {len(tensors)} booleans, one a site, with a pixel at least at one")
        constant = torch.arange(tensors[0].shape[1], device=self.class_tensor.device)[:, None] == 0
        self.site_tensors = tuple(
            torch.where(constant, tensor, 0) if padded else tensor
            for tensor, padded in zip(tensors, self.padding.tolist(), strict=True)
        )
        self.num_sites, self.num_classes = len(tensors), self.class_tensor.shape[1]
        self.bond = max(tensor.shape[side] for tensor in (*tensors, self.class_tensor) for side in (0, 2))
        self._arms = list(self.site_tensors[:class_site]), reversed_chain(self.site_tensors[class_site:])
        self.class_names = checked_names(class_names, self.num_classes, layout, self.num_sites)
        self.layout = layout

    @classmethod
    def from_network(cls, network: Any) -> "MPSState":
        """Return the states of a network, differentiable.

        Args:
            network: an `MPS`, or any model with its `site_tensors()`, `basis`, `padding` and `white`.
        """
        tensors, class_tensor, left = network.site_tensors()
        return cls(tensors, class_tensor, left, network.basis.name, network.padding.cpu(), white=network.white)

    @classmethod
    def sum(cls, states: Sequence["MPSState"], weights: Sequence[float] | None = None) -> "MPSState":
        """Return sum_k c_k |Psi^(k)_y>: the state of an ensemble whose scores are averaged (theory.md, eq. A6).

        Bond dimensions add up.

        Args:
            states: with the same pixels, classes and basis, and their classes at the same place.
            weights: c_k; None for 1 / K each.

        Raises:
            InputError: the states do not fit together, or the weights are not as many.
        """
        tensors, class_tensor = summed_chains(states, checked_weights(states, weights))
        first = states[0]
        names = (first.class_names, first.layout)
        return cls(tensors, class_tensor, first.class_site, first.basis.name, first.padding, *names, first.white)

    def described(self, class_names: Sequence[str] | None, layout: ImageLayout | None) -> "MPSState":
        """Return the same states with these names of classes and this layout.

        Raises:
            InputError: they do not fit.
        """
        return self._with(self.class_tensor, class_names, layout)

    def _with(self, class_tensor: Tensor, class_names: Any, layout: ImageLayout | None) -> "MPSState":
        place, basis = self.class_site, self.basis.name
        return MPSState(self.site_tensors, class_tensor, place, basis, self.padding, class_names, layout, self.white)

    def __len__(self) -> int:
        return self.num_classes

    def __getitem__(self, classes: int | slice | Sequence[int] | Tensor | np.ndarray) -> "MPSState":
        chosen = np.arange(self.num_classes)[classes if isinstance(classes, slice) else np.asarray(classes)]
        labels = chosen.reshape(-1).tolist()
        names = None if self.class_names is None else [self.class_names[label] for label in labels]
        return self._with(self.class_tensor[:, labels], names, self.layout)

    @property
    def channels(self) -> tuple[int, ...]:
        """The local functions besides the constant one, then the bond dimensions of all cuts."""
        return (self.site_tensors[0].shape[1] - 1, *(tensor.shape[0] for tensor in self.site_tensors[1:]))

    def __repr__(self) -> str:
        return (
            f"MPSState(num_sites={self.num_sites}, num_classes={self.num_classes}, bond={self.bond}, "
            f"class_site={self.class_site}, basis={self.basis.name!r}, d={self.basis.num_functions})"
        )

    def log_norm(self) -> Float[Tensor, " classes"]:
        """Return log <Psi_y|Psi_y> (eq. 36); minus infinity for a state that vanishes."""
        norm, exponent = self._norms
        return norm.log() + math.log(2) * exponent.double()

    def log_partition(self) -> Float[Tensor, ""]:
        """Return log Z, Z = sum_y <Psi_y|Psi_y> (eq. 33)."""
        return self.log_norm().logsumexp(0)

    def overlaps(self, other: "MPSState | None" = None) -> Inexact[Tensor, "classes other_classes"]:
        """Return <Psi_y|Psi_y'> / sqrt(<Psi_y|Psi_y> <Psi_y'|Psi_y'>) (eq. 36); NaN where a state vanishes.

        Args:
            other: the states of another matrix product state of as many pixels; None for these.

        Raises:
            InputError: the other states have other pixels or another basis.
        """
        if other is not None:
            check_comparable(self, other)
        other = self if other is None else other
        gram, exponent = overlaps_of_chains(self, other)
        (norm, of_norm), (other_norm, of_other) = self._norms, other._norms
        excess = exponent.double() - (of_norm.unsqueeze(1) + of_other).double() / 2
        return gram * torch.exp2(excess) / torch.outer(norm.sqrt(), other_norm.sqrt())

    @property
    def _norms(self) -> tuple[Float[Tensor, " classes"], Int[Tensor, " classes"]]:
        gram, exponent = overlaps_of_chains(self, self)
        return gram.diagonal().real, exponent.diagonal()

    def schmidt_spectrum(self, cut: int | None = None) -> Float[Tensor, "classes rank"]:
        """Return the Schmidt probabilities p_k between the sites 1 .. cut and the others, descending (eq. 45).

        By canonical form: QR factorisations, no Gram matrix (theory.md, eq. A4). p_k of N rounding errors are zero.
        Where a gradient is asked for, the spectrum comes from Gram matrices, whose eigenvalues are differentiated
        (theory.md, eq. D1).

        Args:
            cut: from 1 to N - 1; None for N / 2, the halves of the image.

        Raises:
            InputError: no such cut.
        """
        cut = self.num_sites // 2 if cut is None else cut
        if not 1 <= cut < self.num_sites:
            raise InputError(f"cut={cut}: expected 1 to {self.num_sites - 1}, the sites to its left")
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (*self.site_tensors, self.class_tensor)):
            return self._differentiable_spectrum(cut)
        return next(spectrum for place, spectrum in self._spectra() if place == cut)

    def entanglement_entropy(self, cut: int | None = None) -> Float[Tensor, " classes"]:
        """Return S = -sum_k p_k log p_k of a cut, nats (eq. 38, 44); `schmidt_spectrum` says which."""
        return von_neumann_entropy(self.schmidt_spectrum(cut))

    def renyi_entropy(self, alpha: int | float, cut: int | None = None) -> Float[Tensor, " classes"]:
        """Return the Rényi entropy of order alpha of a cut, nats; `schmidt_spectrum` says which.

        Raises:
            InputError: alpha is negative or NaN, or there is no such cut.
        """
        return renyi_entropy(self.schmidt_spectrum(cut), alpha)

    @torch.no_grad()
    def cut_entropies(self, alpha: int | float = 1) -> Float[Tensor, "classes cuts"]:
        """Return the Rényi entropies of all N - 1 cuts, from left to right, nats.

        Args:
            alpha: order; 1 is the entanglement entropy.

        Raises:
            InputError: alpha is negative or NaN.
        """
        by_cut = {cut: renyi_entropy(spectrum, alpha) for cut, spectrum in self._spectra()}
        return torch.stack([by_cut[cut] for cut in range(1, self.num_sites)], dim=-1)

    @torch.no_grad()
    def _spectra(self) -> Iterator[tuple[int, Float[Tensor, "classes rank"]]]:
        """Yield every cut and its Schmidt probabilities, from the class's tensor outwards, left and then right."""
        (left, of_left), (right, of_right) = (isometries(arm, self.class_tensor) for arm in self._arms)
        centre = torch.einsum("al,lyr,br->yab", of_left, self.class_tensor, of_right)
        centre = rescaled(centre)[0]
        outwards = [
            *((self.class_site - step, values) for step, values in enumerate(schmidt_values(left, centre))),
            *((self.class_site + step, values) for step, values in enumerate(schmidt_values(right, centre.mT)) if step),
        ]
        for cut, values in outwards:
            if 0 < cut < self.num_sites:
                round_off = torch.finfo(values.dtype).eps * self.num_sites
                weights = torch.where(values > round_off * values[:, :1], values, 0).square()
                yield cut, weights / weights.sum(-1, keepdim=True)

    def _differentiable_spectrum(self, cut: int) -> Float[Tensor, "classes rank"]:
        if cut > self.class_site:
            return self._mirrored()._differentiable_spectrum(self.num_sites - cut)
        left, right = self._arms
        of_class = self.class_tensor
        block, _ = overlaps_of_arms(left[:cut], left[:cut], of_class)
        outside, _ = overlaps_of_arms(right, right, of_class)
        outside, _ = rescaled(torch.einsum("lyr,rs,mys->ylm", of_class.conj(), outside, of_class))
        for tensor in reversed(left[cut:]):
            outside, _ = rescaled(joined(outside, tensor.permute(2, 1, 0), tensor.permute(2, 1, 0)))
        return spectrum_of_grams(block.conj(), outside)

    def _mirrored(self) -> "MPSState":
        """Return the states with the sites from right to left."""
        place = self.num_sites - self.class_site
        tensors, class_tensor = reversed_chain(self.site_tensors), self.class_tensor.permute(2, 1, 0)
        return MPSState(tensors, class_tensor, place, self.basis.name, self.padding.flip(0), white=self.white)

    def log_amplitude(self, x: Images) -> tuple[Float[Tensor, "batch classes"], Inexact[Tensor, "batch classes"]]:
        """Return log |<x|Psi_y>| and the sign of <x|Psi_y> (-1, 0, 1), or the phase of a complex one (eq. 31).

        Amplitudes may over- or underflow.

        Args:
            x: (batch, N) grey levels in tree order, uint8 or floats in [0, 1].

        Raises:
            InputError: x has another shape, dtype or range, or grey levels that the basis does not have.
        """
        amplitude, exponent = self._amplitudes(self.represent(x))
        return amplitude.abs().log() + math.log(2) * exponent.double().unsqueeze(-1), amplitude.sgn()

    def amplitude(self, x: Images) -> Inexact[Tensor, "batch classes"]:
        """Return alpha_y(x) = <x|Psi_y>, the scores (eq. 31); `log_amplitude` says what x is."""
        amplitude, exponent = self._amplitudes(self.represent(x))
        return times_power_of_two(amplitude, exponent.unsqueeze(-1))

    def _amplitudes(
        self, features: Inexact[Tensor, "batch sites local"]
    ) -> tuple[Inexact[Tensor, "batch classes"], Int[Tensor, " batch"]]:
        left, right = self._arms
        parts = []
        for part in features.split(IMAGES_AT_A_TIME):
            chain = part.transpose(0, 1)
            inner, of_inner = carried_vectors(left, chain[: len(left)])
            outer, of_outer = carried_vectors(right, chain[len(left) :].flip(0))
            parts.append((torch.einsum("bl,lyr,br->by", inner, self.class_tensor, outer), of_inner + of_outer))
        amplitudes, exponents = zip(*parts, strict=True)
        return torch.cat(amplitudes), torch.cat(exponents)

    def represent(self, x: Images) -> Inexact[Tensor, "batch sites local"]:
        """Return f_i(x_p), i = 0 .. d_0, of every pixel; f_0 alone at sites without one.

        Raises:
            InputError: x has another shape, dtype or range, or grey levels that the basis does not have.
        """
        x = torch.as_tensor(x)
        check_images(x, self.num_sites, self.basis)
        return self._known(x)[0]

    def chain(self, label: int) -> list[Inexact[Tensor, "_ _ _"]]:
        """Return |Psi_y> as a matrix product state of N tensors, the class's matrix in one of them.

        Raises:
            InputError: there is no such class.
        """
        checked_label(label, self.num_classes)
        tensors, of_class = list(self.site_tensors), self.class_tensor[:, label]
        if self.class_site:
            tensors[self.class_site - 1] = tensors[self.class_site - 1] @ of_class
        else:
            tensors[0] = torch.tensordot(of_class, tensors[0], 1)
        return tensors

    def dense(self) -> Inexact[Tensor, "classes dimension"]:
        """Return the state vectors, flattened with the first site slowest (eq. 27, 30); small systems only.

        Raises:
            InputError: they would be more than 2^24 numbers.
        """
        local = self.site_tensors[0].shape[1]
        if self.num_classes * self.bond * local**self.num_sites > LARGEST_DENSE_SIZE:
            raise InputError(
                f"the state vectors have {local}^{self.num_sites} entries each: dense() takes small systems, up to "
                f"{LARGEST_DENSE_SIZE} numbers in all"
            )
        vectors = []
        for label in range(self.num_classes):
            vector = self.class_tensor.new_ones(1, 1)
            for tensor in self.chain(label):
                vector = torch.tensordot(vector, tensor, 1).flatten(0, 1)
            vectors.append(vector.squeeze(1))
        return torch.stack(vectors)

    @torch.no_grad()
    def to_quimb(self, label: int) -> Any:
        """Return |Psi_y> as a `quimb.tensor.MatrixProductState` of NumPy arrays.

        Its sites are 0 .. N-1, with outer indices k0, k1, .. of the local basis. Arrays have entries of order 1; the
        rest of the norm is in the network's `exponent`, a power of ten.

        Raises:
            InputError: quimb is not installed, or there is no such class.
        """
        try:
            qtn = importlib.import_module("quimb.tensor")
        except ImportError as error:
            raise InputError("to_quimb() needs quimb: pip install 'qcnn-lightning[quimb]'") from error
        arrays, exponent = [], 0
        for place, tensor in enumerate(self.chain(label)):
            shift = int(binary_exponent(tensor.abs().max()))
            scaled = times_power_of_two(tensor, torch.tensor(-shift))
            exponent += shift
            scaled = scaled.squeeze(0) if place == 0 else scaled
            arrays.append((scaled.squeeze(-1) if place == self.num_sites - 1 else scaled).numpy(force=True))
        network = qtn.MatrixProductState(arrays, shape="lpr")
        network.exponent = exponent * math.log10(2)
        return network
