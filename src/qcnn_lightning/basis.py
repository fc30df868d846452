"""Local bases f_i: how one grey level becomes the state of one pixel (eq. 1, 19).

Every basis is orthonormal on [0, 1] together with the constant function f_0 = 1, which is not among the channels: it is
the *constant channel* that batch normalisation needs to be a linear map (eq. 12).
"""

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from qcnn_lightning.errors import InputError
from qcnn_lightning.own_parts import own_part

MIDPOINTS = 10000
ORTHONORMAL_TO = 0.01


class Basis(ABC):
    """The non-constant functions f_1 .. f_{num_functions} of an orthonormal basis of L^2([0, 1]).

    Args:
        num_functions: d_0, how many functions a pixel is represented by, besides the constant f_0 = 1.
    """

    name: ClassVar[str]

    def __init__(self, num_functions: int):
        self.num_functions = num_functions

    @abstractmethod
    def __call__(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape functions"]:
        """Evaluate f_1 .. f_{num_functions} at grey levels x in [0, 1]."""


class FourierBasis(Basis):
    """f_{2k-1}(x) = sqrt(2) cos(2 pi k x), f_{2k}(x) = sqrt(2) sin(2 pi k x), k = 1 .. num_functions / 2 (eq. 19).

    Raises:
        InputError: num_functions is odd, so that a cosine would be without its sine.
    """

    name = "fourier"

    def __init__(self, num_functions: int):
        if num_functions % 2:
            raise InputError(
                f"d_0 = {num_functions} local functions: the Fourier basis comes in pairs of cosine and sine (eq. 19), "
                f"so choose an even model.d ({num_functions - 1} or {num_functions + 1}), or model.basis=legendre"
            )
        super().__init__(num_functions)

    def __call__(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape functions"]:  # noqa: D102
        frequencies = torch.arange(1, self.num_functions // 2 + 1, dtype=x.dtype, device=x.device)
        turns = x.unsqueeze(-1) * frequencies
        # Within half a turn of zero, so that 0 and 1 are the same point of the circle to the last bit.
        phases = 2 * math.pi * (turns - turns.round())
        return math.sqrt(2) * torch.stack((phases.cos(), phases.sin()), dim=-1).flatten(-2)


class LegendreBasis(Basis):
    """Shifted Legendre polynomials f_k(x) = sqrt(2k + 1) P_k(2x - 1), k = 1 .. num_functions, by Bonnet's recursion.

    (k + 1) P_{k+1}(u) = (2k + 1) u P_k(u) - k P_{k-1}(u) with u = 2x - 1 (the paper's footnote 3, on [0, 1]).
    """

    name = "legendre"

    def __call__(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape functions"]:  # noqa: D102
        u = 2 * x - 1
        polynomials = [torch.ones_like(u), u]
        for k in range(1, self.num_functions):
            polynomials.append(((2 * k + 1) * u * polynomials[k] - k * polynomials[k - 1]) / (k + 1))
        return torch.stack([math.sqrt(2 * k + 1) * polynomials[k] for k in range(1, self.num_functions + 1)], dim=-1)


BASES: dict[str, type[Basis]] = {basis.name: basis for basis in (FourierBasis, LegendreBasis)}


def make_basis(name: str, num_functions: int) -> Basis:
    """Return the local basis called `name` with `num_functions` functions besides the constant.

    Args:
        name: one of `BASES`, or the dotted path of a class of one's own. `Class(num_functions)` makes a callable that
            maps grey levels (...) in [0, 1] to (..., num_functions), orthonormal on [0, 1] together with f_0 = 1.
        num_functions: d_0.

    Raises:
        InputError: no basis has that name, it cannot have that many functions, or they are not orthonormal.
    """
    if name in BASES:
        return BASES[name](num_functions)
    if "." not in name:
        raise InputError(
            f"model.basis={name}: unknown local basis; choose one of {', '.join(BASES)}, or the dotted path of a class "
            "of your own, such as mine.MyBasis"
        )
    own_class = own_part(name, "model.basis")
    try:
        basis: Basis = own_class(num_functions)
    except TypeError as error:
        raise InputError(
            f"model.basis={name}: expected a class that takes num_functions={num_functions}: {error}"
        ) from error
    basis.name, basis.num_functions = name, num_functions  # type: ignore[misc]
    check_orthonormal(basis)
    return basis


def check_orthonormal(basis: Basis) -> None:
    """Check f_0 = 1, f_1, ... for orthonormality on [0, 1], by the midpoint rule.

    Raises:
        InputError: values of another shape, or <f_i|f_j> is not delta_ij to 1%.
    """
    midpoints = (torch.arange(MIDPOINTS, dtype=torch.float64) + 0.5) / MIDPOINTS
    values = basis(midpoints)
    if values.shape != (MIDPOINTS, basis.num_functions):
        raise InputError(
            f"model.basis={basis.name}: {MIDPOINTS} grey levels gave values of shape {tuple(values.shape)}: expected "
            f"({MIDPOINTS}, {basis.num_functions})"
        )
    functions = torch.cat((torch.ones_like(midpoints).unsqueeze(-1), values), dim=-1)
    gram = functions.mT @ functions / MIDPOINTS
    error = (gram - torch.eye(len(gram), dtype=gram.dtype)).abs()
    if not (error <= ORTHONORMAL_TO).all():
        i, j = divmod(int(error.nan_to_num(torch.inf).argmax()), len(gram))
        raise InputError(
            f"model.basis={basis.name}: <f_{i}|f_{j}> = {gram[i, j]:.3g}: expected functions that are orthonormal on "
            "[0, 1] together with f_0 = 1; else entropies would be wrong"
        )
