"""Reading and writing file descriptors, whatever flags the parent has given them, and without changing those.

Knows neither threads nor framing. A parent may have made a description non-blocking that it shares with this process;
that is the parent's to decide. So calls that wait do so, and one that must not wait is told so by itself.
"""

from __future__ import annotations

import errno
import os
import select
import sys

RWF_NOWAIT = 8  # From linux/fs.h: this one call does not wait. Python's os has the name for reading only.
NOT_OFFERED = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})


def read_some(fd: int, size_bytes: int) -> bytes:
    """Wait for something to read and return it; b"" at the end, and where an error says that nothing more can come."""
    while True:
        try:
            return os.read(fd, size_bytes)
        except BlockingIOError:
            select.select([fd], [], [])
        except OSError:
            return b""


def write_some(fd: int, data: memoryview) -> int:
    """Wait for room, write some of data, and return how many bytes.

    Raises:
        OSError: nobody reads any more, or the disk is full.
    """
    while True:
        try:
            return os.write(fd, data)
        except BlockingIOError:
            select.select([], [fd], [])


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
