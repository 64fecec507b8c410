"""A container without an engine: namespaces of its own, a read-only root, one volume, the image's user as PID 1."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import socket
import struct
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hosts import eventually

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from builder import Image

_CLONE_NEWNET = 0x40000000
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1
PROGRAMS = ("unshare", "nsenter", "mount", "setpriv")

# The shell becomes PID 1, and then what the image starts: only exec, so that its pid out here stays the same.
_START = """
set -e
root=$1 volume=$2 volume_at=$3 config=$4 config_at=$5 pidfile=$6 init=$7
shift 7
mount --make-rprivate /
mount --bind "$root" "$root"
mount --bind "$volume" "$root$volume_at"
mount --bind "$config" "$root$config_at"
mount -o remount,bind,ro "$root$config_at"
read -r pid rest < /proc/self/stat
echo "$pid" > "$pidfile.new"; mv "$pidfile.new" "$pidfile"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for one in null zero random urandom; do : > "$root/dev/$one"; mount --bind "/dev/$one" "$root/dev/$one"; done
[ -z "$init" ] || cp "$init" "$root/dev/init"
mount -o remount,ro "$root/dev"
mount -o remount,bind,ro "$root"
exec "$@"
"""


def required() -> None:
    """Skip where this machine lets nobody make namespaces and mounts; under CI root may, or the test fails."""
    if os.geteuid() != 0:
        pytest.skip("containers need root")
    refuse = pytest.fail if os.environ.get("CI") else pytest.skip
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        refuse(f"containers need Linux and {', '.join(PROGRAMS)}; missing here: {', '.join(missing)}")
    tried = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"],
        check=False,
        capture_output=True,
        text=True,
    )
    if tried.returncode:
        refuse(f"namespaces and mounts are not allowed here: {tried.stderr.strip()}")


class Network:
    """A loopback of its own, for containers and the receiver that they are to reach; nothing else is on it."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen([found("unshare"), "--net", "sleep", "infinity"])
        self.path = f"/proc/{self._holder.pid}/ns/net"
        own = os.readlink("/proc/self/ns/net")  # noqa: PTH115 - it leads to nothing that is a path
        eventually(lambda: os.readlink(self.path) != own)  # noqa: PTH115
        with self.joined(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))

    @contextlib.contextmanager
    def joined(self) -> Generator[None]:
        """What this thread opens in the block is on this network, and stays there."""
        own = Path("/proc/thread-self/ns/net")
        with own.open("rb") as here, Path(self.path).open("rb") as there:
            _set_network(there.fileno())
            try:
                yield
            finally:
                _set_network(here.fileno())

    def close(self) -> None:
        """End it, once nobody is on it any more."""
        self._holder.kill()
        self._holder.wait()


def _set_network(number: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(number, _CLONE_NEWNET) != 0:  # os.setns is of Python 3.12
        raise OSError(ctypes.get_errno(), "setns")


@dataclass
class Container:
    """One run of an image.

    Attributes:
        image: What it is of.
        network: What it is on.
        volume: The directory out here that is its one writable one.
        config: The directory out here that is its config, read-only there.
        scratch: Where this keeps its files; not seen inside.
        environ: Variables beside those of the image.
        init: A program out here that becomes PID 1 and starts the rest, as an engine's ``--init`` does.
    """

    image: Image
    network: Network
    volume: Path
    config: Path
    scratch: Path
    environ: Mapping[str, str] = field(default_factory=dict[str, str])
    init: Path | None = None

    def start(self, *command: str) -> None:
        """Start what the image says, or a command; returns when PID 1 is there."""
        (volume_at,) = self.image.config["Volumes"]
        places = (self.image.root, self.volume, volume_at, self.config, self.image.environ["LIFEBEAT_CONFIG_DIR"])
        pidfile = self.scratch / "pid"
        pidfile.unlink(missing_ok=True)
        network = (found("nsenter"), f"--net={self.network.path}")
        spaces = (*network, found("unshare"), "--pid", "--mount", "--ipc", "--uts", "--fork")
        script = ("/bin/sh", "-c", _START, "sh", *places, pidfile, self.init or "")
        first = ("/dev/init", "--") if self.init else ()
        usual = (*self.image.config["Entrypoint"], *self.image.config["Cmd"])
        self._log = (self.scratch / "log").open("ab")
        self.process = subprocess.Popen(
            [str(part) for part in (*spaces, *script, *self._as_user(), *first, *(command or usual))],
            env=self.variables(),
            stdout=self._log,
            stderr=self._log,
        )
        eventually(lambda: pidfile.exists() or self.process.poll() is not None)
        assert pidfile.exists(), self.log
        self.pid = int(pidfile.read_text())

    def _as_user(self) -> tuple[str, ...]:
        (user, group), work = self.image.ids, self.image.config["WorkingDir"]
        become = (
            found("unshare"),
            f"--root={self.image.root}",
            f"--wd={work}",
            f"--setgid={group}",
            f"--setuid={user}",
        )
        return (found("setpriv"), "--no-new-privs", *become, "--")

    def variables(self) -> dict[str, str]:
        """What the processes inside have for an environment."""
        return {**self.image.environ, **self.environ, "HOME": "/"}

    @property
    def log(self) -> str:
        """What it printed, over all runs."""
        return (self.scratch / "log").read_text()

    def run(self, *command: str, timeout: float = 20) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as the image's user; as an engine runs a health check."""
        user, group = self.image.ids
        enter = (found("nsenter"), "--target", str(self.pid), "--mount", "--pid", "--net", "--ipc", "--root", "--wd")
        return subprocess.run(
            [*enter, f"--setuid={user}", f"--setgid={group}", "--", *command],
            env=self.variables(),
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def stop(self, timeout: float, number: int = signal.SIGTERM) -> int:
        """Send PID 1 a signal; the exit code when it has ended within ``timeout`` seconds.

        Raises:
            subprocess.TimeoutExpired: It has not.
        """
        os.kill(self.pid, number)
        return self.process.wait(timeout)

    def close(self) -> None:
        """End what is left of it, at once: with its PID 1 goes all that is inside."""
        if self.process.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
        self.process.wait()
        self._log.close()


def found(program: str) -> str:
    """The path of a program out here; inside, the search is along the image's own."""
    path = shutil.which(program)
    assert path is not None, program
    return path
