"""Async job functions beside each other, in threads and under gevent's monkey patching."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from hosts import Installation

PATCHED = "from gevent import monkey; monkey.patch_all()"
BESIDE = """
    import asyncio
    import threading
    from lifebeat.lifecycle import coroutines

    met = set()

    async def meet(name):
        met.add(name)
        while len(met) < 3:
            await asyncio.sleep(0.01)
        if name == "c":
            raise ValueError(name)

    def work(name):
        try:
            coroutines.complete(meet(name))
        except ValueError as error:
            print("raised", error)

    for turn in range(2):
        met.clear()
        threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(sorted(met), [one.name for one in threading.enumerate()])
"""


@pytest.mark.parametrize("before", ["", PATCHED], ids=["threads", "gevent"])
def test_beside_each_other(installation: Installation, before: str) -> None:
    """Async functions of several jobs run at the same time, each hears of its own error, and nothing is left."""
    process = installation.script(f"{before}\n{textwrap.dedent(BESIDE)}")
    out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")
    assert out.splitlines() == ["raised c", "['a', 'b', 'c'] ['MainThread']"] * 2
