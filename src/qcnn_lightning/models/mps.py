"""A matrix product state: one tensor per site, the class on a leg of a tensor of its own (theory.md, section A)."""

import math
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from jaxtyping import Bool, Complex, Float, Inexact, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional

from qcnn_lightning.basis import log_levels, make_basis
from qcnn_lightning.errors import InputError, checked_settings
from qcnn_lightning.kernels.chain import can_compute, sweep, sweep_grams
from qcnn_lightning.kernels.cpu_kernel import with_all_threads
from qcnn_lightning.models.model import Model, check_choice
from qcnn_lightning.models.tree import DTYPES
from qcnn_lightning.pixels import check_images, checked_white
from qcnn_lightning.states.gram import times_power_of_two
from qcnn_lightning.states.mps import MPSState

CLASS_SITES = ("middle", "end")
IMAGES_AT_A_TIME = 500


class MPS(Model):
    """alpha_y(x) = u(x_1) A(x_2) .. A(x_N/2) T_y A(x_N/2+1) .. u(x_N), A(x) = 1 + sum_i f_i(x) W_i, i = 0 .. d_0.

    The parameters are differences from a product state: W_i = V_i / sqrt(N (d_0 + 1) D), T_y = (1 + V_y / sqrt(D)) / C
    for C classes, and u likewise, with entries of V of order 1. Rates of learning then depend little on N and D. Powers
    of two are carried beside the vectors, so no number of sites over- or underflows (theory.md, eq. A1, A2).

    Complex weights are pairs of real numbers, and scores are then |alpha_y(x)|. A complex D x D matrix acts on real and
    imaginary parts as a real one of 2D x 2D, so the same operators carry both.

    Args:
        num_sites: N, pixels of the flattened image and padding; even where the class stands in the middle.
        num_classes: number of classes.
        bond: D, the bond dimension.
        d: d_0, local functions besides the constant one.
        basis: "legendre", "fourier", "levels" of d_0 + 1 grey levels, or your own class.
        class_site: where the tensor of the classes stands: in the "middle", or at the "end".
        spread: standard deviation of V at the start; sum_i E|f_i v W_i|^2 is then spread^2 |v|^2 / N at every site.
            At 0 the state is a product state.
        white: where white lies in the basis's interval [0, 1] (data.white).
        dtype: of the weights: "real" or "complex".

    Raises:
        InputError: a value that no matrix product state can have.
    """

    padding: Tensor

    @checked_settings
    def __init__(
        self,
        num_sites: int | np.integer,
        num_classes: int | np.integer,
        bond: int | np.integer = 20,
        d: int | np.integer = 1,
        basis: str = "legendre",
        class_site: str = "middle",
        spread: float = 1.0,
        white: float = 1.0,
        dtype: str = "real",
    ):
        super().__init__()
        num_sites, num_classes, bond = int(num_sites), int(num_classes), int(bond)
        check_choice("class_site", class_site, CLASS_SITES)
        if num_sites < 2 or (class_site == "middle" and num_sites % 2):
            raise InputError(f"num_sites={num_sites}: must be at least 2, and even for model.class_site=middle")
        if num_classes < 1:
            raise InputError(f"num_classes={num_classes}: must be at least 1")
        if bond < 1:
            raise InputError(f"model.bond={bond}: the bond dimension must be at least 1")
        if d < 1:
            raise InputError(f"model.d={d}: must be at least 1, the local functions besides the constant one")
        check_choice("dtype", dtype, DTYPES)
        if spread < 0:
            raise InputError(f"model.spread={spread}: must be 0 or more")
        self.num_sites, self.num_classes, self.bond, self.class_site = num_sites, num_classes, bond, class_site
        self.basis, self.white = make_basis(basis, int(d)), checked_white(white)
        self.arms, self.is_complex = 2 if class_site == "middle" else 1, dtype == "complex"
        local, steps = int(d) + 1, num_sites // self.arms - 1
        self.size = (num_sites * local * bond) ** -0.5
        self.ends = self._drawn(spread, self.arms, local, bond)
        self.sites = self._drawn(spread, steps, self.arms, local, bond, bond)
        self.classes = self._drawn(spread, bond, num_classes, bond if self.arms == 2 else 1)
        self.register_buffer("padding", torch.zeros(num_sites, dtype=torch.bool))

    def _drawn(self, spread: float, *shape: int) -> nn.Parameter:
        """Return V, of mean square spread^2."""
        drawn = spread * torch.randn(*shape, dtype=torch.complex64 if self.is_complex else None)
        return nn.Parameter(torch.view_as_real(drawn) if self.is_complex else drawn)

    def _weights(self) -> tuple[Inexact[Tensor, "..."], ...]:
        """Return V of the ends, the sites and the classes, real or complex; differentiable."""
        parameters = (self.ends, self.sites, self.classes)
        return tuple(map(torch.view_as_complex, parameters)) if self.is_complex else parameters

    def mark_padding(self, padding: Bool[Tensor, " sites"]) -> None:
        """Note which sites have no pixel: they are constant, and count in no probability."""
        self.padding.copy_(padding)

    def forward(self, x: Tensor) -> Float[Tensor, "batch classes"]:
        """Return alpha_y(x), the score of every class, or |alpha_y(x)| with complex weights; differentiable once.

        Args:
            x: (batch, N) grey levels in tree order, uint8 or floats in [0, 1].

        Raises:
            InputError: x has another shape, dtype or range, or grey levels that the basis does not have.
        """
        scores, exponent = self.scaled_scores(x)
        return times_power_of_two(scores, exponent.unsqueeze(-1))

    def scaled_scores(self, x: Tensor) -> tuple[Float[Tensor, "batch classes"], Int[Tensor, " batch"]]:
        """Return s and e: the scores are s 2^e, and may be out of the range of s.

        Args:
            x: as `forward` takes it.

        Raises:
            InputError: as `forward`.
        """
        amplitude, exponent = self._amplitudes(x)
        return amplitude.abs() if self.is_complex else amplitude, exponent

    def relative_scores(self, x: Tensor) -> Float[Tensor, "batch classes"]:
        """Return the scores without a power of two of every image: for costs of ratios of scores; never out of range.

        Args:
            x: as `forward` takes it.

        Raises:
            InputError: as `forward`.
        """
        return self.scaled_scores(x)[0]

    def log_joint(self, x: Tensor) -> Float[Tensor, "batch classes"]:
        """Return log p(y, x) = log(|alpha_y(x)|^2 / Z), nats (eq. 33), of images whose pixels are all known.

        Minus infinity, with no gradient, where alpha_y(x) = 0. With `white` below 1 it is the density at the points
        white x of the basis's interval.

        Args:
            x: as `forward` takes it.

        Raises:
            InputError: as `forward`.
        """
        amplitude, exponent = self._amplitudes(x)
        norm, of_norm = self._scaled_norm()
        size = amplitude.abs()
        logarithm = torch.where(size > 0, torch.where(size > 0, size, 1).log(), -math.inf)
        # Powers of two are subtracted as integers: logarithms of large numbers would cancel.
        doubled = (2 * exponent - of_norm).unsqueeze(-1).to(size.dtype)
        joint = 2 * logarithm + math.log(2) * doubled - norm.log()
        return joint - log_levels(self.basis) * float((~self.padding).sum())

    def log_partition(self) -> Float[Tensor, ""]:
        """Return log Z = log sum_y <Psi_y|Psi_y>, nats (eq. 33)."""
        norm, exponent = self._scaled_norm()
        return norm.log() + math.log(2) * exponent.to(norm.dtype)

    def _amplitudes(self, x: Tensor) -> tuple[Inexact[Tensor, "batch classes"], Int[Tensor, " batch"]]:
        """Return a and e with alpha_y(x) = a 2^e."""
        check_images(x, self.num_sites, self.basis)
        _, sites, _ = self._weights()
        ends, classes = self._ends(), self._classes()
        if self.is_complex:
            ends, sites = torch.cat((ends.real, ends.imag), -1), in_real_numbers(sites)
        amplitudes, exponents = [], []
        for part in x.split(IMAGES_AT_A_TIME):
            vectors, exponent = sweep(ends, sites, self.represent(part), self.size)
            if self.is_complex:
                vectors = torch.complex(*vectors.chunk(2, dim=-1))
            inner = (vectors[0] @ classes.flatten(1)).unflatten(-1, classes.shape[1:])
            right = vectors[1] if self.arms == 2 else vectors.new_ones(len(part), 1)
            amplitudes.append((inner @ right.unsqueeze(-1)).squeeze(-1))
            exponents.append(exponent.sum(0))
        return torch.cat(amplitudes), torch.cat(exponents)

    def represent(self, x: Tensor) -> Float[Tensor, "sites arms batch local"]:
        """Return f_0, f_1, ... of every pixel, arms from the outside inwards; f_0 alone at sites without a pixel."""
        dtype = self.ends.dtype
        chain = x.T
        if x.dtype == torch.uint8:
            grey = torch.arange(256, dtype=dtype, device=x.device) / 255
            features = functional.embedding(chain.int(), self._local_functions(self.white * grey))
        else:
            features = self._local_functions(self.white * chain.to(dtype))
        features = self._by_arm(features)
        return torch.where(self._absent().unsqueeze(2), 0, features) if self.padding.any() else features

    def _local_functions(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape local"]:
        return functional.pad(self.basis(x), (1, 0), value=1.0)

    def _by_arm(self, of_sites: Shaped[Tensor, "all_sites ..."]) -> Shaped[Tensor, "sites arms ..."]:
        """Return what belongs to the sites in the order of the arms, from the outside inwards."""
        if self.arms == 1:
            return of_sites.unsqueeze(1)
        left, right = of_sites.chunk(2)
        return torch.stack((left, right.flip(0)), dim=1)

    def _absent(self) -> Bool[Tensor, "sites arms local"]:
        """Return which local functions the sites do not have: all but f_0 at a site without a pixel."""
        local = torch.arange(self.basis.num_functions + 1, device=self.padding.device)
        return self._by_arm(self.padding.unsqueeze(-1) & (local > 0))

    def _scaled_norm(self) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
        """Return s and e with Z = sum_y <Psi_y|Psi_y> = s 2^e, from the Gram matrices of the arms (eq. A3)."""
        ends, sites = self._tensors()
        first = ends.mH @ ends
        if self.is_complex:
            # Products and adjoints of complex matrices are those of these real ones.
            first, sites = in_real_numbers(first), in_real_numbers(sites)
        gram, exponent = sweep_grams(first, sites)
        if self.is_complex:
            gram = torch.complex(*gram[:, : self.bond].chunk(2, dim=-1))
        outer = gram[1] if self.arms == 2 else gram.new_ones(1, 1)
        classes = self._classes()
        norm = torch.einsum("oyi,op,pyj,ij->", classes.conj(), gram[0], classes, outer).real
        return norm, exponent.sum()

    def _classes(self) -> Inexact[Tensor, "left classes right"]:
        """Return T_y = (1 + V_y / sqrt(D)) / C."""
        product = torch.eye(self.bond) if self.arms == 2 else torch.full((self.bond, 1), self.bond**-0.5)
        _, _, classes = self._weights()
        return (product.to(classes).unsqueeze(1) + classes * self.bond**-0.5) / self.num_classes

    def _ends(self) -> Inexact[Tensor, "arms local bond"]:
        """Return u_i = delta_i0 (1, .., 1) / sqrt(D) + V_i / sqrt(N (d_0 + 1) D)."""
        ends, _, _ = self._weights()
        product = torch.zeros_like(ends)
        product[:, 0] = self.bond**-0.5
        return product + self.size * ends

    def _tensors(self) -> tuple[Inexact[Tensor, "arms local bond"], Inexact[Tensor, "steps arms local bond bond"]]:
        """Return u_i and A_i = delta_i0 + W_i, without what sites without a pixel do not have."""
        _, sites, _ = self._weights()
        identity = sites.new_zeros(sites.shape[1:])
        identity[:, 0] = torch.eye(self.bond)
        ends, sites = self._ends(), self.size * sites + identity
        if not self.padding.any():
            return ends, sites
        absent = self._absent().unsqueeze(-1)
        return torch.where(absent[0], 0, ends), torch.where(absent[1:].unsqueeze(-1), 0, sites)

    def site_tensors(
        self, statistics: None = None
    ) -> tuple[list[Inexact[Tensor, "_ _ _"]], Inexact[Tensor, "left classes right"], int]:
        """Return the tensors of all sites, that of the classes, and the sites to its left; in double precision."""
        dtype = torch.complex128 if self.is_complex else torch.float64
        ends, sites, classes = (tensor.cpu().to(dtype) for tensor in (*self._tensors(), self._classes()))
        arms = [[ends[arm].unsqueeze(0), *sites[:, arm].transpose(1, 2).unbind()] for arm in range(self.arms)]
        right = [tensor.permute(2, 1, 0) for tensor in reversed(arms[1])] if self.arms == 2 else []
        return [*arms[0], *right], classes, len(arms[0])

    def state(self, statistics: None = None) -> MPSState:
        """Return the states |Psi_y>, in double precision, on the CPU; differentiable."""
        return MPSState.from_network(self)

    def around_training(self) -> AbstractContextManager[None]:
        """Return the context `with_all_threads` if there are C++ operators."""
        return with_all_threads() if can_compute(self.ends) else nullcontext()

    def arithmetic(self, x: Tensor) -> str:
        """Return what computes the sweeps: "C++", or "PyTorch"; results depend on it in the last digits."""
        return "C++" if can_compute(self.ends) else "PyTorch"

    def first_non_finite(self, x: Tensor) -> str:
        """Say where the first infinite or NaN number is."""
        named = {"the weights of the ends": self.ends, "the weights of the sites": self.sites}
        for name, weight in (named | {"the weights of the classes": self.classes}).items():
            if not weight.isfinite().all():
                return name
        return "the scores of the classes"


def in_real_numbers(matrix: Complex[Tensor, "*batch rows columns"]) -> Float[Tensor, "*batch two_rows two_columns"]:
    """Return (A, B; -B, A) of A + iB: it maps rows (Re v, Im v) to (Re vM, Im vM).

    Products and adjoints go over into those of the real matrices.
    """
    upper = torch.cat((matrix.real, matrix.imag), -1)
    return torch.cat((upper, torch.cat((-matrix.imag, matrix.real), -1)), -2)
