"""The listener on a Unix socket, for a service with several clients: each client is a byte stream like stdio.

Knows neither framing nor requests. The socket is its owner's alone: mode 0600, and each peer's user is checked.
The counterpart on Windows would be a named pipe; this version has none, and says so.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
import sys
from typing import TYPE_CHECKING

import trio

from mlzoo.errors import ConfigError, Unsupported
from mlzoo.transport.blocking import BlockingStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from mlzoo.transport.stream import ByteStream

CLIENTS = 64  # Served at once, with two threads each; the next one is accepted when one of them leaves.


async def serve_socket(
    path: Path,
    handler: Callable[[ByteStream], Awaitable[object]],
    *,
    clients: int = CLIENTS,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Listen at path until cancelled, and run the handler for each client that belongs to the same user.

    The stream is flushed and closed when its handler returns. A handler that raises ends the listener as well: what
    must survive it is the handler's to catch, or its supervisor's.

    Args:
        path: where the socket is to be; its directory exists. What a sidecar that died left there is replaced.
        handler: serves one client.
        clients: how many are served at once.
        task_status: reports, through ``nursery.start``, that clients can connect.

    Raises:
        ConfigError: another process listens at path, something else lies there, or the path is too long.
        Unsupported: this is Windows.
    """
    if sys.platform == "win32":
        raise Unsupported("serving a socket needs Unix; on Windows, use stdio", feature="socket")
    listener = _listen(path)
    inode = path.stat().st_ino
    try:
        task_status.started()
        await _accept_all(listener, handler, trio.Semaphore(clients))
    finally:
        listener.close()
        # By now somebody else may have put another socket in its place.
        if path.exists() and path.stat().st_ino == inode:
            path.unlink()
