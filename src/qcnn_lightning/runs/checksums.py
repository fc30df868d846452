"""CRC-32 checksums in `summary.json`, of itself, `metrics.csv` and what was asked for, so that alterations are found.

They are "crc32", "metrics": {"lines": 92, "crc32": 1234} and "files": {".hydra/config.yaml": 2345, ...}.
"""

import json
import math
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

from qcnn_lightning.runs.metrics import as_number

METRICS_KEY, FILES_KEY, OWN_KEY = CHECKSUM_KEYS = ("metrics", "files", "crc32")


def checksum(lines: Iterable[str]) -> int:
    """Return the CRC-32 of these lines."""
    return zlib.crc32("".join(lines).encode(errors="surrogatepass"))


def sealed(summary: Mapping[str, Any], lines: list[str], files: Mapping[str, int]) -> str:
    """Return `summary.json` with checksums.

    Args:
        summary: what it says.
        lines: of `metrics.csv`; empty if there is none.
        files: checksums of what was asked for.
    """
    whole = dict(summary)
    if lines:
        whole[METRICS_KEY] = {"lines": len(lines), "crc32": checksum(lines)}
    if files:
        whole[FILES_KEY] = dict(files)
    return json.dumps(whole | {OWN_KEY: own_checksum(whole)}, indent=2) + "\n"


def own_checksum(summary: Mapping[str, Any]) -> int:
    """Return the checksum of all that a summary says, its layout and its own checksum aside."""
    said = {key: value for key, value in summary.items() if key != OWN_KEY}
    return checksum([json.dumps(said)])


def is_whole(summary: Mapping[str, Any]) -> bool:
    """Return whether a summary says what was written; older ones have no checksums, but a status."""
    if OWN_KEY in summary or FILES_KEY in summary:
        return summary.get(OWN_KEY) == own_checksum(summary)
    return "status" in summary and not math.isnan(as_number(summary.get("num_parameters", 0)))


def has_agreeing_lines(lines: list[str], summary: Mapping[str, Any]) -> bool:
    """Return whether these are the lines of `metrics.csv` that `summary.json` has a checksum of, or it has none.

    Until a run has finished one more may follow: `metrics.csv` is written first, and the process may be killed then.
    """
    written = summary.get(METRICS_KEY)
    if not isinstance(written, dict) or not isinstance(written.get("lines"), int):
        return True
    more = len(lines) - written["lines"]
    most = 0 if summary.get("status") == "finished" else 1
    return 0 <= more <= most and checksum(lines[: written["lines"]]) == written.get("crc32")


def checksums_of_files(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the checksums of what was asked for, by file; none of older runs."""
    files = summary.get(FILES_KEY)
    return files if isinstance(files, dict) else {}
