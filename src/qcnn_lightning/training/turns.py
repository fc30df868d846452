"""Several runs in one process that take turns, and have done together what they ask for at the same time.

Every run is in a thread of its own, so it is written as if it were alone. One thread at a time goes on, until it asks
for something or ends. When all of them wait, what has been asked for is done together, in the main thread. What a
process has only once, such as Hydra's configuration of the job, belongs to the thread that goes on.
"""

import signal
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig

from qcnn_lightning.training.interruption import SIGNALS, Interrupted


@dataclass
class OneOfAProcess:
    """What a process has only once, and a run changes."""

    dtype: torch.dtype
    hydra: Any

    @classmethod
    def now(cls) -> "OneOfAProcess":
        """Return what there is."""
        return cls(torch.get_default_dtype(), HydraConfig.instance().cfg)

    def restore(self) -> None:
        """Put it back."""
        torch.set_default_dtype(self.dtype)
        HydraConfig.instance().cfg = self.hydra


class Seat:
    """The place of a run among others.

    Args:
        back: released when the run waits or has ended.
    """

    def __init__(self, back: threading.Semaphore):
        self.ended = False
        self.key: Hashable = None
        self.request: Any = None
        self.answer: Any = None
        self.error: BaseException | None = None
        self._own: OneOfAProcess | None = None
        self._back, self._go = back, threading.Semaphore(0)

    def __deepcopy__(self, memo: Any) -> "Seat":
        """A copy of a run's network asks from the same place."""
        return self

    def ask(self, key: Hashable, request: Any) -> Any:
        """Wait until this has been done, together with whatever others have asked for under this key.

        Raises:
            Interrupted: a signal came meanwhile.
            Exception: it could not be done.
        """
        self._own = OneOfAProcess.now()
        self.key, self.request, self.error = key, request, None
        self._back.release()
        self.wait()
        if self.error is not None:
            raise self.error
        answer, self.answer = self.answer, None
        return answer

    def wait(self) -> None:
        """Wait for the turn."""
        self._go.acquire()
        if self._own is not None:
            self._own.restore()

    def go_on(self) -> None:
        """Let the run go on until it asks for something, or ends; in the main thread."""
        own = OneOfAProcess.now()
        self._go.release()
        self._back.acquire()
        own.restore()


def take_turns(
    runs: Sequence[Callable[[Seat], Any]], together: Callable[[Hashable, Sequence[Any]], Sequence[Any]]
) -> list[Any]:
    """Carry out runs that take turns, and return what they return.

    Args:
        runs: each gets its place. None may raise anything but `Interrupted`.
        together: does what several runs have asked for under one key; the smallest key comes first.

    Raises:
        Interrupted: a signal came; every run has been told so, and has ended.
    """
    back = threading.Semaphore(0)
    seats = [Seat(back) for _ in runs]
    results: list[Any] = [None] * len(runs)

    def carry_out(number: int) -> None:
        seat = seats[number]
        # OpenMP would start threads for each of ours.
        torch.set_num_threads(1)
        seat.wait()
        try:
            results[number] = runs[number](seat)
        except BaseException as error:
            results[number] = error
        finally:
            seat.ended = True
            back.release()

    for number in range(len(runs)):
        threading.Thread(target=carry_out, args=(number,), daemon=True).start()
    with signals_noted() as received:
        ready = seats
        while ready:
            for seat in ready:
                seat.go_on()
            waiting = [seat for seat in seats if not seat.ended]
            if received:
                ready = waiting
                for seat in ready:
                    seat.error = Interrupted(received[0])
            elif waiting:
                ready = serve(waiting, together)
            else:
                ready = []
    for result in results:
        if isinstance(result, BaseException):
            raise result
    if received:
        raise Interrupted(received[0])
    return results


def serve(waiting: Sequence[Seat], together: Callable[[Hashable, Sequence[Any]], Sequence[Any]]) -> list[Seat]:
    """Do what has been asked for under the smallest key, and return the places of those who asked for it."""
    key = min(seat.key for seat in waiting)  # type: ignore[type-var]
    served = [seat for seat in waiting if seat.key == key]
    own = OneOfAProcess.now()
    assert served[0]._own is not None
    served[0]._own.restore()
    try:
        for seat, answer in zip(served, together(key, [seat.request for seat in served]), strict=True):
            seat.answer = answer
    except Exception as error:
        for seat in served:
            seat.error = error
    finally:
        own.restore()
    return served


@contextmanager
def signals_noted() -> Iterator[list[int]]:
    """Yield a list of the signals that have come; at the second one `Interrupted` is raised at once."""
    received: list[int] = []

    def note(signum: int, frame: Any) -> None:
        received.append(signum)
        if len(received) > 1:
            raise Interrupted(signum)

    before = {signum: signal.signal(signum, note) for signum in SIGNALS}
    try:
        yield received
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
