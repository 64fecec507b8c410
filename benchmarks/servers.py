"""The receiving ends: one that takes all and is never what is waited for, and ones that misbehave.

Each is a process of its own, ``python benchmarks/servers.py KIND``, and says its port in a line. One that takes
requests says for each line on standard input how many there were; the end of standard input ends it.
"""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

LOOPBACK = "127.0.0.1"
ANSWER = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n{"status": 1}'
DRIPPED = 60
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


@contextlib.contextmanager
def serving(kind: str) -> Generator[Server]:
    """A server of a kind, for the length of the block."""
    process = subprocess.Popen(
        [sys.executable, __file__, kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    try:
        yield Server(process)
    finally:
        process.communicate()


class Server:
    """A server in another process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.port = int(self._line())

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://{LOOPBACK}:{self.port}"

    def count(self) -> tuple[int, int]:
        """How many requests arrived, and how many bytes."""
        self._say("count")
        requests, size = self._line().split()
        return int(requests), int(size)

    def _say(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n")

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


class Receiver:
    """Takes requests and answers them; a server that keeps connections, as PostHog's do."""

    def __init__(self, serve: Callable[[Receiver, socket.socket], None]) -> None:
        self._serve = serve
        self.requests = 0
        self.size = 0
        self.listener = socket.create_server((LOOPBACK, 0), backlog=1024)

    def run(self) -> None:
        """Say the port, and answer in threads until standard input ends."""
        threading.Thread(target=self._accept, daemon=True).start()
        print(self.listener.getsockname()[1], flush=True)  # noqa: T201 - that is how it is found
        for _ in sys.stdin:
            print(self.requests, self.size, flush=True)  # noqa: T201 - the answer

    def _accept(self) -> None:
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self._guarded, args=(connection,), daemon=True).start()

    def _guarded(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._serve(self, connection)

    def take(self, connection: socket.socket) -> bool:
        """One request, whole; says whether there was one."""
        head = b""
        while (end := head.find(b"\r\n\r\n")) < 0:
            if not (part := connection.recv(1 << 16)):
                return False
            head += part
        found = _LENGTH.search(head[:end])
        left = (int(found[1]) if found else 0) - (len(head) - end - 4)
        self.size += len(head) + max(left, 0)
        while left > 0:
            part = connection.recv(min(left, 1 << 20))
            left -= len(part)
            if not part:
                return False
        self.requests += 1
        return True


def healthy(receiver: Receiver, connection: socket.socket) -> None:
    """Answer each request at once."""
    while receiver.take(connection):
        connection.sendall(ANSWER)


def silent(_: Receiver, connection: socket.socket) -> None:
    """Take the request and never answer."""
    while connection.recv(1 << 16):
        pass


def dripping(receiver: Receiver, connection: socket.socket) -> None:
    """Answer a byte a second, for a minute."""
    receiver.take(connection)
    connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {DRIPPED}\r\n\r\n".encode())
    for _ in range(DRIPPED):
        time.sleep(1)
        connection.sendall(b" ")


def dropping() -> None:
    """Drop what asks for a connection: a listener with a full queue, whose kernel answers no further request."""
    listener = socket.socket()
    listener.bind((LOOPBACK, 0))
    listener.listen(0)
    fill = [socket.socket() for _ in range(4)]
    for one in fill:
        one.setblocking(False)
        one.connect_ex(listener.getsockname())
    print(listener.getsockname()[1], flush=True)  # noqa: T201 - that is how it is found
    sys.stdin.read()


def refusing() -> None:
    """Keep a port on which nobody listens."""
    holder = socket.socket()
    holder.bind((LOOPBACK, 0))
    print(holder.getsockname()[1], flush=True)  # noqa: T201 - that is how it is found
    sys.stdin.read()


def main(kind: str) -> None:
    """Be a server of that kind until standard input ends."""
    serves = {"healthy": healthy, "silent": silent, "dripping": dripping}
    if kind in serves:
        Receiver(serves[kind]).run()
    else:
        {"dropping": dropping, "refusing": refusing}[kind]()


if __name__ == "__main__":
    main(sys.argv[1])
