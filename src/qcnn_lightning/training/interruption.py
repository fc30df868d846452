"""SIGTERM and SIGINT end a run between two loader items, never inside a write."""

import functools
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(SystemExit):
    """The run was asked to stop. The exit code is 128 + the signal's number, as shells expect."""

    def __init__(self, signum: int):
        super().__init__(128 + signum)
        self.signum = signum


class StopOnSignal(pl.Callback):
    """Raises `Interrupted` after the loader item in which a signal came: the same item in all processes of a run.

    Outside Lightning's loops, and at a second signal, it raises at once.

    Attributes:
        received: the signal that came, or 0.
    """

    def __init__(self) -> None:
        self.received = 0
        self._between_batches = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals; restore the old handlers afterwards."""
        before = {signum: signal.getsignal(signum) for signum in SIGNALS}
        self._listen()
        try:
            yield
        finally:
            if threading.current_thread() is threading.main_thread():
                for signum, handler in before.items():
                    signal.signal(signum, handler)

    def _listen(self) -> None:
        # Python handles signals only in its main thread.
        if threading.current_thread() is threading.main_thread():
            for signum in SIGNALS:
                signal.signal(signum, self._note)

    def _note(self, signum: int, frame: Any) -> None:
        if self.received or not self._between_batches:
            raise Interrupted(signum)
        self.received = signum

    def _stop_if_asked(self, trainer: pl.Trainer) -> None:
        stop = bool(self.received)
        if trainer.world_size > 1:
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        if stop:
            self._between_batches = False
            raise Interrupted(self.received or signal.SIGTERM)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Handle the signals again: Lightning has set its own handlers."""
        self._listen()
        self._between_batches = True

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Handle the signals again, also in the evaluation before training."""
        self.on_train_start(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop if a signal came."""
        self._stop_if_asked(trainer)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop if a signal came."""
        self._stop_if_asked(trainer)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Raise at once from now on."""
        self._between_batches = False


@functools.cache
def end_with_parent(parent: int) -> None:
    """End this process when its parent dies, so that a killed sweep leaves no job behind; the run in it can be resumed.

    Looks once a second. The run is asked to stop first, and the process exits ten seconds later.

    Args:
        parent: the parent's process, which may have died already, while this process started.
    """
    if os.getppid() != parent:
        os._exit(128 + signal.SIGTERM)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
