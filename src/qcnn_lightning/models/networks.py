"""Several q-CNNs of one shape as one: every tensor has a leading axis, the networks.

The weights of all networks lie in one matrix, a row each, and so do their gradients. The networks' own parameters and
running averages become views of what is trained, so whoever reads, saves or evaluates one network sees its numbers.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qcnn_lightning.costs import Cost, SquaredDistance
from qcnn_lightning.kernels.build import load_operators
from qcnn_lightning.kernels.cpu_kernel import CpuKernel
from qcnn_lightning.kernels.kernel import backpropagate
from qcnn_lightning.models.qcnn import QCNN
from qcnn_lightning.models.statistics import ChannelStatistics

NUMBERS_AT_A_TIME = 2**28
"""Features of a level held at a time in evaluation: 1 GiB in float32."""
RUNNING = ("running_mean", "running_var")
POPULATION = ("population_mean", "population_var")


class Networks:
    """Several q-CNNs of one shape, trained in one sequence of operations.

    A network's digits do not depend on which others are with it; by PyTorch's operators, not on which others if any.

    Args:
        networks: of the same class, settings and shape; their weights may differ.

    Attributes:
        weights: (networks, parameters), a row has gamma, beta and weight of all levels, in this order.
        gradients: (networks, parameters), of each network's own cost.
        running: the running averages of means and variances, (networks, channels) each.
    """

    def __init__(self, networks: Sequence[QCNN]):
        self.networks = list(networks)
        first = self.networks[0]
        self.batched = copy.deepcopy(first)
        self.weights = torch.stack([torch.cat([p.detach().flatten() for p in parameters_of(n)]) for n in networks])
        self.gradients = torch.zeros_like(self.weights)
        self._own_gradients: list[tuple[nn.Parameter, Tensor]] = []
        own = [parameters_of(network) for network in networks]
        start = 0
        for number, (level, name) in enumerate(places_of(self.batched)):
            of_level = own[0][number]
            columns = slice(start, start + of_level.numel())
            start += of_level.numel()
            view = self.weights[:, columns].unflatten(1, of_level.shape)
            setattr(level, name, nn.Parameter(view))
            for network, row, gradient in zip(own, view, self.gradients[:, columns], strict=True):
                network[number].data = row
                self._own_gradients.append((network[number], gradient.view(of_level.shape)))
        self.running: list[Tensor] = []
        for place, level in enumerate(self.batched.all_levels):
            for name in RUNNING:
                averages = [getattr(network.all_levels[place].statistics, name) for network in networks]
                together = torch.stack(averages)
                self.running.append(together)
                setattr(level.statistics, name, together)
                for average, row in zip(averages, together, strict=True):
                    average.data = row
        self._leaves = parameters_of(self.batched)
        self._scores: Callable[[Tensor], Tensor] = self.batched._plain

    def compile(self, backend: str = "inductor") -> None:
        """Let PyTorch's compiler fuse the operators of training from now on.

        Args:
            backend: of `torch.compile`.
        """
        # What was compiled for other networks counts against a limit, beyond which nothing more is compiled.
        torch.compiler.reset()
        self._scores = torch.compile(self.batched._plain, dynamic=False, backend=backend)

    def __len__(self) -> int:
        return len(self.networks)

    def attach_gradients(self) -> None:
        """Let the gradients of the networks' own parameters be views of `gradients`."""
        for parameter, gradient in self._own_gradients:
            parameter.grad = gradient

    def backpropagate(self, cost: Cost, x: Sequence[Tensor], labels: Sequence[Tensor]) -> Float[Tensor, " networks"]:
        """Return every network's mean cost over its own batch, and set `gradients` to those of these costs.

        Args:
            cost: cost of an image.
            x: (batch, N) images of every network, batches of one size.
            labels: (batch,) of every network.
        """
        kernels = [network.fast_kernel(images) for network, images in zip(self.networks, x, strict=True)]
        if all(kernels):
            return self.weights.new_tensor(self._on_cpu(kernels, cost, x, labels), dtype=torch.float64)
        return self.backpropagate_batched(cost, torch.stack(tuple(x)), torch.stack(tuple(labels)))

    def backpropagate_batched(self, cost: Cost, x: Tensor, labels: Tensor) -> Float[Tensor, " networks"]:
        """Do as `backpropagate`, by PyTorch's operators.

        Args:
            cost: cost of an image.
            x: (networks, batch, N).
            labels: (networks, batch).
        """
        self.batched.train()
        with torch.enable_grad():
            scores = self._scores(x)
        costs, gradient = costs_and_gradient(cost, scores.detach(), labels)
        of_leaves = torch.autograd.grad(scores, self._leaves, gradient)
        torch.cat([leaf.flatten(1) for leaf in of_leaves], 1, out=self.gradients)
        return costs

    def _on_cpu(self, kernels: Sequence[Any], cost: Cost, x: Sequence[Tensor], labels: Sequence[Tensor]) -> list[float]:
        first: CpuKernel = kernels[0]
        if type(cost) is SquaredDistance:
            costs: list[float] = load_operators().squared_distances(
                [images.contiguous() for images in x],
                list(labels),
                first.table,
                [parameter for kernel in kernels for parameter in kernel.parameters],
                [average for kernel in kernels for average in kernel.running_mean],
                [average for kernel in kernels for average in kernel.running_var],
                first.momentum,
                first.epsilon,
                first.bfloat16_products,
                self.gradients,
            )
            return costs
        costs = [
            backpropagate(kernel, cost, images, of_images)
            for kernel, images, of_images in zip(kernels, x, labels, strict=True)
        ]
        for parameter, gradient in self._own_gradients:
            assert parameter.grad is not None
            gradient.copy_(parameter.grad)
        self.attach_gradients()
        return costs

    @torch.no_grad()
    def fix_population_statistics(self, x: Sequence[Tensor]) -> None:
        """Fix the statistics of every network from its own images, as `QCNN.fix_population_statistics` does.

        Args:
            x: (sample, N) of every network, samples of one size.
        """
        if self.images_at_a_time() < len(x[0]):
            for network, images in zip(self.networks, x, strict=True):
                network.fix_population_statistics(images)
            return
        measured = self.batched._measured(torch.stack(tuple(x)))
        for row, (network, images) in enumerate(zip(self.networks, x, strict=True)):
            own = [ChannelStatistics(level.mean[row], level.var[row], level.num_values) for level in measured]
            network.check_variation(own[0], images)
            for level, population in zip(network.all_levels, own, strict=True):
                level.statistics.fix_population(population)

    @torch.no_grad()
    def evaluate(self, x: Sequence[Tensor]) -> Float[Tensor, "networks batch classes"]:
        """Return every network's scores of its own images, by the statistics that evaluation normalises by.

        Args:
            x: (batch, N) of every network, batches of one size.
        """
        self.batched.eval()
        for place, level in enumerate(self.batched.all_levels):
            each = [network.all_levels[place].statistics for network in self.networks]
            for name in POPULATION:
                setattr(level.statistics, name, torch.stack([getattr(of_network, name) for of_network in each]))
            level.statistics.population_fixed = each[0].population_fixed
        parts = torch.stack(tuple(x)).split(self.images_at_a_time(), dim=1)
        return torch.cat([self.batched._plain(part) for part in parts], dim=1)

    def images_at_a_time(self) -> int:
        """Return how many images all networks evaluate in `NUMBERS_AT_A_TIME` numbers a level, at least one."""
        sites, channels = self.batched.num_sites, self.batched.channels
        widest = max((sites >> level) * width for level, width in enumerate(channels))
        return max(1, NUMBERS_AT_A_TIME // (len(self) * widest))


def places_of(network: QCNN) -> list[tuple[nn.Module, str]]:
    """Return where the parameters are, in the order of the CPU kernel: gamma of every level, then beta, then weight."""
    return [(level, name) for name in ("gamma", "beta", "weight") for level in network.all_levels]


def parameters_of(network: QCNN) -> list[nn.Parameter]:
    """Return the parameters in the order of `places_of`."""
    return [getattr(level, name) for level, name in places_of(network)]


def costs_and_gradient(
    cost: Cost, scores: Float[Tensor, "networks batch classes"], labels: Tensor
) -> tuple[Float[Tensor, " networks"], Float[Tensor, "networks batch classes"]]:
    """Return every network's mean cost, and the gradient of their sum with respect to the scores.

    A cost is one of images, so those of all networks are one batch.

    Args:
        cost: cost of an image.
        scores: alpha_y(x).
        labels: (networks, batch).
    """
    networks, batch = labels.shape
    flat = scores.flatten(0, 1)
    with torch.enable_grad():
        leaf = flat.detach().requires_grad_()
        costs = cost(leaf, labels.flatten())
        (gradient,) = torch.autograd.grad(costs.sum() / batch, leaf)
    return costs.detach().view(networks, batch).mean(1), gradient.view_as(scores)
