"""The lifetime of a sidecar, as a block: started at its beginning, gone at its end."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio

from mlzoo.client.connection import Client
from mlzoo.client.lines import LINE_BYTES
from mlzoo.client.process import serve_command, start

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path

GRACE_S = 10.0  # From the end of stdin to SIGTERM: twice the sidecar's own drain time.


@asynccontextmanager
async def spawn(
    command: Sequence[str] | None = None,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    grace_s: float = GRACE_S,
    line_bytes: int = LINE_BYTES,
) -> AsyncIterator[Client]:
    """Run a sidecar for the length of an ``async with`` block.

    However the block ends, the process has ended after it, or not even SIGKILL could end it. What the block raises
    leaves it unchanged, in no exception group.

    Args:
        command: The command line; None: ``serve_command()``.
        env: The whole environment; None: that of this process.
        cwd: The working directory; None: that of this process.
        grace_s: How long the sidecar may take to leave after the end of its stdin, before SIGTERM.
        line_bytes: The longest line in either direction, where ``limits.line_bytes`` is configured.

    Raises:
        OSError: There is no such program, or it may not be started.
    """
    process = await start(serve_command() if command is None else command, env=env, cwd=cwd)
    client = Client(process, grace_s=grace_s, line_bytes=line_bytes)
    tasks = anyio.create_task_group()
    await tasks.__aenter__()
    tasks.start_soon(client.serve)
    try:
        yield client
    finally:
        await client.close()
        with anyio.CancelScope(shield=True):
            await process.close()
        # The tasks have ended, and what the block raised does not concern them: told of it, the group would wrap it.
        await tasks.__aexit__(None, None, None)
