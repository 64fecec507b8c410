"""Changes in directories by Linux's inotify: no polling, and no wake-up while nothing happens."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_CLOSE_ON_EXEC, _NON_BLOCKING = 0o2000000, 0o4000
_MODIFY, _ATTRIB, _CLOSED_BY_WRITER, _MOVED_FROM, _MOVED_TO = 0x2, 0x4, 0x8, 0x40, 0x80
_CREATE, _DELETE, _DELETE_SELF, _MOVE_SELF = 0x100, 0x200, 0x400, 0x800
# Of a directory what happens to its names, of a file what is written: a log beside it causes no wake-up.
_NAMES = _ATTRIB | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _DELETE_SELF | _MOVE_SELF
_CONTENT = _MODIFY | _CLOSED_BY_WRITER | _ATTRIB | _DELETE_SELF | _MOVE_SELF
_EVENT = struct.Struct("iIII")  # whose, what, and of what length the name is that follows
_ONLY_DIRECTORIES = 0x01000000
_BUFFER = 64 * 1024
# File systems on which others may write without this kernel's knowledge: NFS, SMB (three numbers), FUSE with virtiofs,
# 9p, Ceph, AFS, Lustre, GFS2, OCFS2.
_SHARED = {
    0x6969, 0x517B, 0xFF534D42, 0xFE534D42, 0x65735546, 0x01021997, 0x00C36400, 0x5346414F, 0x0BD00BD0, 0x01161970,
    0x7461636F,
}  # fmt: skip
_libc = ctypes.CDLL(None, use_errno=True)


class Inotify:
    """Watches directories and files. For any thread.

    Raises:
        OSError: The system has none left for this user.
    """

    def __init__(self) -> None:
        self.descriptor = _checked(_libc.inotify_init1(_CLOSE_ON_EXEC | _NON_BLOCKING))
        self._watched: dict[str, int] = {}
        self._being_written: set[int] = set()
        self._lock = threading.Lock()  # nothing may be done to a descriptor that is another's by now

    def watch(self, directories: Iterable[str], files: Iterable[str]) -> None:
        """Watch these directories and files and no others; what is not there is left out.

        Raises:
            OSError: The system has no watch left for this user, or this was closed.
        """
        wanted = dict.fromkeys(files, _CONTENT) | dict.fromkeys(directories, _NAMES | _ONLY_DIRECTORIES)
        with self._lock:
            before, self._watched = self._watched, {}
            for place, mask in wanted.items():  # again, as another may bear the name by now
                with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                    number = _libc.inotify_add_watch(self.descriptor, os.fsencode(place), mask)
                    self._watched[place] = _checked(number)
            for number in set(before.values()) - set(self._watched.values()):
                _libc.inotify_rm_watch(self.descriptor, number)

    @property
    def is_being_written(self) -> bool:
        """Return whether a file that was written to is still open for writing."""
        return bool(self._being_written)

    def drain(self) -> None:
        """Read what has come; never waits."""
        with self._lock, contextlib.suppress(OSError):
            data, at = os.read(self.descriptor, _BUFFER), 0
            while at < len(data):
                number, what, _, length = _EVENT.unpack_from(data, at)
                at += _EVENT.size + length
                if what & _MODIFY:
                    self._being_written.add(number)
                elif what & ~_ATTRIB:  # closed, or no longer of that name
                    self._being_written.discard(number)

    def close(self) -> None:
        """Watch no more."""
        with self._lock:
            descriptor, self.descriptor = self.descriptor, -1
            if descriptor >= 0:
                os.close(descriptor)


def is_shared(directory: str) -> bool:
    """Return whether other machines may change it, of which this one would not know."""
    about = (ctypes.c_long * 64)()  # longer than the structure, whose first field is the number
    if _libc.statfs(os.fsencode(directory), ctypes.byref(about)):
        return False
    return about[0] & 0xFFFFFFFF in _SHARED


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
