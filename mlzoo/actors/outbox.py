"""The outbox: everything that goes to one host, read from the log by cursors.

A cursor is a place in the log for each request, one for the connection's asides, one for each subscription. While the
host does not read, the cursors wait and nothing is held in memory: what it has not taken lies on disk. Knows how pieces
become lines; knows nothing of methods or of where the bytes go.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any

import attrs
import trio

from mlzoo.transport import jsonrpc
from mlzoo.transport.jsonrpc import Id
from mlzoo.views import Delta, Refusal, RequestView, Result, event_params

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlzoo.actors.hub import Hub
    from mlzoo.errors import Failure
    from mlzoo.events.log import Log
    from mlzoo.events.types import Aside
    from mlzoo.transport.stream import ByteStream

TURN_GROUPS = 32  # of one request, before the next one gets its turn
CHUNK_BYTES = 64 * 1024
SUBSCRIPTION_TURN_GROUPS = 64


@attrs.define(eq=False)
class Batch:
    """A JSON-RPC batch in progress; its array goes out when the last member has ended."""

    open: int = 0
    answers: list[tuple[Id | None, bytes]] = attrs.field(factory=list)


@attrs.define(eq=False)
class Cursor:
    """Where a connection stands in one request."""

    rpc: Id
    view: RequestView
    stream: bool
    batch: Batch | None


@attrs.define(eq=False)
class Subscription:
    """Where a connection stands in the whole log."""

    name: str
    after_seq: int
    types: frozenset[str] | None


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
        self.in_flight: dict[Id, str] = {}  # the host's id -> the request's id in the log
        self._connection = connection
        self._stream = stream
        self._log = log
        self._hub = hub
        self._again = again
        self._line_bytes = line_bytes
        self._cursors: dict[str, Cursor] = {}
        self._ready: OrderedDict[str, None] = OrderedDict()
        self._subscriptions: dict[str, Subscription] = {}
        self._subscriptions_ready = False
        self._whole: deque[bytes] = deque()  # finished batches, which cannot be read from the log as one line
        self._lag_after: int | None = None  # the last aside that went out, while later ones wait in the log
        self._skip: set[int] = set()  # asides that went into a batch, while some wait
        self._news = trio.Event()
        self._drained = trio.Event()

    # ---------------------------------------------------------------------------------------- what is due

    def follow(self, request: str, rpc: Id, *, stream: bool, batch: Batch | None) -> None:
        """Read a request from now on, and answer the host's call ``rpc`` with what comes of it."""
        self.in_flight[rpc] = request
        self._cursors[request] = Cursor(rpc, RequestView(request, self._log.get_blob), stream, batch)
        if batch is not None:
            batch.open += 1
        self._hub.follow(request, self)

    def asides(self, lines: list[bytes], first_seq: int) -> None:
        """Send answers that are in the log already; those for which there is no room stay there."""
        if self._lag_after is None and not self._stream.send_nowait(b"".join(lines)):
            self._lag_after = first_seq - 1
            self._news.set()

    def into_batch(self, batch: Batch, rpc: Id | None, line: bytes, aside_seq: int) -> None:
        """Keep an answer for its batch."""
        batch.answers.append((rpc, line))
        if self._lag_after is not None:
            self._skip.add(aside_seq)

    def close_batch(self, batch: Batch) -> None:
        """Send a batch's array once nothing of it is open."""
        if batch.open == 0 and batch.answers:
            self._whole.append(jsonrpc.batch_line(batch.answers, self._line_bytes))
            self._news.set()

    def subscribe(self, subscription: Subscription) -> None:
        """Send every event after a place, from now on."""
        self._subscriptions[subscription.name] = subscription
        self._hub.subscribe(self)
        self.wake_all()

    def unsubscribe(self, name: str) -> bool:
        """End a subscription; False where there is none of that name."""
        found = self._subscriptions.pop(name, None) is not None
        if not self._subscriptions:
            self._hub.unsubscribe(self)
        return found

    def waits_for(self, request: str) -> Id | None:
        """Return the host's id of a request that it waits for."""
        cursor = self._cursors.get(request)
        return None if cursor is None else cursor.rpc

    def wake(self, request: str) -> None:
        """See ``Reader``."""
        if request in self._cursors:
            self._ready[request] = None
            self._news.set()

    def wake_all(self) -> None:
        """See ``Reader``."""
        self._subscriptions_ready = True
        self._news.set()

    # ---------------------------------------------------------------------------------------- sending it

    async def run(self) -> None:
        """Send what is due whenever there is some, as fast as the host takes it.

        Raises:
            trio.BrokenResourceError: the host no longer reads.
        """
        while True:
            await self._news.wait()
            self._news = trio.Event()
            for lines in self._due():
                await self._stream.send_all(lines)
            if not self._cursors and not self._news.is_set():
                self._drained.set()

    async def wait_drained(self) -> None:
        """Return when every request has been answered and every line was handed over. No new ones may come."""
        self._drained = trio.Event()
        self._news.set()
        await self._drained.wait()

    def fail(self, failure: Failure) -> None:
        """Answer every request with a failure that the log can no longer take; nothing is read from it any more."""
        for request, cursor in tuple(self._cursors.items()):
            lines: list[bytes] = []
            self._end(request, cursor, self._error_line(cursor.rpc, failure), lines)
            self._whole.extend(lines)
        self._ready.clear()
        self._news.set()

    def close(self) -> None:
        """Follow nothing any more."""
        for request in tuple(self._cursors):
            self._hub.unfollow(request)
        self._cursors.clear()
        self._hub.unsubscribe(self)

    def _due(self) -> Iterator[bytes]:
        """Yield chunks of lines until nothing is due; what is yielded has been taken off its cursor."""
        while self._lag_after is not None:
            yield from self._waiting_asides(self._lag_after)
        while self._whole or self._ready or self._subscriptions_ready:
            while self._whole:
                yield self._whole.popleft()
            lines: list[bytes] = []
            size_bytes = 0
            while self._ready and size_bytes < CHUNK_BYTES:
                request, _ = self._ready.popitem(last=False)
                size_bytes += self._read(request, lines)
            if self._subscriptions_ready:
                self._read_subscriptions(lines)
            if lines:
                yield b"".join(lines)

    def _waiting_asides(self, after_seq: int) -> Iterator[bytes]:
        lines: list[bytes] = []
        size_bytes = 0
        for aside in self._log.read_asides(self._connection, after_seq):
            self._lag_after = aside.aside_seq
            if aside.aside_seq in self._skip:
                self._skip.discard(aside.aside_seq)
                continue
            lines.append(self._aside_line(aside))
            size_bytes += len(lines[-1])
            if size_bytes >= CHUNK_BYTES:
                yield b"".join(lines)
                return
        self._lag_after = None
        self._skip.clear()
        if lines:
            yield b"".join(lines)

    def _aside_line(self, aside: Aside) -> bytes:
        if aside.failure is not None:
            return jsonrpc.error_line(aside.rpc, aside.failure, self._line_bytes)
        if aside.rpc is None:
            return jsonrpc.notification_line(aside.method, aside.params)
        result = self._again(aside) if aside.result is None else aside.result
        return jsonrpc.result_line(aside.rpc, result, self._line_bytes)

    def _read(self, request: str, lines: list[bytes]) -> int:
        """Move one cursor on; return how many bytes that gave."""
        cursor = self._cursors.get(request)
        if cursor is None:
            return 0
        before = len(lines)
        for turn, group in enumerate(self._log.groups_of(request, cursor.view.after_seq)):
            if not self._log.is_shown(group):
                break
            for piece in cursor.view.read(group):
                match piece:
                    case Delta():
                        if cursor.stream:
                            params = {"request": cursor.rpc, "seq": piece.seq, "delta": piece.delta}
                            lines.append(jsonrpc.notification_line("stream", params))
                    case Result():
                        self._end(
                            request, cursor, jsonrpc.result_line(cursor.rpc, piece.result, self._line_bytes), lines
                        )
                    case Refusal():
                        self._end(request, cursor, self._error_line(cursor.rpc, piece.failure), lines)
            if request not in self._cursors:
                break
            if turn + 1 == TURN_GROUPS:
                self._ready[request] = None  # There may be more; the others come first.
                break
        return sum(map(len, lines[before:]))

    def _error_line(self, rpc: Id, failure: Failure) -> bytes:
        return jsonrpc.error_line(rpc, failure, self._line_bytes)

    def _end(self, request: str, cursor: Cursor, line: bytes, lines: list[bytes]) -> None:
        del self._cursors[request]
        self.in_flight.pop(cursor.rpc, None)
        self._hub.unfollow(request)
        if cursor.batch is None:
            lines.append(line)
        else:
            cursor.batch.open -= 1
            cursor.batch.answers.append((cursor.rpc, line))
            self.close_batch(cursor.batch)

    def _read_subscriptions(self, lines: list[bytes]) -> None:
        self._subscriptions_ready = False
        for subscription in self._subscriptions.values():
            for group in self._log.read(subscription.after_seq, SUBSCRIPTION_TURN_GROUPS):
                if not self._log.is_shown(group):
                    break
                for index in range(len(group.events) + 1):
                    params = event_params(group, index)
                    if params["log_seq"] <= subscription.after_seq:
                        continue
                    if subscription.types is None or params["type"] in subscription.types:
                        shown = {"subscription": subscription.name, **params}
                        lines.append(jsonrpc.notification_line("event", shown))
                subscription.after_seq = group.last_seq
                self._subscriptions_ready = True  # There may be more.
