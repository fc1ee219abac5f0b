"""Serving a socket, for a service with several clients: each client is a byte stream, as stdio is.

Knows neither framing nor requests. On Linux and macOS it is a Unix socket (``mlzoo.transport.unix``). Its counterpart
on Windows would be a named pipe; this version has none, and says so.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import trio

from mlzoo.errors import Unsupported

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from mlzoo.transport.stream import ByteStream

CLIENTS = 64  # Served at once, with a thread or two each; the next one is accepted when one of them leaves.


async def serve_socket(
    path: Path,
    handler: Callable[[ByteStream], Awaitable[object]],
    *,
    clients: int = CLIENTS,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Listen at path until cancelled, and run the handler for each client of the same user.

    The stream is flushed and closed when its handler returns or, its client gone, raises trio.BrokenResourceError.
    A handler that raises anything else ends the listener as well: what must not is the handler's to catch.

    Args:
        path: where the socket is to be; its directory exists. What a sidecar that died left there is replaced.
        handler: serves one client.
        clients: how many are served at once.
        task_status: reports, through ``nursery.start``, that clients can connect.

    Raises:
        ConfigError: another process listens at path, something else lies there, or it is no path for a socket.
        Unsupported: this is Windows.
    """
    if sys.platform != "win32":
        from mlzoo.transport import unix  # noqa: PLC0415 (Windows could not import it)

        with unix.listening(path) as listener:
            task_status.started()
            await unix.accept_all(listener, handler, trio.Semaphore(clients), os.getuid())
    else:
        raise Unsupported("this version serves a socket on Linux and macOS only: use stdio", feature="socket")
