"""Ordinary networks on the very same images: a linear model, and a small convolutional network.

The same 16x16 8-bit images, batches, augmentation, optimiser and schedule as the q-CNN's best experiments for these;
cross entropy, as is usual. Both take the pixels as a picture again, whatever order the tree would have them in.

    python benchmarks/baselines.py
    python benchmarks/baselines.py --data fmnist --network cnn --epochs 40 --seeds 0 1 2 3 4
"""

import argparse
import statistics
import time
from typing import Any

import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_module
from jaxtyping import Float, UInt8
from pytorch_lightning import seed_everything
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics.classification import MulticlassAccuracy

from machine import RESULTS, write_results
from qcnn_lightning import command_line  # noqa: F401  the configs use its resolvers
from qcnn_lightning.data.datamodule import ImageDataModule
from qcnn_lightning.data.flattening import lay_on_image
from qcnn_lightning.models.model import num_parameters
from qcnn_lightning.training.run import ignore_hints

EXPERIMENTS = {"mnist": "best_mnist", "fmnist": "best_fmnist_16x16"}
RATES = {"linear": 1e-3, "cnn": 3e-3}


def linear(size: int, num_classes: int) -> nn.Module:
    """Return logistic regression: a weight per pixel and class."""
    return nn.Sequential(nn.Flatten(), nn.Linear(size * size, num_classes))


def cnn(size: int, num_classes: int) -> nn.Module:
    """Return three convolutions and a hidden layer: 762 000 parameters for 16x16 pixels and ten classes."""
    return nn.Sequential(
        *block(1, 16),
        nn.MaxPool2d(2),
        *block(16, 64),
        nn.MaxPool2d(2),
        *block(64, 192),
        nn.Flatten(),
        nn.Linear(192 * (size // 4) ** 2, 208),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(208, num_classes),
    )


def block(in_channels: int, out_channels: int) -> list[nn.Module]:
    """Return a convolution of 3x3 with batch norm."""
    return [nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU()]


NETWORKS = {"linear": linear, "cnn": cnn}


class Baseline(pl.LightningModule):
    """An ordinary classifier of the q-CNN's images.

    Args:
        network: maps (batch, 1, height, width) to scores.
        data: whose pixel order it undoes.
        rate: highest learning rate.
        steps: optimisation steps in all.
    """

    def __init__(self, network: nn.Module, data: ImageDataModule, rate: float, steps: int):
        super().__init__()
        self.network, self.data, self.rate, self.steps = network, data, rate, steps
        self.accuracies = nn.ModuleList(MulticlassAccuracy(data.num_classes, average="micro") for _ in range(2))
        self.history: list[dict[str, float]] = []

    def forward(self, x: UInt8[Tensor, "batch sites"]) -> Float[Tensor, "batch classes"]:
        """Return the scores."""
        return self.network(lay_on_image(x, self.data.pixel_order, self.data.image_shape).unsqueeze(1).float() / 255)

    def training_step(self, batches: list[list[Tensor]], batch_idx: int) -> Tensor:
        """Return the cross entropy of a batch; they come one at a time."""
        ((images, labels),) = batches
        return functional.cross_entropy(self(images), labels)

    def validation_step(self, batch: list[Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Count what is right."""
        images, labels = batch
        self.accuracies[dataloader_idx].update(self(images), labels)

    def on_validation_epoch_end(self) -> None:
        """Note the accuracies."""
        splits = self.trainer.datamodule.evaluation_splits
        measured = {split: metric.compute().item() for split, metric in zip(splits, self.accuracies, strict=True)}
        self.history.append(measured)
        for metric in self.accuracies:
            metric.reset()

    def configure_optimizers(self) -> Any:
        """AdamW and one cycle of the learning rate."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.rate, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.rate, total_steps=self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def measure(data: str, name: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train one baseline; return its row."""
    settings = [f"experiment={EXPERIMENTS[data]}", *arguments.set]
    with initialize_config_module("qcnn_lightning.conf", version_base="1.3"):
        given = [*settings, f"data.root={arguments.data_root}", f"seed={seed}", "data.batches_per_item=1"]
        config = compose("train", given)
    datamodule = ImageDataModule(**config.data)
    datamodule.prepare_data()
    datamodule.setup()
    seed_everything(seed, verbose=False)
    network = NETWORKS[name](datamodule.image_shape[0], datamodule.num_classes)
    steps = arguments.epochs * len(datamodule.train_dataloader())
    module = Baseline(network, datamodule, RATES[name], steps)
    trainer = pl.Trainer(
        max_epochs=arguments.epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    began = time.perf_counter()
    trainer.fit(module, datamodule=datamodule)
    return {
        "data": data,
        "network": name,
        "seed": seed,
        "size": datamodule.image_shape[0],
        "parameters": num_parameters(network),
        "epochs": arguments.epochs,
        "settings": settings,
        "seconds": time.perf_counter() - began,
        **{f"accuracy/{split}": accuracy for split, accuracy in module.history[-1].items()},
    }


def table_of(rows: list[dict[str, Any]]) -> Table:
    """Lay out a row per data set and network: mean and standard deviation over the seeds."""
    table = Table(box=None)
    for title in ("data", "network", "parameters", "epochs", "seeds", "test accuracy", "sd", "seconds"):
        table.add_column(title, justify="left" if title in ("data", "network") else "right")
    for data, name in dict.fromkeys((row["data"], row["network"]) for row in rows):
        runs = [row for row in rows if (row["data"], row["network"]) == (data, name)]
        accuracies = [row["accuracy/test"] for row in runs]
        table.add_row(
            data,
            name,
            f"{runs[0]['parameters']}",
            f"{runs[0]['epochs']}",
            f"{len(runs)}",
            f"{statistics.mean(accuracies):.2%}",
            f"{statistics.stdev(accuracies):.2%}" if len(runs) > 1 else "",
            f"{statistics.mean(row['seconds'] for row in runs):.0f}",
        )
    return table


def main() -> None:
    """Train all, print a table, write the numbers."""
    parser = argparse.ArgumentParser(description="Train ordinary networks on the same images.")
    parser.add_argument("--data", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS))
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--data-root", default="data")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of the data")
    parser.add_argument("--out", default=RESULTS / "baselines.json", type=type(RESULTS))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    ignore_hints()
    rows = []
    for data in arguments.data:
        for name in arguments.network:
            for seed in arguments.seeds:
                rows.append(measure(data, name, seed, arguments) | {"threads": arguments.threads})
                # Written as they come: all take hours.
                write_results(arguments.out, rows)
    Console().print(table_of(rows))


if __name__ == "__main__":
    main()
