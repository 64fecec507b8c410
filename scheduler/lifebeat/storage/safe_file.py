"""The one way to read a file that a person may have made, and the one way to make or replace a file."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from lifebeat.errors import LifebeatError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

SMALL = 1024 * 1024
_PRIVATE = 0o600
_TEMPORARY = ".lifebeat-tmp"
_READING = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOCTTY", 0)
_REASONS = {
    errno.EACCES: "this user may not read it, or not search a directory above it",
    errno.EPERM: "this user may not read it",
    errno.ENOTDIR: "a directory above it is no directory",
    errno.ELOOP: "its links lead round in a circle",
    errno.ENAMETOOLONG: "its name is too long",
    errno.EIO: "its disk has an error",
    errno.ESTALE: "its file system is gone",
    errno.ETIMEDOUT: "its file system does not answer",
    errno.ENXIO: "it is a socket",
    errno.EMFILE: "this process has as many files open as it may",
    errno.ENFILE: "this machine has as many files open as it may",
}
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
# Why a directory lets nobody put another file in the place of one that may itself be written.
_ONLY_IN_PLACE = frozenset({errno.EBUSY, errno.EXDEV, errno.EACCES, errno.EPERM, errno.EROFS})


class CannotRead(LifebeatError):
    """A file is there and cannot be read.

    Attributes:
        path: The file.
        reason: Why, in words that fit behind "cannot be read: ".
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{printable(path)}: cannot be read: {reason}")
        self.path = path
        self.reason = reason


class WrongOwner(OSError):
    """What is made here could not be given to the directory's owner, who would be locked out of it."""


def printable(path: Path) -> str:
    """Return a path for people, also where its name is not UTF-8."""
    return os.fsencode(path).decode(errors="backslashreplace")


def absolute(path: str | os.PathLike[str]) -> str:
    """Return an absolute path without ``..``, no link followed: one to the current release moves with each.

    Where the working directory is gone it stays as it is.
    """
    try:
        return os.path.abspath(path)  # noqa: PTH100 - pathlib has none that follows no link
    except OSError:
        return os.fspath(path)


def real(path: str | os.PathLike[str]) -> str:
    """Return a path with every link followed, as far as it leads; where that cannot be known it stays as it is."""
    try:
        return os.path.realpath(path)  # of links in a circle it makes what it can, where pathlib raises
    except (OSError, ValueError):
        return os.fspath(path)


def exists(path: Path) -> bool:
    """Return whether there is anything at a path; what this user cannot see is not there, where pathlib raises."""
    return os.path.exists(path)  # noqa: PTH110


def read(path: Path, *, limit: int) -> bytes | None:
    """Return what is in a file, without ever waiting for a pipe or a device; ``None`` if there is no such file.

    Only a file system that has stopped answering can make it wait, and nothing inside a process can change that.

    Args:
        path: The file; links are followed.
        limit: How many bytes it may have.

    Raises:
        CannotRead: It is no regular file, larger than ``limit``, or not readable.
    """
    try:
        _must_be_regular(path, path.stat(), limit)  # before it is opened, which for pipes and devices is an act
        descriptor = os.open(path, _READING)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            _must_be_regular(path, os.fstat(descriptor), limit)
            return _read_all(path, file.read, limit)
    except FileNotFoundError:
        return None
    except ValueError:
        raise CannotRead(path, "its name has a NUL in it") from None
    except OSError as error:
        raise CannotRead(path, _REASONS.get(error.errno or 0, "the system refuses it")) from None


def fingerprint(path: Path) -> object:
    """Return what changes when a file is edited, replaced, swapped behind a link, or becomes readable or unreadable.

    Of a small file that is its content: the clocks of file systems tick in steps of milliseconds, some of seconds, and
    two edits within one step may be of one size.
    """
    try:
        return read(path, limit=SMALL)
    except CannotRead as error:
        with contextlib.suppress(OSError, ValueError):
            found = path.stat()
            return error.reason, found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, found.st_dev
        return error.reason


def write(path: Path, data: bytes, *, mode: int = _PRIVATE, unless: Callable[[], bool] | None = None) -> bool:
    """Make or replace a file: all of it is on the disk or nothing has changed, where a rename can be.

    A link is followed and stays a link; a device or a pipe is written into. A file that is there keeps its owner, mode
    and attributes; a new one belongs to whom its directory belongs to. Where the directory cannot be written but the
    file can, or the file is a mount of its own, it is written in place, and a power cut in that moment may leave half
    of it.

    Args:
        path: The file.
        data: What is to be in it.
        mode: The mode of a new file.
        unless: Asked right before the file takes its place; true leaves everything as it was.

    Returns:
        Whether it was written.

    Raises:
        WrongOwner: A new file cannot be given to the owner of the directory; its text says whom to be.
        OSError: It cannot be written.
    """
    real = Path(os.path.realpath(path))
    like = real.stat() if exists(real) else None
    if like is not None and not os.access(real, os.W_OK):
        _refuse_writing(real)
    if like is not None and not stat.S_ISREG(like.st_mode):
        with os.fdopen(os.open(real, os.O_WRONLY | os.O_NONBLOCK), "wb", buffering=0) as file:
            file.write(data)
        return True
    try:
        with _temporary(real, data, mode, like) as made:
            if unless is not None and unless():
                return False
            made.replace(real)
    except WrongOwner:
        raise
    except OSError as error:
        if like is None or error.errno not in _ONLY_IN_PLACE:
            raise
        if unless is not None and unless():
            return False
        _write_in_place(real, data)
    else:
        sync_directory(real.parent)
    return True


