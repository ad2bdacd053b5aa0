"""The high-water mark: a small file beside an SQLite database that says how far the database has come.

A database in a file can be replaced by an older copy, and nothing in the copy says so. The mark does: it holds the
number of the database's incarnation and of the last round that anybody was told of, and a database behind its mark went
back in time. It names itself by what no copy of a file brings along, its inode and the moment of its birth; so a mark
that was restored together with its database is no mark. It is written after the commit, before anybody hears of it:
after a crash it may be behind the database, never before it. Not synchronised to disk for the same reason.

No SQL and no Django here. Who compares the mark with the database is `witness`.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import os
import struct
import threading
from collections.abc import Callable
from typing import Final, NamedTuple

_SUFFIX: Final = "-highwater"

_NOTE: Final = (
    "The high-water mark of the database beside this file: how far it has come. It belongs to this file alone; a copy\n"
    "is worth nothing. Without it, or with an older database, all logs get new epochs. See docs/how-to/restore.md.\n"
)

#: Number, rounds and instance, 20 digits each, the last with another 20 behind a dot; without the end of the line.
_LINE_BYTES: Final = 83

# statx(2): CPython's os.stat does not tell a file's birth on Linux.
_AT_EMPTY_PATH: Final = 0x1000
_STATX_BTIME: Final = 0x800
_STATX_BYTES: Final = 256
_STATX_MASK_AT: Final = 0
_STATX_BTIME_AT: Final = 80


class Mark(NamedTuple):
    """How far a database has come: `rounds` of incarnation `number` were told."""

    number: int
    rounds: int


def path_of(database: str) -> str:
    """Where the mark of a database file is."""
    return database + _SUFFIX


def read(path: str, *, locked: bool = False) -> Mark | None:
    """The mark, or None where there is none: no file, a copy of one, or something else. OSError: it cannot be read.

    Without `locked` it may be seen while it is being written; read it again before anything is made of a difference.
    """
    file = _opened(path)
    if file is None:
        return None
    if not locked:
        return _parse(file)
    fcntl.flock(file.fd, fcntl.LOCK_SH)
    try:
        return _parse(file)
    finally:
        fcntl.flock(file.fd, fcntl.LOCK_UN)


def create(path: str, mark: Mark, *, like: str) -> None:
    """Puts a new file in the place of whatever is there, with owner and mode of the file `like`. OSError: impossible.

    For whoever holds the database's write lock: nobody else may do it at the same time.
    """
    fresh = path + ".new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(fresh)
    model = os.stat(like)
    fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        if os.geteuid() == 0:
            os.fchown(fd, model.st_uid, model.st_gid)
        os.fchmod(fd, model.st_mode & 0o777)
        os.write(fd, _line(mark, _instance(fd)) + _NOTE.encode())
        # Once, or a power failure could leave an empty file.
        os.fsync(fd)
    finally:
        os.close(fd)
    os.replace(fresh, path)


def advance(path: str, mark: Mark) -> None:
    """Moves the mark forward. OSError: it cannot be written.

    A mark of another incarnation, or none, stays as it is: the next look at it finds out what that means.
    """
    file = _opened(path)
    if file is None:
        return
    # Two processes come here in any order after their commits.
    fcntl.flock(file.fd, fcntl.LOCK_EX)
    try:
        known = _parse(file)
        if known is not None and known.number == mark.number and known.rounds < mark.rounds:
            os.pwrite(file.fd, _line(mark, file.instance), 0)
    finally:
        fcntl.flock(file.fd, fcntl.LOCK_UN)


class _File:
    """A mark that is open, as long as somebody has this object."""

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self.path = path
        # A child shares its parent's descriptors, and their locks.
        self.pid = os.getpid()
        found = os.fstat(self.fd)
        self.inode = (found.st_dev, found.st_ino)
        self.instance = _instance(self.fd)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, OSError):
            os.close(self.fd)


# Each thread keeps the mark that it used last: opening it and asking for its birth takes ten times as long as a look.
_kept = threading.local()


def _opened(path: str) -> _File | None:
    """The file that is at `path` now."""
    try:
        found = os.stat(path)
        kept: _File | None = getattr(_kept, "file", None)
        at_hand = (found.st_dev, found.st_ino)
        if kept is None or (kept.path, kept.pid, kept.inode) != (path, os.getpid(), at_hand):
            kept = _kept.file = _File(path)
    except FileNotFoundError:
        return None
    return kept


def _line(mark: Mark, instance: bytes) -> bytes:
    """Always of the same length, so that it can be written over."""
    return b"%020d %020d %b\n" % (mark.number, mark.rounds, instance)


def _parse(file: _File) -> Mark | None:
    line = os.pread(file.fd, _LINE_BYTES, 0)
    if line[42:] != file.instance:
        return None
    try:
        return Mark(int(line[:20]), int(line[21:41]))
    except ValueError:
        return None


def _instance(fd: int) -> bytes:
    """What this file is and no copy of it: its inode, and its birth, since inodes are used again."""
    return b"%020d.%020d" % (os.fstat(fd).st_ino, _born_ns(fd))


def _born_ns(fd: int) -> int:
    """When the file was made; 0 where the system does not say."""
    found = os.fstat(fd)
    born_s: float | None = getattr(found, "st_birthtime", None)
    if born_s is not None:
        return int(born_s * 1e9)
    statx = _statx()
    buffer = ctypes.create_string_buffer(_STATX_BYTES)
    if statx is None or statx(fd, b"", _AT_EMPTY_PATH, _STATX_BTIME, buffer) != 0:
        return 0
    (mask,) = struct.unpack_from("=I", buffer, _STATX_MASK_AT)
    seconds, nanoseconds = struct.unpack_from("=qI", buffer, _STATX_BTIME_AT)
    return int(seconds) * 1_000_000_000 + int(nanoseconds) if mask & _STATX_BTIME else 0


@functools.cache
def _statx() -> Callable[..., int] | None:
    function = getattr(ctypes.CDLL(None), "statx", None)
    if function is None:
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p)
    function.restype = ctypes.c_int
    result: Callable[..., int] = function
    return result
