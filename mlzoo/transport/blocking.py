"""A byte stream over two file descriptors that never touches their flags: one OS thread reads, another writes.

What can be read or written without waiting is so without the threads, where the operating system offers that.
Knows neither framing nor requests. The descriptors may be pipes, sockets, files or terminals, and their file
descriptions may be shared with other processes; so nothing here is made non-blocking. Each descriptor belongs to its
thread, which alone closes it: closing one under a blocked call would hand its number to the next file opened.
The threads are daemons: one that is blocked for good does not keep the process from leaving.
"""

from __future__ import annotations

import os
import queue
import threading
from typing import TYPE_CHECKING

import trio

from mlzoo.transport.fd import can_read_at_once, read_some, write_at_once, write_some
from mlzoo.transport.polling import PollingReader
from mlzoo.transport.stream import CHUNK_BYTES, SEND_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable


class BlockingStream:
    """A ``ByteStream`` over two different descriptors, which it owns from here on. Make it inside ``trio.run``."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._reader = PollingReader(read_fd) if can_read_at_once(read_fd) else _Reader(read_fd)
        self._writer = _Writer(write_fd)

    @property
    def failure(self) -> OSError | None:
        """Why something that was to be written was not; None where all was."""
        return self._writer.error

    async def receive_some(self) -> bytes:
        """See ``ByteStream``."""
        return await self._reader.receive_some()

    def send_nowait(self, data: bytes) -> bool:
        """See ``ByteStream``."""
        return self._writer.send_nowait(data)

    async def send_all(self, data: bytes) -> None:
        """See ``ByteStream``."""
        await self._writer.send_all(data)

    async def flush(self) -> None:
        """See ``ByteStream``."""
        await self._writer.flush()

    async def aclose(self) -> None:
        """See ``ByteStream``. A read that is blocked stays so in its thread; what it brings is dropped."""
        self._reader.close()
        await self._writer.aclose()


class _Reader:
    """The reading half. One chunk waits for the consumer while the thread reads the next; then the thread waits."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._token = trio.lowlevel.current_trio_token()
        self._slot = threading.Lock()  # Held while a chunk waits: taken by the thread, released by the consumer.
        self._chunk: bytes | None = None  # The chunk that waits.
        self._task: trio.lowlevel.Task | None = None  # The consumer, while it sleeps.
        self._closed = False
        threading.Thread(target=self._read_to_the_end, name="read", daemon=True).start()

    async def receive_some(self) -> bytes:
        if self._closed:
            raise trio.ClosedResourceError
        if self._task is not None:
            raise trio.BusyResourceError("another task is receiving from this stream")
        # The thread sets the chunk, then looks for a task; this sets the task, then looks for a chunk. Whichever
        # comes first, one of the two sees the other.
        self._task = trio.lowlevel.current_task()
        if self._chunk is None:
            await trio.lowlevel.wait_task_rescheduled(self._abort)
        else:
            self._task = None
            await trio.lowlevel.checkpoint()
        return self._take()

    def _take(self) -> bytes:
        chunk = self._chunk
        if self._closed or chunk is None:
            raise trio.ClosedResourceError
        if chunk:  # The end is not taken away: it is the end at the next call, too.
            self._chunk = None
            self._slot.release()
        return chunk

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._wake()
        if self._chunk:
            self._slot.release()

    def _abort(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _wake(self) -> None:
        task = self._task
        if task is not None and (self._closed or self._chunk is not None):
            self._task = None
            trio.lowlevel.reschedule(task)

    def _read_to_the_end(self) -> None:
        """Run the thread."""
        chunk = None
        while chunk != b"" and not self._closed:
            chunk = read_some(self._fd, CHUNK_BYTES)
            self._slot.acquire()
            self._chunk = chunk
            if self._task is not None and not _run_soon(self._token, self._wake):
                break
        os.close(self._fd)


class _Writer:
    """The writing half. Each counter is written by one thread at a time, so neither needs a lock."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._token = trio.lowlevel.current_trio_token()
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()  # None: no more comes.
        self._accepted_bytes = 0  # Counted by the event loop.
        self._written_bytes = 0  # Counted by the thread, or by the event loop while nothing is queued.
        self._may_write_at_once = True
        self.error: OSError | None = None  # Why writing ended early.
        self._ended = False  # The thread's last word.
        self._closed = False
        self._dropping = False  # Write no more of what is queued.
        self._sleepers = trio.lowlevel.ParkingLot()
        self._watchers = 0  # Tasks that the thread has to wake when it gets on.
        threading.Thread(target=self._write_to_the_end, name="write", daemon=True).start()

    def send_nowait(self, data: bytes) -> bool:
        self._check()
        if self._accepted_bytes == self._written_bytes:
            data = data[self._write_at_once(data) :]
        elif self._is_full():
            return False
        if data:
            self._accepted_bytes += len(data)
            self._queue.put(data)
        return True

    def _write_at_once(self, data: bytes) -> int:
        """Write what can be written without waiting. Nothing is queued, so the thread sleeps and counts nothing.

        Without the two changes of thread, a reply is with the host in half the time.
        """
        if not self._may_write_at_once:
            return 0
        try:
            written_bytes = write_at_once(self._fd, data)
        except OSError as error:
            self.error = error
            raise trio.BrokenResourceError("the host no longer reads") from error
        if written_bytes is None:
            self._may_write_at_once = False
            return 0
        self._accepted_bytes += written_bytes
        self._written_bytes += written_bytes
        return written_bytes

    async def send_all(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        while not self.send_nowait(data):
            await self._sleep_while(self._is_full)

    async def flush(self) -> None:
        due_bytes = self._accepted_bytes
        await trio.lowlevel.checkpoint()
        await self._sleep_while(lambda: self._written_bytes < due_bytes)
        if self._written_bytes < due_bytes:
            self._check()

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            self._queue.put(None)
        try:
            await trio.lowlevel.checkpoint()
            self._sleepers.unpark_all()
            await self._sleep_while(lambda: True)
        finally:
            self._dropping = True  # Nothing is left but after a cancel. A blocked write stays so in its thread.

    def _is_full(self) -> bool:
        return self._accepted_bytes - self._written_bytes >= SEND_BYTES

    def _check(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError
        if self.error is not None or self._ended:
            raise trio.BrokenResourceError("the host no longer reads") from self.error

    async def _sleep_while(self, condition: Callable[[], bool]) -> None:
        """Sleep until the condition no longer holds or the thread has ended."""
        # As in the reader: the thread moves, then looks for watchers; this says that it watches, then looks.
        self._watchers += 1
        try:
            while not self._ended and condition():
                await self._sleepers.park()
        finally:
            self._watchers -= 1

    def _write_to_the_end(self) -> None:
        """Run the thread."""
        try:
            while (data := self._next()) is not None:
                self._write(data)
        except OSError as error:
            self.error = error
        finally:
            os.close(self._fd)
            self._ended = True
            _run_soon(self._token, self._sleepers.unpark_all)

    def _next(self) -> bytes | None:
        """Wait for something to write, and join to it what has come meanwhile: one write for many short lines."""
        first = self._queue.get()
        if first is None or self._queue.empty():
            return first
        chunks, size_bytes = [first], len(first)
        while size_bytes < CHUNK_BYTES and not self._queue.empty():
            chunk = self._queue.get()
            if chunk is None:
                self._queue.put(None)  # Nothing follows it, so it is the last again.
                break
            chunks.append(chunk)
            size_bytes += len(chunk)
        return b"".join(chunks)

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest and not self._dropping:
            written_bytes = write_some(self._fd, rest)
            rest = rest[written_bytes:]
            self._written_bytes += written_bytes
            if self._watchers:
                _run_soon(self._token, self._sleepers.unpark_all)


def _run_soon(token: trio.lowlevel.TrioToken, function: Callable[[], object]) -> bool:
    """Call function in the event loop; False where the loop has ended."""
    try:
        token.run_sync_soon(function)
    except trio.RunFinishedError:
        return False
    return True
