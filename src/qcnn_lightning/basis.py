"""Local bases: the functions f_i that turn a grey level into the state of a pixel (eq. 1, 19).

Together with f_0 = 1 every basis is orthonormal on [0, 1], or on K grey levels. f_0 is not counted among the channels:
it is the *constant channel*, which makes batch normalisation a linear map (eq. 12).
"""

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from qcnn_lightning.errors import InputError
from qcnn_lightning.own_parts import own_part

MOST_LEVELS = 256
QUADRATURE_POINTS = 256
MIDPOINTS = 10000
LARGEST_ERROR = 0.01


class Basis(ABC):
    """The functions f_1 .. f_{d_0} of an orthonormal basis of L^2([0, 1]) with f_0 = 1.

    Args:
        num_functions: d_0.
    """

    name: ClassVar[str]

    def __init__(self, num_functions: int):
        self.num_functions = num_functions

    @abstractmethod
    def __call__(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape functions"]:
        """Return f_i(x), i = 1 .. d_0, at grey levels x in [0, 1]."""


class FourierBasis(Basis):
    """f_{2k-1}(x) = sqrt(2) cos(2 pi k x), f_{2k}(x) = sqrt(2) sin(2 pi k x), k = 1 .. d_0 / 2 (eq. 19).

    Raises:
        InputError: d_0 is odd.
    """

    name = "fourier"

    def __init__(self, num_functions: int):
        if num_functions % 2:
            raise InputError(
                f"d_0 = {num_functions} local functions: the Fourier basis has pairs of cosine and sine (eq. 19); "
                f"choose an even model.d ({num_functions - 1} or {num_functions + 1}), or model.basis=legendre"
            )
        super().__init__(num_functions)

    def __call__(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape functions"]:  # noqa: D102
        frequencies = torch.arange(1, self.num_functions // 2 + 1, dtype=x.dtype, device=x.device)
        turns = x.unsqueeze(-1) * frequencies
        # Within half a turn of zero: then 0 and 1 are the same point of the circle to the last bit.
        phases = 2 * math.pi * (turns - turns.round())
        return math.sqrt(2) * torch.stack((phases.cos(), phases.sin()), dim=-1).flatten(-2)


class LegendreBasis(Basis):
    """Shifted Legendre polynomials f_k(x) = sqrt(2k + 1) P_k(2x - 1), k = 1 .. d_0 (footnote 3, moved to [0, 1]).

    Bonnet's recursion: (k + 1) P_{k+1}(u) = (2k + 1) u P_k(u) - k P_{k-1}(u), with u = 2x - 1.
    """

    name = "legendre"

    def __call__(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape functions"]:  # noqa: D102
        u = 2 * x - 1
        polynomials = [torch.ones_like(u), u]
        for k in range(1, self.num_functions):
            polynomials.append(((2 * k + 1) * u * polynomials[k] - k * polynomials[k - 1]) / (k + 1))
        return torch.stack([math.sqrt(2 * k + 1) * polynomials[k] for k in range(1, self.num_functions + 1)], dim=-1)


class LevelsBasis(Basis):
    """Functions on K = d_0 + 1 grey levels x_k = k / (K - 1), orthonormal there: <f_i|f_j> = (1/K) sum_k f_i f_j.

    f_i(x_k) = sqrt(2) cos(pi i (k + 1/2) / K), the discrete cosine transform. For K = 2, f_1 = 1 at black, -1 at white
    (theory.md, eq. L1).

    Raises:
        InputError: K is not from 2 to 256.
    """

    name = "levels"

    def __init__(self, num_functions: int):
        if not 1 <= num_functions < MOST_LEVELS:
            raise InputError(
                f"d_0 = {num_functions} local functions: model.basis=levels has d_0 = K - 1 functions of K grey "
                f"levels, K from 2 to {MOST_LEVELS}"
            )
        super().__init__(num_functions)
        self.num_levels = num_functions + 1

    def __call__(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape functions"]:
        """Return f_i of the level nearest to x; `check` tells whether x is a level."""
        level = (x * (self.num_levels - 1)).round().unsqueeze(-1)
        i = torch.arange(1, self.num_levels, dtype=x.dtype, device=x.device)
        return math.sqrt(2) * torch.cos(math.pi / self.num_levels * i * (level + 0.5))

    def check(self, x: Tensor) -> None:
        """Check that images have only these grey levels, uint8 or floats; as uint8, level k is 255 k / (K - 1) rounded.

        Raises:
            InputError: they have others.
        """
        levels = torch.arange(self.num_levels, dtype=torch.float64, device=x.device) / (self.num_levels - 1)
        as_bytes = (255 * levels).round()
        if x.dtype == torch.uint8:
            known = torch.zeros(256, dtype=torch.bool, device=x.device).index_fill(0, as_bytes.long(), True)
            fits = known[x.int()]
        else:
            nearest = (x.double() * (self.num_levels - 1)).round().long()
            fits = ((x - levels[nearest]).abs() < 1e-6) | ((x - as_bytes[nearest] / 255).abs() < 1e-6)
        if not fits.all():
            raise InputError(
                f"the images have a grey level {x[~fits][0].item():g}, which is none of the {self.num_levels} of "
                f"model.basis=levels; say data.levels={self.num_levels}, or give the basis the levels of the data"
            )


BASES: dict[str, type[Basis]] = {basis.name: basis for basis in (FourierBasis, LegendreBasis, LevelsBasis)}


def make_basis(name: str, num_functions: int) -> Basis:
    """Return the local basis of this name.

    Args:
        name: one of `BASES`, or the dotted path of the user's own class. `Class(num_functions)` maps grey levels (...)
            in [0, 1] to (..., num_functions): functions that are orthonormal together with f_0 = 1.
        num_functions: d_0.

    Raises:
        InputError: no basis has this name, it cannot have so many functions, or they are not orthonormal.
    """
    if name in BASES:
        return BASES[name](num_functions)
    if "." not in name:
        raise InputError(
            f"model.basis={name}: unknown local basis; choose {', '.join(BASES)}, or the dotted path of your own "
            "class, like mine.MyBasis"
        )
    own_class = own_part(name, "model.basis")
    # Also for a network without memory of its own, of which only the sizes are asked.
    with torch.device("cpu"):
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
    """Check <f_i|f_j> = integral of f_i f_j over [0, 1] = delta_ij for i, j = 0 .. d_0, by the midpoint rule (eq. 18).

    Raises:
        InputError: the values have another shape, or an <f_i|f_j> differs from delta_ij by more than 1%.
    """
    midpoints = (torch.arange(MIDPOINTS, dtype=torch.float64) + 0.5) / MIDPOINTS
    values = basis(midpoints)
    if values.shape != (MIDPOINTS, basis.num_functions):
        raise InputError(
            f"model.basis={basis.name}: {MIDPOINTS} grey levels gave values of shape {tuple(values.shape)}; expected "
            f"({MIDPOINTS}, {basis.num_functions})"
        )
    functions = torch.cat((torch.ones_like(midpoints).unsqueeze(-1), values), dim=-1)
    gram = functions.mT @ functions / MIDPOINTS
    error = (gram - torch.eye(len(gram), dtype=gram.dtype)).abs()
    if not (error <= LARGEST_ERROR).all():
        i, j = divmod(int(error.nan_to_num(torch.inf).argmax()), len(gram))
        raise InputError(
            f"model.basis={basis.name}: <f_{i}|f_{j}> = {gram[i, j]:.3g}; entropies need functions that are "
            "orthonormal on [0, 1] together with f_0 = 1"
        )


def quadrature(basis: Any, like: Tensor) -> tuple[Float[Tensor, " points"], Float[Tensor, " points"]]:
    """Return points and weights with sum_k w_k f_i(x_k) f_j(x_k) = <f_i|f_j>.

    The K grey levels with weights 1 / K of `LevelsBasis`; for other bases Gauss's quadrature on [0, 1] with 256 points.
    """
    if isinstance(basis, LevelsBasis):
        points = torch.arange(basis.num_levels, dtype=like.dtype, device=like.device) / basis.num_functions
        return points, torch.full_like(points, 1 / basis.num_levels)
    points, weights = (torch.from_numpy(array).to(like) for array in np.polynomial.legendre.leggauss(QUADRATURE_POINTS))
    return (points + 1) / 2, weights / 2


def log_levels(basis: Any) -> float:
    """Return log K of `LevelsBasis`, in whose densities a probability of K^N images is times K^N; 0 for other bases."""
    return math.log(basis.num_levels) if isinstance(basis, LevelsBasis) else 0.0
