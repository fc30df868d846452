"""As much of W&B's server as a run needs: it keeps the history and the summary, and gives them to who resumes."""

import gzip
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

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
