"""Optimisers of networks that are trained together: a row of a matrix is a network's weights, with numbers of its own.

Every network keeps its own optimiser and schedule, as Lightning restores and saves them. Here only their steps are
taken. On the CPU every network's digits are those of its run alone: the same operations on the same tensors. Elsewhere
Adam and AdamW step for all networks at once. What an optimiser remembers are views of what is computed with here, so it
may be saved at any time.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer

from qcnn_lightning.models.networks import Networks, parameters_of

MOMENTS = ("exp_avg", "exp_avg_sq")
# The numbers of an optimiser's groups of parameters: learning rate, decay, ...
Settings = Sequence[Mapping[str, Any]]


def settings_of(optimizer: Optimizer) -> Settings:
    """Return the present numbers of an optimiser."""
    return [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]


@runtime_checkable
class RowOptimizer(Protocol):
    """Takes a step of every network."""

    def begin(self, settings: Sequence[Sequence[Settings]]) -> None:
        """Prepare some steps.

        Args:
            settings: of every network, those of every step.
        """

    def step(self, number: int, costs: Tensor) -> None:
        """Take a step along the networks' gradients.

        Args:
            number: of the step since `begin`.
            costs: (networks,); a network with a cost that is not finite stays as it is.
        """


def row_optimizer(optimizers: Sequence[Optimizer], networks: Networks, batched: bool) -> RowOptimizer:
    """Return what takes the steps of these optimisers, one for each network.

    Args:
        optimizers: of the networks.
        networks: to train.
        batched: all at once, if that can be.
    """
    if not all(map(is_plain_adam, optimizers)):
        return OneByOne(optimizers)
    if batched:
        return AdamOfRows(optimizers, networks)
    fused = all(optimizer.param_groups[0]["fused"] for optimizer in optimizers)
    return FusedAdams(optimizers, networks) if fused else OneByOne(optimizers)


def is_plain_adam(optimizer: Optimizer) -> bool:
    """Return whether an optimiser is Adam or AdamW, with the same numbers for all parameters and nothing special."""
    if type(optimizer) not in (Adam, AdamW) or len(optimizer.param_groups) != 1:
        return False
    (group,) = optimizer.param_groups
    return not (group["amsgrad"] or group["maximize"] or isinstance(group["lr"], Tensor))


class AdamOfRows:
    """Adam (arXiv 1412.6980) or AdamW (arXiv 1711.05101) of every row.

    m <- m + (1 - b1) (g - m), v <- b2 v + (1 - b2) g^2, w <- w (1 - lr decay) - lr m' / (sqrt(v') + eps), with
    m' = m / (1 - b1^t), v' = v / (1 - b2^t); Adam adds decay w to g in place of the factor.

    Args:
        optimizers: of the networks.
        networks: to train.
    """

    def __init__(self, optimizers: Sequence[Optimizer], networks: Networks):
        self.networks = networks
        self.moments = {name: torch.zeros_like(networks.weights) for name in MOMENTS}
        self.steps = remembered_steps(optimizers, networks)
        self._adam_step = adam_step
        for row, (optimizer, network) in enumerate(zip(optimizers, networks.networks, strict=True)):
            start = 0
            for parameter in parameters_of(network):
                state, columns = optimizer.state[parameter], slice(start, start + parameter.numel())
                start += parameter.numel()
                for name, moments in self.moments.items():
                    view = moments[row, columns].view_as(parameter)
                    if name in state:
                        view.copy_(state[name])
                    state[name] = view

    def compile(self, backend: str = "inductor") -> None:
        """Let PyTorch's compiler make one operation of a step from now on.

        Args:
            backend: of `torch.compile`.
        """
        self._adam_step = torch.compile(adam_step, dynamic=False, backend=backend)

    def begin(self, settings: Sequence[Sequence[Settings]]) -> None:
        """Compute the numbers of some steps, and move them to the weights' device at once."""
        rows = [
            [numbers_of(group, int(count) + number) for number, (group,) in enumerate(of_network, start=1)]
            for count, of_network in zip(self.steps[:, 0].tolist(), settings, strict=True)
        ]
        self.steps += len(settings[0])
        weights = self.networks.weights
        # (steps, numbers, networks, 1)
        self.numbers = torch.tensor(rows, dtype=torch.float64).permute(1, 2, 0).unsqueeze(-1).to(weights)

    def step(self, number: int, costs: Tensor) -> None:
        """Take a step of all networks."""
        self.step_by(self.numbers[number], costs)

    def step_by(self, numbers: Tensor, costs: Tensor) -> None:
        """Take a step by these `numbers_of` all networks, (numbers, networks, 1)."""
        mean, square = (self.moments[name] for name in MOMENTS)
        going = costs.isfinite().unsqueeze(1)
        self._adam_step(self.networks.weights, self.networks.gradients, mean, square, numbers, going)


