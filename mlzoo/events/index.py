"""What the log keeps in memory for its readers: its latest groups, and which groups speak of which request.

Both are bounded: the tail by its bytes, the index by whoever calls ``forget`` when a request needs no reader any more.
Knows nothing of files.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Any

import attrs
import orjson

from mlzoo.events.records import request_of

if TYPE_CHECKING:
    from mlzoo.events.records import Group


class Tail:
    """The groups at the end of the log: all that are not written yet, and before them up to a number of bytes."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._groups: dict[int, tuple[Group, int]] = {}
        self._size_bytes = 0

    def add(self, group: Group, size_bytes: int) -> None:
        """Take the next group."""
        self._groups[group.first_seq] = (group, size_bytes)
        self._size_bytes += size_bytes

    def add_told(self, group: Group, size_bytes: int, told: Any) -> None:
        """Take the next group, with a text that is not recorded, if there is one: no file will have it."""
        if told is not None and told is not group.text:
            group, size_bytes = attrs.evolve(group, text=told), size_bytes + len(orjson.dumps(told))
        self.add(group, size_bytes)

    def get(self, first_seq: int) -> Group | None:
        """Return the group that starts there, if it is still kept."""
        found = self._groups.get(first_seq)
        return found[0] if found is not None else None

    def replace(self, group: Group) -> None:
        """Take a group in the place of the one that starts there, if that is still kept."""
        found = self._groups.get(group.first_seq)
        if found is not None:
            self._groups[group.first_seq] = (group, found[1])

    def trim(self, written: int) -> None:
        """Drop the oldest groups over the limit; those that no file holds yet stay."""
        while self._size_bytes > self._limit_bytes:
            first_seq = next(iter(self._groups))
            group, size_bytes = self._groups[first_seq]
            if group.last_seq > written:
                return
            del self._groups[first_seq]
            self._size_bytes -= size_bytes


class RequestIndex:
    """For each request the first log_seq of each group that speaks of it."""

    def __init__(self) -> None:
        self._groups: dict[str, list[int]] = {}
        self._cut: set[str] = set()  # requests of which groups before the first place were not noted

    def add(self, group: Group) -> None:
        """Note whom a group speaks of."""
        for request in dict.fromkeys(map(request_of, group.events)):
            if request is not None:
                self._groups.setdefault(request, []).append(group.first_seq)

    def after(self, request: str, seq: int) -> int | None:
        """Return the first place after seq, or None where there is none or the request is unknown."""
        places = self._groups.get(request, [])
        found = bisect_right(places, seq)
        return places[found] if found < len(places) else None

    def oldest(self) -> int | None:
        """Return the first place of any request, or None where none is noted."""
        # Copied first, in one step: while a start folds the log, a thread of its own adds to it.
        return min((places[0] for places in tuple(self._groups.values())), default=None)

    def cut(self, request: str) -> None:
        """Note that a request began before whatever will be noted of it."""
        self._cut.add(request)

    def knows_after(self, request: str) -> int | None:
        """Return the log_seq after which all groups that speak of the request were noted; None: none was noted."""
        places = self._groups.get(request)
        if places is None:
            return None
        return places[0] - 1 if request in self._cut else 0

    def forget(self, request: str) -> None:
        """Drop a request's places."""
        self._groups.pop(request, None)
        self._cut.discard(request)
