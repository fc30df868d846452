"""A model and a cost as a LightningModule: training, and evaluation by the largest |alpha_y| (eq. 35)."""

import math
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int64, Real
from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MetricCollection
from torchmetrics.aggregation import MeanMetric
from torchmetrics.classification import MulticlassConfusionMatrix

from qcnn_lightning.costs import Cost, most_probable, scores_for
from qcnn_lightning.data.batches import Batch
from qcnn_lightning.errors import InputError, NonFiniteCostError
from qcnn_lightning.kernels.kernel import AutogradKernel, Kernel, backpropagate
from qcnn_lightning.models.model import completed
from qcnn_lightning.states import State

EVALUATION_STATISTICS = ("population", "running")


def entropies_of(state: Any, which: str | int) -> Float[Tensor, "classes ..."]:
    """Return the entropies (eq. 38) of the halves, of all blocks of a level, the profile, or of the mixture, nats.

    Args:
        state: of a network.
        which: "halves", "profile", a level, or, of a density, "mixture".

    Raises:
        InputError: none of these, no such level, or a state without blocks.
    """
    if which == "halves":
        return state.entanglement_entropy()
    if which == "mixture":
        if not hasattr(state, "mixture_entropy"):
            raise InputError(f"entropy_of=mixture: {type(state).__name__} is no density; choose halves")
        return state.mixture_entropy().unsqueeze(0)
    if which != "profile" and (not isinstance(which, int) or isinstance(which, bool)):
        raise InputError(
            f"entropy_of={which}: choose halves, mixture, profile, or a level: 0 (one pixel), 1 (two pixels), ..."
        )
    if not hasattr(state, "block_entropies") or not hasattr(state, "entropy_profile"):
        raise InputError(f"entropy_of={which}: {type(state).__name__} has no blocks; choose halves")
    try:
        return state.entropy_profile() if which == "profile" else state.block_entropies(which)
    except InputError as error:
        raise InputError(f"entropy_of={which}: {error}") from None


