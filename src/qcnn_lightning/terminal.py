"""What a command does with its terminal: Ctrl-C from the first moment on, output that nobody takes, foreign letters.

Imports nothing that takes time: it is there before all else is imported.
"""

import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

INTERRUPTED = 128 + signal.SIGINT
STREAMS = ("stdin", "stdout", "stderr")


def is_starting(package: str) -> bool:
    """Return whether this process is a command of the package that has not got further than importing it.

    A command is `python -m <package>...`, or a script such as `qcnn-train`.
    """
    if os.path.basename(sys.argv[0]).startswith("qcnn-"):  # noqa: PTH119  pathlib takes time
        return True
    given = sys.orig_argv
    return sys.argv[:1] == ["-m"] and "-m" in given[:-1] and given[given.index("-m") + 1].partition(".")[0] == package


def end_at_interrupt() -> None:
    """Let Ctrl-C end this process at once, with one word and exit code 130; not if whoever started it ignores Ctrl-C.

    `KeyboardInterrupt` may come out of anything, also of what cannot tell it: a weak reference that ends, for example.
    """
    if is_ours_to_set(signal.default_int_handler):
        signal.signal(signal.SIGINT, end_at_once)


def raise_at_interrupt() -> None:
    """Let Ctrl-C raise `KeyboardInterrupt` again."""
    if is_ours_to_set(end_at_once):
        signal.signal(signal.SIGINT, signal.default_int_handler)


def is_ours_to_set(now: Any) -> bool:
    """Return whether this is how Ctrl-C is handled now, and this thread may set it."""
    return threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is now


def end_at_once(signum: int, frame: Any) -> None:
    """End this process."""
    try:
        os.write(2, b"interrupted\n")
    finally:
        os._exit(INTERRUPTED)


class OutputThatMayBeLost(io.TextIOWrapper):
    """Standard output, or errors: what cannot be written is lost, and what the process is there for goes on.

    Otherwise training would end with its reader (`train | head`), or with room for its log.

    Attributes:
        failure: why output was lost; None if none was, or if nobody reads it any more, which is the reader's choice.
    """

    failure: str | None = None

    def write(self, text: str) -> int:
        """Write text, or lose it."""
        with self._lost_if_it_fails():
            super().write(text)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered, or lose it."""
        with self._lost_if_it_fails():
            super().flush()

    @contextmanager
    def _lost_if_it_fails(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # What is buffered still goes to this file descriptor.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            if not isinstance(error, BrokenPipeError):
                self.failure = error.strerror


def go_on_without_reader() -> None:
    """Let this process go on when its output cannot be written; no letter is too foreign for it."""
    for number, name in enumerate(STREAMS):
        try:
            os.fstat(number)
        except OSError:
            # It was closed: otherwise the next file that is opened would get what is printed.
            os.open(os.devnull, os.O_RDWR)
            closed = open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, closed)
    for name in STREAMS[1:]:
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            encoding = stream.encoding
            lasting = OutputThatMayBeLost(stream.detach(), encoding, errors="backslashreplace", line_buffering=True)
            setattr(sys, name, lasting)


def lost_output() -> str | None:
    """Return why standard output could not be written; None if it could."""
    sys.stdout.flush()
    return getattr(sys.stdout, "failure", None)
