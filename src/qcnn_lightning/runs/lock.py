"""The lock of a run's folder: one process trains there, and it knows when the folder was deleted meanwhile."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from qcnn_lightning.errors import InputError, RefusedRunError

LOCK = ".lock"
"""Held by the process that trains."""
SECONDS_TO_WAIT = 2


class FolderLock:
    """The lock of one folder.

    Args:
        folder: the run's folder.
    """

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / LOCK
        self._held: tuple[int, int] | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock; make the folder if it is missing.

        Raises:
            RefusedRunError: another process holds it.
            InputError: no lock can be taken there.
        """
        lock = FileLock(self.path, timeout=SECONDS_TO_WAIT)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout as error:
            raise RefusedRunError(
                f"{self.folder} is being trained by another process; wait for it, or choose another sweep.name or "
                "hydra.run.dir"
            ) from error
        except OSError as error:
            raise InputError(
                f"run_dir={self.folder}: cannot write {error.filename or self.path}: {error.strerror}"
            ) from error
        self._held = self._identity()
        try:
            yield
        finally:
            self._held = None
            lock.release()

    def check(self) -> None:
        """Check, before something is written, that the folder is still the one whose lock this process holds.

        Raises:
            InputError: it was deleted, or another has taken its place.
        """
        if self._held is not None and self._identity() != self._held:
            raise InputError(f"{self.folder} was deleted while it was trained in: the same command begins it again")

    def is_taken(self) -> bool:
        """Return whether a process holds the lock."""
        if self.path.is_file() and not self.path.is_symlink():
            try:
                with FileLock(self.path, timeout=0):
                    return False
            except OSError as error:
                return isinstance(error, Timeout)
        return False

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino
