"""The hub: tells readers of the log that there is something to read. It carries news, never content.

A group is shown as soon as it is written, and one that must be durable as soon as it is synced; who then reads it, and
when, is each reader's own affair.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

import trio

from mlzoo.events.records import is_terminal, request_of

if TYPE_CHECKING:
    from mlzoo.events.log import Log
    from mlzoo.events.records import Group


class Reader(Protocol):
    """Whoever follows requests, or the whole log."""

    def wake(self, cursor: str) -> None:
        """There may be more to read for a cursor, which is named by the request that was asked."""

    def wake_all(self) -> None:
        """There may be more to read of the log."""


class Hub:
    """Who follows what. Lives as long as the log."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._readers: dict[str, dict[tuple[Reader, str], None]] = {}
        self._ended: set[str] = set()  # requests whose end somebody has still to read
        self._subscribers: dict[Reader, None] = {}
        self._unsynced: deque[Group] = deque()
        self._progressed: trio.Event | None = None  # made where somebody waits
        log.on_progress.append(self._progress)

    def follow(self, request: str, reader: Reader, cursor: str) -> None:
        """Wake a cursor of reader for a request until it is unfollowed."""
        self._readers.setdefault(request, {})[reader, cursor] = None

    def unfollow(self, request: str, reader: Reader, cursor: str) -> None:
        """Wake that cursor no more. Once nobody reads a request that has ended, the log's index gives it up."""
        readers = self._readers.get(request, {})
        readers.pop((reader, cursor), None)
        if readers:
            return
        self._readers.pop(request, None)
        if request in self._ended:
            self._ended.discard(request)
            self._log.forget_index(request)

    def cursors(self, request: str, reader: Reader) -> list[str]:
        """Return the cursors of a reader that follow a request."""
        return [cursor for follower, cursor in self._readers.get(request, ()) if follower is reader]

    def subscribe(self, reader: Reader) -> None:
        """Wake reader for everything."""
        self._subscribers[reader] = None

    def unsubscribe(self, reader: Reader) -> None:
        """Wake it no more."""
        self._subscribers.pop(reader, None)

    def show(self, groups: list[Group]) -> None:
        """Take note of groups that have just been written."""
        for group in groups:
            if self._log.is_shown(group):
                self._wake(group)
            else:
                self._unsynced.append(group)

    async def wait_shown(self) -> None:
        """Return once all that was written is shown, or never will be, since the log has failed."""
        while self._unsynced and self._log.failed is None:
            self._progressed = self._progressed or trio.Event()
            await self._progressed.wait()

    def _progress(self) -> None:
        while self._unsynced and self._log.is_shown(self._unsynced[0]):
            self._wake(self._unsynced.popleft())
        if self._progressed is not None:
            self._progressed.set()
            self._progressed = None

    def _wake(self, group: Group) -> None:
        for event in group.events:
            request = request_of(event)
            if request is None:
                continue
            readers = self._readers.get(request)
            if readers:
                for reader, cursor in tuple(readers):
                    reader.wake(cursor)
                if is_terminal(event):
                    self._ended.add(request)
            elif is_terminal(event):
                self._log.forget_index(request)  # Whoever asked has gone; nobody will read it.
        for subscriber in self._subscribers:
            subscriber.wake_all()
