"""Random damage to the files of a run folder: every reader recovers, or says in one message what is wrong.

    python -m tests.campaigns.damage                 # 2,000 damages, some ten minutes; exit code 1 at a violation
    python -m tests.campaigns.damage --number 100 --seed 3
    python -m tests.campaigns.damage --only 137      # one of them again, with its traceback

A violation is another exception than `InputError`, numbers that differ from those that were written without a word
about it, a run beside the damaged one that changes or is missing, 10 seconds, or 2 GB.
"""

import argparse
import contextlib
import io
import logging
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

import qcnn_lightning.command_line  # noqa: F401  the configs use its resolvers
from qcnn_lightning.errors import InputError
from qcnn_lightning.evaluation.evaluate import evaluate, last_checkpoint, rebuild_data
from qcnn_lightning.report.console import show_runs
from qcnn_lightning.report.groups import read_collection
from qcnn_lightning.report.report import ReportSettings, write_report
from qcnn_lightning.runs.rebuild import cost_of, network_of
from qcnn_lightning.runs.run import HYDRA_FILES, Run
from qcnn_lightning.runs.settings import without_paths
from qcnn_lightning.states import NetworkState
from qcnn_lightning.training.record import RunRecord
from qcnn_lightning.training.run import has_finished, train

from .damages import KINDS, content, swapped

SECONDS = 10
BYTES = 2 * 2**30
EPOCHS = 3
SETTINGS = ("data=digits", "model.d=2", f"trainer.max_epochs={EPOCHS}", "model.kernel=plain", "logger=none")
STATE = "evaluation/state.safetensors"
FILES = (
    *("metrics.csv", "summary.json", *HYDRA_FILES, "checkpoints/last.ckpt", "checkpoints/previous.ckpt", STATE),
    *(".lock", "traceback.txt"),
)
SHARES = np.array([4, 4, 3, 1, 1, 5, 2, 3, 0.3, 0.3])
ONE_IN_REPORTED = 10
ONE_IN_TRAINED = 25
QUICK = ReportSettings(first_epoch=None, window=2, confidence=0.95, resamples=20, formats=())


class TooLongError(BaseException):
    """A reader took more than `SECONDS`. No `Exception`, so that nothing takes it for damage."""


class ViolationError(AssertionError):
    """A reader broke the rule."""


@dataclass(frozen=True)
class Case:
    """One damage and what came of it.

    Attributes:
        number: of the damage; with the campaign's seed it is the same damage again.
        file: which was damaged.
        kind: of the damage.
        what: was done.
        outcomes: reader -> "right", "told" or what was wrong.
    """

    number: int
    file: str
    kind: str
    what: str
    outcomes: dict[str, str]

    @property
    def violations(self) -> dict[str, str]:
        return {reader: outcome for reader, outcome in self.outcomes.items() if outcome not in ("right", "told")}


def composed(run_dir: Path, *overrides: str) -> Any:
    with initialize_config_module("qcnn_lightning.conf", version_base="1.3"):
        return compose("train", [*SETTINGS, f"run_dir='{run_dir}'", *overrides])


