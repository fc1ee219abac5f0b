"""Events of the sidecar's log, in order and without a gap, for a consumer of any speed.

Knows nothing of lines and processes. What has been sent and was not taken is bounded; a consumer that falls behind
loses nothing, since every event stands in the log: its subscription is ended, and when it has caught up with what was
kept, it subscribes again after the last event that it saw.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import anyio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

EVENTS = 1024  # How many events wait for the consumer.


class Subscription:
    """Iterate over it: each event is the params of an ``event`` notification. For one consumer.

    Attributes:
        log_seq: The place in the log of the last event that was taken.
    """

    def __init__(
        self,
        subscribe: Callable[[Subscription, dict[str, Any]], Awaitable[None]],
        unsubscribe: Callable[[str], None],
        after: int | None,
        types: Sequence[str] | None,
    ) -> None:
        self.log_seq = after
        self._subscribe = subscribe
        self._unsubscribe = unsubscribe
        self._types = types
        self._name: str | None = None  # None: the sidecar sends nothing.
        self._events: deque[dict[str, Any]] = deque()
        self._error: Exception | None = None
        self._changed = anyio.Event()

    async def open(self) -> None:
        """Subscribe, after the last event that was taken."""
        wishes = {"after": self.log_seq, "types": None if self._types is None else list(self._types)}
        await self._subscribe(self, {name: wish for name, wish in wishes.items() if wish is not None})

    def close(self) -> None:
        """Unsubscribe, without waiting."""
        if self._name is not None:
            self._unsubscribe(self._name)
            self._name = None

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> dict[str, Any]:
        """Return the next event; there is always a next one. Raises as ``Client.call`` does."""
        await anyio.lowlevel.checkpoint()
        while not self._events:
            if self._error is not None:
                raise self._error
            if self._name is None:
                await self.open()
                continue
            self._changed = anyio.Event()
            await self._changed.wait()
        event = self._events.popleft()
        self.log_seq = event["log_seq"]
        return event

    def opened(self, name: str) -> None:
        """Note what the sidecar calls this subscription; its events follow."""
        self._name = name

    def put(self, event: dict[str, Any]) -> None:
        """Add an event, or end the subscription for now where too many wait already."""
        if len(self._events) < EVENTS:
            self._events.append(event)
        else:
            self.close()
        self._changed.set()

    def fail(self, error: Exception) -> None:
        """End it for good."""
        self._error = error
        self._changed.set()
