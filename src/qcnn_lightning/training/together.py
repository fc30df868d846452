"""Networks of several runs, trained as one batched network.

Every run is an ordinary one, with a trainer, a record, loggers and checkpoints of its own, in a thread of its own
(`turns.py`). `Member` hands over what takes time: the steps of a loader item, and evaluation. `Group` does it for all.
"""

import logging
import os
import shutil
import threading
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from qcnn_lightning.costs import Cost
from qcnn_lightning.data.batches import Batch
from qcnn_lightning.data.split_images import SplitImages
from qcnn_lightning.models.networks import Networks
from qcnn_lightning.models.qcnn import QCNN
from qcnn_lightning.states.entropy import spectra_of_halves
from qcnn_lightning.states.state import State
from qcnn_lightning.states.tree import NetworkState
from qcnn_lightning.training.captured import CapturedStep
from qcnn_lightning.training.module import Classifier
from qcnn_lightning.training.row_optimizers import AdamOfRows, RowOptimizer, Settings, row_optimizer, settings_of
from qcnn_lightning.training.turns import Seat

log = logging.getLogger(__name__)

HOOKS_OF_A_STEP = ("on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step")
WORTH_COMPILING = 20_000
"""Optimisation steps, each a millisecond shorter when compiled; compiling takes 20 s."""
FIX, EVALUATE, SPECTRUM, TRAIN = range(4)
"""What is asked for, in the order in which it is done: runs that are behind catch up."""


@dataclass
class Request:
    """What a member asks for.

    Attributes:
        member: who asks.
        images: to evaluate, or to fix statistics by.
        batches: to train on.
        settings: of the optimiser, at every batch.
        state: whose Schmidt spectrum to compute.
    """

    member: "Member"
    images: Tensor | None = None
    batches: Sequence[Batch] = ()
    settings: Sequence[Settings] = ()
    state: NetworkState | None = None


class Member(Classifier):
    """A `Classifier` among others of its shape, which are trained together.

    Args:
        seat: its place.
        arguments: those of `Classifier`.
    """

    def __init__(self, seat: Seat, **arguments: Any):
        super().__init__(**arguments)
        self.seat = seat

    def training_step(self, batches: Sequence[Batch], batch_idx: int) -> None:
        """Take an optimisation step with every batch of a loader item, with the others.

        Raises:
            NonFiniteCostError: the cost is infinite or NaN. The weights are those before the step.
        """
        optimizer: LightningOptimizer = self.optimizers()  # type: ignore[assignment]
        settings = []
        for _ in batches:
            settings.append(settings_of(optimizer.optimizer))
            self.move_schedule("step")
        sizes = [len(labels) for _, labels in batches]
        costs = self.seat.ask((TRAIN, *sizes), Request(self, batches=batches, settings=settings))
        for (images, _), cost in zip(batches, costs, strict=True):
            self.note_cost(cost, images)
            # Lightning counts steps there.
            optimizer._on_before_step()
            optimizer._on_after_step()

    def around_training(self, images: Tensor) -> AbstractContextManager[None]:
        """Return a context that changes nothing: the threads are the group's."""
        return nullcontext()

    def on_validation_epoch_start(self) -> None:
        """Fix the statistics of this evaluation, with the others where that is faster."""
        sample = self.datamodule.population_sample()
        if self.network.fast_kernel(sample) is not None or self.evaluation_statistics != "population":
            super().on_validation_epoch_start()
        else:
            self.seat.ask((FIX,), Request(self, sample.to(self.device)))

    def scores(self, images: Tensor) -> Tensor:
        """Return the scores of images in evaluation, with the others where that is faster."""
        if self.network.fast_kernel(images) is not None:
            return super().scores(images)
        scores: Tensor = self.seat.ask((EVALUATE, len(images)), Request(self, images))
        return scores

    def schmidt_spectrum(self, state: State) -> Tensor:
        """Return the Schmidt probabilities, computed with the others' unless each network is to keep its own digits."""
        sample, _ = self.datamodule.splits["train"]
        if not isinstance(state, NetworkState) or self.network.fast_kernel(sample[:1]) is not None:
            return super().schmidt_spectrum(state)
        spectrum: Tensor = self.seat.ask((SPECTRUM,), Request(self, state=state))
        return spectrum


