"""Work that is done beside other work, such as reading from the disk while the network is waited for."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Beside(Generic[T]):
    """Does its work in a daemon thread from here on; where there can be no thread, at once."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._done: T | BaseException
        self._thread = threading.Thread(target=self._run, name="lifebeat-beside", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # the interpreter is ending
            self._run()

    def result(self) -> T:
        """Wait for the work; returns what it gave, or raises what it raised."""
        if self._thread.ident is not None:
            self._thread.join()
        if isinstance(self._done, BaseException):
            raise self._done
        return self._done

    def _run(self) -> None:
        try:
            self._done = self._work()
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
            self._done = error
