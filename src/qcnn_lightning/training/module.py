"""A model and a cost as a LightningModule: training, classification by the largest |alpha| (eq. 35), evaluation."""

import math
import os
from collections.abc import Callable, Iterable, Sequence
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

from qcnn_lightning.costs import Cost
from qcnn_lightning.data.batches import Batch
from qcnn_lightning.errors import InputError, NonFiniteCostError
from qcnn_lightning.kernels.kernel import AutogradKernel, Kernel, backpropagate
from qcnn_lightning.models.model import completed

EVALUATION_STATISTICS = ("population", "running")


class Classifier(pl.LightningModule):
    """A q-CNN in training.

    Takes an optimisation step for each of the batches that the training loader gives at a time.

    Evaluates the training set, the test set and, where there is one, the validation set after every epoch, all with the
    one network that fixed statistics define: the network whose entanglement is measured.

    Args:
        network: a `Model`, or any module that maps images to scores.
        cost: what is minimised, the mean over the images of a batch.
        optimizer: takes the parameters, returns the optimiser.
        scheduler: takes the optimiser, returns the learning-rate schedule; None keeps the rate constant.
        scheduler_interval: when the schedule moves on: "epoch", or "step", where it is also given `total_steps`, the
            steps of the whole training.
        evaluation_statistics: "population" or "running": what evaluation normalises by.
        entropy_weight: weight in the cost, of either sign, of the entanglement entropy's mean over the classes, in
            nats. Its gradient takes as long as that of ten batches and more, so of the batches that the loader gives at
            a time only the first has the term, for all of them: the more at a time, the coarser.

    Raises:
        InputError: unknown `evaluation_statistics`.
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
    ):
        super().__init__()
        # Lightning's own optimisation knows one batch at a time only.
        self.automatic_optimization = False
        if evaluation_statistics not in EVALUATION_STATISTICS:
            raise InputError(
                f"evaluation_statistics={evaluation_statistics}: choose one of {', '.join(EVALUATION_STATISTICS)}"
            )
        self.network: Any = completed(network)
        self.cost = cost
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.scheduler_interval = scheduler_interval
        self.evaluation_statistics = evaluation_statistics
        self.entropy_weight = entropy_weight
        self.evaluations: Sequence[MetricCollection] = nn.ModuleList()  # type: ignore[assignment]

    def setup(self, stage: str) -> None:
        """Prepare one set of metrics for every part of the data that is evaluated, in the order of its loaders."""
        metrics = MetricCollection(
            {
                "cost": MeanMetric(nan_strategy="disable"),
                "confusion": MulticlassConfusionMatrix(self.datamodule.num_classes, validate_args=False),
            },
            compute_groups=False,
        )
        self.evaluations = nn.ModuleList(  # type: ignore[assignment]
            metrics.clone() for _ in self.datamodule.evaluation_splits
        ).to(self.device)

    @property
    def datamodule(self) -> Any:
        """The data module in use."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def on_fit_start(self) -> None:
        """Keep the optimiser's steps quick."""
        if self.device.type == "cpu":
            # Lightning sets this, and then every step of an optimiser looks for CUDA's management library anew.
            os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)

    def on_train_epoch_start(self) -> None:
        """Let random numbers, should anything draw any, depend on seed and epoch alone, as the batches do."""
        mixed = np.random.SeedSequence((self.datamodule.seed, self.current_epoch)).generate_state(1)
        pl.seed_everything(int(mixed[0]), workers=True, verbose=False)
        self._sum_of_costs, self._images_seen = 0.0, 0

    def training_step(self, batches: Sequence[Batch], batch_idx: int) -> None:
        """Take an optimisation step with every batch.

        Raises:
            NonFiniteCostError: the cost is infinite or NaN. The weights are still those before the step.
        """
        optimizer: LightningOptimizer = self.optimizers()  # type: ignore[assignment]
        for place, (images, labels) in enumerate(batches):
            self.backpropagate_cost(images, labels)
            if self.entropy_weight and place == 0:
                self.manual_backward(self.entropy_weight * len(batches) * self.mean_entropy(images))
            optimizer.step()
            self.move_schedule("step")

    def backpropagate_cost(self, images: Real[Tensor, "batch sites"], labels: Int64[Tensor, " batch"]) -> None:
        """Replace the parameters' gradients by those of the batch's mean cost, by the batch's own statistics.

        Raises:
            NonFiniteCostError: the cost is infinite or NaN.
        """
        kernel = self.kernel_for(images)
        if self.trainer.world_size > 1:
            cost = backpropagate(kernel, self.cost, images, labels, self.share_of_batch(len(labels)))
        else:
            cost = kernel.backpropagate(self.cost, images, labels)
        self.note_cost(cost, images)

    def kernel_for(self, images: Tensor) -> Kernel:
        """Return the fastest way to compute the model for images like these."""
        return self.network.fast_kernel(images) or AutogradKernel(self.network, self.manual_backward)

    def note_cost(self, cost: float, images: Real[Tensor, "batch sites"]) -> None:
        """Add the cost of a batch to the epoch's.

        Raises:
            NonFiniteCostError: it is infinite or NaN, here or in another process.
        """
        self._sum_of_costs += cost * len(images)
        self._images_seen += len(images)
        finite = math.isfinite(cost)
        if self.trainer.world_size > 1:
            finite = self.trainer.strategy.reduce_boolean_decision(finite)
        if not finite:
            where = self.network.first_non_finite(images)
            raise NonFiniteCostError(
                f"the cost became {cost} in epoch {self.current_epoch}, after {self.global_step} steps in all, "
                f"beginning at {where}; try a smaller optimizer.lr"
            )

    def mean_entropy(self, images: Real[Tensor, "batch sites"]) -> Float[Tensor, ""]:
        """Return the mean entanglement entropy of the classes' states, nats, by the statistics of these images."""
        state = self.network.state(self.network.statistics_of(images))
        return state.entanglement_entropy().mean().to(self.device)

    def on_train_epoch_end(self) -> None:
        """Move a schedule of epochs on."""
        self.move_schedule("epoch")

    def move_schedule(self, interval: str) -> None:
        """Move the learning rate on, if its schedule counts such intervals."""
        if self.make_scheduler is not None and self.scheduler_interval == interval:
            self.lr_schedulers().step()  # type: ignore[union-attr]

    @property
    def total_steps(self) -> int:
        """Optimisation steps of the whole training."""
        epochs: int = self.trainer.max_epochs  # type: ignore[assignment]
        return epochs * self.datamodule.num_batches_in(int(self.trainer.estimated_stepping_batches) // epochs)

    def share_of_batch(self, num_images: int) -> Float[Tensor, ""]:
        """Return the weight of a device's mean cost in the mean over devices that is the mean over the whole batch.

        Args:
            num_images: how many of the batch's images are on this device.
        """
        images = torch.tensor(float(num_images), device=self.device)
        mean_images: Tensor = self.trainer.strategy.reduce(images.clone(), reduce_op="mean")
        return images / mean_images

    def on_validation_epoch_start(self) -> None:
        """Fix the statistics that this evaluation, and the states built after it, use."""
        if self.evaluation_statistics == "population":
            sample = self.datamodule.population_sample().to(self.device)
            self.network.fix_population_statistics(sample)

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add one batch to the metrics of its part of the data."""
        images, labels = batch
        alpha = self.network(images)
        evaluation = self.evaluations[dataloader_idx]
        evaluation["cost"].update(self.cost(alpha, labels))
        evaluation["confusion"].update(alpha.abs().argmax(-1), labels)

    def on_validation_epoch_end(self) -> None:
        """Log cost and accuracy of every part of the data, and the mean cost that the batches had in training.

        Of the test images also `recall/class_0` ...: the part of each class that is recognised.
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