@torch.no_grad()
def adam_step(weights: Tensor, gradients: Tensor, mean: Tensor, square: Tensor, numbers: Tensor, going: Tensor) -> None:
    """Take a step of every row in place; the arguments are (networks, parameters), and `numbers_of` of every row."""
    coupled, kept, new, of_square, new_square, root, epsilon, rate = numbers
    gradients = torch.addcmul(gradients, weights, coupled)
    mean.lerp_(gradients, new)
    square.mul_(of_square).addcmul_(gradients, gradients * new_square)
    moved = torch.addcmul(weights * kept, mean / square.sqrt().mul_(root).add_(epsilon), rate, value=-1)
    torch.where(going, moved, weights, out=weights)


def numbers_of(group: Mapping[str, Any], count: int) -> list[float]:
    """Return the numbers of a step of Adam.

    Args:
        group: the optimiser's settings.
        count: t, from 1.
    """
    first, second = map(float, group["betas"])
    rate, decay = float(group["lr"]), float(group["weight_decay"])
    decoupled = group.get("decoupled_weight_decay", False)
    return [
        0.0 if decoupled else decay,
        1 - rate * decay if decoupled else 1.0,
        1 - first,
        second,
        1 - second,
        1 / math.sqrt(1 - second**count),
        float(group["eps"]),
        rate / (1 - first**count),
    ]


def remembered_steps(optimizers: Sequence[Optimizer], networks: Networks) -> Float[Tensor, "networks tensors"]:
    """Return how many steps each network's optimiser has counted for each parameter; its own counts become views."""
    counted = torch.zeros(len(networks), len(parameters_of(networks.networks[0])))
    for row, optimizer, network in zip(counted, optimizers, networks.networks, strict=True):
        for count, parameter in zip(row, parameters_of(network), strict=True):
            state = optimizer.state[parameter]
            if "step" in state:
                count.copy_(state["step"])
            state["step"] = count
    return counted


class FusedAdams:
    """Adam and AdamW of each network, one after the other: PyTorch's fused operation, without what surrounds it.

    Args:
        optimizers: of the networks.
        networks: to train.
    """

    def __init__(self, optimizers: Sequence[Optimizer], networks: Networks):
        self.steps = remembered_steps(optimizers, networks)
        self.tensors: list[Any] = []
        for counts, optimizer, network in zip(self.steps, optimizers, networks.networks, strict=True):
            parameters = parameters_of(network)
            for parameter in parameters:
                for name in MOMENTS:
                    optimizer.state[parameter].setdefault(name, torch.zeros_like(parameter))
            states = [optimizer.state[parameter] for parameter in parameters]
            moments = [[state[name] for state in states] for name in MOMENTS]
            self.tensors.append((parameters, [parameter.grad for parameter in parameters], *moments, [], list(counts)))

    def begin(self, settings: Sequence[Sequence[Settings]]) -> None:
        """Note the settings of some steps."""
        self.settings = settings

    @torch.no_grad()
    def step(self, number: int, costs: Tensor) -> None:
        """Take a step of every network."""
        self.steps += 1
        for tensors, settings, cost in zip(self.tensors, self.settings, costs.tolist(), strict=True):
            if not math.isfinite(cost):
                continue
            (group,) = settings[number]
            take_step = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
            first, second = group["betas"]
            numbers = {name: group[name] for name in ("lr", "weight_decay", "eps", "amsgrad", "maximize")}
            take_step(*tensors, beta1=first, beta2=second, **numbers)


class OneByOne:
    """The optimisers themselves, one after the other.

    Args:
        optimizers: of the networks.
    """

    def __init__(self, optimizers: Sequence[Optimizer]):
        self.optimizers = optimizers

    def begin(self, settings: Sequence[Sequence[Settings]]) -> None:
        """Note the settings of some steps."""
        self.settings = settings

    def step(self, number: int, costs: Tensor) -> None:
        """Let every optimiser take a step with the settings of that step."""
        for optimizer, settings, cost in zip(self.optimizers, self.settings, costs.tolist(), strict=True):
            if not math.isfinite(cost):
                continue
            now = settings_of(optimizer)
            take_over(optimizer, settings[number])
            optimizer.step()
            # The schedule is at the end of these steps already.
            take_over(optimizer, now)


def take_over(optimizer: Optimizer, settings: Settings) -> None:
    """Let an optimiser have these numbers."""
    for group, numbers in zip(optimizer.param_groups, settings, strict=True):
        group.update(numbers)
