"""A run on the terminal: a progress bar, and a table row per epoch."""

import shlex
from typing import Any

import pytorch_lightning as pl
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from qcnn_lightning.command_line import way_to_start
from qcnn_lightning.job_table import plain_console
from qcnn_lightning.runs.metrics import summary_of
from qcnn_lightning.training.module import Classifier
from qcnn_lightning.training.record import RunRecord

COLUMNS = {
    "cost/train": ("cost train", "{:.4f}"),
    "cost/val": ("val", "{:.4f}"),
    "cost/test": ("test", "{:.4f}"),
    "accuracy/train": ("accuracy train", "{:.2%}"),
    "accuracy/val": ("val", "{:.2%}"),
    "accuracy/test": ("test", "{:.2%}"),
    "ee/mean": ("mean EE (nats)", "{:.4f}"),
    "time/epoch_s": ("seconds", "{:.1f}"),
}


class EpochTable(pl.Callback):
    """Prints a row per epoch and, on a terminal, a progress bar for the whole run below.

    Args:
        record: has the rows; it must be called before this callback.
    """

    def __init__(self, record: RunRecord):
        self.record = record
        self.console = plain_console()
        self.progress: Progress | None = None
        self._header_printed = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the bar."""
        if not (self.console.is_terminal and trainer.is_global_zero):
            return
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps,"),
            TimeElapsedColumn(),
            TextColumn("elapsed,"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self.console,
            refresh_per_second=2,
            transient=True,
        )
        assert isinstance(pl_module, Classifier)
        self.task = self.progress.add_task("", total=pl_module.total_steps, completed=trainer.global_step)
        self.progress.start()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Name the epoch in the bar."""
        if self.progress:
            self.progress.update(self.task, description=f"epoch {trainer.current_epoch} of {trainer.max_epochs}")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar."""
        if self.progress:
            self.progress.update(self.task, completed=trainer.global_step)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the completed epoch."""
        if not trainer.is_global_zero:
            return
        row = self.record.rows[-1]
        shown = {name: column for name, column in COLUMNS.items() if name in row}
        widths = [max(len(title), 8) for title, _ in shown.values()]
        if not self._header_printed:
            titles = (title.rjust(width) for (title, _), width in zip(shown.values(), widths, strict=True))
            self.console.print("epoch  " + "  ".join(titles), style="bold", soft_wrap=True)
            self._header_printed = True
        cells = (
            form.format(row[name]).rjust(width) for (name, (_, form)), width in zip(shown.items(), widths, strict=True)
        )
        self.console.print(f"{row['epoch']:5}  " + "  ".join(cells), soft_wrap=True)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Remove the bar, even after an error."""
        if self.progress:
            self.progress.stop()
            self.progress = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Remove the bar."""
        self.teardown(trainer, pl_module, stage="fit")


def show_closing_summary(record: RunRecord) -> None:
    """Print the last row in words, the run folder, and what to type next."""
    console = plain_console()
    final, summary = record.rows[-1], summary_of(record.rows)
    console.print(
        f"\ntest accuracy {final['accuracy/test']:.2%} (best {summary['best']['accuracy/test']:.2%}), "
        f"test cost {final['cost/test']:.4f}, {summary['seconds']:.0f} s",
        style="bold",
    )
    if "ee/mean" in final:
        console.print(f"mean entanglement entropy {record.rows[0]['ee/mean']:.4f} -> {final['ee/mean']:.4f} nats")
    console.print(f"results   {record.run.folder}", soft_wrap=True)
    look = shlex.join(way_to_start("evaluate"))
    console.print(f"look      {look} run='{record.run.folder}'", soft_wrap=True)
