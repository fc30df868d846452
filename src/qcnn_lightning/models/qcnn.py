"""The q-CNN: representation, L levels of batch norm, 1x1 convolution and product pooling, classification (eq. 1-10).

Batch norm with given statistics is affine, and so is the convolution after it: one matrix and one shift per level
(eq. 13-16). Both the network's own forward pass and its site tensors, from which `qcnn_lightning.states` builds quantum
states, are made of them, so they cannot disagree.
"""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from qcnn_lightning.basis import make_basis
from qcnn_lightning.errors import InputError, checked_settings
from qcnn_lightning.kernels.cpu_kernel import CpuKernel, obstacle
from qcnn_lightning.models.model import Model
from qcnn_lightning.models.statistics import ChannelStatistics, FixedStatistics, batch_statistics
from qcnn_lightning.pixels import check_images
from qcnn_lightning.states.tree import NetworkState

log = logging.getLogger(__name__)

MATRICES_PER_LEVEL = {"full": 1, "sibling": 2}
STARTS = ("product_state", "default")
KERNELS = ("auto", "plain", "fused")
PRECISIONS = ("high", "highest")
CONSTANT = 1e-6
"""A function whose deviation is this small a part of its mean does not vary: it is round-off of float32."""


def channel_schedule(channels: str | Sequence[int], d: int, num_levels: int) -> tuple[int, ...]:
    """Return d_0 .. d_L, the channels entering every level.

    Args:
        channels: "linear" for d_l = d (l + 1), "constant" for d_l = d, or the L + 1 numbers themselves.
        d: the channel multiplier.
        num_levels: L.

    Raises:
        InputError: unknown schedule, wrong number of channels, or a number that is not positive.
    """
    if d < 1:
        raise InputError(f"model.d={d}: the channel multiplier must be at least 1")
    if channels == "linear":
        return tuple(d * (level + 1) for level in range(num_levels + 1))
    if channels == "constant":
        return (d,) * (num_levels + 1)
    if isinstance(channels, str):
        raise InputError(f"model.channels={channels}: choose linear, constant, or a list of {num_levels + 1} numbers")
    if len(channels) != num_levels + 1:
        raise InputError(
            f"model.channels={list(channels)} has {len(channels)} numbers; {2**num_levels} pixels make "
            f"L = {num_levels} levels, which take L + 1 = {num_levels + 1}"
        )
    if min(channels) < 1:
        raise InputError(f"model.channels={list(channels)}: every number of channels must be at least 1")
    return tuple(channels)


