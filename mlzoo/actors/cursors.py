"""Cursors: where one connection stands in the log, for each of its requests and subscriptions.

While the host does not read, cursors wait and nothing is held in memory: what it has not taken lies on disk. Knows how
pieces become lines; knows nothing of methods, of asides or of where the bytes go.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, assert_never

import attrs

from mlzoo.errors import MlzooError, OutOfRange, TooLarge
from mlzoo.events.records import request_of
from mlzoo.transport import jsonrpc
from mlzoo.transport.jsonrpc import Id
from mlzoo.views import HELD_BYTES, Attached, Delta, Refusal, RequestView, Result, Unheld, event_params

if TYPE_CHECKING:
    from mlzoo.actors.hub import Hub
    from mlzoo.errors import Failure
    from mlzoo.events.commands import JsonObject
    from mlzoo.events.log import Log
    from mlzoo.events.records import Group

TURN_GROUPS = 8  # of one request, before the next one gets its turn; they share what is read meanwhile
SCAN_GROUPS = 256  # of any, where one request's are looked for among others
SUBSCRIPTION_TURN_GROUPS = 64
CHUNK_BYTES = 64 * 1024


@attrs.define(eq=False)
class Cursor:
    """Where a connection stands in one request.

    Attributes:
        rpc: The host's id of the call that is answered.
        view: Of the request whose story is told: the call's own, or the one that its key names.
        stream: Whether the host wants the pieces as well.
        end: Called with the line that answers the call.
        after: The last piece that the host has.
        upto_seq: Where the story has ended, if that was so when it was asked for.
        accepted_seq: Where it began, if it is that of another call, which came with the same key.
        gathers: Whether the story is read for the second time, for the text that its end holds.
    """

    rpc: Id
    view: RequestView
    stream: bool
    end: Callable[[bytes], bytes]
    after: int = -1
    upto_seq: int | None = None
    accepted_seq: int | None = None
    gathers: bool = False


@attrs.define(eq=False)
class Subscription:
    """Where a connection stands in the whole log."""

    name: str
    after_seq: int
    types: frozenset[str] | None


class Cursors:
    """All places of one connection.

    Args:
        log: what is read.
        hub: says when there is something to read.
        line_bytes: the longest line.
        news: called when there is something to read.
    """

    def __init__(self, log: Log, hub: Hub, line_bytes: int, news: Callable[[], None]) -> None:
        self._log = log
        self._hub = hub
        self._line_bytes = line_bytes
        self._news = news
        self._cursors: dict[str, Cursor] = {}
        self._ready: OrderedDict[str, None] = OrderedDict()
        self._subscriptions: dict[str, Subscription] = {}
        self._subscriptions_ready = False

    def __bool__(self) -> bool:
        """Whether any request is open."""
        return bool(self._cursors)

    @property
    def ready(self) -> bool:
        """Whether there may be something to read."""
        return bool(self._ready) or self._subscriptions_ready

    @property
    def subscribed(self) -> int:
        """How many subscriptions there are."""
        return len(self._subscriptions)

    def follow(self, request: str, rpc: Id, *, stream: bool, end: Callable[[bytes], bytes]) -> None:
        """Read a request from now on.

        Args:
            request: its id in the log.
            rpc: the host's id of the call that is answered.
            stream: whether the host wants the pieces as well.
            end: given the line that answers the call, once; returns what of it goes out now.
        """
        self._cursors[request] = Cursor(
            rpc, RequestView(request, self._log.get_blob, held_bytes=HELD_BYTES), stream, end
        )
        self._hub.follow(request, self, request)

    def subscribe(self, subscription: Subscription) -> None:
        """Read everything after a place, from now on."""
        self._subscriptions[subscription.name] = subscription
        self._hub.subscribe(self)
        self.wake_all()

    def unsubscribe(self, name: str) -> bool:
        """End a subscription; False where there is none of that name."""
        found = self._subscriptions.pop(name, None) is not None
        if not self._subscriptions:
            self._hub.unsubscribe(self)
        return found

    def calls_about(self, request: str) -> list[Id]:
        """Return the host's ids of the calls that hear of a request."""
        return [self._cursors[cursor].rpc for cursor in self._hub.cursors(request, self)]

    def heard_by(self, request: str) -> str:
        """Return which request a call hears of: its own, or the one that its key names."""
        cursor = self._cursors.get(request)
        return request if cursor is None else cursor.view.request

    def wake(self, cursor: str) -> None:
        """See ``Reader``."""
        if cursor in self._cursors:
            self._ready[cursor] = None
            self._news()

    def wake_all(self) -> None:
        """See ``Reader``."""
        self._subscriptions_ready = True
        self._news()

    def fail(self, failure: Failure) -> list[bytes]:
        """Return the lines that answer every open request with a failure, and read nothing more."""
        lines: list[bytes] = []
        for request, cursor in tuple(self._cursors.items()):
            self._end(request, cursor, jsonrpc.error_line(cursor.rpc, failure, self._line_bytes), lines)
        self._ready.clear()
        return lines

    def close(self) -> None:
        """Read nothing any more."""
        for request, cursor in self._cursors.items():
            self._hub.unfollow(cursor.view.request, self, request)
        self._cursors.clear()
        self._hub.unsubscribe(self)

    def read(self) -> bytes:
        """Return the next lines, about CHUNK_BYTES of them at most; what is returned has been taken off its cursor."""
        lines: list[bytes] = []
        size_bytes = 0
        while self._ready and size_bytes < CHUNK_BYTES:
            request, _ = self._ready.popitem(last=False)
            size_bytes += self._read_request(request, lines)
        if self._subscriptions_ready:
            self._read_subscriptions(lines)
        return b"".join(lines)

    def _read_request(self, request: str, lines: list[bytes]) -> int:
        """Move one cursor on; return how many bytes that gave."""
        cursor = self._cursors.get(request)
        if cursor is None:
            return 0
        before = len(lines)
        try:
            if self._is_dropped(cursor):
                self._tell_kept(request, cursor, lines)
            else:
                self._read_groups(request, cursor, lines)
        except MlzooError as error:  # What the host did not take in time is not kept any more, or it is damaged.
            self._end(request, cursor, jsonrpc.error_line(cursor.rpc, error.failure(), self._line_bytes), lines)
        return sum(map(len, lines[before:]))

    def _is_dropped(self, cursor: Cursor) -> bool:
        """Whether records that a key stands for have been dropped; then what they said has been copied before."""
        return cursor.accepted_seq is not None and cursor.view.after_seq < self._log.oldest_seq - 1

    def _tell_kept(self, request: str, cursor: Cursor, lines: list[bytes]) -> None:
        """Tell the rest of a story that was copied out of the log."""
        kept = self._log.answers.find(cursor.view.request, cursor.accepted_seq or 0)
        if kept is None:
            raise OutOfRange("the story of this request is not kept any more", oldest=cursor.after + 1)
        if cursor.stream:
            for seq, delta in enumerate(kept.pieces[cursor.after + 1 :], cursor.after + 1):
                params = {"request": cursor.rpc, "seq": seq, "delta": delta}
                lines.append(jsonrpc.notification_line("stream", params, self._line_bytes))
        if kept.failure is not None:
            line = jsonrpc.error_line(cursor.rpc, kept.failure, self._line_bytes)
        else:
            line = jsonrpc.result_line(cursor.rpc, kept.result, self._line_bytes)
        self._end(request, cursor, line, lines)

    def _read_groups(self, request: str, cursor: Cursor, lines: list[bytes]) -> None:
        view, turn = cursor.view, 0
        for scanned, group in enumerate(self._log.groups_of(view.request, view.after_seq), start=1):
            if cursor.upto_seq is not None and group.first_seq > cursor.upto_seq:
                raise OutOfRange("the story of this request is not in the log any more", oldest=cursor.after + 1)
            if any(request_of(event) == view.request for event in group.events):
                if not self._log.is_shown(group):
                    break
                turn += 1
            self._read_group(request, cursor, group, lines)
            if self._cursors.get(request) is not cursor or cursor.view is not view:
                break
            if turn == TURN_GROUPS or scanned == SCAN_GROUPS:
                self._ready[request] = None  # There may be more; the others come first.
                break
        if cursor.gathers and request in self._ready:  # One long answer in memory at a time.
            self._ready.move_to_end(request, last=False)

    def _read_group(self, request: str, cursor: Cursor, group: Group, lines: list[bytes]) -> None:
        for piece in cursor.view.read(group):
            match piece:
                case Delta():
                    if cursor.stream and piece.seq > cursor.after:
                        params = {"request": cursor.rpc, "seq": piece.seq, "delta": piece.delta}
                        lines.append(jsonrpc.notification_line("stream", params, self._line_bytes))
                        cursor.after = piece.seq
                case Result():
                    line = jsonrpc.result_line(cursor.rpc, piece.result, self._line_bytes)
                    self._end(request, cursor, line, lines)
                case Refusal():
                    line = jsonrpc.error_line(cursor.rpc, piece.failure, self._line_bytes)
                    self._end(request, cursor, line, lines)
                case Attached():
                    self._attach(request, cursor, piece)
                case Unheld():
                    cursor.view, cursor.stream, cursor.gathers = piece.whole, False, True
                    self._ready[request] = None
                case _:
                    assert_never(piece)

    def _attach(self, request: str, cursor: Cursor, piece: Attached) -> None:
        """Move a cursor over to the request that its call's key names, where that one begins."""
        event = piece.event
        self._hub.unfollow(request, self, request)
        begins_after = event.from_seq - 2  # before the group of its acceptance, which is the first event of it
        cursor.view = RequestView(
            event.target, self._log.get_blob, after_seq=begins_after, since=piece.since, held_bytes=HELD_BYTES
        )
        cursor.stream, cursor.after, cursor.upto_seq = event.stream, event.after, event.upto_seq
        cursor.accepted_seq = event.from_seq
        self._hub.follow(event.target, self, request)
        self._ready[request] = None

    def _end(self, request: str, cursor: Cursor, line: bytes, lines: list[bytes]) -> None:
        del self._cursors[request]
        self._hub.unfollow(cursor.view.request, self, request)
        lines.append(cursor.end(line))

    def _read_subscriptions(self, lines: list[bytes]) -> None:
        self._subscriptions_ready = False
        for subscription in tuple(self._subscriptions.values()):
            try:
                self._read_events(subscription, lines)
            except MlzooError as error:  # As above; nothing more can come of it, and the host hears so.
                self.unsubscribe(subscription.name)
                failure = (self._log.failed or error).failure()  # One that failed ends before what was asked for.
                shown = {"code": failure.code, "message": failure.message, "data": failure.data}
                params = {"subscription": subscription.name, "error": shown}
                lines.append(jsonrpc.notification_line("subscription_ended", params))

    def _read_events(self, subscription: Subscription, lines: list[bytes]) -> None:
        size_bytes = 0
        for group in self._log.read(subscription.after_seq, SUBSCRIPTION_TURN_GROUPS):
            if size_bytes >= CHUNK_BYTES or not self._log.is_shown(group):
                break
            for index in range(len(group.events) + 1):
                params = event_params(group, index)
                if params["log_seq"] <= subscription.after_seq:
                    continue
                if subscription.types is None or params["type"] in subscription.types:
                    lines.append(self._event_line({"subscription": subscription.name, **params}))
                    size_bytes += len(lines[-1])
            subscription.after_seq = group.last_seq
            self._subscriptions_ready = True  # There may be more.

    def _event_line(self, shown: JsonObject) -> bytes:
        """Return an event; one whose text makes it too long for a line goes without its text."""
        try:
            return jsonrpc.notification_line("event", shown, self._line_bytes)
        except TooLarge:
            shown.pop("text", None)
            return jsonrpc.notification_line("event", shown, self._line_bytes)