def write_new(path: Path, data: bytes) -> bool:
    """Make a file that is complete from the first moment, and return whether it was made: not if there is one.

    Raises:
        WrongOwner: It cannot be given to the owner of the directory.
        OSError: It cannot be made.
    """
    with _temporary(path, data) as made:
        try:
            os.link(made, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without links
            return write(path, data, unless=path.exists)
    sync_directory(path.parent)
    return True


def create(path: Path) -> int:
    """Make a new, empty file that belongs to whom its directory belongs to, and return its descriptor.

    Raises:
        FileExistsError: There is one.
        WrongOwner: It cannot be given to that owner.
        OSError: It cannot be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, _PRIVATE)
    try:
        _take_after_directory(path, descriptor, _PRIVATE)
    except BaseException:
        os.close(descriptor)
        path.unlink()
        raise
    return descriptor


def make_directory(path: Path, mode: int = 0o700) -> None:
    """Make a directory and those above it, each for the owner of the one it is in; nothing happens if it is there.

    Raises:
        WrongOwner: It cannot be given to that owner.
        OSError: It cannot be made.
    """
    if path.is_dir():
        return
    if path.parent != path:
        make_directory(path.parent, mode)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode)
        try:
            _take_after_directory(path, path, mode)
        except BaseException:
            path.rmdir()
            raise
    if not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))


def sweep(path: Path) -> None:
    """Remove the temporary files beside ``path`` that killed processes left; for when no process is writing."""
    for entry in path.parent.iterdir():
        if entry.name.startswith(f".{path.name}.") and entry.name.endswith(_TEMPORARY):
            with contextlib.suppress(OSError):
                entry.unlink()


def sync_directory(directory: Path) -> None:
    """Have the names in a directory on the disk; some file systems cannot."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _must_be_regular(path: Path, found: os.stat_result, limit: int) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise CannotRead(path, f"it is {_KINDS.get(stat.S_IFMT(found.st_mode), 'no file')}, expected a regular file")
    if found.st_size > limit:
        raise CannotRead(path, f"it has {found.st_size} bytes, expected at most {limit}")


def _read_all(path: Path, read_some: Callable[[int], bytes | None], limit: int) -> bytes:
    """Read to the end; a file that grows meanwhile, or one of /proc, has another size than it says."""
    data = b""
    while len(data) <= limit and (some := read_some(limit + 1 - len(data))):
        data += some
    if len(data) > limit:
        raise CannotRead(path, f"it has more than {limit} bytes")
    return data


@contextlib.contextmanager
def _temporary(path: Path, data: bytes, mode: int = _PRIVATE, like: os.stat_result | None = None) -> Generator[Path]:
    """Make a complete file on the disk beside ``path``; it is gone afterwards if it has not been moved."""
    made = path.with_name(f".{path.name}.{os.urandom(6).hex()}{_TEMPORARY}")
    descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if like is None:
                _take_after_directory(path, descriptor, mode)
            else:
                _take_after_file(path, like, descriptor)
            os.fsync(descriptor)
        yield made
    finally:
        with contextlib.suppress(OSError):
            made.unlink()


def _write_in_place(path: Path, data: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY), "wb", buffering=0) as file:
        rest = memoryview(data)
        while rest:
            rest = rest[file.write(rest) :]
        os.fsync(file.fileno())  # before the rest of the old text goes: cut short here, it is longer, not empty
        file.truncate()
        os.fsync(file.fileno())


def _refuse_writing(path: Path) -> None:
    reason = errno.EROFS if os.statvfs(path).f_flag & os.ST_RDONLY else errno.EACCES
    raise OSError(reason, os.strerror(reason), str(path))


def _take_after_file(path: Path, like: os.stat_result, descriptor: int) -> None:
    """Give an open file the owner, the mode and the attributes (access lists among them) of the one it replaces."""
    mode = stat.S_IMODE(like.st_mode)
    try:
        os.fchown(descriptor, -1, like.st_gid)
    except OSError:
        mode &= ~stat.S_IRWXG  # that was meant for another group
    if os.fstat(descriptor).st_uid != like.st_uid:
        try:
            os.fchown(descriptor, like.st_uid, -1)
        except OSError:  # who may write it, but not give files away, leaves the file itself where it is
            raise OSError(errno.EPERM, os.strerror(errno.EPERM), str(path)) from None
    os.fchmod(descriptor, mode)
    for name in os.listxattr(path) if hasattr(os, "listxattr") else ():
        with contextlib.suppress(OSError):
            os.setxattr(descriptor, name, os.getxattr(path, name))


def _take_after_directory(path: Path, made: int | Path, mode: int) -> None:
    """Give what was just made to the owner and the group of the directory it is in.

    Root's directories are everybody's who may write there, such as a volume. Who is neither root nor the owner was let
    in as one of the directory's group, and shares with that group.
    """
    if not hasattr(os, "geteuid"):
        return
    owner, me = path.parent.stat(), os.geteuid()
    if owner.st_uid == me or (me != 0 and owner.st_uid == 0):
        return
    try:
        if me == 0:
            os.chown(made, owner.st_uid, owner.st_gid)
            return
        if owner.st_mode & stat.S_IWGRP:
            os.chown(made, -1, owner.st_gid)
            os.chmod(made, mode | (mode & stat.S_IRWXU) >> 3)  # noqa: PTH101 - may be a descriptor
            return
    except OSError:
        pass
    raise WrongOwner(
        errno.EPERM,
        f"its directory belongs to {_user(owner.st_uid)}, who could not use what {_user(me)} makes in it; "
        f"run this as {_user(owner.st_uid)}",
        str(path),
    )


def _user(number: int) -> str:
    try:
        import pwd

        return f"user {pwd.getpwuid(number).pw_name!r}"
    except (ImportError, KeyError):
        return f"user {number}"
