"""Reading and writing file descriptors with blocking calls, whatever flags the parent has given them.

Knows neither threads nor framing. A parent may have made a description non-blocking that it shares with this process;
that is its to decide, so the flag stays and the call waits.
"""

from __future__ import annotations

import os
import select


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
