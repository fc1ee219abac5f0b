"""A connection: lines of one host in, calls to the handler, answers out through the outbox.

Calls are answered inline, a chunk of lines at a time, and recorded before the answer leaves; only what must wait gets a
task of its own. Knows framing, ids and batches; the methods are the handler's, the answers the log's.
"""

from __future__ import annotations

import traceback
from contextlib import suppress
from typing import TYPE_CHECKING, Any, assert_never

import orjson
import trio

from mlzoo import errors
from mlzoo.actors.outbox import BATCHES_BYTES, Batch
from mlzoo.actors.outcomes import Answer, Ask, Later
from mlzoo.actors.standing import Standing
from mlzoo.api.methods import METHODS, SECRET
from mlzoo.api.wire import DIGEST, digest, shown
from mlzoo.transport import jsonrpc
from mlzoo.transport.jsonrpc import Bad, Call, Notification
from mlzoo.transport.ndjson import LineReader, TooLong

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mlzoo.actors.handler import Handler
    from mlzoo.actors.messages import Order
    from mlzoo.actors.outbox import Outbox
    from mlzoo.actors.services import Services
    from mlzoo.errors import Failure
    from mlzoo.events.commands import JsonObject
    from mlzoo.transport.jsonrpc import Id
    from mlzoo.transport.stream import ByteStream

METHOD_CHARS = 64  # of the name of a method that does not exist, as it is recorded
OPEN_CALLS = 4096  # calls of one connection of which it has not taken the answer yet
SLOW_CALL_S = 60.0  # that such a call may take: a driver may hang
RETRY_MS = 100  # after which what was refused here may be tried again
SLOW_CALLS = 64  # calls of one connection that are being looked up outside the event loop


_NOT_REPEATED = errors.InvalidParams(
    "expected the params that rpc.discover tells of; what came is not repeated, as there is a secret in it",
    path="",
    expected="the params of this method",
).failure()


