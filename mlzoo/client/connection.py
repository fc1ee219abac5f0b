"""The connection to a sidecar: calls, streams and subscriptions over one pair of pipes.

Knows the envelope of the protocol, and of the methods' parameters only what a ``key`` is. Three tasks serve it: one
writes lines, one reads them and one drains stderr; a call is never a task of its own.
"""

from __future__ import annotations

import math
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, assert_never

import anyio

from mlzoo.client.errors import ProtocolViolation, SidecarDied
from mlzoo.client.inbox import Answered, Failed, Inbox
from mlzoo.client.lines import ForRequest, ForSubscription, Ignored, Incoming, parse, request_line
from mlzoo.client.stream import Stream
from mlzoo.client.subscription import Subscription
from mlzoo.transport.ndjson import LineReader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from mlzoo.client.process import SidecarProcess
    from mlzoo.client.stream import OnProgress
    from mlzoo.transport.ndjson import TooLong

OUTGOING_LINES = 64  # Calls on their way to a sidecar that does not read; the next one waits.
EXIT_S = 15.0  # From the end of stdout to giving up on the exit status.


class Client:
    """A running sidecar, as a host sees it; ``spawn`` makes one. Any number of tasks may use it."""

    def __init__(self, process: SidecarProcess, *, grace_s: float, line_bytes: int) -> None:
        self._process = process
        self._grace_s = grace_s
        self._line_bytes = line_bytes
        self._ids = count(1)
        self._inboxes: dict[int | str, Inbox] = {}
        self._opening: dict[int | str, Subscription] = {}
        self._subscriptions: dict[str, Subscription] = {}
        # The queue has no bound of its own: a call takes one of a bounded number of places before it puts its line
        # there. Notes (cancel, unsubscribe) take none; they must not wait, and there is at most one for each call.
        self._outgoing, self._to_write = anyio.create_memory_object_stream[tuple[bytes, bool]](math.inf)
        self._places = anyio.Semaphore(OUTGOING_LINES)
        self._serving = anyio.CancelScope(shield=True)  # Outlives the host's cancellation: close() needs the pipes.
        self._death: Callable[[], Exception] | None = None  # Makes what each call raises once the sidecar is gone.
        self._closed = False

    @property
    def pid(self) -> int:
        """The sidecar's process id."""
        return self._process.pid

    @property
    def stderr_tail(self) -> tuple[str, ...]:
        """The last lines that the sidecar wrote to stderr."""
        return self._process.stderr_tail

    # -------------------------------------------------------------------------------------------- what a host calls

    async def initialize(self, name: str, version: str) -> dict[str, Any]:
        """Say who the host is, and return what the sidecar says of itself and its limits. Raises as ``call`` does."""
        params = {"protocol_version": "1", "client": {"name": name, "version": version}}
        result: dict[str, Any] = await self.call("initialize", params)
        self._line_bytes = int(result.get("limits", {}).get("line_bytes", self._line_bytes))
        return result

    async def call(
        self, method: str, params: Mapping[str, Any] | None = None, *, on_progress: OnProgress | None = None
    ) -> Any:
        """Send a request and return its result. Cancelled here, it is cancelled in the sidecar too.

        Unless it has a ``key`` among its params: such a one is meant to outlive who listens, and what it ends with is
        what its key stands for ever after. So it runs on, and ``resume``, or the same request sent again, hears of it;
        ``cancel`` ends it.

        Args:
            method: The method's name.
            params: Its parameters.
            on_progress: Called in this task with the params of ``progress``; of several that wait, with the latest.

        Raises:
            RemoteError: The sidecar answered with an error.
            SidecarDied: The sidecar is gone.
            ProtocolViolation: The sidecar wrote what is no message of the protocol.
            ValueError: The params cannot be sent: they are no JSON, too long or nest too deep.
            anyio.ClosedResourceError: The client is closed.
        """
        async with self._request(method, params or {}, on_progress) as answer:
            return await answer.result()

    @asynccontextmanager
    async def stream(
        self, method: str, params: Mapping[str, Any] | None = None, *, on_progress: OnProgress | None = None
    ) -> AsyncIterator[Stream]:
        """Send a request whose answer streams. Left before its end, it is cancelled in the sidecar.

        Unless it has a ``key`` among its params, as ``call`` says.

        Args:
            method: ``chat`` or ``complete``, which are asked to stream, or ``resume``, which always does.
            params: Its parameters.
            on_progress: As for ``call``; it is called while the answer is iterated.

        Raises:
            SidecarDied: The sidecar is gone.
            ValueError: The params cannot be sent: they are no JSON, too long or nest too deep.
            anyio.ClosedResourceError: The client is closed.
        """
        wish = {} if method == "resume" else {"stream": True}
        async with self._request(method, {**(params or {}), **wish}, on_progress) as answer:
            yield answer

    def resume(self, key: str, *, after: int = -1) -> AbstractAsyncContextManager[Stream]:
        """Hear a request that was sent with ``key`` among its params on, also one of an earlier connection or sidecar.

        Used as ``stream`` is, which says what it raises; it begins after the piece ``after``, the ``Stream.seq`` that
        was reached before. Left before its end, the request runs on.
        """
        return self.stream("resume", {"key": key, "after": after})

    async def cancel(self, request: int | None = None, *, key: str | None = None) -> bool:
        """Have a running request end with its partial text; False where it had ended. Raises as ``call`` does.

        Args:
            request: The ``Stream.id`` of one of this client; with a key it ends for all who hear of it.
            key: Instead of it, the key that it was sent with, by whomever.
        """
        result = await self.call("cancel", {"request": request} if key is None else {"key": key})
        return bool(result["cancelled"])

    @asynccontextmanager
    async def subscribe(
        self, *, after: int | None = None, types: Sequence[str] | None = None
    ) -> AsyncIterator[Subscription]:
        """Follow the sidecar's event log. Raises as ``call`` does.

        Args:
            after: The log_seq after which to begin; None: with what happens from now on.
            types: Which types of events; None: all.
        """
        subscription = Subscription(self._open_subscription, self._close_subscription, after, types)
        await subscription.open()
        try:
            yield subscription
        finally:
            subscription.close()

    async def close(self) -> int | None:
        """End the sidecar and return its exit status; None where not even SIGKILL ended it.

        stdin ends first, and what runs gets the sidecar's drain time; then come SIGTERM and SIGKILL, each after a
        deadline. Leaving ``async with spawn()`` does the same; a second call finds nothing left to do.
        """
        self._closed = True
        self._outgoing.close()  # The writer sends what is queued, then the end of stdin.
        with anyio.CancelScope(shield=True):
            status = await self._process.leave(self._grace_s)
        self._serving.cancel()
        self._die(anyio.ClosedResourceError)
        return status

    # -------------------------------------------------------------------------------------------------- one request

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        params: Mapping[str, Any],
        on_progress: OnProgress | None,
        opening: Subscription | None = None,
    ) -> AsyncIterator[Stream]:
        request = next(self._ids)
        await self._send(request_line(method, params, request, limit_bytes=self._line_bytes))
        inbox = self._inboxes[request] = Inbox()
        if opening is not None:
            self._opening[request] = opening
        try:
            yield Stream(request, inbox, on_progress)
        finally:
            left_early = self._inboxes.pop(request, None) is not None
            if left_early and not _outlives_its_listener(method, params):
                self._note("cancel", {"request": request})

    async def _send(self, line: bytes) -> None:
        """Queue the line of a call as soon as there is room. A cancelled call has sent all of its line or nothing."""
        self._check()
        await self._places.acquire()
        self._check()
        self._outgoing.send_nowait((line, True))

    def _note(self, method: str, params: dict[str, Any]) -> None:
        """Queue a notification. To a sidecar that is gone there is nothing to say."""
        with suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):
            self._outgoing.send_nowait((request_line(method, params), False))

    def _check(self) -> None:
        if self._closed:
            raise anyio.ClosedResourceError
        if self._death is not None:
            raise self._death()

    async def _open_subscription(self, subscription: Subscription, params: dict[str, Any]) -> None:
        async with self._request("events.subscribe", params, None, opening=subscription) as answer:
            await answer.result()

    def _close_subscription(self, name: str) -> None:
        del self._subscriptions[name]
        self._note("events.unsubscribe", {"subscription": name})

    # ------------------------------------------------------------------------------------------------ lines and pipes

    async def serve(self) -> None:
        """Read, write and drain until ``close``; ``spawn`` runs this beside the host."""
        with self._serving:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._write_lines)
                tasks.start_soon(self._process.drain_stderr)
                await self._read_lines()

    async def _write_lines(self) -> None:
        reads = True
        async with self._process.stdin as stdin, self._to_write as lines:
            async for line, has_place in lines:
                try:
                    if reads:
                        await stdin.send(line)
                except anyio.BrokenResourceError:
                    reads = False  # It is about to leave. Whoever waits for a place hears of that from the reader.
                if has_place:
                    self._places.release()

    async def _read_lines(self) -> None:
        lines = LineReader(self._line_bytes)
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            while True:
                for line in lines.feed(await self._process.stdout.receive()):
                    self._route(line)
        # What stands unterminated at the end is of a line that the sidecar died in.
        status = await self._process.ended(EXIT_S)
        self._die(partial(SidecarDied, status, self._process.stderr_tail))

    def _route(self, line: bytes | TooLong) -> None:
        if self._death is not None:
            return  # After a violation what follows is read, so that the sidecar can leave, and not believed.
        try:
            self._deliver(parse(line))
        except ProtocolViolation as violation:
            self._die(partial(ProtocolViolation, *violation.args))

    def _deliver(self, incoming: Incoming) -> None:
        """Bring what has come to whom it is for. What is for nobody comes late, after a cancel, and is dropped."""
        match incoming:
            case ForRequest(request, Answered() | Failed() as end):
                inbox, opening = self._inboxes.pop(request, None), self._opening.pop(request, None)
                if opening is not None and isinstance(end, Answered):
                    self._register(opening, end.result, wanted=inbox is not None)
                if inbox is not None:
                    inbox.put(end)
            case ForRequest(request, arrival):
                if request in self._inboxes:
                    self._inboxes[request].put(arrival)
            case ForSubscription(name, event):
                if name in self._subscriptions:
                    self._subscriptions[name].put(event)
            case Ignored():
                pass
            case _:
                assert_never(incoming)

    def _register(self, subscription: Subscription, result: Any, *, wanted: bool) -> None:
        """Let a subscription have what follows. Not done in its own task, since events may follow in the next line."""
        name = result.get("subscription") if isinstance(result, dict) else None
        if not isinstance(name, str):
            raise ProtocolViolation(f"events.subscribe was answered with {result!r}")
        self._subscriptions[name] = subscription
        subscription.opened(name)
        if not wanted:  # Who asked was cancelled meanwhile.
            subscription.close()

    def _die(self, death: Callable[[], Exception]) -> None:
        """End every call that waits, each with an exception of its own."""
        if self._death is not None:
            return
        self._death = death
        for inbox in self._inboxes.values():
            inbox.put(Failed(death()))
        for subscription in self._subscriptions.values():
            subscription.fail(death())
        self._inboxes.clear()
        for _ in range(self._places.statistics().tasks_waiting):
            self._places.release()


def _outlives_its_listener(method: str, params: Mapping[str, Any]) -> bool:
    return method == "resume" or params.get("key") is not None
