"""The bytes between a sidecar and its host, in memory: one end is the sidecar's ByteStream, the other the host's.

The host may stop reading, read a little at a time, close its reading end, or end its input in the middle of a line.
Knows no lines.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable


class Pipe:
    """Both ends.

    Args:
        room_bytes: with this much on its way to the host, a sender waits.
        on_emit: called with what the sidecar lets go of, in that moment.
    """

    def __init__(self, room_bytes: int, on_emit: Callable[[bytes], None]) -> None:
        self.waiting = bytearray()  # sent by the sidecar, not taken by the host
        self.broken = False
        self.reads = True
        self.room_bytes = room_bytes
        self._on_emit = on_emit
        fed: tuple[trio.MemorySendChannel[bytes], trio.MemoryReceiveChannel[bytes]] = trio.open_memory_channel(math.inf)
        self._feed, self._fed = fed
        self._moved = trio.Event()

    # ------------------------------------------------------------------------------------------ the sidecar's end

    async def receive_some(self) -> bytes:
        """See ``ByteStream``."""
        try:
            return await self._fed.receive()
        except trio.EndOfChannel:
            await trio.lowlevel.checkpoint()
            return b""

    def send_nowait(self, data: bytes) -> bool:
        """See ``ByteStream``."""
        if self.broken:
            raise trio.BrokenResourceError("the host no longer reads")
        if len(self.waiting) >= self.room_bytes:
            return False
        self._on_emit(data)
        self.waiting += data
        if self.reads:
            self.take()
        return True

    async def send_all(self, data: bytes) -> None:
        """See ``ByteStream``."""
        await trio.lowlevel.checkpoint()
        while not self.send_nowait(data):
            await self._moved.wait()

    async def flush(self) -> None:
        """See ``ByteStream``."""
        await trio.lowlevel.checkpoint()
        while self.waiting and not self.broken:
            await self._moved.wait()
        if self.broken:
            raise trio.BrokenResourceError("the host no longer reads")

    async def aclose(self) -> None:
        """See ``ByteStream``."""
        await trio.lowlevel.checkpoint()

    # ------------------------------------------------------------------------------------------ the host's end

    def feed(self, data: bytes) -> None:
        """Send data to the sidecar; after the end of input nothing is sent any more."""
        try:
            self._feed.send_nowait(data)
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            return

    def end_input(self) -> None:
        """Close the sidecar's stdin."""
        self._feed.close()

    def take(self, size_bytes: int | None = None) -> None:
        """Read what is there, or so much of it."""
        del self.waiting[:size_bytes]
        self._notify()

    async def taken(self) -> None:
        """Wait until something was read."""
        await self._moved.wait()

    def read_on(self) -> None:
        """Read from now on whatever comes."""
        self.reads = True
        self.take()

    def break_off(self) -> None:
        """Close the sidecar's stdout."""
        self.broken = True
        self.waiting.clear()
        self._notify()

    def _notify(self) -> None:
        self._moved.set()
        self._moved = trio.Event()
