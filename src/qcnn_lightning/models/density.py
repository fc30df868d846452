"""A density of images: the tree without batch norm, normalised exactly (eq. 32, 33; theory.md, eq. N1)."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Inexact
from torch import Tensor, nn
from torch.nn import functional

from qcnn_lightning.basis import log_levels, make_basis
from qcnn_lightning.errors import InputError, checked_settings
from qcnn_lightning.kernels.node_kernel import can_compute, image_states
from qcnn_lightning.models.channels import channels_up_to
from qcnn_lightning.models.model import Model, check_choice, check_sites
from qcnn_lightning.models.tree import DTYPES, matrices_of
from qcnn_lightning.pixels import check_images
from qcnn_lightning.states.density import DensityState
from qcnn_lightning.states.gram import times_power_of_two
from qcnn_lightning.states.node_tree import NodeTree, amplitudes, build_node_tree, classes_of, log_density

SHARINGS = ("none", "sibling", "full")
IMAGES_AT_A_TIME = 500


class Density(Model):
    """A tree tensor network with p(y, x) = alpha_y(x)^2 / Z, Z = sum_y <Psi_y|Psi_y> (eq. 33).

    zeta_p = (f_0(x_p), f_1(x_p), ...); xi_n = a_n zeta_n at every node n of a level; zeta'_n = xi_2n * xi_2n+1;
    alpha = a zeta. There is no batch norm. Powers of two are carried beside all numbers.

    Args:
        num_sites: N = 2^L, pixels of the flattened image and padding.
        num_classes: number of classes.
        d: most channels of a level: level l >= 1 has min(K^(2^l), d), more than K^(2^l) states a block does not have.
        basis: "levels", a probability of images with K grey levels; or "fourier", "legendre", or your own class, a
            density of images in [0, 1]^N.
        levels: K, the local functions with the constant one; of `basis=levels` the grey levels, those of data.levels;
                None for the 256 of 8-bit images.
        channels: numbers of channels that enter levels 1 .. L, in place of `d`; None for `d`.
        sharing: "none", every node its own matrix; "sibling", one for left and one for right children of a level;
            "full", one per level.
        from_level: levels below have a matrix at every node, whatever the sharing.
        leaf_rank: r, local functions that the pixels share, learned combinations of the basis's, in place of all K;
            None for all. At first they are the r smoothest ones. For many grey levels: N r d weights, not N K d.
        spread: size of the random part of the weights at the start; at 0 the state is a product state.
        dtype: "real" or "complex"; complex weights are held as pairs of real numbers, and scores are their sizes.

    Raises:
        InputError: a value that no density can have.
    """

    padding: Tensor
    leaves: nn.Parameter | None
    normalises_scores = True

    @checked_settings
    def __init__(
        self,
        num_sites: int | np.integer,
        num_classes: int | np.integer,
        d: int | np.integer = 32,
        basis: str = "levels",
        levels: int | np.integer | None = None,
        channels: Sequence[int] | None = None,
        sharing: str = "none",
        from_level: int | np.integer = 0,
        leaf_rank: int | np.integer | None = None,
        spread: float = 1.0,
        dtype: str = "real",
    ):
        super().__init__()
        check_choice("dtype", dtype, DTYPES)
        self.is_complex = dtype == "complex"
        levels = 256 if levels is None else levels
        num_sites, num_classes = int(num_sites), int(num_classes)
        check_sites(num_sites)
        if num_classes < 1:
            raise InputError(f"num_classes={num_classes}: a density needs at least 1 class")
        check_choice("sharing", sharing, SHARINGS)
        self.num_sites, self.num_classes = num_sites, num_classes
        self.num_levels = num_sites.bit_length() - 1
        if not 0 <= from_level <= self.num_levels:
            raise InputError(f"model.from_level={from_level}: must be from 0 to {self.num_levels}, the pooling levels")
        if spread <= 0:
            raise InputError(f"model.spread={spread}: must be positive")
        if levels < 2:
            raise InputError(f"model.levels={levels}: must be at least 2, the constant function and another")
        self.basis = make_basis(basis, int(levels) - 1)
        self.channels = channels_up_to(int(levels), self.num_levels, int(d), channels)
        if leaf_rank is not None and not 1 <= leaf_rank <= levels:
            raise InputError(
                f"model.leaf_rank={leaf_rank}: must be from 1 to {levels}, the local functions; null for all"
            )
        leaves = None if leaf_rank is None else nn.Parameter(torch.eye(int(leaf_rank), int(levels)))
        self.register_parameter("leaves", leaves)
        self.levels = nn.ParameterList()
        for level in range(self.num_levels):
            nodes = num_sites >> level
            matrices = matrices_of("none" if level < from_level else sharing, nodes)
            columns = self.channels[level] if level or leaf_rank is None else int(leaf_rank)
            weight = self._start(matrices, self.channels[level + 1], columns, level, spread)
            self.levels.append(torch.view_as_real(weight) if self.is_complex else weight)
        top = self._start(1, num_classes, self.channels[-1], self.num_levels, spread)[0]
        self.top = nn.Parameter(torch.view_as_real(top) if self.is_complex else top)
        self.register_buffer("padding", torch.zeros(num_sites, dtype=torch.bool))

    def _start(self, matrices: int, rows: int, columns: int, level: int, spread: float) -> Inexact[Tensor, "_ _ _"]:
        """Return matrices that map states near the constant one to such states (theory.md, eq. N3)."""
        weight = spread * torch.randn(matrices, rows, columns, dtype=torch.complex64 if self.is_complex else None)
        if level == 0:
            weight[..., 0] = 1
            return weight
        weight = weight / columns**0.5
        return weight + (1 - weight.sum(-1, keepdim=True)) / columns

    def mark_padding(self, padding: Bool[Tensor, " sites"]) -> None:
        """Note which sites have no pixel: they are constant, and count in no probability."""
        self.padding.copy_(padding)

    def tensors(self) -> list[Inexact[Tensor, "..."]]:
        """Return the matrices of level 0 .. L-1 and the top, real or complex; differentiable."""
        parameters = [*self.levels, self.top]
        return [torch.view_as_complex(tensor) for tensor in parameters] if self.is_complex else parameters

    def tree(self) -> NodeTree:
        """Return all block states with their norms, differentiable."""
        (*levels, top), _ = self._orthonormal()
        return build_node_tree(levels, top, self.padding)

    def _orthonormal(self, double: bool = False) -> tuple[list[Inexact[Tensor, "..."]], Tensor | None]:
        """Return the weights for orthonormal local functions, the top last, and these, (r, K); None: the basis's own.

        With `double` all are float64 or complex128, on the CPU.

        W = R^T Q^T by QR of W^T: the functions are Q^T f, the weights a R^T. Without a pixel the first one is alone.
        """
        precise = torch.complex128 if self.is_complex else torch.float64
        first, *others = [weight.cpu().to(precise) if double else weight for weight in self.tensors()]
        if self.leaves is None:
            return [first, *others], None
        local, factor = torch.linalg.qr(self.leaves.mT.to(first.real))
        sites = first.repeat(self.num_sites // len(first), 1, 1) if len(first) < self.num_sites else first
        padding = self.padding[:, None, None].to(first.device)
        return [torch.where(padding, sites, sites @ factor.mT.to(first.dtype)), *others], local.mT

    def log_partition(self) -> Float[Tensor, ""]:
        """Return log Z = log sum_y <Psi_y|Psi_y>, nats (eq. 33)."""
        norm, exponent = self.tree().scaled_norm()
        return norm.log() + 2 * math.log(2) * exponent.to(norm.dtype)

    def log_joint(self, x: Tensor) -> Float[Tensor, "batch classes"]:
        """Return log p(y, x), nats: of the images with K levels a probability, else a density (eq. 33).

        Minus infinity, with no gradient, where alpha_y(x) = 0.

        Args:
            x: (batch, N) grey levels in tree order, uint8 or floats in [0, 1].

        Raises:
            InputError: x has another shape, dtype or range, or grey levels that the basis does not have.
        """
        joint = [log_density(tree, *of_images) for tree, *of_images in self._amplitudes(x)]
        return torch.cat(joint) - log_levels(self.basis) * float((~self.padding).sum())

    def log_probability(self, x: Tensor) -> Float[Tensor, " batch"]:
        """Return log p(x) = log sum_y p(y, x), nats; `log_joint` says what x is."""
        return self.log_joint(x).logsumexp(-1)

    def forward(self, x: Tensor) -> Float[Tensor, "batch classes"]:
        """Return alpha_y(x) / sqrt(sum_y' alpha_y'(x)^2), whose squares are p(y|x) (eq. 34).

        alpha_y(x) itself would over- or underflow.

        Args:
            x: as `log_joint` takes it.

        Raises:
            InputError: as `log_joint`.
        """
        scores = []
        for _, amplitude, exponent in self._amplitudes(x):
            seen = torch.where(amplitude.detach() != 0, exponent, torch.iinfo(torch.int64).min // 4)
            scores.append(times_power_of_two(amplitude, exponent - seen.amax(-1, keepdim=True)))
        joined = torch.cat(scores).abs() if self.is_complex else torch.cat(scores)
        return functional.normalize(joined, dim=-1, eps=torch.finfo(joined.dtype).tiny)

    def _amplitudes(self, x: Tensor) -> Iterator[tuple[NodeTree, Tensor, Tensor]]:
        """Yield block states, and a and e with alpha_y(x) = a 2^e, of the images part by part."""
        check_images(x, self.num_sites, self.basis)
        levels = tuple(self.levels)
        if not self.is_complex and can_compute(x, levels):
            for part in x.split(IMAGES_AT_A_TIME):
                table, gram = self._table(), None
                if self.leaves is not None:
                    table, gram = table @ self.leaves.mT, self.leaves @ self.leaves.mT
                states, features, exponent = image_states(part, table, self.padding, levels, gram)
                tree = NodeTree(states, (), *classes_of(states, self.top))
                yield tree, features @ tree.top.mT, exponent.unsqueeze(-1) + tree.classes.exponent
        else:
            tree = self.tree()
            for part in x.split(IMAGES_AT_A_TIME):
                yield tree, *amplitudes(tree, self.represent(part))

    def _table(self) -> Float[Tensor, "256 local"]:
        """Return f_0, f_1, ... of the 256 grey levels."""
        functions = self.basis(torch.arange(256, dtype=self.top.dtype, device=self.top.device) / 255)
        return functional.pad(functions, (1, 0), value=1.0)

    def represent(self, x: Tensor) -> Float[Tensor, "batch sites local"]:
        """Return f_0(x_p), f_1(x_p), ... of every pixel; f_0 alone at sites without one."""
        if x.dtype == torch.uint8:
            features = functional.embedding(x.int(), self._table())
        else:
            features = functional.pad(self.basis(x.to(self.top.dtype)), (1, 0), value=1.0)
        _, local = self._orthonormal()
        features = features if local is None else features @ local.mT
        alone = torch.eye(1, features.shape[-1], dtype=features.dtype, device=features.device)
        return torch.where(self.padding[:, None], alone, features)

    def state(self, statistics: None = None) -> DensityState:
        """Return the states |Psi_y>, float64, on the CPU; differentiable."""
        (*levels, top), local = self._orthonormal(double=True)
        return DensityState(levels, top, self.basis.name, self.padding.cpu(), local=local)

    def first_non_finite(self, x: Tensor) -> str:
        """Say where the first infinite or NaN number is."""
        for level, weight in enumerate(self.levels):
            if not weight.isfinite().all():
                return f"the weights of level {level}"
        return "the weights of the top" if not self.top.isfinite().all() else "the logarithms of the amplitudes"