class Alone(Seat):
    """The place of a run that is alone in its process, and asks as if others were there.

    Args:
        group: does what is asked for.
    """

    def __init__(self, group: "Group"):
        super().__init__(threading.Semaphore(0))
        self.group = group

    def ask(self, key: Hashable, request: Any) -> Any:
        """Have this done at once."""
        (answer,) = self.group(key, [request])
        return answer


class Group:
    """Does together what members ask for."""

    def __init__(self) -> None:
        self._known: tuple[Hashable, ...] = ()
        self._networks: Networks | None = None
        self._optimizers: RowOptimizer | None = None
        self._captured: dict[int, CapturedStep] = {}
        self._images: dict[Hashable, SplitImages] = {}

    def share_images(self, datamodule: SplitImages) -> None:
        """Let all members of a data set and pixel order have the same images in memory."""
        same = datamodule.origin, *datamodule.pixel_order.tolist()
        if same not in self._images:
            datamodule.prepare_data()
            datamodule.setup()
            self._images[same] = datamodule
        datamodule.take_images_of(self._images[same])

    # Lightning evaluates in inference mode, whose tensors cannot be trained.
    @torch.inference_mode(False)
    def __call__(self, key: Any, requests: Sequence[Request]) -> Sequence[Any]:
        """Do what several members ask for.

        Args:
            key: says what, and the sizes of batches.
            requests: of the members.
        """
        members = [request.member for request in requests]
        if key[0] == TRAIN:
            return self.train(members, requests)
        if key[0] == SPECTRUM:
            device = members[0].device if members[0].device.type == "cuda" else "cpu"
            states = [request.state for request in requests if request.state is not None]
            return schmidt_spectra(states, device)
        networks = self.networks_of(members)
        images = [request.images for request in requests if request.images is not None]
        if key[0] == FIX:
            networks.fix_population_statistics(images)
            return [None] * len(requests)
        return list(networks.evaluate(images))

    def networks_of(self, members: Sequence[Member]) -> Networks:
        """Return the members' networks as one; the same object while they are the same, in the same memory."""
        if self._networks is None or memory_of(members) != self._known:
            self._networks = Networks([member.network for member in members])
            self._known = memory_of(members)
            self._optimizers = None
            self._captured.clear()
        return self._networks

    def train(self, members: Sequence[Member], requests: Sequence[Request]) -> list[list[float]]:
        """Take the steps of a loader item with every member's batches, and return the cost of every step."""
        networks = self.networks_of(members)
        # Lightning takes them away before training.
        networks.attach_gradients()
        if self._optimizers is None:
            optimizers = [member.optimizers().optimizer for member in members]  # type: ignore[union-attr]
            batched = members[0].network.fast_kernel(requests[0].batches[0][0]) is None
            self._optimizers = row_optimizer(optimizers, networks, batched)
        self._optimizers.begin([request.settings for request in requests])
        costs = []
        for place, batches in enumerate(zip(*(request.batches for request in requests), strict=True)):
            images, labels = zip(*batches, strict=True)
            entropic = [member for member in members if member.entropy_weight and place == 0]
            if isinstance(self._optimizers, AdamOfRows) and not entropic and can_capture(networks):
                step = self._captured_step(len(labels[0]), members[0])
                costs.append(step(torch.stack(images), torch.stack(labels), self._optimizers.numbers[place]))
                continue
            costs.append(networks.backpropagate(members[0].cost, images, labels))
            for member, own in zip(members, images, strict=True):
                if member in entropic:
                    (member.entropy_weight * len(requests[0].batches) * member.mean_entropy(own)).backward()
            self._optimizers.step(place, costs[-1])
        by_member: list[list[float]] = torch.stack(costs, 1).tolist()
        return by_member

    def _captured_step(self, batch: int, member: Member) -> CapturedStep:
        """Return the step on batches of this size, captured once; compiled before, where that is worth its time."""
        if batch not in self._captured:
            networks, optimizers = self._networks, self._optimizers
            assert networks is not None
            assert isinstance(optimizers, AdamOfRows)
            if not self._captured and steps_of(member) >= WORTH_COMPILING and can_compile():
                # What it cannot compile, it says, and leaves as it is.
                torch._dynamo.config.suppress_errors = True
                networks.compile()
                optimizers.compile()
            self._captured[batch] = CapturedStep(
                whole_step(networks, optimizers, member.cost), changed_by_step(networks, optimizers)
            )
        return self._captured[batch]


