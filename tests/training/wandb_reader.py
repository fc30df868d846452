"""What W&B's own reader makes of the files that W&B wrote for a run."""

import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pyte


def wandb_records(offline_run: Path) -> list[dict]:
    """Read back what W&B wrote for a run, with W&B's own tool."""
    printed = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", offline_run],
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in printed.stdout.splitlines()]


def wandb_axes(offline_run: Path, metrics: str) -> dict[str, str]:
    """Open a run in W&B's reader, and return the x-axes over its charts: metric -> axis.

    Args:
        offline_run: the run's folder.
        metrics: regular expression for the metrics to show, 27 at most.
    """
    with TemporaryDirectory() as temporary:
        opened = Path(temporary, "wandb", offline_run.name)
        opened.mkdir(parents=True)
        shutil.copy(next(offline_run.glob("run-*.wandb")), opened)
        opened.with_name(".wandb-leet.json").write_text(json.dumps({"metrics_filter": {"query": metrics}}))
        layout = {"left_sidebar_visible": False, "right_sidebar_visible": False, "metrics_grid": {"rows": 9, "cols": 3}}
        Path(temporary, "wandb-leet.json").write_text(json.dumps(layout))
        screen = terminal_screen(
            [sys.executable, "-m", "wandb", "leet", "run", str(opened)],
            {**os.environ, "WANDB_CONFIG_DIR": temporary},
            until=lambda shown: f" [1-{len(chart_axes(shown))} of {len(chart_axes(shown))} filtered" in shown,
        )
    return chart_axes(screen)


def chart_axes(screen: str) -> dict[str, str]:
    """Return the x-axes over the charts on the screen of W&B's reader."""
    return dict(re.findall(r"([\w/.-]+) +\[x: ([\w/.-]+)\]", screen))


def terminal_screen(program: list[str], environment: dict[str, str], until: Callable[[str], bool]) -> str:
    """Run a program in a terminal of 100 lines, and return what is on its screen when that is complete and at rest."""
    lines, columns = 100, 240
    screen = pyte.Screen(columns, lines)
    stream = pyte.ByteStream(screen)
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    process = subprocess.Popen(
        program,
        stdin=follower,
        stdout=follower,
        stderr=follower,
        # Without the sequences that the emulator does not know.
        env={**environment, "TERM": "vt100"},
        start_new_session=True,
    )
    os.close(follower)
    end = time.monotonic() + 60
    try:
        while time.monotonic() < end:
            if select.select([leader], [], [], 1)[0]:
                stream.feed(os.read(leader, 1 << 16))
            elif until(shown := "\n".join(screen.display)):
                return shown
        raise TimeoutError("\n".join(screen.display))
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(leader)
