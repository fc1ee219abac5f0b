"""Progress: how far long work is, told to the connections whose requests wait for it, coalesced.

A notification of progress changes nothing, so it is an aside. Knows who waits from the state, and nothing of the work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from mlzoo.core.state import calls_on, waiting_on

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlzoo.actors.ledger import Ledger
    from mlzoo.core.state import RequestState
    from mlzoo.events.commands import JsonObject
    from mlzoo.world import Clock

REMEMBERED = 1024  # stages whose last notification is known; forgetting them costs a notification more
EVERY_MS = 100  # at most one notification for each request and stage


class Notified(Protocol):
    """A connection, as progress sees it."""

    def notify(self, request: str, method: str, params: JsonObject) -> None:
        """Send a notification about a request to each of its calls that hears of it, recorded as an aside."""


class Progress:
    """Who hears of what."""

    def __init__(self, ledger: Ledger, clock: Clock, connections: Mapping[str, Notified]) -> None:
        self._ledger = ledger
        self._clock = clock
        self._connections = connections
        self._last: dict[tuple[str, str], int] = {}

    def of_model(self, model: str, stage: str, done: int, total: int, unit: str, message: str = "") -> None:
        """Tell everybody who waits for a model."""
        state = self._ledger.state
        waiting = waiting_on(state, model) + calls_on(state, model, "pull")
        for request in waiting:
            self._tell(request, model, stage, done, total, unit, message)

    def of_request(self, request: str, stage: str, done: int, total: int, unit: str) -> None:
        """Tell the one whose request it is."""
        found = self._ledger.state.requests.get(request)
        if found is not None and found.model is not None:
            self._tell(found, found.model.name, stage, done, total, unit, "")

    def _tell(
        self, request: RequestState, model: str, stage: str, done: int, total: int, unit: str, message: str
    ) -> None:
        connections = self._who_hears(request)
        if not connections:
            return
        now_ms = self._clock.awake_ms()
        key = (request.id, stage)
        last_ms = self._last.get(key)
        if last_ms is not None and now_ms - last_ms < EVERY_MS and done < total:
            return
        if len(self._last) >= REMEMBERED:
            self._last.clear()
        self._last[key] = now_ms
        params = {
            "model": model,
            "stage": stage,
            "done": done,
            "total": total,
            "unit": unit,
            "message": message or f"{stage} {done} of {total} {unit}",
        }
        for connection in connections:
            connection.notify(request.id, "progress", params)

    def _who_hears(self, request: RequestState) -> list[Notified]:
        """Return the connection that asked; of a request with a key any may hear."""
        if request.key:
            return list(self._connections.values())
        connection = self._connections.get(request.caller.connection) if request.caller else None
        return [] if connection is None else [connection]
