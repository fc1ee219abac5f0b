"""Who is next: waiting requests, slots, prompts to read and rows to decode. Bookkeeping only.

Knows requests by their ids and lengths; nothing of models, tensors or text. First come, first served, but what is
interactive before a batch: one long prompt is read at a time; while rows decode, reading and decoding take turns, so
that a long prompt delays each token by one chunk at most. A prompt of a batch that is half read stands back, too; not
for ever.

Where a prompt may be cut anywhere, and read beside others in one forward, the chunks of a turn are smaller while rows
decode, and larger while none does, or while fewer decode than wait to begin: of those who come together, the first
would hold up all others.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 8  # chunks of interactive prompts that are read while one of a batch stands back, before its next one
BUDGET = 128  # tokens of short prompts that are read in one turn, while rows decode
FREE_BUDGET = 256  # tokens of such prompts that are read in one turn, while none does: one forward


@attrs.define
class Place:
    """Where a request stands."""

    request: str
    prompt: int  # tokens
    batch: bool = False  # whether interactive ones go before it
    free: bool = False  # whether the prompt may be cut anywhere, and read beside others in one forward
    slot: int = -1
    read: int = 0  # tokens of the prompt that are in the slot, or are about to be

    @property
    def decodes(self) -> bool:
        """Whether the prompt is read and the row decodes."""
        return self.read == self.prompt


@attrs.frozen
class Chunk:
    """A part of a prompt to read: tokens start to stop of a request."""

    request: str
    slot: int
    start: int
    stop: int
    last: bool
    free: bool = False  # it may be read beside others in one forward


class Scheduler:
    """Gives slots to requests and says what the next forward is.

    Args:
        slots: How many rows there are.
        chunk: Tokens that one forward reads of a prompt at most; None: a prompt is read whole.
        joined: How many chunks may be read as one while no row decodes.
        seat: Hears that a request gets a slot, and returns how many tokens of its prompt are in it from the start;
            never all.
        pace: Says how many tokens of a prompt that may be cut anywhere are read between two steps of rows.
    """

    def __init__(
        self,
        slots: int,
        chunk: int | None,
        joined: int = 1,
        seat: Callable[[str, int], int] = lambda _request, _slot: 0,
        pace: Callable[[], int] = lambda: FREE_BUDGET,
    ) -> None:
        self._chunk, self._joined, self._seat, self._pace = chunk, joined, seat, pace
        self._free = list(range(slots - 1, -1, -1))
        self._waiting: deque[Place] = deque()
        self._running: dict[str, Place] = {}
        self._read_last = False
        self._stood_back = 0  # chunks of interactive prompts that were read since one of a batch could have been

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not self._waiting and not self._running

    @property
    def reads(self) -> bool:
        """Whether a prompt is to be read that has a slot, or would get one."""
        return bool(self._waiting and self._free) or not all(place.decodes for place in self._running.values())

    def add(self, request: str, prompt: int, *, batch: bool = False, free: bool = False) -> None:
        """Take in a request with a prompt of so many tokens; free is one that may be cut anywhere."""
        self._waiting.append(Place(request, prompt, batch, free))

    def remove(self, request: str) -> Place | None:
        """Forget a request; its slot is free. None where it is unknown."""
        place = self._running.pop(request, None)
        if place is not None:
            self._free.append(place.slot)
            self._free.sort(reverse=True)
            return place
        place = next((place for place in self._waiting if place.request == request), None)
        if place is not None:
            self._waiting.remove(place)
        return place

    def rows(self) -> list[Place]:
        """Return what decodes, by slot: neighbours in the cache are neighbours in the batch."""
        return sorted((place for place in self._running.values() if place.decodes), key=lambda place: place.slot)

    def next_chunks(self) -> list[Chunk]:
        """Return what to read now; empty where rows are to decode instead, or nothing is to be read.

        Unless a prompt is free, a chunk's borders depend on it alone, whatever else runs (see ``SlotDecoder``).
        """
        rows = any(place.decodes for place in self._running.values())
        if self._read_last and rows:
            self._read_last = False
            return []
        chunks: list[Chunk] = []
        read, budget = 0, self._free_budget()
        while (chunk := self._next_chunk(rows=rows, read=read, budget=budget)) is not None:
            chunks.append(chunk)
            read += chunk.stop - chunk.start
            if not chunk.last:
                break
        self._read_last = bool(chunks)
        return chunks

    def _free_budget(self) -> int:
        """Return how many tokens are read in a turn of prompts that may be cut anywhere."""
        decoding = [place for place in self._running.values() if place.decodes]
        beginning = [place for place in self._running.values() if not place.decodes]
        beginning += islice(self._waiting, len(self._free))
        if not all(place.batch for place in decoding):
            beginning = [place for place in beginning if not place.batch]
        return FREE_BUDGET if len(beginning) > len(decoding) or not decoding else self._pace()

    def _next_chunk(self, *, rows: bool, read: int, budget: int) -> Chunk | None:
        """Return what is read next in a turn that has read so many tokens, while rows decode or none does.

        Free prompts have a budget of their own.
        """
        found = [place for place in self._running.values() if not place.decodes]
        if self._free:
            found += self._waiting
        if not found:
            return None
        place = min(found, key=lambda place: place.batch != (self._stood_back >= PATIENCE))  # of equals the first
        most = max(BUDGET // 2, budget) if place.free else BUDGET
        if read and read + self._size(place, rows=rows, budget=budget) > most:
            return None  # The turn's first chunk may be of any size, what follows must fit.
        if place.slot < 0:
            self._waiting.remove(place)
            place.slot = self._free.pop()
            self._running[place.request] = place
            place.read = self._seat(place.request, place.slot)
        size = self._size(place, rows=rows, budget=budget)
        self._stood_back = self._stood_back + 1 if not place.batch and any(one.batch for one in found) else 0
        start, place.read = place.read, place.read + size
        return Chunk(place.request, place.slot, start, place.read, last=place.decodes, free=place.free)

    def _size(self, place: Place, *, rows: bool, budget: int) -> int:
        left, chunk, joined = place.prompt - place.read, self._chunk, 1 if rows else self._joined
        if place.free:
            return min(left, budget)
        if chunk is None or left <= chunk:
            return left
        if place.read % (chunk * joined) and place.read % chunk == 0:
            return chunk  # Attention may add up a pair that begins at an odd chunk in another order than each alone.
        # Only whole chunks are joined: the rest at the end has the same size in every company.
        return chunk * min(joined, left // chunk)
