"""W&B's own reader of the files that W&B wrote for a run, and a server that stands in for W&B's."""

import fcntl
import gzip
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
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

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


OWNER = {"id": "1", "name": "physics", "entity": {"id": "1", "name": "physicists"}}


class WandbServer(ThreadingHTTPServer):
    """Keeps one run; it takes no tables, and forgets all other files.

    Attributes:
        history: the rows, as they came.
        summary: the last one.
        run: as the server names it; None before it has begun.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answers)
        self.history: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.run: str | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def take(self, files: dict[str, dict[str, Any]]) -> None:
        for name, part in files.items():
            if name == "wandb-history.jsonl":
                self.history += [json.loads(line) for line in part["content"]]
            elif name == "wandb-summary.json":
                self.summary = json.loads(part["content"][-1])

    def answer(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        if operation == "Viewer":
            return {"viewer": {"id": "1", "entity": "physicists", "username": "physicist", "flags": "{}"}}
        if operation == "UpsertBucket":
            begins, self.run = self.run is None, variables["name"] or self.run
            bucket = {"id": "1", "name": self.run, "displayName": self.run, "project": OWNER}
            return {"upsertBucket": {"bucket": bucket, "inserted": begins}}
        if operation == "RunResumeStatus":
            return {"model": OWNER | {"bucket": self.resumed() if self.run else None}}
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.address}/file"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": files}}
        return {}

    def resumed(self) -> dict[str, Any]:
        return {
            "id": "1",
            "name": self.run,
            "displayName": self.run,
            "config": "{}",
            "summaryMetrics": json.dumps(self.summary),
            "historyLineCount": len(self.history),
            "eventsLineCount": 0,
            "logLineCount": 0,
            "historyTail": json.dumps([json.dumps(row) for row in self.history[-1:]]),
            "eventsTail": "[]",
            "tags": [],
            # Says that the run has begun.
            "wandbConfig": json.dumps({"t": {}}),
        }


class Answers(BaseHTTPRequestHandler):
    server: WandbServer

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        sent = gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
        answer: dict[str, Any] = {}
        if self.path.endswith("/graphql"):
            asked = json.loads(sent)
            (operation,) = re.findall(r"(?:query|mutation) (\w+)", asked["query"])
            answer = {"data": self.server.answer(operation, asked.get("variables") or {})}
        elif self.path.endswith("/file_stream"):
            self.server.take(json.loads(sent).get("files") or {})
        reply = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    do_GET = do_PUT = do_POST  # noqa: N815

    def log_message(self, *arguments: Any) -> None:
        """Print nothing."""