def make_originals(folder: Path) -> None:
    """Train two runs, `a` and `b`, and evaluate both."""
    for name, seed in (("a", 0), ("b", 1)):
        command = [sys.executable, "-m", "qcnn_lightning.train", *SETTINGS, f"seed={seed}", f"hydra.run.dir={name}"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        with initialize_config_module("qcnn_lightning.conf", version_base="1.3"):
            evaluate(compose("evaluate", [f"run='{folder / name}'", "figures=[]"]))
        (folder / name / "traceback.txt").write_text("RuntimeError: of an attempt before\n\nTraceback\n")


class Campaign:
    """Originals, and what every reader says of them.

    Args:
        folder: where to work.
        seed: of all damages.
    """

    def __init__(self, folder: Path, seed: int):
        self.seed = seed
        self.originals, self.copy = folder / "originals", folder / "copy"
        self.originals.mkdir()
        make_originals(self.originals)
        _, *self.lines = lines_of_runs(self.originals)
        self.right = {name: seen_of(Run(self.originals / name)) for name in ("a", "b")}
        self.config = composed(self.copy / "a", "seed=0")
        self.settings: Any = OmegaConf.to_container(self.config, resolve=True)
        stored = last_checkpoint(self.originals / "a")
        self.weights = network_of(stored).state_dict()
        self.rows = stored.record["rows"]
        self.may_be_another = False
        self.state = NetworkState.load(self.originals / "a" / STATE)

    def case(self, number: int, raising: bool = False) -> Case:
        """Damage a copy of the originals, and let everything read it."""
        random = np.random.default_rng([self.seed, number])
        shutil.rmtree(self.copy, ignore_errors=True)
        shutil.copytree(self.originals, self.copy)
        file = str(random.choice(FILES, p=SHARES / SHARES.sum()))
        path = self.copy / "a" / file
        if not path.stat().st_size:
            path.write_text("something\n")
        kind = str(random.choice(list(KINDS), p=[0.5, 0.2, 0.3])) if file not in (".lock", "traceback.txt") else "file"
        damage = KINDS[kind][random.integers(len(KINDS[kind]))]
        what = f"{damage.__name__}: {damage(random, path)}"
        # A checkpoint that is whole and says something else, or the other run's state, is no damage that can be seen.
        made = damage is content and file.endswith(".ckpt")
        self.may_be_another = made or (file == STATE and damage is swapped)
        readers: dict[str, Callable[[], str]] = {
            "runs": self.runs,
            "report": self.report,
            "evaluate": self.evaluation,
            "state": self.state_file,
        }
        if random.random() < 1 / ONE_IN_REPORTED:
            readers["page"] = self.page
        # The last: it writes.
        readers |= {"train": self.training} if random.random() < 1 / ONE_IN_TRAINED else {"resume": self.resumption}
        return Case(number, file, kind, what, {name: outcome(read, raising) for name, read in readers.items()})

    # What reads. Each returns "right" or "told".

    def runs(self) -> str:
        lines = lines_of_runs(self.copy)
        require(self.lines[1] in lines, "the run beside it has changed")
        require(any(line.startswith("2 jobs:") for line in lines), "a run is missing")
        told = any(line.startswith("a: ") for line in lines)
        require(told or self.lines[0] in lines, "without a word another row")
        return "told" if told else "right"

    def report(self) -> str:
        collection = read_collection(self.copy)
        runs = {run.name: run for run in collection.runs}
        require(differing(seen_of(runs["b"]), self.right["b"]) == [], "the run beside it has changed")
        told = any(item.what == "a" for item in collection.left_out)
        if "a" not in runs:
            require(told, "the run is missing, and no reason is given")
            return "told"
        differs = differing(seen_of(runs["a"]), self.right["a"])
        require(told or not differs, f"without a word other {', '.join(differs)}")
        return "told" if told else "right"

    def page(self) -> str:
        report = write_report([self.copy], self.copy / "report", QUICK)
        require(report.page.stat().st_size > 10_000, "no page")
        return "right"

    def evaluation(self) -> str:
        with told_by_log() as messages:
            checkpoint = last_checkpoint(self.copy / "a")
            network = network_of(checkpoint)
            cost_of(checkpoint)
            settings = without_paths(checkpoint.config)
            if settings != without_paths(self.settings):
                order = checkpoint.content.get("ImageDataModule", {}).get("pixel_order")
                rebuild_data(settings, OmegaConf.create({}), checkpoint.path, (), order, network.num_sites)
        same = same_tensors(network.state_dict(), self.weights)
        require(same or bool(messages) or self.may_be_another, "without a word other weights")
        return "told" if messages else "right"

    def state_file(self) -> str:
        state = NetworkState.load(self.copy / "a" / STATE)
        found, right = (dict(enumerate((*one.site_tensors, one.top))) for one in (state, self.state))
        require(same_tensors(found, right) or self.may_be_another, "without a word another state")
        return "right"

    def resumption(self) -> str:
        run = Run(self.copy / "a")
        with run.held(), told_by_log() as messages:
            checkpoint = run.checkpoint_to_resume(self.settings)
            record = RunRecord(run, EPOCHS)
            if checkpoint is None:
                return "told"
            record.load_state_dict(checkpoint.record)
            record.repair("finished" if has_finished(record, checkpoint) else "interrupted")
        same = record.rows == self.rows[: len(record.rows)]
        require(same or self.may_be_another, "without a word other rows")
        require(not differing(seen_of(run), seen_of(Run(run.folder))), "what was written is not what is read")
        return "told" if messages else "right"

    def training(self) -> str:
        """Resume for good, from the checkpoint before the last if that is not the damaged one."""
        with told_by_log() as messages:
            train(self.config, quiet=True)
        found = Run(self.copy / "a").metrics
        others = [
            name
            for name in found
            if not name.startswith("time/") and not found[name].equals(self.right["a"]["metrics"][name])
        ]
        require(not others or self.may_be_another, f"resumed to other {', '.join(others)}")
        return "told" if messages else "right"


def lines_of_runs(folder: Path) -> list[str]:
    """Return what `python -m qcnn_lightning.runs` prints, without its padding."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        show_runs([folder])
    return [" ".join(line.split()) for line in printed.getvalue().splitlines()]


def seen_of(run: Run) -> dict[str, Any]:
    """Return what tables, figures and the page show of a run."""
    run.read()
    return {
        "metrics": run.metrics,
        "summary": {key: value for key, value in run.summary.items() if key != "metrics"},
        "settings": run.settings,
        **{name: getattr(run, name) for name in ("data", "d", "seed", "flatten", "command", "class_names")},
        **{name: repr(getattr(run, name)) for name in ("planned_epochs", "num_parameters", "seconds", "last_epoch")},
    }


def differing(found: dict[str, Any], right: dict[str, Any]) -> list[str]:
    """Return the names of what differs; damage that hides a status behind a traceback is told by that status."""
    differs = [name for name in right if name != "metrics" and repr(found[name]) != repr(right[name])]
    return differs if found["metrics"].equals(right["metrics"]) else [*differs, "metrics"]


def same_tensors(found: dict[Any, torch.Tensor], right: dict[Any, torch.Tensor]) -> bool:
    return found.keys() == right.keys() and all(torch.equal(found[name], right[name]) for name in right)


def require(truth: bool, otherwise: str) -> None:
    if not truth:
        raise ViolationError(otherwise)


def outcome(read: Callable[[], str], raising: bool) -> str:
    """Return what came of a reader: "right", "told", or what was wrong."""
    before = largest_memory(begin=True)
    start = time.perf_counter()
    try:
        with limited():
            came = read()
    except InputError as error:
        message = str(error)
        came = "told" if message.strip() and "Traceback" not in message else f"no message: {message!r}"
    except ViolationError as violation:
        came = str(violation)
    except (Exception, TooLongError) as error:
        if raising:
            traceback.print_exc()
        came = f"{type(error).__name__}: {error!s:.150}"
    seconds, memory = time.perf_counter() - start, largest_memory() - before
    if came in ("right", "told") and memory > BYTES:
        return f"{memory / 2**30:.1f} GB"
    return f"{seconds:.0f} s" if came in ("right", "told") and seconds > SECONDS else came


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Raise after `SECONDS`, also in a system call that waits; warnings are errors."""

    def raise_error(*_: Any) -> None:
        raise TooLongError(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, raise_error)
    # Once more a second later, should something have swallowed the first.
    signal.setitimer(signal.ITIMER_REAL, SECONDS, 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def largest_memory(begin: bool = False) -> int:
    """Return the most memory that this process has had since `begin`, bytes; 0 where the system does not say."""
    try:
        if begin:
            Path("/proc/self/clear_refs").write_text("5")
        told = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(told.split()[1])
    except (OSError, StopIteration):
        return 0


@contextlib.contextmanager
def told_by_log() -> Iterator[list[str]]:
    """Collect the warnings that are logged."""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("qcnn_lightning")
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)


def main(arguments: list[str] | None = None) -> None:
    """Run the campaign, print what came of it, and exit with 1 at a violation."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.damage", description=__doc__.splitlines()[0])
    parser.add_argument("--number", type=int, default=2000, help="of damages (default: 2000)")
    parser.add_argument("--seed", type=int, default=0, help="of the damages (default: 0)")
    parser.add_argument("--only", type=int, nargs="*", help="these damages alone, with tracebacks")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(Path(folder), given.seed)
        cases = []
        for number in range(given.number) if given.only is None else given.only:
            cases.append(case := campaign.case(number, raising=given.only is not None))
            for reader, what in case.violations.items():
                print(f"{number}: {case.file}, {case.what}\n    {reader}: {what}", flush=True)
            if given.only is not None:
                print(case)
            elif len(cases) % 100 == 0:
                print(f"{len(cases)} of {given.number} damages", flush=True)
    counts = Counter((case.file, outcome_of(case)) for case in cases)
    print(f"\n{'file':28}{'damages':>10}{'right':>10}{'told':>10}{'violations':>12}")
    for file in FILES:
        right, told, wrong = (counts[file, outcome] for outcome in ("right", "told", "violation"))
        print(f"{file:28}{right + told + wrong:10}{right:10}{told:10}{wrong:12}")
    violations = sum(bool(case.violations) for case in cases)
    print(f"{len(cases)} damages, {violations} violations, {time.monotonic() - start:.0f} s")
    sys.exit(1 if violations else 0)


def outcome_of(case: Case) -> str:
    if case.violations:
        return "violation"
    return "told" if "told" in case.outcomes.values() else "right"


if __name__ == "__main__":
    main()