class Level(nn.Module):
    """Batch norm and 1x1 convolution of one level (eq. 2-6).

    Args:
        in_channels: d_l.
        out_channels: d_{l+1}.
        matrices: 1 if all sites share one matrix, 2 if left and right children have their own.
        epsilon: added to the variance (eq. 4).
    """

    def __init__(self, in_channels: int, out_channels: int, matrices: int, epsilon: float = 1e-5):
        super().__init__()
        self.epsilon = epsilon
        self.gamma = nn.Parameter(torch.ones(in_channels))
        self.beta = nn.Parameter(torch.zeros(in_channels))
        self.weight = nn.Parameter(torch.empty(matrices, out_channels, in_channels))
        self.statistics = FixedStatistics(in_channels)
        # PyTorch's own start of a Conv1d of width 1 and of a Linear layer.
        nn.init.uniform_(self.weight, -(in_channels**-0.5), in_channels**-0.5)

    @torch.no_grad()
    def start_near_constant(self, gamma: float, constant: float) -> None:
        """Let the output start as `constant` plus a variation of the order of gamma.

        Keeps the random weights but for the mean of every row, set so that the constant vector goes to `constant` times
        the constant vector.
        """
        self.gamma.fill_(gamma)
        self.beta.fill_(1)
        self.weight.add_((constant - self.weight.sum(-1, keepdim=True)) / self.weight.shape[-1])

    def affine_map(
        self, mean: Float[Tensor, " in_channels"], var: Float[Tensor, " in_channels"]
    ) -> tuple[Float[Tensor, "matrices out_channels in_channels"], Float[Tensor, "matrices out_channels"]]:
        """Fold batch norm with these statistics into the convolution: a diag(w) and a z (eq. 4, 15).

        w = gamma / sqrt(var + epsilon), z = beta - mean w.

        Computed where, and as precisely as, the statistics are.
        """
        gamma, beta, weight = (p.to(device=mean.device, dtype=mean.dtype) for p in (self.gamma, self.beta, self.weight))
        scale = gamma / torch.sqrt(var + self.epsilon)
        return weight * scale, weight @ (beta - mean * scale)

    def site_tensor(
        self, statistics: ChannelStatistics | None = None
    ) -> Float[Tensor, "matrices out_channels extended"]:
        """Return (a z, a diag(w)), float64, on the CPU (eq. 16; eq. 15 but its first row).

        Args:
            statistics: to normalise by; the fixed ones if None.
        """
        given = self.statistics() if statistics is None else (statistics.mean, statistics.var)
        # To the CPU first: some devices have no float64.
        mean, var = (statistic.cpu().double() for statistic in given)
        matrix, shift = self.affine_map(mean, var)
        return torch.cat((shift.unsqueeze(-1), matrix), dim=-1)

    def forward(
        self, features: Float[Tensor, "batch sites in_channels"]
    ) -> tuple[Float[Tensor, "matrices out_channels in_channels"], Float[Tensor, "matrices out_channels"]]:
        """Return matrix and shift for these features: the batch's statistics in training, fixed ones in evaluation."""
        if not self.training:
            return self.affine_map(*self.statistics())
        batch = batch_statistics(features)
        self.statistics.update_running(batch)
        return self.affine_map(batch.mean, batch.var)


def product_pooling(
    features: Float[Tensor, "batch sites in_channels"],
    matrix: Float[Tensor, "matrices out_channels in_channels"],
    shift: Float[Tensor, "matrices out_channels"],
) -> Float[Tensor, "batch sites//2 out_channels"]:
    """Map every site and multiply left and right children channel by channel (eq. 6, 8).

    xi_p = matrix zeta_p + shift and zeta'_p = xi_2p * xi_{2p+1}, elementwise; two matrices are one for each child.
    """
    if len(matrix) == 1:
        mapped = functional.linear(features, matrix[0], shift[0])
        return mapped[:, 0::2] * mapped[:, 1::2]
    left = functional.linear(features[:, 0::2], matrix[0], shift[0])
    right = functional.linear(features[:, 1::2], matrix[1], shift[1])
    return left * right


