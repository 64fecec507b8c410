"""Work in a thread beside other work."""

from __future__ import annotations

import threading

import pytest

from lifebeat_jobs.beside import Beside


def test_what_it_gives() -> None:
    """The result is that of the work, which was done in another thread."""
    assert Beside(threading.current_thread).result() is not threading.current_thread()


def test_what_it_raises() -> None:
    """What the work raised is raised where its result is asked for."""
    beside = Beside(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        beside.result()
