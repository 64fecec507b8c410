"""A PostHog for a trial: takes events from other containers and prints each as a line of JSON, until SIGTERM.

python receiver.py PORT              0 takes a free one
python receiver.py --healthy PORT    exit code 0 if one listens there
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sys

from lifebeat.testing import PostHogServer

_POLL = 0.1


async def serve(port: int) -> None:
    """Take connections on every address until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):  # as PID 1 a process is not ended by what it does not handle
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner = await asyncio.open_connection("127.0.0.1", receiver.port)
        await asyncio.gather(_pass_on(reader, inner[1]), _pass_on(inner[0], writer))

    with PostHogServer() as receiver:
        # The receiver itself is on loopback, where it belongs; only here is it meant for the neighbours.
        listener = await asyncio.start_server(relay, "0.0.0.0", port)  # noqa: S104
        print(f"listens on port {listener.sockets[0].getsockname()[1]}", flush=True)
        await _print_events(receiver, stop)
        listener.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def _print_events(receiver: PostHogServer, stop: asyncio.Event) -> None:
    shown = 0
    while not stop.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _POLL)
        for event in receiver.events[shown:]:
            print(json.dumps(event), flush=True)
            shown += 1


if __name__ == "__main__":
    if sys.argv[1] == "--healthy":
        socket.create_connection(("127.0.0.1", int(sys.argv[2])), timeout=2).close()
    else:
        asyncio.run(serve(int(sys.argv[1])))