class Classifier(pl.LightningModule):
    """A model in training. It minimises L + entropy_weight * mean S, with L the batch's mean cost and S of eq. 38.

    Every batch of a loader item is an optimisation step. After every epoch, the training, validation and test images
    are evaluated with the network that fixed statistics define. Its entanglement is measured too.

    Args:
        network: a `Model`, or any module that maps images to scores.
        cost: cost of an image.
        optimizer: function of the parameters that returns the optimiser.
        scheduler: function of the optimiser that returns the learning-rate schedule; None keeps the rate constant.
        scheduler_interval: when the schedule moves on: "epoch" or "step". With "step" the scheduler also gets
            `total_steps`, the steps of the whole training.
        evaluation_statistics: what evaluation normalises by: "population" or "running".
        entropy_weight: of either sign; entropies are in nats. The entropy gradient costs as much as ten steps, so only
            the first batch of each loader item has it, scaled by the number of batches in the item. Larger items
            approximate more coarsely.
        entropy_of: what S is the mean of, over the classes: "halves", the halves' entropies; a level l, those of all
            blocks of 2^l pixels; "profile", the blocks' mean entropies of all levels.

    Raises:
        InputError: unknown `evaluation_statistics`, an `entropy_weight` for a model without a state or with entropies
            that have no gradient, an unknown `entropy_of`, or a cost of a density for a model that is none.
    """

    def __init__(
        self,
        network: nn.Module,
        cost: Cost,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        scheduler: Callable[..., LRScheduler] | None = None,
        scheduler_interval: str = "epoch",
        evaluation_statistics: str = "population",
        entropy_weight: int | float = 0.0,
        entropy_of: str | int = "halves",
    ):
        super().__init__()
        # Automatic optimisation takes one step per loader item.
        self.automatic_optimization = False
        if evaluation_statistics not in EVALUATION_STATISTICS:
            raise InputError(
                f"evaluation_statistics={evaluation_statistics}: choose one of {', '.join(EVALUATION_STATISTICS)}"
            )
        self.network: Any = completed(network)
        state = self.network.state(self.network.fixed_statistics) if entropy_weight else None  # type: ignore[operator]
        if entropy_weight and state is None:
            raise InputError(
                f"entropy_weight={entropy_weight}: {type(network).__name__} has no state, so no entropy; choose 0, or "
                "give the model a state()"
            )
        if state is not None and not entropies_of(state, entropy_of).requires_grad:
            raise InputError(f"entropy_of={entropy_of}: {type(state).__name__} has no gradient of it; choose halves")
        self.cost = cost
        self._scores = scores_for(cost, self.network)
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.scheduler_interval = scheduler_interval
        self.evaluation_statistics = evaluation_statistics
        self.entropy_weight, self.entropy_of = entropy_weight, entropy_of
        self.evaluations: Sequence[MetricCollection] = nn.ModuleList()  # type: ignore[assignment]

    def setup(self, stage: str) -> None:
        """Prepare the metrics of every split, in the order of `val_dataloader`."""
        metrics = MetricCollection(
            {
                "cost": MeanMetric(nan_strategy="disable"),
                "confusion": MulticlassConfusionMatrix(self.datamodule.num_classes, validate_args=False),
                **({"nats": MeanMetric(nan_strategy="disable")} if self._measures_likelihoods() else {}),
            },
            compute_groups=False,
        )
        self.evaluations = nn.ModuleList(  # type: ignore[assignment]
            metrics.clone() for _ in self.datamodule.evaluation_splits
        ).to(self.device)

    def _measures_likelihoods(self) -> bool:
        """Return whether -log p(x) is measured: of a model that is trained as a density, or is nothing else."""
        trained: bool = getattr(self.cost, "of_log_joint", False)
        return hasattr(self.network, "log_joint") and (trained or self.network.normalises_scores)

    @property
    def datamodule(self) -> Any:
        """The trainer's data module."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def on_fit_start(self) -> None:
        """Keep optimisation steps fast."""
        if self.device.type == "cpu":
            # Lightning sets it; every optimisation step would then search for CUDA's management library.
            os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)

    def on_train_epoch_start(self) -> None:
        """Seed random numbers by seed and epoch, so a resumed epoch draws the same ones."""
        mixed = np.random.SeedSequence((self.datamodule.seed, self.current_epoch)).generate_state(1)
        pl.seed_everything(int(mixed[0]), workers=True, verbose=False)
        self._sum_of_costs, self._images_seen = 0.0, 0

    def training_step(self, batches: Sequence[Batch], batch_idx: int) -> None:
        """Take an optimisation step with every batch of a loader item.

        Raises:
            NonFiniteCostError: the cost is infinite or NaN. The weights are those before the step.
        """
        optimizer: LightningOptimizer = self.optimizers()  # type: ignore[assignment]
        for place, (images, labels) in enumerate(batches):
            self.backpropagate_cost(images, labels)
            if self.entropy_weight and place == 0:
                self.manual_backward(self.entropy_weight * len(batches) * self.mean_entropy(images))
            optimizer.step()
            self.move_schedule("step")

    def backpropagate_cost(self, images: Real[Tensor, "batch sites"], labels: Int64[Tensor, " batch"]) -> None:
        """Set the parameters' gradients to those of the batch's mean cost, by the batch's statistics.

        Raises:
            NonFiniteCostError: the cost is infinite or NaN.
        """
        kernel = self.kernel_for(images)
        if self.trainer.world_size > 1:
            cost = backpropagate(kernel, self.cost, images, labels, self.share_of_batch(len(labels)))
        else:
            cost = kernel.backpropagate(self.cost, images, labels)
        self.note_cost(cost, images)

    def around_training(self, images: Tensor) -> AbstractContextManager[None]:
        """Return the context to train in, on images like these."""
        return self.kernel_for(images).around_training()

    def kernel_for(self, images: Tensor) -> Kernel:
        """Return the model's fastest kernel for images like these."""
        return self.network.fast_kernel(images) or AutogradKernel(self.network, self.manual_backward, self._scores)

    def note_cost(self, cost: float, images: Real[Tensor, "batch sites"]) -> None:
        """Add a batch's mean cost to the epoch's.

        Raises:
            NonFiniteCostError: the cost is infinite or NaN, here or in another process.
        """
        self._sum_of_costs += cost * len(images)
        self._images_seen += len(images)
        finite = math.isfinite(cost)
        if self.trainer.world_size > 1:
            finite = self.trainer.strategy.reduce_boolean_decision(finite)
        if not finite:
            where = self.network.first_non_finite(images)
            raise NonFiniteCostError(
                f"the cost became {cost} in epoch {self.current_epoch}, after {self.global_step} steps, first in "
                f"{where}; try a smaller optimizer.lr"
            )

    def mean_entropy(self, images: Real[Tensor, "batch sites"]) -> Float[Tensor, ""]:
        """Return the mean of the entropies that the cost has a term of, nats, by the statistics of these images."""
        state = self.network.state(self.network.statistics_of(images))
        return entropies_of(state, self.entropy_of).mean().to(self.device)

    def on_train_epoch_end(self) -> None:
        """Move a schedule that counts epochs."""
        self.move_schedule("epoch")

    def move_schedule(self, interval: str) -> None:
        """Move the learning-rate schedule if it counts such intervals."""
        if self.make_scheduler is not None and self.scheduler_interval == interval:
            self.lr_schedulers().step()  # type: ignore[union-attr]

    @property
    def total_steps(self) -> int:
        """Optimisation steps of the whole training."""
        epochs: int = self.trainer.max_epochs  # type: ignore[assignment]
        return epochs * self.datamodule.num_batches_in(int(self.trainer.estimated_stepping_batches) // epochs)

    def share_of_batch(self, num_images: int) -> Float[Tensor, ""]:
        """Return num_images / (mean of num_images over devices).

        With these weights the mean over devices of the mean cost is the mean cost of the whole batch.

        Args:
            num_images: the batch's images on this device.
        """
        images = torch.tensor(float(num_images), device=self.device)
        mean_images: Tensor = self.trainer.strategy.reduce(images.clone(), reduce_op="mean")
        return images / mean_images

    def on_validation_epoch_start(self) -> None:
        """Fix the statistics of this evaluation and of the states built after it."""
        if self.evaluation_statistics == "population":
            sample = self.datamodule.population_sample().to(self.device)
            self.network.fix_population_statistics(sample)

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add a batch to the metrics of its split."""
        images, labels = batch
        scores = self.scores(images)
        evaluation = self.evaluations[dataloader_idx]
        evaluation["cost"].update(self.cost(scores, labels))
        evaluation["confusion"].update(most_probable(self.cost, scores), labels)
        if "nats" in evaluation:
            joint = scores if getattr(self.cost, "of_log_joint", False) else self.network.log_joint(images)
            evaluation["nats"].update(-joint.logsumexp(-1))

    def scores(self, images: Real[Tensor, "batch sites"]) -> Float[Tensor, "batch classes"]:
        """Return the scores that the cost takes, in evaluation."""
        return self._scores(images)

    def schmidt_spectrum(self, state: State) -> Float[Tensor, "classes rank"]:
        """Return the Schmidt probabilities between the halves of the image, descending (eq. 45)."""
        return state.schmidt_spectrum()

    def on_validation_epoch_end(self) -> None:
        """Log every split's cost and accuracy, and the mean cost of the training batches as `cost/batch`.

        Of a density also -log p(x), nats an image, as `nats/<split>`, and `bits_per_pixel/<split>`.
        `recall/class_0`, ... are the parts of each class's test images that are classified correctly.
        """
        if self.trainer.state.fn == TrainerFn.FITTING:
            seen = torch.tensor([self._sum_of_costs, self._images_seen], dtype=self.dtype, device=self.device)  # type: ignore[arg-type]
            cost, images = self.trainer.strategy.reduce(seen, reduce_op="sum")
            self.log("cost/batch", cost / images, logger=False, sync_dist=True)
        for split, evaluation in zip(self.datamodule.evaluation_splits, self.evaluations, strict=True):
            measured = evaluation.compute()
            self.log(f"cost/{split}", measured["cost"], logger=False, sync_dist=True)
            accuracy = measured["confusion"].trace() / measured["confusion"].sum()
            self.log(f"accuracy/{split}", accuracy, logger=False, sync_dist=True)
            if "nats" in measured:
                bits = measured["nats"] / (math.prod(self.datamodule.image_shape) * math.log(2))
                self.log(f"nats/{split}", measured["nats"], logger=False, sync_dist=True)
                self.log(f"bits_per_pixel/{split}", bits, logger=False, sync_dist=True)
            if split == "test":
                recall = measured["confusion"].diag() / measured["confusion"].sum(1)
                of_classes = {f"recall/class_{label}": value for label, value in enumerate(recall)}
                self.log_dict(of_classes, logger=False, sync_dist=True)
            evaluation.reset()

    def configure_optimizers(self) -> Any:
        """Build optimiser and schedule as configured."""
        optimizer = self.make_optimizer(self.network.parameters())
        if self.make_scheduler is None:
            return optimizer
        steps = {"total_steps": self.total_steps} if self.scheduler_interval == "step" else {}
        scheduler = self.make_scheduler(optimizer, **steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": self.scheduler_interval}}
