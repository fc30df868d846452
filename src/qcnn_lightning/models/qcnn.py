"""The q-CNN: representation, L levels of batch norm, 1x1 convolution and product pooling, classification (eq. 1-10)."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from qcnn_lightning.basis import make_basis
from qcnn_lightning.errors import InputError, checked_settings
from qcnn_lightning.kernels.build import is_available
from qcnn_lightning.kernels.cpu_kernel import CpuKernel, evaluated_scores, reason_against
from qcnn_lightning.models.channels import channel_schedule
from qcnn_lightning.models.convolution import NormalisedConvolution, mapped, product_pooling
from qcnn_lightning.models.model import Model, check_choice, check_sites, num_parameters
from qcnn_lightning.models.statistics import ChannelStatistics, batch_statistics
from qcnn_lightning.pixels import check_images, checked_white
from qcnn_lightning.states.tree import NetworkState

log = logging.getLogger(__name__)

MATRICES_PER_LEVEL = {"full": 1, "sibling": 2}
STARTS = ("product_state", "default")
KERNELS = ("auto", "plain", "fused")
PRECISIONS = ("high", "highest")
CONSTANT = 1e-6
"""Largest ratio of deviation to mean that counts as constant: float32's round-off."""


class QCNN(Model):
    """A convolutional classifier that is exactly a tree tensor network (arXiv 2103.11785).

    zeta^(0)_p,i = f_i(x_p); for l < L: xi = a^(l) (w zeta^(l) + z), zeta^(l+1)_p = xi_2p * xi_{2p+1};
    alpha = a^(L) (w zeta^(L) + z) (eq. 1-10, sites counted from 0).

    Args:
        num_sites: N = 2^L, pixels of the flattened image.
        num_classes: number of classes.
        d: channel multiplier.
        basis: "fourier" (eq. 19; d_0 must be even), "legendre", "levels" (d_0 + 1 grey levels), or your own class.
        channels: "linear" for d_l = d (l + 1), "constant" for d_l = d, or the L + 1 numbers d_0 .. d_L.
        sharing: "full", one matrix per level: exchanging the two children of any node changes no score; or "sibling",
            one matrix for left and one for right children.
        start: "product_state" learns from the first epoch on; "default" is PyTorch's initialisation.
        start_gamma: gamma of every batch norm at the product-state start; 0 would be a product state.
        kernel: "fused", C++ operators (they need uint8 images, one process, a CPU and a compiler); "plain", PyTorch's
            operators; "auto", fused where it works. All compute the same function up to round-off.
        precision: of the fused kernel's float32 products. "highest" keeps 24 bits; "high" keeps 16 bits where matrix
            units make that faster.
        white: where the grey level 1 lies in the basis's interval [0, 1]; x lies at white x. In the Fourier basis 0 and
            1 are the same point, so below 1 black and white are different states; 1 is the paper's.

    Raises:
        InputError: a value that no network can have.
    """

    @checked_settings
    def __init__(
        self,
        num_sites: int | np.integer,
        num_classes: int | np.integer,
        d: int | np.integer,
        basis: str = "fourier",
        channels: str | Sequence[int] = "linear",
        sharing: str = "full",
        start: str = "product_state",
        start_gamma: float = 0.3,
        kernel: str = "auto",
        precision: str = "high",
        white: int | float = 1.0,
    ):
        super().__init__()
        num_sites, num_classes, d = int(num_sites), int(num_classes), int(d)
        check_sites(num_sites)
        if num_classes < 2:
            raise InputError(f"num_classes={num_classes}: a classifier needs at least 2 classes")
        check_choice("sharing", sharing, MATRICES_PER_LEVEL)
        check_choice("start", start, STARTS)
        if start_gamma <= 0:
            raise InputError(f"model.start_gamma={start_gamma}: must be positive")
        if kernel == "fused_float32":
            raise InputError("model.kernel=fused_float32 is now called model.kernel=fused model.precision=highest")
        check_choice("precision", precision, PRECISIONS)
        check_choice("kernel", kernel, KERNELS)
        self.d, self.sharing, self.kernel, self.precision = d, sharing, kernel, precision
        self.white = checked_white(white)
        self._logged: set[str] = set()
        self._cpu_kernel: CpuKernel | None = None
        self._grey_level_functions: dict[tuple[torch.dtype, torch.device], Tensor] = {}
        self.num_sites, self.num_classes = num_sites, num_classes
        self.num_levels = num_sites.bit_length() - 1
        self.channels = channel_schedule(channels, d, self.num_levels)
        self.basis = make_basis(basis, self.channels[0])
        self.levels: Sequence[NormalisedConvolution] = nn.ModuleList(  # type: ignore[assignment]
            NormalisedConvolution(self.channels[level], self.channels[level + 1], MATRICES_PER_LEVEL[sharing])
            for level in range(self.num_levels)
        )
        self.classification = NormalisedConvolution(self.channels[-1], num_classes, matrices=1)
        if start == "product_state":
            for level in self.levels:
                level.start_near_constant(start_gamma, constant=1.0)
            self.classification.start_near_constant(start_gamma, constant=1 / num_classes)

    def __repr__(self) -> str:
        facts = ", ".join(f"{name}={value!r}" for name, value in self.facts().items())
        return f"QCNN({facts})"

    def facts(self) -> dict[str, Any]:
        """Return what the network is: sites, d, channels, sharing, basis, parameters."""
        names = ("num_sites", "num_classes", "d", "channels", "sharing")
        facts = {name: getattr(self, name) for name in names} | {"basis": self.basis.name, "white": self.white}
        return facts | {"kernel": self.kernel, "num_parameters": num_parameters(self)}

    def _repr_html_(self) -> str:
        from qcnn_lightning.notebook import network_html

        return network_html("QCNN", self.facts(), self.channels, self.num_classes, self.sharing)

    def forward(self, x: Tensor) -> Float[Tensor, "batch {self.num_classes}"]:
        """Return alpha_y(x), the score and the amplitude of every class (eq. 10, 31).

        Args:
            x: (batch, N) pixels in tree order, uint8 grey levels or floats in [0, 1].

        Raises:
            InputError: x has another shape, dtype or range.
        """
        if torch.compiler.is_compiling():
            # There are no values to check.
            return self._compiled(x)
        check_images(x, self.num_sites, self.basis)
        kernel = self.fast_kernel(x)
        if kernel is not None:
            fixed = () if self.training else [level.statistics() for level in self.all_levels]
            return kernel.differentiable(x, fixed)
        return self._plain(x)

    def _compiled(self, x: Tensor) -> Tensor:
        """Return the scores for `torch.compile` and `torch.export`: in evaluation by the operator, else by formulas."""
        evaluates = not self.training and not torch.is_grad_enabled() and not torch.compiler.is_exporting()
        if not evaluates or self.kernel == "plain" or x.dtype != torch.uint8 or x.device.type != "cpu":
            return self._plain(x)
        if not is_available():
            return self._plain(x)
        levels = self.all_levels
        statistics = [level.statistics() for level in levels]
        scores: Tensor = evaluated_scores(
            x,
            self.grey_level_functions(self.classification.weight.dtype, x.device),
            [
                *(level.gamma for level in levels),
                *(level.beta for level in levels),
                *(level.weight for level in levels),
            ],
            [mean for mean, _ in statistics],
            [var for _, var in statistics],
            [level.epsilon for level in levels],
            self.precision == "high",
        )
        return scores

    def _plain(self, x: Tensor) -> Tensor:
        """Return the scores by PyTorch's operators; all tensors may have a leading axis of networks (`networks.py`)."""
        features = self.represent(x)
        for level in self.levels:
            features = product_pooling(features, *level(features))
        matrix, shift = self.classification(features)
        return mapped(features, matrix[..., 0, :, :], shift[..., 0, :]).squeeze(-2)

    def represent(
        self, x: Float[Tensor, "*networks batch sites"] | UInt8[Tensor, "*networks batch sites"]
    ) -> Float[Tensor, "*networks batch sites d_0"]:
        """Return zeta^(0)_{p,i} = f_i(white x_p), i = 1 .. d_0 (eq. 1)."""
        dtype = self.classification.weight.dtype
        if x.dtype != torch.uint8:
            return self.basis(self.white * x.to(dtype))
        return functional.embedding(x.int(), self.grey_level_functions(dtype, x.device))

    def grey_level_functions(self, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "256 d_0"]:
        """Return f_i(white g / 255) for the grey levels g = 0 .. 255 and i = 1 .. d_0; evaluated once."""
        if torch.compiler.is_compiling():
            return self.basis(self.white * torch.arange(256, dtype=dtype, device=device) / 255)
        if (dtype, device) not in self._grey_level_functions:
            with torch.inference_mode(False):  # or a table made in evaluation could not serve training
                grey_levels = torch.arange(256, dtype=dtype, device=device) / 255
                self._grey_level_functions[dtype, device] = self.basis(self.white * grey_levels)
        return self._grey_level_functions[dtype, device]

    @property
    def all_levels(self) -> list[NormalisedConvolution]:
        """Levels 0 .. L; level L is the classification."""
        return [*self.levels, self.classification]

    @property
    def fixed_statistics(self) -> list[ChannelStatistics]:
        """The statistics that evaluation normalises by; mean 0 and variance 1 before any is measured."""
        given = (level.statistics() for level in self.all_levels)
        return [ChannelStatistics(mean, var, num_values=0) for mean, var in given]

    def fast_kernel(self, x: Tensor) -> CpuKernel | None:
        """Return the fused kernel, or None where PyTorch's operators must compute images like these.

        Raises:
            InputError: `kernel` demands the fused one, and it cannot take them.
        """
        if self.kernel == "plain":
            return None
        dtype = self.classification.weight.dtype
        reason = reason_against(x, dtype)
        if reason is not None and self.kernel != "auto":
            raise InputError(f"model.kernel={self.kernel} cannot work here: {reason}; choose auto or plain")
        if reason is not None:
            self._log_once(logging.INFO, f"plain kernel; the fused one cannot work here: {reason}")
            return None
        self._log_once(logging.INFO, "fused kernel")
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
                bfloat16_products=self.precision == "high",
            )
        return self._cpu_kernel

    def _log_once(self, severity: int, message: str) -> None:
        if message not in self._logged:
            self._logged.add(message)
            log.log(severity, message)

    def _apply(self, *arguments: Any, **keywords: Any) -> "QCNN":
        """Move or convert the tensors. The kernel may hold the old ones, so it is dropped."""
        self._cpu_kernel = None
        return super()._apply(*arguments, **keywords)

    def load_state_dict(self, *arguments: Any, **keywords: Any) -> Any:
        """Take over weights. The kernel may hold the old tensors, so it is dropped."""
        self._cpu_kernel = None
        return super().load_state_dict(*arguments, **keywords)

    def arithmetic(self, x: Tensor) -> str:
        """Return the arithmetic of products in training on images like these: "PyTorch", or `CpuKernel.arithmetic`."""
        kernel = self.fast_kernel(x)
        return "PyTorch" if kernel is None else kernel.arithmetic

    @torch.no_grad()
    def fix_population_statistics(self, x: Tensor) -> None:
        """Fix the statistics that evaluation and `NetworkState` normalise by, from a sample of images.

        mu^(l), v^(l) = mean and variance of zeta^(l), computed with mu^(0), v^(0) .. mu^(l-1), v^(l-1) (theory.md,
        eq. S2). They agree with each other and with the present weights; running averages do not.

        Args:
            x: the sample, as `forward` takes it.

        Raises:
            InputError: x has another shape, dtype or range; or no local function varies over its pixels, so batch norm
                would divide by round-off.
        """
        check_images(x, self.num_sites, self.basis)
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
        """Check that some local function varies over these images; warn of those that do not.

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
            advice = (
                "black and white are the same point of the Fourier basis's circle: choose data.white=0.75"
                if len(levels) > 1
                else "images that are all the same cannot be told apart"
            )
            raise InputError(
                f"model.basis={self.basis.name}: none of its {len(constant)} functions varies over these images of "
                f"{seen}; {advice}"
            )
        named = ", ".join(f"f_{k}" for k in (constant.nonzero().flatten() + 1).tolist())
        self._log_once(
            logging.WARNING,
            f"{named} of model.basis={self.basis.name} are constant over these images of {seen}, and add nothing",
        )

    def statistics_of(self, x: Tensor) -> list[ChannelStatistics]:
        """Measure the statistics of every level on these images, as training does; differentiable (eq. 4).

        Args:
            x: the images, as `forward` takes them.

        Returns:
            Mean and biased variance of zeta^(l), (d_l,) each, for l = 0 .. L.

        Raises:
            InputError: x has another shape, dtype or range.
        """
        check_images(x, self.num_sites, self.basis)
        return self._measured(x)

    def _measured(self, x: Tensor) -> list[ChannelStatistics]:
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
        """Say where the first infinite or NaN number is: which level, and whether in its weights or its features."""
        features = self.represent(x)
        for number, level in enumerate(self.all_levels):
            if not all(parameter.isfinite().all() for parameter in level.parameters()):
                return f"the weights of level {number}"
            if not features.isfinite().all():
                return f"the features entering level {number}"
            if number < self.num_levels:
                # Not `batch_statistics`, which would wait for the other processes.
                var, mean = torch.var_mean(features, (0, 1), correction=0)
                features = product_pooling(features, *level.affine_map(mean, var))
        return "the scores of the classes"

    def state(self, statistics: Sequence[ChannelStatistics] | None = None) -> NetworkState:
        """Return the states |Psi_y> with <x|Psi_y> = alpha_y(x), the scores in evaluation (eq. 30, 31).

        Args:
            statistics: of levels 0 .. L, as `statistics_of` returns them; None for those of evaluation.

        Raises:
            InputError: as `site_tensors`.
        """
        return NetworkState.from_network(self, statistics)

    def site_tensors(
        self, statistics: Sequence[ChannelStatistics] | None = None
    ) -> tuple[list[Float[Tensor, "matrices rows columns"]], Float[Tensor, "classes extended"]]:
        """Return the tensors of the tree tensor network, float64, on the CPU (eq. 15, 16).

        ã^(l) = [[1, 0], [a z, a diag(w)]] for l < L, and ã^(L) = [a z, a diag(w)]. Index 0 is the constant channel.

        Args:
            statistics: of levels 0 .. L, as `statistics_of` returns them; None for those of evaluation.

        Returns:
            ã^(0) .. ã^(L-1), each (1 or 2, d_{l+1} + 1, d_l + 1), the left child's first, and ã^(L), (classes, d_L +
            1).

        Raises:
            InputError: no statistics are given, and the network has measured none.
        """
        if statistics is None and not all(level.statistics.measured for level in self.all_levels):
            raise InputError(
                "the network has no statistics yet, so it has no state: call fix_population_statistics(images) first"
            )
        given = [None] * (self.num_levels + 1) if statistics is None else statistics
        tensors = []
        for level, of_level in zip(self.levels, given[:-1], strict=True):
            tensor = level.site_tensor(of_level)
            constant_row = torch.zeros_like(tensor[:, :1])
            constant_row[..., 0] = 1
            tensors.append(torch.cat((constant_row, tensor), dim=1))
        return tensors, self.classification.site_tensor(given[-1])[0]
