"""The outbox: everything that is due to one host, and the task that sends it.

Answers that change nothing are sent as soon as they are recorded; where the host does not take them, a place among the
log's asides is all that is kept. What the engine decides is read from the log by ``cursors``, beside this file.
Knows nothing of methods or of where the bytes go.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import attrs
import trio

from mlzoo.errors import MlzooError, TooLarge
from mlzoo.transport import jsonrpc
from mlzoo.transport.jsonrpc import Id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlzoo.actors.cursors import Cursors
    from mlzoo.actors.hub import Hub
    from mlzoo.actors.outcomes import Ask, Claim
    from mlzoo.errors import Failure
    from mlzoo.events.log import Log
    from mlzoo.events.records import Aside
    from mlzoo.transport.stream import ByteStream

CHUNK_BYTES = 64 * 1024
BATCHES_BYTES = 1024 * 1024  # of answers in batches that wait to go out, above which no more batches are taken


@attrs.define(eq=False)
class Batch:
    """A JSON-RPC batch in progress; its array goes out when the last member has ended."""

    open: int = 0
    answers: list[tuple[Id | None, bytes]] = attrs.field(factory=list)
    size_bytes: int = 0


class Outbox:
    """All that is due to one host.

    Args:
        connection: its name in the log.
        stream: where the bytes go.
        log: where everything comes from.
        hub: wakes the cursors.
        again: answers an aside of a view of the log once more; such answers are not copied into the log.
        line_bytes: the longest line.
    """

    def __init__(
        self,
        connection: str,
        stream: ByteStream,
        log: Log,
        hub: Hub,
        again: Callable[[Aside], Any],
        line_bytes: int,
    ) -> None:
        self.in_flight: dict[Id, str] = {}  # the host's id -> the request's id in the log, where it has one
        self._claims: dict[Id, Claim] = {}  # of those of them that came with a key
        self._connection = connection
        self._stream = stream
        self._log = log
        self._hub = hub
        self._again = again
        self._line_bytes = line_bytes
        self._opened: Cursors | None = None
        self._whole: deque[bytes] = deque()  # finished batches, which cannot be read from the log as one line
        self.batches_bytes = 0  # of answers in batches, finished or not: they are held in memory
        self._lag_from: int | None = None  # the first aside that waits in the log for this host to take it
        self._skip: set[int] = set()  # asides that went into a batch, for when the log is read
        self._news = trio.Event()
        self._drained = trio.Event()
        self._closed = False
        self._given_up = False  # the host has been told that something due to it is gone

    @property
    def cursors(self) -> Cursors:
        """The connection's places in the log; made, and imported, when the first one is wanted."""
        if self._opened is None:
            from mlzoo.actors.cursors import Cursors  # noqa: PLC0415 (not on the way to the first ping)

            self._opened = Cursors(self._log, self._hub, self._line_bytes, self.wake)
        return self._opened

    def wake(self) -> None:
        """Have the sending task look for what is due."""
        self._news.set()

    # ---------------------------------------------------------------------------------------- what is due

    def follow(self, ask: Ask, rpc: Id, batch: Batch | None) -> None:
        """Read a request from now on, and answer the host's call ``rpc`` with what comes of it."""
        self.in_flight[rpc] = ask.request
        if ask.claim is not None:
            self._claims[rpc] = ask.claim

        def end(line: bytes) -> bytes:
            self.in_flight.pop(rpc, None)
            self._claims.pop(rpc, None)
            if batch is None:
                return line
            self._add(batch, rpc, line)
            self.close_batch(batch)
            return b""

        self.cursors.follow(ask.request, rpc, stream=ask.stream, end=end)

    def heard_by(self, rpc: Id | None) -> str | None:
        """Return the request that a call in flight hears of: its own, or the one that its key names."""
        request = self.in_flight.get(rpc) if rpc is not None else None
        return self.cursors.heard_by(request) if request else None

    def claim_of(self, rpc: Id | None) -> Claim | None:
        """Return what a call in flight came with that may have led it to another request; the log has yet to say so."""
        return self._claims.get(rpc) if rpc is not None else None

    def asides(self, lines: list[bytes], first_seq: int) -> None:
        """Send answers that are in the log already; those for which there is no room stay there."""
        if self._given_up:
            return
        if lines and self._lag_from is None and not self._is_taken(b"".join(lines)):
            self._lag(first_seq)
            self._news.set()
        if self._lag_from is None:
            self._skip.clear()

    def _lag(self, first_seq: int | None) -> None:
        """Note from which aside on the host has still to take them; the log spares those as long as it can."""
        self._lag_from = first_seq
        self._log.keep_asides(self._connection, first_seq)

    def _is_taken(self, data: bytes) -> bool:
        try:
            return self._stream.send_nowait(data)
        except trio.BrokenResourceError:
            return False  # The sending task finds that out as well, and it is the one to end the connection.

    def into_batch(self, batch: Batch, rpc: Id | None, line: bytes, aside_seq: int | None) -> None:
        """Put an answer into its batch, of which a place was held open for it; aside_seq is where it is recorded."""
        self._add(batch, rpc, line)
        if aside_seq is not None:
            self._skip.add(aside_seq)
        self.close_batch(batch)

    def _add(self, batch: Batch, rpc: Id | None, line: bytes) -> None:
        if batch.size_bytes + len(line) > self._line_bytes:  # Nor would they fit into the array.
            message = "the answers of this batch do not fit into one line: ask for less at once"
            got = batch.size_bytes + len(line)
            line = jsonrpc.error_line(rpc, TooLarge(message, limit=self._line_bytes, got=got).failure())
        batch.open -= 1
        batch.answers.append((rpc, line))
        batch.size_bytes += len(line)
        self.batches_bytes += len(line)

    def close_batch(self, batch: Batch) -> None:
        """Send a batch's array once nothing of it is open."""
        if batch.open == 0 and batch.answers:
            line = jsonrpc.batch_line(batch.answers, self._line_bytes)
            self.batches_bytes += len(line) - batch.size_bytes
            self._whole.append(line)
            self._news.set()

    def unrecorded(self, lines: list[bytes]) -> None:
        """Send what the log can no longer take: that it has failed."""
        self.batches_bytes += sum(map(len, lines))
        self._whole.extend(lines)
        self._news.set()

    def fail(self, failure: Failure) -> None:
        """Answer every request with a failure that the log can no longer take."""
        self.unrecorded([] if self._opened is None else self._opened.fail(failure))

    def close(self) -> None:
        """Follow nothing any more."""
        self._closed = True
        self._drained.set()
        self._lag(None)
        if self._opened is not None:
            self._opened.close()

    # ---------------------------------------------------------------------------------------- sending it

    async def run(self) -> None:
        """Send what is due whenever there is some, as fast as the host takes it.

        Raises:
            trio.BrokenResourceError: the host no longer reads, or read too late and has been told so.
        """
        while not self._given_up:
            await self._news.wait()
            self._news = trio.Event()
            for lines in self._due():
                if lines:
                    await self._stream.send_all(lines)
                else:
                    await trio.lowlevel.checkpoint()  # Much may have been read of which nothing is wanted.
                del lines  # The end of a long answer is long: it is not held while the next one is read.
            if not self._opened and not self._news.is_set():
                self._drained.set()
        await self._stream.flush()
        message = "the host read too late: what was due to it is not kept any more"
        raise trio.BrokenResourceError(message)

    async def wait_drained(self) -> None:
        """Return when every request has been answered and every line was handed over. No new ones may come."""
        if self._drained.is_set() and not self._closed:  # That was so at an earlier moment; several may wait.
            self._drained = trio.Event()
        self._news.set()
        await self._drained.wait()

    def _due(self) -> Iterator[bytes]:
        """Yield chunks of lines, a chunk of each kind in turn, until nothing is due.

        What is yielded has been taken off its place; a chunk may be empty.
        """
        more = True
        while more and not self._given_up:
            more = False
            if self._lag_from is not None:
                yield self._waiting_asides(self._lag_from)
                more = True
            if self._whole:
                line = self._whole.popleft()
                self.batches_bytes -= len(line)
                yield line
                more = True
            if self._opened is not None and self._opened.ready:
                yield self._opened.read()
                more = True

    def _waiting_asides(self, first_seq: int) -> bytes:
        lines: list[bytes] = []
        size_bytes = 0
        try:
            for aside in self._log.read_asides(self._connection, first_seq):
                if aside.aside_seq in self._skip:
                    self._skip.discard(aside.aside_seq)
                    continue
                if size_bytes >= CHUNK_BYTES:
                    self._lag(aside.aside_seq)
                    return b"".join(lines)
                lines.append(self._aside_line(aside))
                size_bytes += len(lines[-1])
        except MlzooError as error:  # The host did not take them in time, or the disk did not keep them.
            lines += self._last_lines(error)
        self._lag(None)
        self._skip.clear()
        return b"".join(lines)

    def _last_lines(self, error: MlzooError) -> list[bytes]:
        """Return what is still said to a host of which some answers are gone: which ones, nobody knows any more.

        Whatever it waits for is answered with the same error, and the connection ends: it must not wait for ever.
        """
        self._given_up = True
        lost = error.failure()
        message = f"Answers that were due on this connection are lost, and so it is closed: {lost.message}."
        failure = attrs.evolve(lost, message=message)
        lines = [jsonrpc.error_line(None, failure)]
        if self._opened is not None:
            lines += self._opened.fail(failure)
        while self._whole:
            lines.append(self._whole.popleft())
        return lines

    def _aside_line(self, aside: Aside) -> bytes:
        if aside.failure is not None:
            return jsonrpc.error_line(aside.rpc, aside.failure, self._line_bytes)
        if aside.rpc is None:
            return jsonrpc.notification_line(aside.method, aside.params)
        try:
            result = self._again(aside) if aside.result is None else aside.result
        except MlzooError as error:  # What it showed is not kept any more.
            return jsonrpc.error_line(aside.rpc, error.failure(), self._line_bytes)
        return jsonrpc.result_line(aside.rpc, result, self._line_bytes)