class QCNN(Model):
    """A convolutional classifier that is exactly a tree tensor network (arXiv 2103.11785).

    Args:
        num_sites: N = 2^L, pixels of the flattened image.
        num_classes: number of classes.
        d: channel multiplier.
        basis: local basis, "fourier" (eq. 19; d_0 must be even) or "legendre".
        channels: "linear" for d_l = d (l + 1), "constant" for d_l = d, or L + 1 numbers d_0 .. d_L.
        sharing: "full", one matrix per level, or "sibling", one each for the left and right children of a level. With
            full sharing the output does not change when the two children of any node are exchanged.
        start: "product_state", where learning begins in the first epoch, or "default", PyTorch's own initialisation.
        start_gamma: scale of the batch norms at the product-state start: how far from a product state it lies.
        kernel: "fused", C++ operators for the whole network (uint8 images on one CPU, and a compiler); "plain",
            PyTorch's operators; "auto", fused where it works. The same function up to round-off.
        precision: of float32 products in the fused kernel. "highest" computes them in float32, to 24 bits; "high" takes
            each as three of bfloat16, to 16 bits, on processors with matrix units, where that is faster.

    Raises:
        InputError: a value that no network can have.
    """

    @checked_settings
    def __init__(
        self,
        num_sites: int,
        num_classes: int,
        d: int,
        basis: str = "fourier",
        channels: str | Sequence[int] = "linear",
        sharing: str = "full",
        start: str = "product_state",
        start_gamma: float = 0.3,
        kernel: str = "auto",
        precision: str = "high",
    ):
        super().__init__()
        if num_sites < 2 or num_sites & (num_sites - 1):
            raise InputError(
                f"num_sites={num_sites}: a binary tree has a power of two of leaves, at least 2; pad the images"
            )
        if num_classes < 2:
            raise InputError(f"num_classes={num_classes}: a classifier tells at least 2 classes apart")
        if sharing not in MATRICES_PER_LEVEL:
            raise InputError(f"model.sharing={sharing}: choose one of {', '.join(MATRICES_PER_LEVEL)}")
        if start not in STARTS:
            raise InputError(f"model.start={start}: choose one of {', '.join(STARTS)}")
        if start_gamma <= 0:
            raise InputError(f"model.start_gamma={start_gamma}: must be positive")
        if kernel == "fused_float32":
            raise InputError("model.kernel=fused_float32 is called model.kernel=fused model.precision=highest now")
        if precision not in PRECISIONS:
            raise InputError(f"model.precision={precision}: choose one of {', '.join(PRECISIONS)}")
        if kernel not in KERNELS:
            raise InputError(f"model.kernel={kernel}: choose one of {', '.join(KERNELS)}")
        self.kernel, self.precision = kernel, precision
        self.told: set[str] = set()
        self._cpu_kernel: CpuKernel | None = None
        self._grey_level_functions: dict[tuple[torch.dtype, torch.device], Tensor] = {}
        self.num_sites, self.num_classes = num_sites, num_classes
        self.num_levels = num_sites.bit_length() - 1
        self.channels = channel_schedule(channels, d, self.num_levels)
        self.basis = make_basis(basis, self.channels[0])
        self.levels: Sequence[Level] = nn.ModuleList(  # type: ignore[assignment]
            Level(self.channels[level], self.channels[level + 1], MATRICES_PER_LEVEL[sharing])
            for level in range(self.num_levels)
        )
        self.classification = Level(self.channels[-1], num_classes, matrices=1)
        if start == "product_state":
            for level in self.levels:
                level.start_near_constant(start_gamma, constant=1.0)
            self.classification.start_near_constant(start_gamma, constant=1 / num_classes)

    def forward(self, x: Tensor) -> Float[Tensor, "batch {self.num_classes}"]:
        """Return alpha_y(x), the score and the amplitude of every class (eq. 10, 31).

        Args:
            x: (batch, N) pixels in tree order, uint8 grey levels or floats in [0, 1].

        Raises:
            InputError: x has another shape, dtype or range.
        """
        check_images(x, self.num_sites)
        kernel = self.fast_kernel(x)
        if kernel is not None:
            fixed = () if self.training else [level.statistics() for level in self.all_levels]
            return kernel.differentiable(x, fixed)
        features = self.represent(x)
        for level in self.levels:
            features = product_pooling(features, *level(features))
        matrix, shift = self.classification(features)
        return functional.linear(features.squeeze(1), matrix[0], shift[0])

    def represent(
        self, x: Float[Tensor, "batch sites"] | UInt8[Tensor, "batch sites"]
    ) -> Float[Tensor, "batch sites d_0"]:
        """Represent every pixel by f_1 .. f_{d_0} of its grey level (eq. 1)."""
        dtype = self.classification.weight.dtype
        if x.dtype != torch.uint8:
            return self.basis(x.to(dtype))
        return functional.embedding(x.int(), self.grey_level_functions(dtype, x.device))

    def grey_level_functions(self, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "256 d_0"]:
        """Return f_1 .. f_{d_0} at the 256 grey levels that uint8 images consist of; evaluated once."""
        if (dtype, device) not in self._grey_level_functions:
            with torch.inference_mode(False):  # else training could not use what an evaluation came upon first
                grey_levels = torch.arange(256, dtype=dtype, device=device) / 255
                self._grey_level_functions[dtype, device] = self.basis(grey_levels)
        return self._grey_level_functions[dtype, device]

    @property
    def all_levels(self) -> list[Level]:
        """Levels 0 .. L: those that pool, then the classification."""
        return [*self.levels, self.classification]

    @property
    def fixed_statistics(self) -> list[ChannelStatistics]:
        """The statistics that evaluation normalises by; mean 0 and variance 1 where none has been measured yet."""
        given = (level.statistics() for level in self.all_levels)
        return [ChannelStatistics(mean, var, num_values=0) for mean, var in given]

    def fast_kernel(self, x: Tensor) -> CpuKernel | None:
        """Return the fused kernel if it takes images like these; None leaves them to PyTorch's operators.

        The log tells of each choice once.

        Raises:
            InputError: the fused kernel is demanded and cannot take them.
        """
        if self.kernel == "plain":
            return None
        dtype = self.classification.weight.dtype
        reason = obstacle(x, dtype)
        if reason is not None and self.kernel != "auto":
            raise InputError(f"model.kernel={self.kernel} cannot work here: {reason}; choose auto or plain")
        choice = "fused kernel" if reason is None else f"plain kernel; the fused one cannot work here: {reason}"
        if choice not in self.told:
            self.told.add(choice)
            log.info(choice)
        if reason is not None:
            return None
        if self._cpu_kernel is None or self._cpu_kernel.table.dtype != dtype:
            levels = self.all_levels
            self._cpu_kernel = CpuKernel(
                self.grey_level_functions(dtype, x.device),
                [level.gamma for level in levels],
                [level.beta for level in levels],
                [level.weight for level in levels],
                [level.epsilon for level in levels],
                [level.statistics.running_mean for level in levels],
                [level.statistics.running_var for level in levels],
                levels[0].statistics.momentum,
                split_products=self.precision == "high",
            )
        return self._cpu_kernel

    def _apply(self, *arguments: Any, **keywords: Any) -> "QCNN":
        """Move or convert the tensors, which may make others of them."""
        self._cpu_kernel = None
        return super()._apply(*arguments, **keywords)

    def load_state_dict(self, *arguments: Any, **keywords: Any) -> Any:
        """Take over weights, which may make other tensors of them."""
        self._cpu_kernel = None
        return super().load_state_dict(*arguments, **keywords)

    def arithmetic(self, x: Tensor) -> str:
        """Say by what training on images like these computes products: depends on precision and processor."""
        kernel = self.fast_kernel(x)
        return "PyTorch" if kernel is None else kernel.arithmetic

    @torch.no_grad()
    def fix_population_statistics(self, x: Tensor) -> None:
        """Fix the statistics that evaluation and `NetworkState` use, level by level, from a sample of images.

        Each level's are measured on features that were normalised by the ones just fixed below it, so they agree with
        each other and with the present weights, as running averages do not.

        Args:
            x: the sample, as `forward` takes it.

        Raises:
            InputError: x has another shape, dtype or range; or no local function varies over its pixels, so that batch
                norm would divide round-off by itself.
        """
        check_images(x, self.num_sites)
        kernel = self.fast_kernel(x)
        if kernel is None:
            measured = self.statistics_of(x)
        else:
            by_level = enumerate(zip(*kernel.statistics_of(x), strict=True))
            measured = [ChannelStatistics(mean, var, x.numel() >> level) for level, (mean, var) in by_level]
        self.check_variation(measured[0], x)
        for level, population in zip(self.all_levels, measured, strict=True):
            level.statistics.fix_population(population)

    def check_variation(self, of_pixels: ChannelStatistics, x: Tensor) -> None:
        """Check that the local functions tell the grey levels of these images apart; the log names those that do not.

        Args:
            of_pixels: mean and variance of f_1 .. f_{d_0} over the images' pixels.
            x: the images.

        Raises:
            InputError: every function is constant over them.
        """
        constant = of_pixels.var <= (CONSTANT * of_pixels.mean).square()
        if not constant.any():
            return
        levels = x.unique()
        seen = f"{len(levels)} grey levels, from {levels[0]:g} to {levels[-1]:g}"
        if constant.all():
            what_is_right = (
                "black and white are the same point of the Fourier basis's circle: choose model.basis=legendre"
                if len(levels) > 1
                else "images that are all the same cannot be told apart"
            )
            raise InputError(
                f"model.basis={self.basis.name}: none of its {len(constant)} functions varies over these images of "
                f"{seen}; {what_is_right}"
            )
        named = ", ".join(f"f_{k}" for k in (constant.nonzero().flatten() + 1).tolist())
        told = f"{named} of model.basis={self.basis.name} are constant over these images of {seen}, and add nothing"
        if told not in self.told:
            self.told.add(told)
            log.warning(told)

    def statistics_of(self, x: Tensor) -> list[ChannelStatistics]:
        """Measure the statistics of every level on these images, normalised by them level by level; differentiable.

        Args:
            x: the images, as `forward` takes them.

        Raises:
            InputError: x has another shape, dtype or range.
        """
        check_images(x, self.num_sites)
        measured = []
        features = self.represent(x)
        for level in self.levels:
            measured.append(batch_statistics(features))
            features = product_pooling(features, *level.affine_map(measured[-1].mean, measured[-1].var))
        return [*measured, batch_statistics(features)]

    @torch.no_grad()
    def first_non_finite(
        self, x: Float[Tensor, "batch {self.num_sites}"] | UInt8[Tensor, "batch {self.num_sites}"]
    ) -> str:
        """Say at which level, and whether in its weights or its features, something is infinite or NaN."""
        features = self.represent(x)
        for number, level in enumerate(self.all_levels):
            if not all(parameter.isfinite().all() for parameter in level.parameters()):
                return f"the weights of level {number}"
            if not features.isfinite().all():
                return f"the features entering level {number}"
            if number < self.num_levels:
                # Of these images alone: other processes may be elsewhere.
                var, mean = torch.var_mean(features, (0, 1), correction=0)
                features = product_pooling(features, *level.affine_map(mean, var))
        return "the scores of the classes"

    def state(self, statistics: Sequence[ChannelStatistics] | None = None) -> NetworkState:
        """Return the states |Psi_y> whose amplitudes are the scores in evaluation (eq. 30, 31).

        Args:
            statistics: of every level, to normalise by, as `statistics_of` measures them; those of evaluation if None.

        Raises:
            InputError: as `site_tensors`.
        """
        return NetworkState.from_network(self, statistics)

    def site_tensors(
        self, statistics: Sequence[ChannelStatistics] | None = None
    ) -> tuple[list[Float[Tensor, "matrices rows columns"]], Float[Tensor, "classes extended"]]:
        """Return the tensors of the tree tensor network (eq. 15, 16).

        Args:
            statistics: of levels 0 .. L, to normalise by; those that evaluation uses if None.

        Returns:
            The site tensors of levels 0 .. L-1, each (1 or 2, d_{l+1} + 1, d_l + 1), left child first, and the top
            tensor (classes, d_L + 1). Index 0 is the constant channel. All float64, on the CPU.

        Raises:
            InputError: no statistics are given, and the network has not measured any.
        """
        if statistics is None and not all(level.statistics.measured for level in self.all_levels):
            raise InputError(
                "the network has no statistics yet, so it is no state: call fix_population_statistics(images) first"
            )
        given = [None] * (self.num_levels + 1) if statistics is None else statistics
        tensors = []
        for level, of_level in zip(self.levels, given[:-1], strict=True):
            tensor = level.site_tensor(of_level)
            constant_row = torch.zeros_like(tensor[:, :1])
            constant_row[..., 0] = 1
            tensors.append(torch.cat((constant_row, tensor), dim=1))
        return tensors, self.classification.site_tensor(given[-1])[0]
