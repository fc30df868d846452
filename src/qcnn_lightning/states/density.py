"""The states of a density: p(y, x) = <x|Psi_y>^2 / Z, with norms, entropies, conditionals and samples (eq. 32, 33).

Every node of the tree may have matrices of its own. All is exact up to round-off in float64.
"""

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Inexact, Int
from torch import Tensor

from qcnn_lightning.basis import log_levels, make_basis, quadrature
from qcnn_lightning.errors import InputError
from qcnn_lightning.pixels import check_images, checked_white
from qcnn_lightning.states.checks import as_tensor, check_tensors, checked_label, checked_names
from qcnn_lightning.states.conditional import Given, Sampler, environments, given_pixels
from qcnn_lightning.states.dense_tree import BecomesDenseTree, DenseTreeState, dense_tensors
from qcnn_lightning.states.density_entropies import DensityEntropies
from qcnn_lightning.states.ensemble import check_comparable
from qcnn_lightning.states.gram import binary_exponent, times_power_of_two
from qcnn_lightning.states.layout import ImageLayout
from qcnn_lightning.states.likelihood import Images, Likelihood, check_possible, known_pixels, observed_images
from qcnn_lightning.states.node_tree import NodeTree, amplitudes, build_node_tree, log_density, overlaps_between_trees
from qcnn_lightning.states.state_file import DENSITY_STATE, StoredInFiles

NUMBERS_AT_A_TIME = 2**25
"""Numbers in the block states of the images of a part: 0.25 GB."""


