"""A sweep as a whole: the progress of jobs that run several at a time, and how all of them ended.

Every job notes that it has begun, and how it ended, in a file of the sweep's folder. So a sweep knows its jobs,
whichever launcher runs them on whichever machine, and whatever their folders are called.
"""

import atexit
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities import rank_zero_only
from rich.live import Live
from rich.table import Table

from qcnn_lightning.command_line import command_of, config_dir, exit_at_errors, quoted
from qcnn_lightning.files import folder_while_we_live, replace_atomically
from qcnn_lightning.job_table import add_job, empty_job_table, job_console
from qcnn_lightning.runs.run import Run
from qcnn_lightning.training.interruption import Interrupted, end_with_parent

BASIC_LAUNCHER = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
SECONDS_BETWEEN_LOOKS = 1.0
PLACES = ("hydra.sweep.", "hydra.job.")
"""Settings of Hydra that say where jobs' folders are."""
# Displays and notes of sweeps that have not been told of their end, because an error or a signal ended them.
LEFT_OPEN = ExitStack()
atexit.register(LEFT_OPEN.close)


def several_at_a_time(hydra: Any) -> bool:
    """Return whether a sweep's jobs run several at a time, so that none of them can talk."""
    return hydra.mode == RunMode.MULTIRUN and hydra.launcher._target_ != BASIC_LAUNCHER


@dataclass(frozen=True)
class Job:
    """What a job noted, in the sweep's folder, of the run that it trains.

    Attributes:
        run: the run, named by its folder as seen from the sweep's.
        status: running, finished or failed. A job that refused a folder has failed, whatever the folder's run did.
        error: why it failed.
        overrides: its settings on the command line.
        max_epochs: how many epochs it shall have.
    """

    run: Run
    status: str
    error: str
    overrides: tuple[str, ...]
    max_epochs: Any

    def command(self, sweep_name: str, own_place: bool, options: Sequence[str] = ()) -> str:
        """Return the command that runs this job alone, in the same folder.

        Args:
            sweep_name: `sweep.name`.
            own_place: whether the sweep's folders are others than `conf/train.yaml` says.
            options: of the command, that are no settings.
        """
        named = any(override.startswith("sweep.name=") for override in self.overrides)
        more = [] if named else [f"sweep.name={sweep_name}"]
        if own_place:
            more.append(f"hydra.run.dir={quoted(self.run.folder)}")
        return command_of(options, [*self.overrides, *more])


def read_job(note: Path, sweep: Path) -> Job:
    """Read what a job noted.

    Args:
        note: the file of its note.
        sweep: the sweep's folder.
    """
    noted = json.loads(note.read_text(encoding="utf-8"))
    return Job(
        run=Run(noted["folder"], os.path.relpath(noted["folder"], sweep)),
        status=noted["status"],
        error=noted["error"],
        overrides=tuple(noted["overrides"]),
        max_epochs=noted["max_epochs"],
    )


