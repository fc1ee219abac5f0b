"""Pulling from inside trio: the pull itself runs in a child process (``pull.py``), this starts it and listens.

Two pulls of one model, in one process or in several, are one: the second waits for the first and takes its result.
"""

from __future__ import annotations

import collections
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import attrs
import orjson
import trio

from mlzoo.errors import PullFailed
from mlzoo.store.layout import Installed, Progress, Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from mlzoo.config import ModelEntry

_KEPT_LINES = 20
_LEAVE_S = 2.0


async def pull(
    store: Store,
    entry: ModelEntry,
    on_progress: Callable[[Progress], None],
    *,
    accept_license: bool = False,
) -> Installed:
    """Install a model and return it; at once where it is installed already.

    A cancel kills the pull; the next one goes on from what had arrived. The child dies with this process.

    Raises:
        PullFailed: ``data.reason`` is offline, gated, licence, disk, digest, or source (there is nothing usable at the
            source) or conversion.
    """
    installed = store.find(entry)
    if installed is not None:
        return installed
    order = {"root": str(store.root), "entry": attrs.asdict(entry), "accept_license": accept_license}
    command = [sys.executable, "-m", "mlzoo.store.leash", "mlzoo.store.pull", orjson.dumps(order).decode()]
    pipe = subprocess.PIPE
    child = await trio.lowlevel.open_process(command, stdin=pipe, stdout=pipe, stderr=pipe)
    errors: collections.deque[bytes] = collections.deque(maxlen=_KEPT_LINES)
    failed: dict[str, Any] = {}
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_keep, child.stderr, errors)
            async for line in _lines(child.stdout):
                told = orjson.loads(line)
                if "failed" in told:
                    failed = told["failed"]
                elif "stage" in told:
                    on_progress(Progress(**told))
            status = await child.wait()
    finally:
        await _end(child)
    if failed:
        raise PullFailed(failed.pop("message"), **failed, model=entry.name)
    installed = store.find(entry)
    if status != 0 or installed is None:
        last = b" ".join(errors).decode(errors="replace")
        raise PullFailed(
            f"the pull of {entry.name} ended with status {status}: {last}", reason="source", model=entry.name
        )
    return installed


async def _end(child: trio.Process) -> None:
    """Leave no child behind: the end of its stdin lets it go, and what does not go is killed."""
    with trio.CancelScope(shield=True):
        if child.stdin is not None:
            await child.stdin.aclose()
        with trio.move_on_after(_LEAVE_S):
            await child.wait()
        if child.returncode is None:
            child.kill()
            await child.wait()
        for stream in (child.stdout, child.stderr):
            if stream is not None:
                await stream.aclose()


async def _keep(stream: trio.abc.ReceiveStream | None, kept: collections.deque[bytes]) -> None:
    async for line in _lines(stream):
        kept.append(line)


async def _lines(stream: trio.abc.ReceiveStream | None) -> AsyncIterator[bytes]:
    """Yield whole lines; what follows the last newline was cut off by a kill and is none."""
    assert stream is not None
    rest = b""
    async for piece in stream:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line
