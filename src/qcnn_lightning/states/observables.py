"""What else can be asked of a tree of block states: few pixels, any region, orders of interaction, perfect samples.

Methods of `NetworkState`; the mathematics is in the modules that they call. They compute without gradients.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from qcnn_lightning.basis import Basis, quadrature
from qcnn_lightning.errors import InputError
from qcnn_lightning.states.amplitudes import contract
from qcnn_lightning.states.checks import checked_label
from qcnn_lightning.states.dense_tree import BecomesDenseTree, DenseTreeState, dense_tensors
from qcnn_lightning.states.entropy import renyi_entropy
from qcnn_lightning.states.gram import Tree, build_tree
from qcnn_lightning.states.layout import ImageLayout
from qcnn_lightning.states.mutual_information import mutual_information_map, region_spectrum
from qcnn_lightning.states.open_blocks import blocks_fit, density_matrices, pixel_density_matrices
from qcnn_lightning.states.polynomial import interaction_order, orders_fit
from qcnn_lightning.states.regions import Region, aligned_blocks, blocks_as_given, sites_of
from qcnn_lightning.states.renyi import four_legs_fit, purity
from qcnn_lightning.states.sampling import perfect_samples, swap_estimate
from qcnn_lightning.states.selection import channels_for, selected
from qcnn_lightning.states.tree_sizes import TreeSizes

SAMPLES = 4096


class Estimate(NamedTuple):
    """A number per class, and its standard error: 0 where the number is exact.

    Attributes:
        value: (classes,).
        standard_error: (classes,).
    """

    value: Tensor
    standard_error: Tensor


class Observables(TreeSizes, BecomesDenseTree):
    """Methods of a state with site tensors and a top."""

    basis: Basis
    white: float
    class_names: tuple[str, ...] | None
    layout: ImageLayout | None
    entanglement_entropy: Callable[[], Tensor]
    _local_functions: Callable[[Tensor], Tensor]
    _of_all_blocks: Callable[[Tensor, int], Tensor]

    @property
    def channels(self) -> tuple[int, ...]:
        """d_0 .. d_L, without the constant channel."""
        return tuple(tensor.shape[-1] - 1 for tensor in (*self.site_tensors, self.top))

    @property
    def sharing(self) -> str:
        """As the network's: "full", "sibling", or "mixed" where that depends on the level."""
        matrices = {len(tensor) for tensor in self.site_tensors}
        return "full" if matrices == {1} else "sibling" if matrices == {2} else "mixed"

    def facts(self) -> dict[str, Any]:
        """Return what the state is: sites, classes, channels, basis, sharing."""
        facts = {name: getattr(self, name) for name in ("num_sites", "num_classes", "channels")}
        return facts | {"basis": self.basis.name, "white": self.white, "sharing": self.sharing}

    def __repr__(self) -> str:
        return f"NetworkState({', '.join(f'{name}={value!r}' for name, value in self.facts().items())})"

    def _repr_html_(self) -> str:
        from qcnn_lightning.notebook import state_html

        return state_html(self)

    def _tree(self) -> Tree:
        return self.blocks_by(lambda: build_tree(self.site_tensors, self.top))

    def effective_schmidt_rank(self) -> Float[Tensor, " classes"]:
        """Return e^S with S between the two halves of the image: so many equal Schmidt values have this entropy."""
        return self.entanglement_entropy().exp()

    @torch.no_grad()
    def reduced_density_matrix(self, blocks: Any) -> Float[Tensor, "classes dimension dimension"]:
        """Return rho_y = Tr_rest |Psi_y><Psi_y| / <Psi_y|Psi_y> of some pixels or aligned blocks (eq. 37).

        A pixel's index is that of the local functions f_0 .. f_d0. A block's is that of an orthonormal basis of the
        span of its states, the constant state first (`states/open_blocks.py`, `components`).

        Args:
            blocks: a pixel, or a list of pixels (integers) and blocks (`range(8, 16)`), in the order of the matrix's
                indices, the first one slowest.

        Raises:
            InputError: a pixel does not exist or comes twice, a range is no aligned block, or the matrix would have
                more than 4096 rows.
        """
        return density_matrices(self._tree(), blocks_as_given(blocks, self.num_sites))

    @torch.no_grad()
    def region_entropy(self, region: Region, alpha: int | float = 1) -> Float[Tensor, " classes"]:
        """Return the Rényi entropy of any region with all other pixels, nats; of order 1 it is von Neumann's (eq. 38).

        Args:
            region: pixels: a number, a range, an array, or a list of these.
            alpha: order, from 0 to infinity.

        Raises:
            InputError: as `reduced_density_matrix`, if neither the density matrix of the region's aligned blocks nor
                that of the other pixels' fits.
        """
        return renyi_entropy(region_spectrum(self._tree(), sites_of(region, self.num_sites)), alpha)

    def mutual_information(self, a: Region, b: Region) -> Float[Tensor, " classes"]:
        """Return S_a + S_b - S_ab of two regions, nats (theory.md, eq. R5).

        Args:
            a: pixels, as `region_entropy` takes them.
            b: other pixels.

        Raises:
            InputError: as `region_entropy`, or a pixel is in both.
        """
        both = (*sites_of(a, self.num_sites), *sites_of(b, self.num_sites))
        return self.region_entropy(a) + self.region_entropy(b) - self.region_entropy(both)

    @torch.no_grad()
    def mutual_information_map(self, site: Region) -> Float[Tensor, "classes sites"]:
        """Return the mutual information of a pixel with every other pixel, nats; NaN at the pixel itself.

        Exact to about 1e-12 nats. `state.layout.on_image` makes it a picture.

        Args:
            site: the pixel.

        Raises:
            InputError: there is no such pixel, or these are several.
        """
        sites = sites_of(site, self.num_sites)
        if len(sites) != 1:
            raise InputError(f"site={site}: expected one pixel; mutual_information compares regions")
        return mutual_information_map(self._tree(), sites[0])

    @torch.no_grad()
    def renyi_2(self, region: Region, num_samples: int | None = None, seed: int = 0) -> Estimate:
        """Return the Rényi entropy -log tr rho^2 of any region with all other pixels, nats (theory.md, eq. V1, V2).

        Exact where the aligned blocks of the region, or of the other pixels, fit into a density matrix, or a recursion
        with four legs fits into memory: (d_l + 2)^4 <= 2^25 above the smallest of these blocks. Else estimated from
        perfect samples.

        Args:
            region: pixels, as `region_entropy` takes them.
            num_samples: pairs of samples; None is exact if possible, else 4096. The standard error of tr rho^2 is at
                most 1 / sqrt(num_samples), so the entropies that can be estimated are at most about its logarithm.
            seed: of the samples.

        Returns:
            The entropies and their standard errors, 0 where they are exact. NaN where the estimate of tr rho^2 is not
            positive: too few samples.

        Raises:
            InputError: a pixel does not exist or comes twice, or there are fewer than two pairs of samples.
        """
        if num_samples is not None and num_samples < 2:
            raise InputError(f"num_samples={num_samples}: a standard error needs at least 2 pairs of samples")
        sites, tree = sites_of(region, self.num_sites), self._tree()
        if num_samples is None:
            others = set(range(self.num_sites)) - set(sites)
            if not others or any(blocks_fit(tree, aligned_blocks(part)) for part in (sites, others)):
                entropy = renyi_entropy(region_spectrum(tree, sites), 2)
                return Estimate(entropy, torch.zeros_like(entropy))
            if four_legs_fit(tree, sites):
                entropy = 0.0 - purity(tree, sites).log()  # not -0.0
                return Estimate(entropy, torch.zeros_like(entropy))
        pairs = SAMPLES if num_samples is None else num_samples
        generator = torch.Generator(self.top.device).manual_seed(seed)
        unit_vectors = torch.eye(self.site_tensors[0].shape[-1], dtype=self.top.dtype, device=self.top.device)
        means, errors = [], []
        for label in range(self.num_classes):
            samples = perfect_samples(tree, label, unit_vectors, 2 * pairs, generator)
            mean, error = swap_estimate(samples, self._component(label, unit_vectors), sites)
            means.append(mean)
            errors.append(error)
        mean, error = torch.stack(means), torch.stack(errors)
        return Estimate(torch.where(mean > 0, 0.0 - mean.log(), torch.nan), error / mean.abs())

    def _component(self, label: int, outcomes: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """Return a function from outcomes k of all pixels to a and e with <v_k1 .. v_kN|Psi_y> = a 2^e."""

        def amplitude(k: Int64[Tensor, "samples sites"]) -> tuple[Tensor, Tensor]:
            parts = [contract(self.site_tensors, self.top[label : label + 1], outcomes[some]) for some in k.split(500)]
            return tuple(torch.cat(part).squeeze(1) for part in zip(*parts, strict=True))  # type: ignore[return-value]

        return amplitude

    @torch.no_grad()
    def sample(self, label: int, num_samples: int, seed: int = 0) -> Float[Tensor, "samples sites"]:
        """Draw images with density |<x|Psi_y>|^2 / <Psi_y|Psi_y> (eq. 32), independent of each other.

        Grey levels are those of the basis, or the 256 points of Gauss's quadrature. It integrates products of two
        local functions exactly, so the means of such functions are exact. With `white` below 1, they are points x of
        the basis's whole interval [0, 1], where grey level g lies at x = white g.

        Args:
            label: y.
            num_samples: how many.
            seed: of the samples.

        Raises:
            InputError: no such class, no samples, or the basis has functions that the quadrature does not integrate.
        """
        label = range(self.num_classes)[checked_label(label, self.num_classes)]
        points, weights = quadrature(self.basis, self.top)
        outcomes = self._local_functions(points) * weights.sqrt().unsqueeze(-1)
        generator = torch.Generator(self.top.device).manual_seed(seed)
        return points[perfect_samples(self._tree(), label, outcomes, num_samples, generator)]

    @torch.no_grad()
    def pixel_density_matrices(self) -> Float[Tensor, "classes sites local local"]:
        """Return the reduced density matrix of every pixel, in the local functions f_0 .. f_d0 (eq. 37)."""
        distinct = pixel_density_matrices(self._tree())
        return self._of_all_blocks(distinct.flatten(1), 0).unflatten(-1, distinct.shape[1:])

    @torch.no_grad()
    def marginal_densities(self, x: Tensor | np.ndarray) -> Float[Tensor, "classes sites points"]:
        """Return the density of every pixel's grey level, sum_ij rho_ij f_i(x) f_j(x) (theory.md, eq. R6).

        Args:
            x: (points,) points of the basis's interval [0, 1], where grey level g lies at x = white g.

        Raises:
            InputError: a point lies outside of it.
        """
        points = torch.as_tensor(x).to(self.top)
        if not ((points >= 0) & (points <= 1)).all():
            raise InputError(f"x={x}: expected points of the basis's interval [0, 1]")
        functions = self._local_functions(points)
        return torch.einsum("ysij,xi,xj->ysx", self.pixel_density_matrices(), functions, functions)

    @torch.no_grad()
    def grey_level_moments(self) -> tuple[Float[Tensor, "classes sites"], Float[Tensor, "classes sites"]]:
        """Return mean and variance of every pixel's grey level in [0, 1] (theory.md, eq. R6).

        With `white` below 1, they are of the point x of the basis's interval, where grey level g lies at x = white g.
        """
        points, weights = quadrature(self.basis, self.top)
        density = self.marginal_densities(points) * weights
        mean = density @ points
        return mean, ((points - mean.unsqueeze(-1)).square() * density).sum(-1)

    @torch.no_grad()
    def interaction_order(self) -> Float[Tensor, "classes orders"]:
        """Return the weights w_0 .. w_N of the terms that involve exactly k pixels, with sum 1 (theory.md, eq. W1).

        A term of |Psi_y> = sum Psi_i1..iN |f_i1 .. f_iN> involves the pixels with i > 0; f_0 = 1 is the constant.
        Every order keeps its own digits, however small its weight: no order is computed as a difference of others. The
        relative error of w_k is about 1e-15 times the square of the factor by which terms of order k cancel in the
        network: 1e-13 in ordinary ones. Weights below 1e-308 are zero.

        Raises:
            InputError: (d_l + 1)^2 2^l polynomials' coefficients of some level l would be more than 2^26.
        """
        if not orders_fit(self.channels):
            raise InputError(f"channels={self.channels}: the polynomials of this state's orders do not fit into memory")
        return interaction_order(self._tree())

    @torch.no_grad()
    def compress(
        self, images: Tensor | np.ndarray, parameters: int | float | None = None, channels: Sequence[int] | None = None
    ) -> Any:
        """Return states with fewer channels whose amplitudes on images are close to these, up to one factor.

        Args:
            images: (batch, N) training images in tree order, some hundreds or more (`states/selection.py`).
            parameters: how many numbers the tensors shall have at most; the same part of the channels of all levels
                stays.
            channels: or the numbers of channels that enter levels 1 .. L, without the constant one.

        Raises:
            InputError: not one of `parameters` and `channels` is given, or it cannot be; or x is no image.
        """
        if (parameters is None) == (channels is None):
            raise InputError(f"give one of parameters and channels; given: {parameters=}, {channels=}")
        if channels is not None and (len(channels) != self.num_levels or min(channels) < 1):
            raise InputError(f"channels={list(channels)}: expected {self.num_levels} numbers of at least 1")
        kept = channels_for(self, float(parameters or 0)) if channels is None else [number + 1 for number in channels]
        tensors = selected(self, torch.as_tensor(images), kept)
        return type(self)(*tensors, self.basis.name, self.class_names, self.layout, self.white)  # type: ignore[call-arg]

    def to_dense_tree(self) -> DenseTreeState:
        """Return the same states as a tree of dense tensors with three legs; `from_dense_tree` is the way back."""
        tensors = dense_tensors(self.site_tensors)
        return DenseTreeState(tensors, self.top, self.basis.name, self.class_names, self.layout, self.white)
