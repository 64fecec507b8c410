"""Run a command under the system call filter that systemd would make of a unit; what the filter forbids, kills.

Usage: sandboxed.py ALLOWED COMMAND …, where ALLOWED is a file with the names of the system calls, one a line.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import mmap
import os
import socket
import sys
from pathlib import Path
from typing import Any

ALLOW, KILL, NOT_PERMITTED, NO_SUCH_FAMILY = 0x7FFF0000, 0x80000000, 0x00050000 | 1, 0x00050000 | 97
EQUAL, MASKED_EQUAL = 4, 7
FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)
WRITE_AND_EXEC = mmap.PROT_WRITE | mmap.PROT_EXEC


class Comparison(ctypes.Structure):
    """``struct scmp_arg_cmp``."""

    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


class Filter:
    """A filter of libseccomp's that kills for what no rule allows."""

    def __init__(self) -> None:
        self._library: Any = ctypes.CDLL(ctypes.util.find_library("seccomp") or "libseccomp.so.2")
        self._library.seccomp_init.restype = ctypes.c_void_p
        self._filter = ctypes.c_void_p(self._library.seccomp_init(KILL))

    def add(self, name: str, action: int = ALLOW, *comparisons: Comparison) -> None:
        """Add a rule; a call that this machine does not have needs none."""
        number = self._library.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:
            made = (Comparison * len(comparisons))(*comparisons)
            done = self._library.seccomp_rule_add_array(self._filter, action, number, len(comparisons), made)
            if done:
                raise OSError(-done, f"{name}: {os.strerror(-done)}")

    def load(self) -> None:
        """From here on it holds, for what is executed as well."""
        done = self._library.seccomp_load(self._filter)
        if done:
            raise OSError(-done, os.strerror(-done))


def main() -> None:
    """Apply the filter and become the command."""
    names = set(Path(sys.argv[1]).read_text(encoding="utf-8").split())
    rules = Filter()
    for name in sorted(names - {"socket", "mmap", "mprotect", "pkey_mprotect"}):
        rules.add(name)
    if os.geteuid() == 0 and "fchown" not in names:
        rules.add("fchown", NOT_PERMITTED)  # SQLite, which asks for it as root only, and is content without
    # RestrictAddressFamilies=
    for family in range(64):
        rules.add("socket", ALLOW if family in FAMILIES else NO_SUCH_FAMILY, Comparison(0, EQUAL, family, 0))
    # MemoryDenyWriteExecute=yes
    for protection in (0, mmap.PROT_WRITE, mmap.PROT_EXEC):
        rules.add("mmap", ALLOW, Comparison(2, MASKED_EQUAL, WRITE_AND_EXEC, protection))
    for name in ("mprotect", "pkey_mprotect"):
        rules.add(name, ALLOW, Comparison(2, MASKED_EQUAL, mmap.PROT_EXEC, 0))
    rules.load()
    os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