def can_capture(networks: Networks) -> bool:
    """Return whether steps of these networks can be captured as a graph: they are on a GPU."""
    return networks.weights.is_cuda


def steps_of(member: Member) -> int:
    """Return how many optimisation steps a run has in all; so one that goes on is compiled if it was before."""
    trainer = member.trainer
    return (trainer.max_epochs or 0) * member.datamodule.num_batches_in(int(trainer.num_training_batches))


def can_compile() -> bool:
    """Return whether PyTorch's compiler can make GPU kernels here: it needs Triton, and that a C compiler."""
    found = find_spec("triton") is not None and any(map(shutil.which, (os.environ.get("CC") or "cc", "gcc", "clang")))
    if not found:
        log.info("steps on the GPU are not compiled, and take two to three times as long: no Triton or no C compiler")
    return found


def whole_step(networks: Networks, optimizers: AdamOfRows, cost: Cost) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Return a function of images, labels and the step's numbers that takes a step, and returns the costs before it."""

    def step(images: Tensor, labels: Tensor, numbers: Tensor) -> Tensor:
        costs = networks.backpropagate_batched(cost, images, labels)
        optimizers.step_by(numbers, costs)
        return costs

    return step


def changed_by_step(networks: Networks, optimizers: AdamOfRows) -> list[Tensor]:
    """Return all tensors that a step changes, gradients aside."""
    return [networks.weights, *networks.running, *optimizers.moments.values()]


@dataclass(frozen=True)
class Company:
    """A run's place in a group.

    Attributes:
        seat: where the run asks.
        group: does what is asked for.
    """

    seat: Seat
    group: Group

    def member(self, **arguments: Any) -> Member:
        """Return the run's `Classifier`; the arguments are those of that."""
        return Member(self.seat, **arguments)

    def share_images(self, datamodule: SplitImages) -> None:
        """Let the run have the group's images."""
        self.group.share_images(datamodule)


def company_on_gpu(network: nn.Module, trainer: pl.Trainer) -> Company | None:
    """Return the company of a run that has a GPU to itself: itself, as a group of one, whose steps are captured.

    None where PyTorch's ordinary operators must do: other devices, several processes, other models, or a callback that
    is called at every single step.
    """
    if trainer.strategy.root_device.type != "cuda" or trainer.world_size > 1 or type(network) is not QCNN:
        return None
    if any(acts_at_every_step(type(callback)) for callback in trainer.callbacks):  # type: ignore[attr-defined]
        return None
    group = Group()
    return Company(Alone(group), group)


def acts_at_every_step(callback: type) -> bool:
    """Return whether a class of callbacks does something at every optimisation step."""
    bases = [base for base in callback.__mro__ if base not in (pl.Callback, object)]
    return any(hook in vars(base) for base in bases for hook in HOOKS_OF_A_STEP)


def schmidt_spectra(states: Sequence[NetworkState], device: str | torch.device) -> list[Float[Tensor, "classes rank"]]:
    """Return `NetworkState.schmidt_spectrum` of states of one shape, computed as one batch.

    Args:
        states: with the same channels, sharing and classes.
        device: to compute on; it must have float64.
    """
    tensors = [
        torch.stack(level, 1).to(device) for level in zip(*(state.site_tensors for state in states), strict=True)
    ]
    return list(spectra_of_halves(tensors, torch.stack([state.top for state in states]).to(device)).cpu())


def memory_of(members: Sequence[Member]) -> tuple[Hashable, ...]:
    """Return where the members' weights lie, and which optimisers change them."""
    return tuple((member.network.levels[0].gamma.data_ptr(), *map(id, member.trainer.optimizers)) for member in members)
