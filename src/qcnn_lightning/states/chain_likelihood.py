"""A matrix product state as a density of images and labels: p(y, x) = |<x|Psi_y>|^2 / Z (eq. 32, 33).

Likelihoods with missing pixels, conditionals and perfect samples, by carrying Gram matrices along the chain (theory.md,
eq. A5). They cost O(N d D^3) for every image whose missing pixels differ.
"""

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Inexact
from torch import Tensor
from torch.nn import functional

from qcnn_lightning.basis import log_levels, quadrature
from qcnn_lightning.states.chain import observed_overlaps, reversed_chain
from qcnn_lightning.states.checks import checked_label
from qcnn_lightning.states.gram import times_power_of_two
from qcnn_lightning.states.likelihood import Images, Likelihood, check_possible, known_pixels, observed_images

NUMBERS_AT_A_TIME = 2**25
"""Numbers in the Gram matrices of the images of a part: 0.25 GB."""


class ChainLikelihood(Likelihood):
    """Methods of an `MPSState` that are about p(y, x)."""

    class_tensor: Tensor
    site_tensors: tuple[Tensor, ...]
    padding: Tensor
    basis: Any
    white: float
    num_sites: int
    num_classes: int
    bond: int
    _arms: tuple[list[Tensor], list[Tensor]]
    _amplitudes: Callable[[Tensor], tuple[Tensor, Tensor]]
    log_partition: Callable[[], Tensor]
    chain: Callable[[int], list[Tensor]]

    def log_joint(self, x: Images) -> Float[Tensor, "batch classes"]:
        """Return log p(y, x), nats: a probability of the images with K levels, or a density on [0, 1]^N (eq. 33).

        With `white` below 1 it is the density at the points white x of the basis's interval.

        Args:
            x: (batch, N) grey levels in tree order: uint8, or floats in [0, 1] where NaN is a missing pixel, summed
                over. Sites without a pixel may hold anything.

        Raises:
            InputError: x has another shape, dtype or range, or grey levels that the basis does not have.
        """
        features, known = self._known(torch.as_tensor(x))
        if known.all():
            amplitude, exponent = self._amplitudes(features)
            joint = 2 * (amplitude.abs().log() + math.log(2) * exponent.double().unsqueeze(-1))
        else:
            parts = zip(features.split(self._images_at_a_time), known.split(self._images_at_a_time), strict=True)
            joint = torch.cat([self._log_squares(*part) for part in parts])
        counted = (known & ~self.padding).sum(-1, keepdim=True).double()
        return joint - self.log_partition() - log_levels(self.basis) * counted

    def _log_squares(
        self, features: Inexact[Tensor, "batch sites local"], known: Bool[Tensor, "batch sites"]
    ) -> Float[Tensor, "batch classes"]:
        """Return log of |<x|Psi_y>|^2, summed over the unknown pixels."""
        left, right = self._arms
        features, known = features.transpose(0, 1), known.T
        inner, of_inner = _last(observed_overlaps(left, features[: len(left)], known[: len(left)]))
        outside = features[len(left) :].flip(0), known[len(left) :].flip(0)
        outer, of_outer = _last(observed_overlaps(right, *outside))
        of_class = self.class_tensor
        squares = torch.einsum("blm,lyr,mys,brs->by", inner, of_class.conj(), of_class, outer).real.clamp(min=0)
        return squares.log() + math.log(2) * (of_inner + of_outer).double().unsqueeze(-1)

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
        labels = range(self.num_classes) if label is None else [checked_label(label, self.num_classes)]
        features, known = self._known(torch.as_tensor(observed))
        check_possible(self.log_joint(observed)[:, list(labels)])
        parts = []
        for part, seen in zip(features.split(self._images_at_a_time), known.split(self._images_at_a_time), strict=True):
            by_class = [self._pixel_weights(self.chain(y), part.transpose(0, 1), seen.T) for y in labels]
            largest = torch.stack([exponent for _, exponent in by_class]).amax(0)
            weights = torch.stack([times_power_of_two(w, (e - largest).unsqueeze(-1)) for w, e in by_class]).sum(0)
            parts.append((weights / weights.sum(-1, keepdim=True)).transpose(0, 1))
        return torch.cat(parts)

    def _pixel_weights(self, chain: list[Tensor], features: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Return w and e: p(pixel's level, other known pixels) is w 2^e up to one factor, (sites, batch, levels)."""
        lefts = list(observed_overlaps(chain, features, known))
        rights = list(observed_overlaps(reversed_chain(chain), features.flip(0), known.flip(0)))[::-1]
        weights, exponents = [], []
        for tensor, (left, of_left), (right, of_right) in zip(chain, lefts[:-1], rights[1:], strict=True):
            density = torch.einsum("blm,lkr,mjs,brs->bkj", left, tensor.conj(), tensor, right).real
            weights.append(torch.einsum("xk,bkj,xj->bx", self._outcomes, density, self._outcomes).clamp(min=0))
            exponents.append(of_left + of_right)
        return torch.stack(weights), torch.stack(exponents)

    @torch.no_grad()
    def sample(
        self, num_samples: int, label: int | None = None, observed: Images | None = None, seed: int = 0
    ) -> Float[Tensor, "samples sites"]:
        """Draw images from p(x), p(x | y) or p(x | known pixels), exactly and independently.

        First a class from p(y | known pixels), then the pixels from left to right.

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
        labels = range(self.num_classes) if label is None else [checked_label(label, self.num_classes)]
        joint = self.log_joint(pixels)[:, list(labels)]
        check_possible(joint)
        device = self.class_tensor.device
        generator = torch.Generator(device).manual_seed(seed)
        weights = joint.softmax(-1).expand(num_samples, -1)
        drawn_classes = torch.multinomial(weights, 1, generator=generator).squeeze(1)
        features, known = self._known(pixels)
        grey = pixels.double().to(device) / (255 if pixels.dtype == torch.uint8 else 1)
        images = torch.where(self.padding, 0, grey).expand(num_samples, -1).clone()
        for place, one in enumerate(labels):
            chain = self.chain(one)
            for some in (drawn_classes == place).nonzero().flatten().split(self._images_at_a_time):
                given = some if len(pixels) > 1 else torch.zeros(1, dtype=torch.int64, device=device)
                images[some] = self._drawn(chain, features[given], known[given], images[some], generator)
        return images

    def _drawn(
        self, chain: list[Tensor], features: Tensor, known: Tensor, images: Tensor, generator: torch.Generator
    ) -> Float[Tensor, "samples sites"]:
        """Return the images with their unknown pixels drawn; features and known are of 1 image for all, or of each."""
        features, known = features.transpose(0, 1), known.T
        rights = list(observed_overlaps(reversed_chain(chain), features.flip(0), known.flip(0)))[::-1]
        points, _ = quadrature(self.basis, self.class_tensor.real)
        vector = features.new_ones(len(images), 1)
        for site, (tensor, (right, _)) in enumerate(zip(chain, rights[1:], strict=True)):
            opened = torch.tensordot(vector, tensor, 1)
            function = features[site].expand(len(images), -1)
            if not known[site].all():
                density = (opened.conj() @ right @ opened.mT).real
                weight = torch.einsum("xk,nkj,xj->nx", self._outcomes, density, self._outcomes).clamp(min=0)
                outcome = torch.multinomial(weight, 1, generator=generator).squeeze(1)
                images[:, site] = torch.where(known[site], images[:, site], points[outcome])
                function = torch.where(known[site].unsqueeze(-1), function, self._outcomes[outcome].to(function))
            vector = torch.einsum("nk,nkr->nr", function, opened)
            vector = vector / vector.abs().amax(-1, keepdim=True)
        return images

    @property
    def _images_at_a_time(self) -> int:
        return max(1, NUMBERS_AT_A_TIME // (2 * self.num_sites * self.bond**2))

    @cached_property
    def _outcomes(self) -> Float[Tensor, "outcomes local"]:
        points, weights = quadrature(self.basis, self.class_tensor.real)
        return self._local_functions(points) * weights.sqrt().unsqueeze(-1)

    def _local_functions(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape local"]:
        return functional.pad(self.basis(x), (1, 0), value=1.0)

    def _known(self, x: Tensor) -> tuple[Inexact[Tensor, "batch sites local"], Bool[Tensor, "batch sites"]]:
        """Return f_i of every pixel, in the state's dtype, and which are known: all but NaN, sites without a pixel."""
        grey, known = known_pixels(x, self.padding, self.basis)
        features = self._local_functions(self.white * grey)
        features[:, self.padding, 1:] = 0
        return features.to(self.class_tensor.dtype), known


def _last(steps: Any) -> Any:
    *_, last = steps
    return last
