"""SIGKILL at random moments: training resumed by the same command ends with the same digits, and leaves nothing behind.

    python -m tests.campaigns.kills                   # 100 kills, some half an hour; exit code 1 at a violation
    python -m tests.campaigns.kills --kills 12 --seed 3

Single runs, serial sweeps, sweeps trained together, and sweeps with joblib, whose killed process is the sweep's or a
job's. Each is killed and started again at once, until it ends by itself. Then the rows of all runs, float64, weights
and moments must be those of runs that nobody killed; and there must be no temporary files, no lock that is held, and no
process.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch

from qcnn_lightning.files import TEMPORARY
from qcnn_lightning.runs import LAST
from qcnn_lightning.runs.run import Run

from ..commands import TIMEOUT_S, Command, command

MARK = "QCNN_LIGHTNING_CAMPAIGN"
SMALL = ("data=digits", "model.d=2", "model.kernel=plain", "trainer.precision=64-true", "logger=none")
SWEPT = ("-m", "hydra.sweep.dir=runs", "hydra.sweep.subdir=${seed}")
EPOCHS = 20
KINDS = {
    "single": ("hydra.run.dir=runs/0", "seed=0"),
    "serial sweep": (*SWEPT, "seed=0,1,2"),
    "together": (*SWEPT, "seed=0,1,2", "hydra/launcher=together"),
    "joblib sweep": (*SWEPT, "seed=0,1,2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
}
SECONDS_TO_END = 330
"""Within which all processes end: joblib's workers that had no job when their sweep was killed wait for one 300 s."""


@dataclass
class Tally:
    """What happened to one kind of training.

    Attributes:
        kills: how often a process was killed.
        rounds: how often training was completed.
        violations: what was wrong.
    """

    kills: int = 0
    rounds: int = 0
    violations: list[str] = field(default_factory=list)