class Connection:
    """One host.

    Args:
        name: of the connection in the log.
        stream: where lines come from.
        outbox: where answers go.
        handler: what the methods do.
        services: the log where asides are recorded, the engine where orders go, the limits.
    """

    def __init__(self, name: str, stream: ByteStream, outbox: Outbox, handler: Handler, services: Services) -> None:
        self.name = name
        self.outbox = outbox
        self.after_aside = 0
        self._stream = stream
        self._handler = handler
        self._services = services
        self._log = services.log
        self._engine = services.engine
        self._report = services.report
        self._line_bytes = services.config.limits.line_bytes
        self._batch_members = services.config.limits.batch_members
        self._lines = LineReader(self._line_bytes)
        self._due: list[bytes] = []  # answers of this chunk, recorded but not sent
        self._due_from = 0  # the aside of the first of them
        self._batched: list[tuple[Batch, Id | None, bytes, int]] = []  # the same for those that go into batches
        self._orders: list[Order] = []
        self._standing = Standing(services)
        self._nursery: trio.Nursery
        self._slow = 0
        self._none_slow = trio.Event()
        self._none_slow.set()
        self.heard = trio.Event()  # set once the first chunk of lines has been dealt with

    async def run(self, *, on_eof: Callable[[], Awaitable[None]]) -> None:
        """Serve until the host closes its end and everything that is due has been sent.

        Args:
            on_eof: called at the end of input, to have the engine end or finish what runs.
        """
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self.outbox.run)
                await self._read()
                await on_eof()
                await self.drain()
                nursery.cancel_scope.cancel()
        except* trio.BrokenResourceError:
            pass  # The host no longer reads: nobody is left to tell.
        finally:
            self._none_slow.set()  # They were cancelled: whoever waits for what is due waits for nothing any more.
            self.outbox.close()

    async def none_slow(self) -> None:
        """Return once no call is on its way whose answer takes more than one decision, or a look into the log."""
        await self._none_slow.wait()

    async def drain(self) -> None:
        """Return once everything that is due has been sent; nothing new may come."""
        await self._none_slow.wait()
        await self.outbox.wait_drained()
        await self._stream.flush()

    async def _read(self) -> None:
        while chunk := await self._stream.receive_some():
            await self._take_all(self._lines.feed(chunk))
        await self._take_all(self._lines.end())

    async def _take_all(self, lines: list[bytes | TooLong]) -> None:
        for line in lines:
            if _needs_state(line):
                await self._state()
            self._take(line)
        await self._hand_over()

    async def _hand_over(self) -> None:
        """Send the answers of this chunk so far, and have the engine decide what it asks for."""
        self._send_due()
        orders, self._orders = self._orders, []
        self.heard.set()
        for order in orders:
            await self._engine.tell(order)

    async def _state(self) -> None:
        """Wait until the log is folded, and what earlier lines said of names holds; what came before does not wait.

        Where the log cannot be folded, the handler says so.
        """
        if self._services.ledger is not None and not self._standing.is_open:
            return
        await self._hand_over()
        if self._services.ledger is None:
            from mlzoo.actors.asking import folded  # noqa: PLC0415 (not on the way to the first ping)

            with suppress(errors.LogUnusable, errors.StorageFailed):
                await folded(self._services)
        await self._standing.settle()

    def _take(self, line: bytes | TooLong) -> None:
        if isinstance(line, TooLong):
            self._refuse(jsonrpc.too_long(line, self._line_bytes), None)
            return
        message = jsonrpc.parse(line, self._batch_members)
        match message:
            case Call():
                self._call(message, None)
            case Notification():
                self._notified(message)
            case Bad():
                self._refuse(message, None)
            case jsonrpc.Batch():
                self._take_batch(message)
            case _:
                assert_never(message)

    def _take_batch(self, message: jsonrpc.Batch) -> None:
        if self.outbox.batches_bytes > BATCHES_BYTES:
            busy = errors.Overloaded(
                "Too many bytes of batches wait to be read: read what is due first.",
                retry_after_ms=RETRY_MS,
                queued=self.outbox.batches_bytes,
                limit=BATCHES_BYTES,
            )
            self._refuse(Bad(None, busy.failure()), None)
            return
        batch = Batch(open=1)  # Held open until each member has been looked at.
        for member in message.members:
            match member:
                case Call():
                    self._call(member, batch)
                case Notification():
                    self._notified(member)
                case Bad():
                    self._refuse(member, batch)
                case _:
                    assert_never(member)
        batch.open -= 1
        self.outbox.close_batch(batch)

    def _notified(self, message: Notification) -> None:
        order = self._handler.notified(self, message)
        if order is not None:
            self._orders.append(order)

    def _refuse(self, bad: Bad, batch: Batch | None) -> None:
        self._record("", bad.id, None, None, bad.failure, batch)

    def _call(self, asked: Call, batch: Batch | None) -> None:
        call = asked  # All that is recorded of it.
        if asked.method in SECRET:
            call = Call(asked.id, asked.method, shown(asked.method, asked.params))
        if call.id in self.outbox.in_flight:
            twice = errors.InvalidRequest(f"id {call.id!r} is in flight on this connection; take another.").failure()
            self._record_refused(call, twice, batch)
            return
        try:
            outcome = self._handler.call(self, asked)
        except Exception as error:  # noqa: BLE001 (contained: what is not the host's fault becomes an incident)
            failure = self._failure(error)
            if call is not asked:  # There is a secret, and it may stand where none belongs.
                call = Call(asked.id, asked.method, {DIGEST: None})
                failure = _NOT_REPEATED if failure.code == errors.InvalidParams.code else failure
            self._record_refused(call, failure, batch)
            return
        match outcome:
            case Answer():
                self._record(call.method, call.id, call.params, outcome.result, None, batch, recorded=outcome.recorded)
                if outcome.then is not None:
                    self._send_due()
                    outcome.then()
            case Ask() if self._log.failed is not None:
                self._say_unrecorded(call.id, self._log.failed.failure(), batch)
            case Ask() if (refusal := self._door_closed()) is not None:
                self._record_refused(call, refusal, batch)
            case Ask():
                if batch is not None:
                    batch.open += 1
                self.outbox.follow(outcome, call.id, batch)
                self._orders.append(self._standing.noted(outcome.order))
            case Later():
                self._start_slow(call, outcome, batch)
            case _:
                assert_never(outcome)

    def _door_closed(self) -> Failure | None:
        """Return why nothing more is asked of the engine, or None."""
        if self._engine.closed:
            return errors.ShuttingDown("The sidecar is shutting down and takes no new work.").failure()
        count = len(self.outbox.in_flight)
        if count < OPEN_CALLS:
            return None
        message = f"{count} calls of this connection are open: read their answers first."
        return errors.Overloaded(message, retry_after_ms=RETRY_MS, queued=count, limit=OPEN_CALLS).failure()

    def _record_refused(self, call: Call, failure: Failure, batch: Batch | None) -> None:
        """Record a call that came to nothing, without what a person may have written or what may be a secret.

        The digest of such params tells a replay whether a host has sent the same again.
        """
        spec = METHODS.get(call.method)
        params = call.params
        if call.params and (spec is None or spec.private):
            params = {DIGEST: digest(call.params)}
        self._record(call.method[:METHOD_CHARS], call.id, params, None, failure, batch)

    def _start_slow(self, call: Call, later: Later, batch: Batch | None) -> None:
        if self._slow >= SLOW_CALLS:
            busy = errors.Overloaded(
                f"{self._slow} such calls are open: wait for one of them.",
                retry_after_ms=RETRY_MS,
                queued=self._slow,
                limit=SLOW_CALLS,
            )
            self._record_refused(call, busy.failure(), batch)
            return
        if self._slow == 0:
            self._none_slow = trio.Event()
        self._slow += 1
        self.outbox.in_flight[call.id] = ""
        if batch is not None:
            batch.open += 1
        self._standing.later(later.holds)
        self._nursery.start_soon(self._find, call, later, batch)

    def _failure(self, error: Exception) -> Failure:
        """Return what a host is told of an error; what is not of our own kind is a fault of ours."""
        if isinstance(error, errors.MlzooError):
            return error.failure()
        self._report("".join(traceback.format_exception(error)), self._log.last_seq)
        message = "mlzoo made an error; the incident stands among the asides of the log after this number."
        return errors.InternalError(message, incident=self._log.last_seq).failure()

    async def _find(self, call: Call, later: Later, batch: Batch | None) -> None:
        result, failure = None, None
        try:
            with trio.fail_after(SLOW_CALL_S):
                result = await later.find()
        except trio.TooSlowError:
            failure = errors.DeadlineExceeded(f"{call.method} was not answered within {SLOW_CALL_S} s.").failure()
        except Exception as error:  # noqa: BLE001 (contained, as above)
            failure = self._failure(error)
        if later.holds is not None:
            later.holds.set()
        self._slow -= 1
        if self._slow == 0:
            self._none_slow.set()
        self.outbox.in_flight.pop(call.id, None)
        if batch is not None:
            batch.open -= 1
        params = {DIGEST: digest(call.params)} if METHODS[call.method].private and call.params else call.params
        self._record(call.method, call.id, params, result, failure, batch, recorded=later.recorded)
        self._send_due()

    def notify(self, request: str, method: str, params: JsonObject) -> None:
        """See ``Notified``."""
        if self._log.failed is not None:
            return
        for rpc in self.outbox.cursors.calls_about(request):
            told = {"request": rpc, **params}
            aside_seq = self._log.aside(self.name, method, None, told)
            self._send_later(jsonrpc.notification_line(method, told), aside_seq)
        self._send_due()

    def _record(
        self,
        method: str,
        rpc: Id | None,
        params: Any,
        result: Any,
        failure: Failure | None,
        batch: Batch | None,
        *,
        recorded: bool = True,
    ) -> None:
        """Record an answer that changes nothing, and have it sent with the rest of this chunk's."""
        try:
            aside_seq = self._log.aside(self.name, method, rpc, params, result if recorded else None, failure)
            self.after_aside = aside_seq
        except errors.StorageFailed as failed:
            self._say_unrecorded(rpc, failed.failure(), batch)
            return
        if failure is not None:
            line = jsonrpc.error_line(rpc, failure, self._line_bytes)
        else:
            assert rpc is not None, "only a call has a result"
            line = jsonrpc.result_line(rpc, result, self._line_bytes)
        if batch is not None:
            batch.open += 1
            self._batched.append((batch, rpc, line, aside_seq))
        else:
            self._send_later(line, aside_seq)

    def _send_later(self, line: bytes, aside_seq: int) -> None:
        if not self._due:
            self._due_from = aside_seq
        self._due.append(line)

    def _send_due(self) -> None:
        """Write what was recorded, then send it."""
        due, self._due = self._due, []
        batched, self._batched = self._batched, []
        try:
            self._log.commit_asides()
        except errors.StorageFailed as failed:
            failure = failed.failure()
            for message in map(orjson.loads, due):
                if "method" not in message:  # Progress that cannot be recorded is not told, nor answered.
                    self._say_unrecorded(message.get("id"), failure, None)
            for batch, rpc, _, _ in batched:
                batch.open -= 1
                self._say_unrecorded(rpc, failure, batch)
            return
        for batch, rpc, line, aside_seq in batched:
            self.outbox.into_batch(batch, rpc, line, aside_seq)
        self.outbox.asides(due, self._due_from)

    def _say_unrecorded(self, rpc: Id | None, failure: Failure, batch: Batch | None) -> None:
        """Tell a host that the log has failed, which that log cannot take."""
        line = jsonrpc.error_line(rpc, failure, self._line_bytes)
        if batch is not None:
            batch.open += 1
            self.outbox.into_batch(batch, rpc, line, None)
        else:
            self.outbox.unrecorded([line])


def _needs_state(line: bytes | TooLong) -> bool:
    """Whether a line may be about a conversation or a persona: what they are, only the folded log tells."""
    return isinstance(line, bytes) and (b'"conversation' in line or b'"persona' in line)
