"""Reading and writing file descriptors, whatever flags the parent has given them, and without changing those.

Knows neither threads nor framing. A parent may have made a description non-blocking that it shares with this process;
that is the parent's to decide. So calls that wait do so, and one that must not wait is told so by itself.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import sys

RWF_NOWAIT = 8  # From linux/fs.h: this one call does not wait. Python's os has the name for reading only.
NOT_OFFERED = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})


def read_some(fd: int, size_bytes: int) -> bytes:
    """Wait for something to read and return it; b"" at the end, and where an error says that nothing more can come."""
    while True:
        try:
            return os.read(fd, size_bytes)
        except BlockingIOError:
            _wait_until(fd, writable=False)
        except OSError:
            return b""


def can_read_at_once(fd: int) -> bool:
    """Return whether ``read_at_once`` is offered for fd: on Linux for sockets and, from 6.4 on, pipes."""
    mode = os.fstat(fd).st_mode
    if stat.S_ISSOCK(mode):
        return sys.platform == "linux"
    return stat.S_ISFIFO(mode) and sys.platform == "linux" and _are_pipes_read_at_once()


def _are_pipes_read_at_once() -> bool:
    """Ask the kernel, with a pipe of our own: a trial on another's might take something from it."""
    read_fd, write_fd = os.pipe()
    try:
        return read_at_once(read_fd, memoryview(bytearray(1))) is None
    finally:
        os.close(read_fd)
        os.close(write_fd)


def read_at_once(fd: int, buffer: memoryview) -> bytes | None:
    """Return what there is to read without waiting, whatever the flags, at most what fits into buffer; None if nothing.

    b"" is the end, or an error that says that nothing more can come. Only where ``can_read_at_once`` says so.
    """
    size_bytes = 0
    if sys.platform == "linux":
        try:
            size_bytes = os.preadv(fd, [buffer], -1, RWF_NOWAIT)  # -1: where the description stands.
        except BlockingIOError:
            return None
        except OSError:
            size_bytes = 0
    return bytes(buffer[:size_bytes])


def write_some(fd: int, data: memoryview) -> int:
    """Wait for room, write some of data, and return how many bytes.

    Raises:
        OSError: nobody reads any more, or the disk is full.
    """
    while True:
        try:
            return os.write(fd, data)
        except BlockingIOError:
            _wait_until(fd, writable=True)


def _wait_until(fd: int, *, writable: bool) -> None:
    """Wait until fd can be read, or written; poll takes any descriptor, select none from 1,024 on."""
    if sys.platform == "win32":
        select.select([] if writable else [fd], [fd] if writable else [], [])
    else:
        waiting = select.poll()
        waiting.register(fd, select.POLLOUT if writable else select.POLLIN)
        waiting.poll()


def write_at_once(fd: int, data: bytes) -> int | None:
    """Write what fits without waiting, whatever the flags, and return how many bytes; None where that cannot be had.

    On Linux one call can be told not to wait, for sockets, most files and, from 6.4 on, pipes; elsewhere none can.

    Raises:
        OSError: nobody reads any more, or the disk is full.
    """
    if sys.platform == "linux":
        try:
            return os.pwritev(fd, [data], -1, RWF_NOWAIT)  # -1: where the description stands.
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno not in NOT_OFFERED:
                raise
    return None
