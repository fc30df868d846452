"""A sweep as a whole: the progress of jobs that run elsewhere, and how all of them ended.

All is read from the jobs' folders, so it is the same whichever launcher runs them, on this machine or on others.
"""

import atexit
import os
import shlex
import signal
import sys
import tempfile
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.live import Live
from rich.table import Table

from qcnn_lightning.errors import InputError
from qcnn_lightning.job_table import add_job, empty_job_table, job_console
from qcnn_lightning.run_folder import TRACEBACK, is_running, read_summary, read_yaml
from qcnn_lightning.training.interruption import Interrupted

BASIC_LAUNCHER = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
SECONDS_BETWEEN_LOOKS = 1.0
# Displays of sweeps that have not been told of their end, because an error or a signal ended them.
DISPLAYS = ExitStack()
atexit.register(DISPLAYS.close)


def runs_elsewhere(hydra: Any) -> bool:
    """Return whether a sweep's jobs run in processes of their own, several at a time."""
    return hydra.mode == RunMode.MULTIRUN and hydra.launcher._target_ != BASIC_LAUNCHER


@dataclass(frozen=True)
class Job:
    """What a job's folder tells.

    Attributes:
        folder: the run's folder.
        status: running, or of its last attempt: finished, failed or interrupted.
        error: why it failed.
        summary: `summary.json`.
        overrides: its settings on the command line.
        max_epochs: how many epochs it shall have; None if unknown.
    """

    folder: Path
    status: str
    error: str
    summary: dict[str, Any]
    overrides: tuple[str, ...]
    max_epochs: int | None

    def command(self, sweep_name: str, hydra_overrides: list[str]) -> str:
        """Return the command that runs this job alone, in the same folder."""
        named = any(override.startswith("sweep.name=") for override in self.overrides)
        name = [] if named else [f"sweep.name={sweep_name}"]
        return shlex.join(["python", "-m", "qcnn_lightning.train", *self.overrides, *name, *hydra_overrides])


def read_job(folder: Path) -> Job:
    """Read a job's folder; what is missing or damaged is left out."""
    summary = read_summary(folder)
    try:
        error = (folder / TRACEBACK).read_text().split("\n\n")[0]
    except OSError:
        error = ""
    try:
        overrides = tuple(str(override) for override in read_yaml(folder / ".hydra" / "overrides.yaml"))
        max_epochs = read_yaml(folder / ".hydra" / "config.yaml")["trainer"]["max_epochs"]
    except (InputError, TypeError, KeyError):
        overrides, max_epochs = (), None
    status = "running" if is_running(folder) else "failed" if error else summary.get("status", "interrupted")
    return Job(folder, status, error, summary, overrides, max_epochs)


class SweepMonitor(Callback):
    """Hydra's callback around a sweep: shows progress where the jobs cannot, and at the end what came of every job.

    The sweep's exit code is 0 if all of its jobs have finished, 1 otherwise.
    """

    def __init__(self) -> None:
        self.console = job_console()
        self._done = threading.Event()
        self._display: threading.Thread | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Hydra's callbacks travel to the processes of the jobs, where this one has nothing to do.
        return {}

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Note when the sweep begins, and watch its jobs if they run elsewhere; end at SIGTERM as at SIGINT."""
        DISPLAYS.close()
        self.folder = Path(config.hydra.sweep.dir)
        self.folder.mkdir(parents=True, exist_ok=True)
        # By the clock of the file system that the jobs write to.
        with tempfile.TemporaryFile(dir=self.folder) as file:
            self.began = os.fstat(file.fileno()).st_mtime_ns
        if runs_elsewhere(config.hydra):
            self._display = threading.Thread(target=self._watch, daemon=True)
            self._display.start()
            DISPLAYS.callback(self._stop)
        # By default the process would be gone at once, and jobs in processes of their own would go on without it.
        signal.signal(signal.SIGTERM, self._interrupt)
        signal.signal(signal.SIGINT, self._interrupt)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Show the closing table, and exit with 1 if a job has not finished."""
        self._stop()
        jobs = self.jobs()
        self.console.print(job_table(jobs, running="interrupted"))
        unfinished = [job for job in jobs if job.status != "finished"]
        for job in unfinished:
            self.console.print(f"\n{job.folder.name}: {job.error or job.status}", style="bold", soft_wrap=True)
            folder = [override for override in config.hydra.overrides.hydra if override.startswith("hydra.sweep.")]
            command = job.command(config.sweep.name, folder)
            self.console.print(f"  to run it again: {command}", soft_wrap=True)
        if unfinished:
            self.console.print(f"\n{len(unfinished)} of {len(jobs)} jobs have not finished", style="bold")
            sys.exit(1)

    def _interrupt(self, signum: int, frame: Any) -> None:
        self.console.print("interrupted; the same command resumes it")
        raise Interrupted(signum)

    def jobs(self) -> list[Job]:
        """Read the jobs of this sweep that have been begun, or found finished, since the command was given."""
        # Hydra writes this file at every start of a job.
        marks = (mark for mark in self.folder.glob("*/.hydra/overrides.yaml") if mark.stat().st_mtime_ns >= self.began)
        return [read_job(mark.parent.parent) for mark in sorted(marks)]

    def _watch(self) -> None:
        told: set[Path] = set()
        with Live(console=self.console, auto_refresh=False, transient=True) as live:
            ended = False
            while not ended:
                # One more look after the end, or what came just before it is never told.
                ended = self._done.wait(SECONDS_BETWEEN_LOOKS)
                jobs = self.jobs()
                if self.console.is_terminal:
                    live.update(job_table(jobs, running="running"), refresh=True)
                    continue
                for job in jobs:
                    if job.status in ("finished", "failed") and job.folder not in told:
                        told.add(job.folder)
                        self.console.print(in_one_line(job), soft_wrap=True)

    def _stop(self) -> None:
        self._done.set()
        if self._display is not None:
            self._display.join()
            self._display = None


def job_table(jobs: list[Job], running: str) -> Table:
    """Lay out a row per job.

    Args:
        jobs: the jobs.
        running: what to call the status of a job that has neither finished nor failed.
    """
    table = empty_job_table(("epoch", "accuracy test", "best", "mean EE (nats)", "seconds"))
    for job in jobs:
        final, best = job.summary.get("final", {}), job.summary.get("best", {})
        status = running if job.status == "interrupted" else job.status
        numbers = (
            f"{int(final['epoch']) + 1} of {job.max_epochs}" if "epoch" in final else "",
            f"{final['accuracy/test']:.2%}" if "accuracy/test" in final else "",
            f"{best['accuracy/test']:.2%}" if "accuracy/test" in best else "",
            f"{final['ee/mean']:.4f}" if "ee/mean" in final else "",
            f"{job.summary['seconds']:.0f}" if "seconds" in job.summary else "",
        )
        add_job(table, job.folder.name, status, numbers)
    return table


def in_one_line(job: Job) -> str:
    """Say how a job ended."""
    if job.status == "failed":
        return f"{job.folder.name}: failed: {job.error.splitlines()[0]}"
    final = job.summary["final"]
    return f"{job.folder.name}: finished, test accuracy {final['accuracy/test']:.2%}, {job.summary['seconds']:.0f} s"
