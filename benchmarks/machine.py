"""Where a measurement was taken: processor, versions and command, kept beside the numbers."""

import json
import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from qcnn_lightning.training.record import git_revision, versions

RESULTS = Path(__file__).with_name("results")


def processor() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def write_results(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write measurements with hardware, versions, date and command as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    measured = {
        "command": shlex.join(["python", *sys.argv]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "capability": torch.backends.cpu.get_cpu_capability(),
        },
        "versions": versions(),
        "git_revision": git_revision(),
        "load_average_at_the_end": os.getloadavg()[0],
        "rows": rows,
    }
    path.write_text(json.dumps(measured, indent=1) + "\n")
    print(f"written to {path}")
