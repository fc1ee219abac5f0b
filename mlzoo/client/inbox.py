"""What has arrived for one request and was not taken yet: bounded, whatever its consumer does.

Knows nothing of processes and lines. One task puts and never waits; another one takes. The bounds are no loss: the
latest progress stands for all before it, and deltas that wait too long are joined, since a stream's deltas
concatenate to the final message. So an inbox never holds more than the one answer, which fits into one line anyway.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, assert_never

import anyio
import attrs

from mlzoo.client.errors import ProtocolViolation

DELTAS = 256  # How many deltas wait one by one; those that follow are joined to the last of them.


@attrs.frozen
class Delta:
    """A piece of a stream; seq is that of the last piece in it."""

    seq: int
    content: Mapping[str, Any]


@attrs.frozen
class Progress:
    """How far something long is."""

    params: Mapping[str, Any]


@attrs.frozen
class Answered:
    """The end of a request: its result."""

    result: Any


@attrs.frozen
class Failed:
    """The other end of a request: what is to be raised."""

    error: Exception


Arrival = Delta | Progress | Answered | Failed


class Inbox:
    """See the module. For one consumer."""

    def __init__(self) -> None:
        self._deltas: deque[Delta] = deque()
        self._seq: int | None = None  # Of the last delta that was put. The first of a resumed stream may have any.
        self._progress: Progress | None = None
        self._end: Answered | Failed | None = None
        self._arrived = anyio.Event()

    def put(self, arrival: Arrival) -> None:
        """Add what has arrived; after an end nothing counts any more."""
        if self._end is not None:
            return
        match arrival:
            case Delta():
                self._put_delta(arrival)
            case Progress():
                self._progress = arrival
            case Answered() | Failed():
                self._end = arrival
            case _:
                assert_never(arrival)
        self._arrived.set()

    async def take(self) -> Arrival:
        """Wait for what comes next and return it: progress, deltas in order, then for ever the end."""
        await anyio.lowlevel.checkpoint()
        while True:
            if self._progress is not None:
                progress, self._progress = self._progress, None
                return progress
            if self._deltas:
                return self._deltas.popleft()
            if self._end is not None:
                return self._end
            self._arrived = anyio.Event()
            await self._arrived.wait()

    def _put_delta(self, delta: Delta) -> None:
        if self._seq is not None and delta.seq != self._seq + 1:
            self._end = Failed(ProtocolViolation(f"piece {delta.seq} of a stream came after piece {self._seq}"))
        elif len(self._deltas) < DELTAS:
            self._deltas.append(delta)
        else:
            self._deltas[-1] = Delta(delta.seq, joined(self._deltas[-1].content, delta.content))
        self._seq = delta.seq


def joined(first: Mapping[str, Any], second: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the one delta that says what two said in turn: strings and lists concatenate, else the later one holds."""
    both = {**first, **second}
    for name in first.keys() & second.keys():
        pair = (first[name], second[name])
        if all(isinstance(value, str) for value in pair) or all(isinstance(value, list) for value in pair):
            both[name] = first[name] + second[name]
    return both