class DensityState(Likelihood, DensityEntropies, BecomesDenseTree, StoredInFiles):
    """One quantum state per class, of a tree with matrices of its own at every node, or shared ones.

    Args:
        site_tensors: level l has the shape (s, d_{l+1}, d_l), d_0 local functions with the constant one; s = 1 matrix
            for all nodes, 2 for left and right children, or N / 2^l for one at every node. float64 or complex128.
        top: ã^(L), (classes, d_L).
        basis: local basis, as `make_basis` takes it.
        padding: whether a site has no pixel; such sites have the constant function alone and count in no probability.
        class_names: what the classes are called.
        layout: where the sites stand in the image.
        white: where the grey level 1 lies in the basis's interval [0, 1].
        local: orthonormal rows: the d_0 local functions as combinations of f_0, f_1, ... of the basis, if they are
            a few of many; None for f_0, f_1, ... themselves. A site without a pixel has the first one alone.

    Raises:
        InputError: as `NetworkState`, a padding that does not fit, or a `local` that is not orthonormal.
    """

    kind = DENSITY_STATE

    def __init__(
        self,
        site_tensors: Sequence[Tensor | np.ndarray],
        top: Tensor | np.ndarray,
        basis: str = "levels",
        padding: Tensor | np.ndarray | None = None,
        class_names: Sequence[str] | None = None,
        layout: ImageLayout | None = None,
        white: int | float = 1.0,
        local: Tensor | np.ndarray | None = None,
    ):
        self.site_tensors = tuple(as_tensor(tensor) for tensor in site_tensors)
        self.top = as_tensor(top)
        check_tensors(self.site_tensors, self.top, own_matrices=True)
        self.local: Tensor = self._checked_local(as_tensor(local))
        self.basis, self.white = make_basis(basis, self.local.shape[1] - 1), checked_white(white)
        none = torch.zeros(self.num_sites, dtype=torch.bool)
        self.padding: Tensor = (none if padding is None else as_tensor(padding)).to(self.top.device)
        if self.padding.shape != (self.num_sites,) or self.padding.dtype != torch.bool or self.padding.all():
            raise InputError(f"padding: expected {self.num_sites} booleans, one a site, with a pixel at least at one")
        self.class_names = checked_names(class_names, self.num_classes, layout, self.num_sites)
        self.layout = layout

    def _checked_local(self, local: Tensor | None) -> Float[Tensor, "local functions"]:
        functions = self.site_tensors[0].shape[-1]
        identity = torch.eye(functions, dtype=torch.float64, device=self.top.device)
        if local is None:
            return identity
        local = local.to(identity)
        if local.ndim != 2 or len(local) != functions or not torch.allclose(local @ local.mT, identity, atol=1e-8):
            raise InputError(f"local has shape {tuple(local.shape)}: expected {functions} orthonormal rows")
        return local

    @property
    def channels(self) -> tuple[int, ...]:
        """d_0 .. d_L, the constant function included."""
        return tuple(tensor.shape[-1] for tensor in (*self.site_tensors, self.top))

    def __repr__(self) -> str:
        matrices = [len(tensor) for tensor in self.site_tensors]
        return (
            f"DensityState(num_sites={self.num_sites}, num_classes={self.num_classes}, channels={self.channels}, "
            f"basis={self.basis.name!r}, matrices={matrices})"
        )

    def described(self, class_names: Sequence[str] | None, layout: ImageLayout | None) -> "DensityState":
        """Return the same states with these names of classes and this layout.

        Raises:
            InputError: they do not fit.
        """
        given = (self.site_tensors, self.top, self.basis.name, self.padding)
        return DensityState(*given, class_names, layout, self.white, self.local)

    def to_dense_tree(self) -> DenseTreeState:
        """Return the same states as a tree of dense tensors with three legs.

        It has all local functions of the basis; sites without a pixel have the constant one, as here.
        """
        first = self.site_tensors[0]
        of_basis = first @ self.local.to(first)
        if self.padding.any():
            alone = torch.zeros_like(of_basis)
            alone[..., 0] = first[..., 0]
            alone, of_basis = (one.repeat(self.num_sites // len(first), 1, 1) for one in (alone, of_basis))
            of_basis = torch.where(self.padding[:, None, None], alone, of_basis)
        tensors = dense_tensors([of_basis, *self.site_tensors[1:]])
        if any(len(tensor) > 1 for tensor in tensors):
            nodes = [self.num_sites >> level for level in range(1, self.num_levels + 1)]
            tensors = [tensor.repeat(n // len(tensor), 1, 1, 1) for n, tensor in zip(nodes, tensors, strict=True)]
        return DenseTreeState(tensors, self.top, self.basis.name, self.class_names, self.layout, self.white)

    def __len__(self) -> int:
        return self.num_classes

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DensityState):
            return NotImplemented
        ours, theirs = ((*state.site_tensors, state.top, state.padding, state.local) for state in (self, other))
        return (
            (self.basis.name, self.white, len(ours)) == (other.basis.name, other.white, len(theirs))
            and all(torch.equal(one, another) for one, another in zip(ours, theirs, strict=True))
        )  # fmt: skip

    @property
    def tree(self) -> NodeTree:
        """All block states."""
        return self.blocks_by(lambda: build_node_tree(self.site_tensors, self.top, self.padding))

    def log_norm(self) -> Float[Tensor, " classes"]:
        """Return log <Psi_y|Psi_y> (eq. 36)."""
        return self.tree.log_norms()

    def log_partition(self) -> Float[Tensor, ""]:
        """Return log Z, Z = sum_y <Psi_y|Psi_y> (eq. 33)."""
        norm, exponent = self.tree.scaled_norm()
        return norm.log() + 2 * math.log(2) * exponent.double()

    def overlaps(self, other: "DensityState | None" = None) -> Inexact[Tensor, "classes other_classes"]:
        """Return <Psi_y|Psi_y'> / sqrt(<Psi_y|Psi_y> <Psi_y'|Psi_y'>) (eq. 36; theory.md, eq. E1).

        Args:
            other: where the |Psi_y'> are from; None for these.

        Raises:
            InputError: the two have other sites, local functions, padding or layouts.
        """
        if other is not None:
            check_comparable(self, other)
            if not torch.equal(self.padding, other.padding):
                raise InputError("states with pixels at other sites cannot be compared: their padding differs")
            between = self.local @ other.local.mT
            alone = torch.zeros_like(between)
            alone[0, 0] = 1
            return overlaps_between_trees(
                self.tree, other.tree, torch.where(self.padding[:, None, None], alone, between)
            )
        gram = self.tree.classes.gram()
        norm = gram.diagonal().real.sqrt()
        return gram.conj() / torch.outer(norm, norm)

    def log_amplitude(self, x: Images) -> tuple[Float[Tensor, "batch classes"], Inexact[Tensor, "batch classes"]]:
        """Return log |<x|Psi_y>| and the sign of <x|Psi_y> (-1, 0, 1), or the phase of a complex one (eq. 31).

        Args:
            x: (batch, N) grey levels in tree order, uint8 or floats in [0, 1].

        Raises:
            InputError: x has another shape, dtype or range, or grey levels that the basis does not have.
        """
        amplitude, exponent = self._amplitudes(torch.as_tensor(x))
        return amplitude.abs().log() + math.log(2) * exponent.double(), amplitude.sgn()

    def log_joint(self, x: Images) -> Float[Tensor, "batch classes"]:
        """Return log p(y, x), nats: a probability of the images with K levels, or a density on [0, 1]^N (eq. 33).

        Args:
            x: (batch, N) grey levels in tree order: uint8, or floats in [0, 1] where NaN is a missing pixel, summed
                over. Sites without a pixel may hold anything.

        Raises:
            InputError: x has another shape, dtype or range, or grey levels that the basis does not have.
        """
        features, known = self._known(torch.as_tensor(x))
        tree = self.tree
        if known.all():
            joint = log_density(tree, *self._contracted(tree, features))
        else:
            norm, of_norm = tree.scaled_norm()
            parts = [given_pixels(tree, *part) for part in self._parts(features, known)]
            squares = torch.cat([part.classes for part in parts])
            exponent = torch.cat([part.exponent for part in parts])
            joint = squares.log() + math.log(2) * (exponent - 2 * of_norm).double() - norm.log()
        return joint - log_levels(self.basis) * (known & ~self.padding).sum(-1, keepdim=True).double()

    @torch.no_grad()
    def pixel_probabilities(self, observed: Images, label: int | None = None) -> Float[Tensor, "batch sites levels"]:
        """Return p(x_p = x_k | known pixels) of every pixel and grey level; at known pixels the others' alone count.

        Grey levels are the K of `basis=levels`; else the 256 points of Gauss's quadrature, with its weights.

        Args:
            observed: as `log_joint` takes it.
            label: of this class; None for the mixture of all.

        Raises:
            InputError: as `log_joint`, no such class, or an observation of probability 0.
        """
        features, known = self._known(torch.as_tensor(observed))
        parts = []
        for part in self._parts(features, known):
            given, image = self._conditioned(part, label)
            outside = environments(self.tree, given.mapped, image)[0]
            weight = torch.einsum("kf,mnfg,kg->mnk", self._outcomes, outside.real, self._outcomes).clamp(min=0)
            parts.append(weight / weight.sum(-1, keepdim=True))
        return torch.cat(parts)

    @torch.no_grad()
    def sample(
        self, num_samples: int, label: int | None = None, observed: Images | None = None, seed: int = 0
    ) -> Float[Tensor, "samples sites"]:
        """Draw images from p(x), p(x | y) or p(x | known pixels), exactly and independently; one batch.

        Args:
            num_samples: how many.
            label: y; None for the mixture of all classes.
            observed: known grey levels, NaN where to draw: (N,), the same for all samples, or (num_samples, N). Known
                pixels stay as they are.
            seed: of the draws.

        Returns:
            Grey levels in [0, 1] in tree order: those of the basis, or points of Gauss's quadrature; 0 without a pixel.

        Raises:
            InputError: no such class, an observation that does not fit or has probability 0, no samples, or a state
                with `white` below 1, whose density also covers what is whiter than white.
        """
        pixels = observed_images(observed, num_samples, self.num_sites, self.white)
        features, known = self._known(pixels)
        grey = pixels.double().to(self.top.device) / (255 if pixels.dtype == torch.uint8 else 1)
        generator = torch.Generator(self.top.device).manual_seed(seed)
        points, _ = quadrature(self.basis, self.top.real)
        images = torch.where(self.padding, 0, grey).expand(num_samples, -1).clone()
        # One image for all samples needs its blocks once.
        several = list(zip(self._parts(features, known), images.split(self._images_at_a_time()), strict=False))
        for part, drawn in several if len(pixels) > 1 else [((features, known), images)]:
            given, image = self._conditioned(part, label)
            sampler = Sampler(self.tree, given, self._outcomes, generator)
            sampler.draw(self.num_levels, 0, image.expand(len(drawn), -1, -1))
            for site, outcome in sampler.drawn.items():
                drawn[:, site] = torch.where(given.known[0][:, site], drawn[:, site], points[outcome])
        return images

    @cached_property
    def _outcomes(self) -> Float[Tensor, "outcomes local"]:
        points, weights = quadrature(self.basis, self.top.real)
        return self._local_functions(points) * weights.sqrt().unsqueeze(-1)

    def _local_functions(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape local"]:
        return torch.cat((torch.ones_like(x).unsqueeze(-1), self.basis(x)), dim=-1) @ self.local.mT

    def _known(self, x: Tensor) -> tuple[Float[Tensor, "batch sites local"], Bool[Tensor, "batch sites"]]:
        """Return f_i of every pixel, and which are known: all but NaN, and sites without a pixel."""
        grey, known = known_pixels(x, self.padding, self.basis)
        features = self._local_functions(self.white * grey)
        alone = torch.eye(1, features.shape[-1], dtype=features.dtype, device=features.device)
        return torch.where(self.padding[:, None], alone, features), known

    def _amplitudes(self, x: Tensor) -> tuple[Inexact[Tensor, "batch classes"], Int[Tensor, "batch classes"]]:
        check_images(x, self.num_sites)
        return self._contracted(self.tree, self._known(x)[0])

    @staticmethod
    def _contracted(
        tree: NodeTree, features: Tensor
    ) -> tuple[Inexact[Tensor, "batch classes"], Int[Tensor, "batch classes"]]:
        parts = [amplitudes(tree, part) for part in features.split(500)]
        amplitude, exponent = zip(*parts, strict=True)
        return torch.cat(amplitude), torch.cat(exponent)

    def _images_at_a_time(self) -> int:
        largest = max(level.mapped.covariance.numel() for level in self.tree.levels)
        return max(1, NUMBERS_AT_A_TIME // (4 * largest))

    def _parts(self, features: Tensor, known: Tensor) -> list[tuple[Tensor, Tensor]]:
        number = self._images_at_a_time()
        return list(zip(features.split(number), known.split(number), strict=True))

    def _conditioned(self, part: tuple[Tensor, Tensor], label: int | None) -> tuple[Given, Inexact[Tensor, "_ d d"]]:
        """Return the known pixels' blocks and the environment of the whole image, for one class or all."""
        chosen = slice(None) if label is None else [checked_label(label, self.num_classes)]
        given = given_pixels(self.tree, *part)
        check_possible(torch.where(given.classes[:, chosen] > 0, 0.0, -math.inf))
        # Powers of two that differ between classes: relative to the largest.
        exponent = self.tree.classes.exponent[chosen]
        top = times_power_of_two(self.tree.top[chosen], (exponent - exponent.amax()).unsqueeze(-1))
        image = (top.mT @ top.conj()).unsqueeze(0)
        return given, times_power_of_two(image, -binary_exponent(image.abs().amax()))
