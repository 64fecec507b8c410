"""``python -m lifebeat.testing``: a PostHog for a trial, which prints each event as a line of JSON until SIGTERM."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from typing import TYPE_CHECKING

from lifebeat.testing import PostHogServer

if TYPE_CHECKING:
    from types import FrameType

_DONE, _NOT_STARTED = 0, 3
_POLL = 0.1


class _Stop:
    """Whether it is to stop. As process 1 it would not be ended by a signal that it does not handle."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True


def main(argv: list[str] | None = None) -> int:
    """Receive until it is stopped; returns the exit code: 0 done, 2 usage, 3 could not start."""
    parser = argparse.ArgumentParser(prog="python -m lifebeat.testing", description="A PostHog for a trial.")
    parser.add_argument("--port", type=int, default=0, help="the port; 0, the default, takes a free one")
    parser.add_argument("--address", default="127.0.0.1", help="where to listen (default %(default)s)")
    args = parser.parse_args(argv)
    receiver, stop = PostHogServer(args.port, address=args.address), _Stop()
    try:
        receiver.start()
    except (OSError, OverflowError) as error:
        where = f"{args.address}:{args.port}"
        print(f"lifebeat.testing: {where}: {error}; give another --port or --address", file=sys.stderr)
        return _NOT_STARTED
    print(f"listens on {receiver.url}", flush=True)
    try:
        _print_events(receiver, stop)
    finally:
        receiver.stop()
    return _DONE


def _print_events(receiver: PostHogServer, stop: _Stop) -> None:
    shown = 0
    while not stop.asked:
        time.sleep(_POLL)
        for event in receiver.events[shown:]:
            print(json.dumps(event), flush=True)
            shown += 1


if __name__ == "__main__":
    sys.exit(main())
