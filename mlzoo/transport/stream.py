"""What a connection needs of the bytes under it, whether they run over stdio or a socket.

Knows neither framing nor requests.
"""

from __future__ import annotations

from typing import Protocol

CHUNK_BYTES = 64 * 1024  # What one read takes at most.
SEND_BYTES = 256 * 1024  # With this much on its way to the host, a sender waits.


class ByteStream(Protocol):
    """Bytes in both directions, for one task that reads and any number that write.

    At most ``SEND_BYTES`` and one chunk more are held on their way out, at most two chunks of ``CHUNK_BYTES`` on
    their way in.
    """

    async def receive_some(self) -> bytes:
        """Return what has come, b"" at the end; a cancelled call loses nothing.

        An error while reading (a terminal that hung up, a connection that was reset) is an end too: nothing more comes.

        Raises:
            trio.BusyResourceError: another task is receiving.
            trio.ClosedResourceError: the stream was closed on this side.
        """

    def send_nowait(self, data: bytes) -> bool:
        """Take over all of data and return True, or take nothing and return False where too much is on its way.

        Raises:
            trio.BrokenResourceError: the host no longer reads.
            trio.ClosedResourceError: the stream was closed on this side.
        """

    async def send_all(self, data: bytes) -> None:
        """Take over all of data, as soon as there is room for it. A cancelled call has sent nothing.

        Raises:
            trio.BrokenResourceError: the host no longer reads.
            trio.ClosedResourceError: the stream was closed on this side.
        """

    async def flush(self) -> None:
        """Return when the operating system has all that was sent before this call.

        Raises:
            trio.BrokenResourceError: the host no longer reads.
            trio.ClosedResourceError: the stream was closed on this side.
        """

    async def aclose(self) -> None:
        """Flush, then close. Cancelled, close at once and drop what is on its way. A host that left is no error."""