class SweepMonitor(Callback):
    """Hydra's callback around a sweep: shows progress where the jobs cannot, and at the end what came of every job.

    The sweep's exit code is 0 if there are jobs and all of them have finished, 1 otherwise.
    """

    def __init__(self) -> None:
        self.console = job_console()
        self.notes: Path | None = None
        self.process = os.getpid()
        self._done = threading.Event()
        self._display: threading.Thread | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Hydra's callbacks travel to the processes of the jobs, where this one only takes notes.
        return {"notes": self.notes, "process": self.process}

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Make a folder for the jobs' notes; watch jobs that run several at a time; end at SIGTERM as at SIGINT."""
        with exit_at_errors():
            LEFT_OPEN.close()
            self.folder = Path(config.hydra.sweep.dir)
            self.folder.mkdir(parents=True, exist_ok=True)
            # Jobs may have another working directory.
            self.notes = LEFT_OPEN.enter_context(folder_while_we_live(self.folder.absolute(), ".jobs-"))
            if several_at_a_time(config.hydra):
                self._display = threading.Thread(target=self._watch, daemon=True)
                self._display.start()
                LEFT_OPEN.callback(self._stop)
            # By default the process would be gone at once, and jobs in processes of their own would go on without it.
            signal.signal(signal.SIGTERM, self._interrupt)
            signal.signal(signal.SIGINT, self._interrupt)

    def on_job_start(self, config: DictConfig, *, task_function: TaskFunction, **kwargs: Any) -> None:
        """Note, in the process of a sweep's job, that it has begun."""
        if "joblib" in config.hydra.launcher._target_ and os.getpid() != self.process:
            end_with_parent(self.process)
        # Without its folder, the sweep itself has been ended.
        if self.notes is None or not self.notes.is_dir() or rank_zero_only.rank != 0:  # type: ignore[attr-defined]
            return
        with exit_at_errors():
            note = {
                "folder": str(Path(config.hydra.sweep.dir) / config.hydra.sweep.subdir),
                "status": "running",
                "error": "",
                "overrides": OmegaConf.to_container(config.hydra.overrides.task),
                "max_epochs": config.trainer.get("max_epochs"),
            }
            replace_atomically(self.notes / f"{config.hydra.job.num}.json", json.dumps(note))

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Note, in the process of a sweep's job, how it ended."""
        if self.notes is None or rank_zero_only.rank != 0:  # type: ignore[attr-defined]
            return
        with exit_at_errors():
            path = self.notes / f"{config.hydra.job.num}.json"
            # The sweep itself may have been ended meanwhile.
            if path.exists() and job_return.status == JobStatus.COMPLETED:
                told = job_return.return_value
                error = told if isinstance(told, str) else ""
                note = {"status": "failed" if error else "finished", "error": error}
                replace_atomically(path, json.dumps(json.loads(path.read_text(encoding="utf-8")) | note))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Show the closing table, and exit with 1 if a job has not finished."""
        with exit_at_errors():
            self._stop()
            jobs = self.jobs()
            LEFT_OPEN.close()
            self.console.print(job_table(jobs, running="interrupted"))
            unfinished = [job for job in jobs if job.status != "finished"]
            # As they were given: what they refer to is the jobs'.
            given: Any = OmegaConf.to_container(config.hydra.overrides.hydra)
            own_place = any(override.lstrip("+").startswith(PLACES) for override in given)
            for job in unfinished:
                self.console.print(f"\n{job.run.name}: {job.error or job.status}", style="bold", soft_wrap=True)
                command = job.command(config.sweep.name, own_place, config_dir(config.hydra))
                self.console.print(f"  to run it again: {command}", soft_wrap=True)
            if unfinished or not jobs:
                told = f"{len(unfinished)} of {len(jobs)} jobs have not finished" if jobs else "no job was run"
                self.console.print(f"\n{told}", style="bold")
                sys.exit(1)

    def _interrupt(self, signum: int, frame: Any) -> None:
        self.console.print("interrupted; the same command resumes it")
        raise Interrupted(signum)

    def jobs(self) -> list[Job]:
        """Read the jobs that have begun since the command was given, in Hydra's order."""
        assert self.notes is not None
        notes = sorted(self.notes.glob("*.json"), key=lambda note: int(note.stem))
        return [read_job(note, self.folder) for note in notes]

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
                    if job.status in ("finished", "failed") and job.run.folder not in told:
                        told.add(job.run.folder)
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
        final, best = job.run.summary.get("final", {}), job.run.summary.get("best", {})
        status = running if job.status == "running" else job.status
        numbers = (
            f"{int(final['epoch']) + 1} of {job.max_epochs}" if "epoch" in final else "",
            f"{final['accuracy/test']:.2%}" if "accuracy/test" in final else "",
            f"{best['accuracy/test']:.2%}" if "accuracy/test" in best else "",
            f"{final['ee/mean']:.4f}" if "ee/mean" in final else "",
            f"{job.run.summary['seconds']:.0f}" if "seconds" in job.run.summary else "",
        )
        add_job(table, job.run.name, status, numbers)
    return table


def in_one_line(job: Job) -> str:
    """Say how a job ended."""
    if job.status == "failed":
        return f"{job.run.name}: failed: {job.error.splitlines()[0]}"
    final = job.run.summary["final"]
    return f"{job.run.name}: finished, test accuracy {final['accuracy/test']:.2%}, {job.run.summary['seconds']:.0f} s"
