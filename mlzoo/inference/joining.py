"""Which rows of which requests go into the next forward: of all that has arrived, fairly, and of like length.

Rows are numbers with a length here; nothing is known of texts, models or frames. A request that comes now goes with the
next forward: what waits has no claim to be finished first, and nobody waits for company.

Source: Demers, Keshav and Shenker, "Analysis and Simulation of a Fair Queueing Algorithm", 1989: whoever has been given
the least goes first, and a newcomer begins where somebody stands who had an equal share of all that was computed, so
that neither starves the other.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Sequence

WINDOW = 4  # forwards, out of whose rows one is put together: the more, the more alike are their lengths
WINDOW_ROWS = 512  # that it is at least


@attrs.frozen
class Place:
    """A row of a request."""

    request: str
    row: int
    length: int


@attrs.define
class Waiting:
    """A request, and those of its rows that are still to be computed, the longest first."""

    request: str
    number: int  # of its arrival
    batch: bool  # whether others go first
    served: float  # what it was given, in tokens, counted from where others stood when it came
    left: list[Place]
    is_new: bool = True  # whether it was given nothing yet: then it goes before those that stand where it stands


class Joiner:
    """Puts forwards together.

    Args:
        tokens: of one forward at most, padding included; one row may be longer.
        rows: of one forward at most.
        padding: tokens of one forward at most that are none: as many as take the time that another forward costs.
    """

    def __init__(self, tokens: int, rows: int, padding: int) -> None:
        self._tokens = tokens
        self._rows = rows
        self._padding = padding
        self._window_rows = max(WINDOW * rows, WINDOW_ROWS)
        self._window_tokens = tokens * self._window_rows // rows
        self._waiting: dict[str, Waiting] = {}
        self._arrived = 0
        self._stand = 0.0  # of somebody with an equal share of what was computed, in tokens

    def __bool__(self) -> bool:
        """Whether there is a row to be computed."""
        return bool(self._waiting)

    def add(self, request: str, lengths: Sequence[int], *, batch: bool = False) -> None:
        """Take in a request with at least one row."""
        rows = [Place(request, row, length) for row, length in enumerate(lengths)]
        rows.sort(key=lambda place: -place.length)
        self._waiting[request] = Waiting(request, self._arrived, batch, self._stand, rows)
        self._arrived += 1

    def drop(self, request: str) -> None:
        """Forget the rows of a request that were not taken yet; an unknown one is no error."""
        self._waiting.pop(request, None)

    def take(self) -> list[Place]:
        """Return the rows of the next forward, the longest first; none where there are none.

        It is made for who has been given the least: a row of theirs is among them. The others are those that come
        next in the same order and are of like length.
        """
        if not self._waiting:
            return []
        window = self._window()
        first = window[0]
        taken = next(rows for rows in self._split(window) if first in rows)
        self._give(taken)
        return taken

    def _window(self) -> list[Place]:
        """Return the rows that come next, each in its turn: as many as a few forwards hold."""
        heap = [(w.batch, w.served, not w.is_new, w.number, w.request, 0) for w in self._waiting.values()]
        heapq.heapify(heap)
        found: list[Place] = []
        tokens = 0
        while heap and tokens < self._window_tokens and len(found) < self._window_rows:
            batch, served, _, number, request, at = heap[0]
            left = self._waiting[request].left
            place = left[at]
            found.append(place)
            tokens += place.length
            if at + 1 < len(left):
                heapq.heapreplace(heap, (batch, served + place.length, True, number, request, at + 1))
            else:
                heapq.heappop(heap)
        return found

    def _split(self, window: list[Place]) -> list[list[Place]]:
        """Return rows as forwards within the bounds, each of like length: one long text makes no others as long."""
        forwards: list[list[Place]] = []
        padding = 0
        for place in sorted(window, key=lambda place: -place.length):
            rows = forwards[-1] if forwards else []
            longest = rows[0].length if rows else place.length
            padding += longest - place.length
            is_full = len(rows) == self._rows or longest * (len(rows) + 1) > self._tokens
            if not rows or is_full or padding > self._padding:
                rows, padding = [], 0
                forwards.append(rows)
            rows.append(place)
        return forwards

    def _give(self, taken: list[Place]) -> None:
        rows: dict[str, set[int]] = {}
        for place in taken:
            rows.setdefault(place.request, set()).add(place.row)
        self._stand += sum(place.length for place in taken) / len(self._waiting)
        for place in taken:
            self._waiting[place.request].served += place.length
            self._waiting[place.request].is_new = False
        for request, gone in rows.items():
            waiting = self._waiting[request]
            waiting.left = [place for place in waiting.left if place.row not in gone]
            if not waiting.left:
                del self._waiting[request]