def start(kind: str, folder: Path, epochs: int, mark: str) -> Command:
    """Start the training of this kind in a folder."""
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    environment = {MARK: mark, "TMPDIR": str(folder / "tmp"), "OMP_NUM_THREADS": "1"}
    # PyTorch's own cache, which lies in TMPDIR otherwise.
    environment["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "cache")
    arguments = (*KINDS[kind], *SMALL, f"trainer.max_epochs={epochs}")
    return Command("qcnn_lightning.train", *arguments, folder=folder, environment=environment)


def processes(mark: str) -> Iterator[int]:
    """The processes that were started by a command with this mark, whoever their parent is now."""
    wanted = f"{MARK}={mark}".encode()
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if wanted in environment.read_bytes().split(b"\0"):
                yield int(environment.parent.name)
        except OSError:
            continue


def holders(folder: Path) -> list[int]:
    """The processes that hold the locks of run folders."""
    inodes = {str(lock.stat().st_ino) for lock in folder.glob("runs/*/.lock")}
    held = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return sorted({int(fields[4]) for fields in held if fields[1] == "FLOCK" and fields[5].split(":")[-1] in inodes})


def kill(process: Command, kind: str, folder: Path, moments: random.Random) -> None:
    """Kill the process or, of a sweep with joblib, half of the time a job's."""
    jobs = [pid for pid in holders(folder) if pid != process.pid] if kind == "joblib sweep" else []
    if jobs and moments.random() < 0.5:
        os.kill(moments.choice(jobs), signal.SIGKILL)
        # The sweep resumes it by itself, unless it is killed next.
        time.sleep(moments.uniform(0, 3))
        if moments.random() < 0.5:
            return
    process.kill()
    process.wait(TIMEOUT_S)


def complete(
    kind: str,
    folder: Path,
    epochs: int,
    longest: float,
    most_kills: int,
    moments: random.Random,
    tally: Tally,
    mark: str,
) -> None:
    """Train to the end, with kills in between, and see what is left.

    Args:
        kind: of `KINDS`.
        folder: where; empty.
        epochs: of every run.
        longest: seconds after which a process is killed at the latest.
        most_kills: after so many it is left alone.
        moments: decides when.
        tally: takes notes.
        mark: of all processes.
    """
    for left in range(most_kills, -1, -1):
        process = start(kind, folder, epochs, mark)
        if left:
            try:
                process.wait(moments.uniform(0, 0.7 * longest))
            except Exception:
                tally.kills += 1
                kill(process, kind, folder, moments)
        if process.returncode is None:
            process.wait(TIMEOUT_S)
        if process.returncode != -signal.SIGKILL:
            break
    tally.rounds += 1
    if process.returncode != 0:
        tally.violations.append(
            f"{kind}: exit code {process.returncode}: {process.stdout[-600:]}{process.stderr[-600:]}"
        )
    tally.violations += [f"{kind}: {what}" for what in leftovers(folder)]


def remaining_processes(mark: str) -> Iterator[str]:
    """Name the processes that do not end by themselves."""
    end = time.monotonic() + SECONDS_TO_END
    while (alive := list(processes(mark))) and time.monotonic() < end:
        time.sleep(0.1)
    for pid in alive:
        yield f"process {pid} is still there: {Path(f'/proc/{pid}/cmdline').read_text()}"


def leftovers(folder: Path) -> Iterator[str]:
    """Name what should not be there once training has ended: locks that are held, temporary files, tracebacks."""
    yield from (f"process {pid} still holds a lock" for pid in holders(folder))
    for run in map(Run, sorted((folder / "runs").glob("[0-9]*"))):
        if run.status != "finished":
            yield f"{run.name} is {run.status}"
        run.read()
        yield from run.notes
    for path in folder.rglob("*"):
        if TEMPORARY.fullmatch(path.name) or path.name.startswith(".jobs") or path.name == "traceback.txt":
            yield f"{path} is left"
    # W&B makes folders there when it is imported.
    yield from (f"{path} is left" for path in (folder / "tmp").iterdir() if "wandb-" not in path.name)


def differences(folder: Path, whole: Path) -> Iterator[str]:
    """Name the runs that are not, to the last bit, those that nobody killed; timings aside."""
    for name in sorted(path.name for path in (whole / "runs").glob("[0-9]*")):
        one, other = folder / "runs" / name, whole / "runs" / name
        tables = [pd.read_csv(run / "metrics.csv").filter(regex="^(?!time)") for run in (one, other)]
        if not tables[0].equals(tables[1]):
            yield f"{one} has other rows than {other}"
        first, second = (torch.load(run / LAST, weights_only=True) for run in (one, other))
        if not all(torch.equal(first["state_dict"][key], value) for key, value in second["state_dict"].items()):
            yield f"{one} has other weights than {other}"
        moments = [checkpoint["optimizer_states"][0]["state"] for checkpoint in (first, second)]
        if not all(
            torch.equal(moments[0][key][part], value) for key in moments[1] for part, value in moments[1][key].items()
        ):
            yield f"{one} has other moments than {other}"


def campaign(
    kinds: list[str], kills: int, seed: int, epochs: int, folder: Path, kills_a_round: int = 6, patient: bool = True
) -> dict[str, Tally]:
    """Kill every kind of training so often; return what came of it.

    Args:
        kinds: of `KINDS`.
        kills: of all kinds together.
        seed: of the moments.
        epochs: of every run.
        folder: where to work.
        kills_a_round: most kills before a training is left to end.
        patient: wait at the end until all processes have ended.
    """
    # The libraries are imported once, which is not to be measured.
    assert command("qcnn_lightning.train", "--help", folder=folder).returncode == 0
    moments, mark = random.Random(seed), uuid.uuid4().hex
    tallies = {kind: Tally() for kind in kinds}
    for number, kind in enumerate(kinds):
        whole, tally = folder / "whole" / str(number), tallies[kind]
        began = time.monotonic()
        complete(kind, whole, epochs, 0, 0, moments, tally, mark)
        longest = time.monotonic() - began
        print(kind, "takes", round(longest, 1), "s", flush=True)
        wanted = kills // len(kinds) + (number < kills % len(kinds))
        tally.rounds = 0
        while tally.kills < wanted and not tally.violations:
            here = folder / str(number) / str(tally.rounds)
            complete(kind, here, epochs, longest, min(kills_a_round, wanted - tally.kills), moments, tally, mark)
            tally.violations += differences(here, whole)
            print(f"{kind}: {tally.kills} kills, {tally.rounds} times to the end", flush=True)
    if patient:
        tallies[kinds[-1]].violations += remaining_processes(mark)
    return tallies


def main(arguments: list[str] | None = None) -> None:
    """Run the campaign, print what came of it, and exit with 1 at a violation."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.kills", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="in all (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help=f"of every run (default: {EPOCHS})")
    parser.add_argument("--kind", choices=KINDS, action="append", help="this kind of training (default: all)")
    given = parser.parse_args(arguments)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        tallies = campaign(given.kind or list(KINDS), given.kills, given.seed, given.epochs, Path(folder))
    print(f"\n{'':16}{'kills':>8}{'completed':>12}{'violations':>12}")
    for kind, tally in tallies.items():
        print(f"{kind:16}{tally.kills:8}{tally.rounds:12}{len(tally.violations):12}")
    for tally in tallies.values():
        print(*tally.violations, sep="\n")
    print(f"{sum(tally.kills for tally in tallies.values())} kills, {time.monotonic() - start:.0f} s")
    sys.exit(any(tally.violations for tally in tallies.values()))


if __name__ == "__main__":
    main()
