"""Locks that the kernel releases when a process dies, and that a forked child does not keep."""

from __future__ import annotations

import contextlib
import errno
import os
import time
import weakref
from typing import TYPE_CHECKING

from lifebeat.storage.forks import guard, in_child
from lifebeat.storage.safe_file import create

try:
    import fcntl
except ImportError:  # Windows: no shared locks there; every process stands for itself
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

_POLL = 0.01
_open_locks: weakref.WeakSet[FileLock] = weakref.WeakSet()


class FileLock:
    """A lock on a file or a directory, by ``flock``.

    Not reentrant and not for threads of one process among themselves. A fork shares the lock with the child, which
    would keep it alive after the parent's death; so the child closes its copy at once.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    def acquire(self, *, shared: bool = False, timeout: float = 0.0) -> bool:
        """Take the lock, or change how it is held.

        Args:
            shared: Share it with others that hold it shared, instead of keeping all others out.
            timeout: Seconds to keep trying; 0 tries once.

        Returns:
            Whether it is held now. A change that fails may have given up what was held before.

        Raises:
            OSError: The file cannot be opened, or its file system has no locks.
        """
        if self._fd is None:
            with guard:
                self._fd = _open(self.path)
                _open_locks.add(self)
        deadline = time.monotonic() + timeout
        while not self._try(shared=shared):
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL)
        return True

    def release(self) -> None:
        """Give the lock up; nothing happens if it is not held."""
        with guard:
            descriptor, self._fd = self._fd, None
            if descriptor is not None:
                _open_locks.discard(self)
                os.close(descriptor)

    def _try(self, *, shared: bool) -> bool:
        if fcntl is None or self._fd is None:
            return True
        try:
            fcntl.flock(self._fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                return False
            self.release()
            raise
        return True


@contextlib.contextmanager
def held(path: Path, *, timeout: float) -> Generator[bool]:
    """Hold the lock on ``path`` for the length of the block; yields whether it was got within ``timeout`` seconds."""
    lock = FileLock(path)
    try:
        yield lock.acquire(timeout=timeout)
    finally:
        lock.release()


def _open(path: Path) -> int:
    if path.is_dir():
        return os.open(path, os.O_RDONLY)
    while True:
        try:
            return os.open(path, os.O_RDWR)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                return create(path)


def _close_in_child() -> None:
    for lock in list(_open_locks):
        lock.release()


in_child(_close_in_child)
