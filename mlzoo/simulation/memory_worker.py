"""A worker process in memory, as its actor sees it: real frames come and go, and it ends once.

Knows nothing of what it is asked: whoever plays a worker says what it hears and what it does then.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

from mlzoo.frames_codec import decode, encode
from mlzoo.transport.ndjson import LineReader, TooLong

if TYPE_CHECKING:
    from mlzoo import frames

SIGKILL = -9


class MemoryWorker:
    """The pipes, the life and the end of a worker. What it hears is for ``hear``, which another class has."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.status: int | None = None
        said: tuple[trio.MemorySendChannel[bytes], trio.MemoryReceiveChannel[bytes]]
        said = trio.open_memory_channel(math.inf)
        self._say, self._said = said
        self._lines = LineReader(1 << 30)
        self._ended = trio.Event()

    def hear(self, frame: object) -> None:
        """Take in a frame."""
        raise AssertionError(f"{type(self).__name__} does not say what it does with {frame}")

    async def receive_some(self) -> bytes:
        """See ``WorkerProcess``."""
        try:
            return await self._said.receive()
        except trio.EndOfChannel:
            return b""

    async def send_all(self, data: bytes) -> None:
        """See ``WorkerProcess``."""
        await trio.lowlevel.checkpoint()
        if self._ended.is_set():
            raise trio.BrokenResourceError("the process has ended")
        for line in self._lines.feed(data):
            assert not isinstance(line, TooLong)
            self.hear(decode(line))

    async def wait(self) -> int:
        """See ``WorkerProcess``."""
        await self._ended.wait()
        return self.status or 0

    def kill(self) -> None:
        """See ``WorkerProcess``."""
        self.end(SIGKILL)

    def end(self, status: int) -> None:
        """End, if it has not ended."""
        if self.status is None:
            self.status = status
            self._say.close()
            self._ended.set()

    def say(self, frame: frames.FromWorker) -> None:
        """Send a frame, as long as it lives."""
        self.babble(encode(frame))

    def babble(self, data: bytes) -> None:
        """Send bytes, frames or not, as long as it lives."""
        if self.status is None:
            self._say.send_nowait(data)
