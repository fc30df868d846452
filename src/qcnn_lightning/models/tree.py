"""Trees whose numbers are their tensors alone, without batch norm: what our circuits and dense trees share.

Features of blocks have one power of two each, taken out after every level: exact, so amplitudes of 10^-300 keep all
their digits in single precision (theory.md, eq. C1).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Inexact, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional

from qcnn_lightning.basis import make_basis
from qcnn_lightning.errors import InputError
from qcnn_lightning.models.model import Model, check_choice, check_sites
from qcnn_lightning.pixels import check_images, checked_white
from qcnn_lightning.states.dense_gram import without_powers_of_two
from qcnn_lightning.states.gram import times_power_of_two

SHARINGS = ("full", "sibling", "none")
STARTS = ("product_state", "default")
FILE = ".safetensors"
"""How a start that is the file of a state ends."""
SCORES = ("normalised", "amplitude")
DTYPES = ("real", "complex")


class TreeModel(Model):
    """A tree tensor network: zeta^(0)_p,I = f_I(x_p), I = 0 .. d_0; a rule joins the two children of every node.

    Args:
        num_sites: N = 2^L.
        num_classes: number of classes.
        basis: local basis, as `make_basis` takes it.
        num_functions: d_0, without the constant function.
        white: where the grey level 1 lies in the basis's interval [0, 1].
        scores: "normalised", |alpha_y(x)| / sqrt(sum_y' |alpha_y'(x)|^2) with the sign of real amplitudes; "amplitude",
            alpha_y(x), which may over- or underflow.
        dtype: "real" or "complex"; complex weights are held as pairs of real numbers, and scores are |alpha_y(x)|.

    Raises:
        InputError: a value that no tree can have.
    """

    levels: nn.ParameterList
    top: nn.Parameter

    def __init__(
        self,
        num_sites: int | np.integer,
        num_classes: int | np.integer,
        basis: str,
        num_functions: int,
        white: float,
        scores: str,
        dtype: str,
    ):
        super().__init__()
        self.num_sites, self.num_classes = int(num_sites), int(num_classes)
        check_sites(self.num_sites)
        if self.num_classes < 2:
            raise InputError(f"num_classes={num_classes}: a classifier needs at least 2 classes")
        check_choice("scores", scores, SCORES)
        check_choice("dtype", dtype, DTYPES)
        self.num_levels = self.num_sites.bit_length() - 1
        self.basis, self.white = make_basis(basis, num_functions), checked_white(white)
        self.normalises_scores, self.is_complex = scores == "normalised", dtype == "complex"
        self._units: list[float] = []

    def drawn(
        self, *shape: int, legs: int, start: str, spread: float, constant: float = 1.0, of_pixels: bool = False
    ) -> nn.Parameter:
        """Return a tensor at its start (theory.md, eq. C2).

        "default" is PyTorch's initialisation of a linear layer. At "product_state" the pixels' features are 1 plus
        `spread` times that. Above, rows are random and map constant features to a constant; deviations from it keep
        their size on their way up. Call it for the levels from the lowest up, and then for the top.

        The parameters are the tensors in units of about 4 / sqrt(columns), powers of two: a step of an optimiser then
        changes the features alike, however many columns there are.

        Args:
            shape: the last `legs` axes are contracted with features.
            legs: how many.
            start: one of `STARTS`.
            spread: at 0 every state would be a product state.
            constant: what constant features shall give.
            of_pixels: whether the features are those of pixels, whose constant function is f_0 alone.
        """
        columns = math.prod(shape[-legs:])
        weight = torch.empty(*shape[:-legs], columns).uniform_(-(columns**-0.5), columns**-0.5)
        if self.is_complex:
            imaginary = torch.empty_like(weight).uniform_(-(columns**-0.5), columns**-0.5)
            weight = torch.complex(weight, imaginary) / math.sqrt(2)
        if start == "product_state" and of_pixels:
            weight = spread * weight
            weight[..., 0] = constant
        elif start == "product_state":
            # Half the variance from either child: 2 (3/2) / 3 = 1.
            weight = math.sqrt(1.5) * constant * weight
            weight = weight + (constant - weight.sum(-1, keepdim=True)) / columns
        self._units.append(2.0 ** round(math.log2(4 / math.sqrt(columns))))
        weight = weight.unflatten(-1, shape[-legs:]) / self._units[-1]
        return nn.Parameter(torch.view_as_real(weight) if self.is_complex else weight)

    def tensors(self) -> list[Inexact[Tensor, "..."]]:
        """Return the tensors of level 0 .. L-1 and the top, real or complex; differentiable."""
        tensors = [unit * parameter for unit, parameter in zip(self._units, (*self.levels, self.top), strict=True)]
        return [torch.view_as_complex(tensor) for tensor in tensors] if self.is_complex else tensors

    def forward(self, x: Tensor) -> Float[Tensor, "batch classes"]:
        """Return the score of every class: normalised, so that its square is p(y|x) (eq. 34), or alpha_y(x) (eq. 31).

        Args:
            x: (batch, N) grey levels in tree order, uint8 or floats in [0, 1].

        Raises:
            InputError: x has another shape, dtype or range, or grey levels that the basis does not have.
        """
        check_images(x, self.num_sites, self.basis)
        *levels, top = self.tensors()
        amplitude, exponent = self.amplitudes(self.represent(x).transpose(0, 1), levels, top)
        if self.normalises_scores:
            size = torch.linalg.vector_norm(amplitude, dim=-1, keepdim=True)
            amplitude = amplitude / torch.where(size > 0, size, 1)
        else:
            amplitude = times_power_of_two(amplitude, exponent.unsqueeze(-1))
        return amplitude.abs() if self.is_complex else amplitude

    def amplitudes(
        self, features: Tensor, levels: Sequence[Tensor], top: Tensor
    ) -> tuple[Inexact[Tensor, "batch classes"], Int[Tensor, " batch"]]:
        """Return a and e with alpha_y(x) = a 2^e (theory.md, eq. C1).

        Args:
            features: (N, batch, d_0 + 1) values f_I(x_p).
            levels: tensors of level 0 .. L-1.
            top: (classes, d_L).
        """
        exponent = torch.zeros(features.shape[:2], dtype=torch.int64, device=features.device)
        features = features.to(top.dtype)
        for tensor in levels:
            features, shift = without_powers_of_two(self.joined(features, tensor))
            exponent = exponent[0::2] + exponent[1::2] + shift
        return features[0] @ top.mT, exponent[0]

    def joined(self, features: Inexact[Tensor, "nodes batch _"], tensor: Tensor) -> Inexact[Tensor, "nodes//2 batch _"]:
        """Return the features of blocks from those of their halves."""
        raise NotImplementedError

    def represent(
        self, x: Float[Tensor, "batch sites"] | UInt8[Tensor, "batch sites"]
    ) -> Float[Tensor, "batch sites local"]:
        """Return f_I(white x_p), I = 0 .. d_0 (eq. 1, 12)."""
        dtype = self.top.dtype
        if x.dtype != torch.uint8:
            features = self.basis(self.white * x.to(dtype))
        else:
            grey_levels = torch.arange(256, dtype=dtype, device=x.device) / 255
            features = functional.embedding(x.int(), self.basis(self.white * grey_levels))
        return functional.pad(features, (1, 0), value=1.0)

    def state_tensors(self) -> tuple[list[Tensor], Tensor]:
        """Return the tensors of level 0 .. L-1, and the top, in double precision, on the CPU; differentiable."""
        dtype = torch.complex128 if self.is_complex else torch.float64
        *levels, top = (tensor.cpu().to(dtype) for tensor in self.tensors())
        return levels, top

    def begin(self, start: str, kind: Any) -> None:
        """Take over the tensors of a state's file, if that is the start; a network of fewer classes takes the first.

        Args:
            start: one of `STARTS`, or the path of a file.
            kind: class of the state.

        Raises:
            InputError: the file cannot be read, or its state has other pixels, local functions or channels.
        """
        if not start.endswith(FILE):
            return
        state = kind.load(start)
        theirs = (state.num_sites, state.basis.name, state.white, DTYPES[state.top.is_complex()])
        ours = (self.num_sites, self.basis.name, self.white, DTYPES[self.is_complex])
        if theirs != ours:
            raise InputError(
                f"model.start={start}: its state has (sites, basis, white, dtype) = {theirs}, the network {ours}"
            )
        try:
            self.take_over(state.site_tensors, state.top[: self.num_classes])
        except InputError as error:
            raise InputError(f"model.start={start} and model.channels: {error}") from error

    @torch.no_grad()
    def take_over(self, site_tensors: Sequence[Tensor], top: Tensor) -> None:
        """Make the tensors of states the network's own.

        Raises:
            InputError: they have other shapes.
        """
        for unit, parameter, tensor in zip(self._units, (*self.levels, self.top), (*site_tensors, top), strict=True):
            own = torch.view_as_real(tensor.resolve_conj()) if self.is_complex else tensor
            if own.shape != parameter.shape:
                raise InputError(
                    f"a tensor has shape {tuple(tensor.shape)}, the network's has {tuple(parameter.shape)}"
                )
            parameter.copy_(own / unit)

    def first_non_finite(self, x: Tensor) -> str:
        """Say where the first infinite or NaN number is."""
        for level, tensor in enumerate(self.levels):
            if not tensor.isfinite().all():
                return f"the weights of level {level}"
        return "the weights of the top" if not self.top.isfinite().all() else super().first_non_finite(x)


def check_start(start: str) -> None:
    """Check how weights begin.

    Raises:
        InputError: neither one of `STARTS` nor a file.
    """
    if not start.endswith(FILE):
        check_choice("start", start, STARTS)


def matrices_of(sharing: str, nodes: int) -> int:
    """Return how many different tensors a level with so many nodes has."""
    return min({"full": 1, "sibling": 2, "none": nodes}[sharing], nodes)
