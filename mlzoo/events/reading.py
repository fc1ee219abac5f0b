"""Reading groups by place or by request: from memory where they are kept there, else from the segments.

What was read from a segment is remembered for a while, since readers that fell behind read the same groups, one after
the other, each for its own request. Knows nothing of who reads, nor of whether what it finds may be shown yet.
"""

from __future__ import annotations

from collections import deque
from functools import cached_property
from itertools import islice, takewhile
from typing import TYPE_CHECKING

from mlzoo.errors import LogUnusable, OutOfRange
from mlzoo.events.codec import groups_in, groups_of
from mlzoo.events.segments import damaged, unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlzoo.events.history import HistoryReader
    from mlzoo.events.index import RequestIndex, Tail
    from mlzoo.events.records import Group
    from mlzoo.events.segments import Segments


AHEAD_BYTES = 256 * 1024  # of records that are decoded at once where one is wanted that memory does not have
REMEMBERED = 4  # times that: readers take turns, and each begins where the one before it began


class GroupReader:
    """Reads the groups of one log."""

    def __init__(self, segments: Segments, tail: Tail, index: RequestIndex) -> None:
        self._segments = segments
        self._tail = tail
        self._index = index
        self._ahead: dict[int, Group] = {}  # read from segments not long ago, by their first log_seq
        self._read: deque[tuple[int, ...]] = deque()  # which of them were read at once, the latest at the end

    def after(self, seq: int) -> Iterator[Group]:
        """Yield the groups that end after a log_seq; the last ones may not be written yet.

        Raises:
            OutOfRange: The place lies before what is kept (type expired).
            LogUnusable: What was read is damaged, or records are missing between what is there.
        """
        if seq < next(iter(self._segments.sizes)) - 1:
            raise self._expired(seq)
        if self._tail.get(seq + 1) is None:
            for group in groups_in(self._lines_from(seq + 1)):
                if group.last_seq > seq:
                    if group.first_seq > seq + 1:
                        raise self._gone(seq + 1, group.first_seq)
                    yield group
                    seq = group.last_seq
                    if self._tail.get(seq + 1) is not None:
                        break
        while (found := self._tail.get(seq + 1)) is not None:
            yield found
            seq = found.last_seq

    def some(self, seq: int, limit: int, last_seq: int) -> list[Group]:
        """Return up to limit groups that end after a log_seq and up to last_seq; fails as ``after`` at the first."""
        found: list[Group] = []
        try:
            found.extend(islice(takewhile(lambda group: group.last_seq <= last_seq, self.after(seq)), limit))
        except LogUnusable:
            if not found:
                raise  # Otherwise what is damaged stands behind what is told.
        return found

    def segment_after(self, seq: int) -> int | None:
        """Return where the first segment begins that begins after a log_seq; None where there is none."""
        return next((first for first in self._segments.sizes if first > seq), None)

    def whole_segment(self, first: int, last_seq: int) -> Iterator[Group]:
        """Yield the groups of a segment up to last_seq; it is verified as a whole before the first.

        Raises:
            LogUnusable: Damaged, or written by a newer version.
        """
        found, lines = self._segments.load(first)
        if found.last_seq < last_seq:
            raise damaged(self._segments.path(first), found.whole_bytes)
        for group in groups_of(lines):
            if group.first_seq > last_seq:
                return
            yield group

    def of_request(self, request: str, after_seq: int) -> Iterator[Group]:
        """Yield the groups that speak of a request and start after a log_seq.

        What the index does not have, because it lies before what was replayed or was forgotten, is looked for on disk,
        and then all groups between are yielded as well: who reads decides how much is read at a time.
        """
        indexed_after = self._index.knows_after(request)
        if indexed_after is None or after_seq < indexed_after:
            # One that was read from before may have lost what follows; that is for ``after`` to say.
            start = after_seq or next(iter(self._segments.sizes)) - 1
            for group in self.after(start):
                if indexed_after is not None and group.first_seq > indexed_after:
                    break
                if group.first_seq > after_seq:
                    yield group
                    after_seq = group.first_seq
        while (place := self._index.after(request, after_seq)) is not None:
            yield self._tail.get(place) or self._at(place)
            after_seq = place

    def forget(self) -> None:
        """Remember nothing of what was read."""
        self._ahead = {}
        self._read.clear()
        if "history" in self.__dict__:
            self.history.forget()

    @cached_property
    def history(self) -> HistoryReader:
        """Who reads histories of conversations from here."""
        from mlzoo.events.history import HistoryReader  # noqa: PLC0415 (not on the way to the first ping)

        return HistoryReader(self.of_request, self.after)

    def _at(self, seq: int) -> Group:
        if seq not in self._ahead:
            found: dict[int, Group] = {}
            try:
                for some in self._some_from(seq):
                    if some.first_seq not in self._ahead:
                        found[some.first_seq] = some
            except LogUnusable:
                if seq not in found:
                    raise  # Otherwise what is damaged stands behind what is wanted.
            self._ahead |= found
            self._read.append(tuple(found))
            if len(self._read) > REMEMBERED:
                for old in self._read.popleft():
                    del self._ahead[old]
        group = self._ahead.get(seq)
        if group is None:
            raise self._expired(seq)
        return group

    def _some_from(self, seq: int) -> Iterator[Group]:
        """Yield the group that starts at seq, and some that follow it."""
        if seq < next(iter(self._segments.sizes)):
            return
        read_bytes = 0

        def lines() -> Iterator[bytes]:
            nonlocal read_bytes
            for line in self._lines_from(seq):
                read_bytes += len(line)
                yield line

        for group in groups_in(lines()):
            if group.first_seq >= seq:
                yield group
                if read_bytes >= AHEAD_BYTES:
                    return

    def _lines_from(self, seq: int) -> Iterator[bytes]:
        try:
            yield from self._segments.lines_from(seq)
        except OSError as error:  # That concerns who reads there, and nobody else.
            raise unreadable(self._segments.directory.parent, error) from error

    def _gone(self, seq: int, next_seq: int) -> OutOfRange | LogUnusable:
        """Return why what stands at a place was not read: retention was faster, or somebody has removed a segment."""
        if seq < next(iter(self._segments.sizes)):
            return self._expired(seq)
        path = self._segments.directory.parent
        return LogUnusable(
            f"the log is damaged: its records {seq} to {next_seq - 1} are missing; put its files back, or read on from "
            f"{next_seq} (`mlzoo log repair {path}` cuts all that follows the gap, too)",
            reason="damaged",
            path=str(path),
            log_seq=seq,
            remedy=f"put its files back, or read on from {next_seq}",
        )

    def _expired(self, seq: int) -> OutOfRange:
        oldest = next(iter(self._segments.sizes))
        return OutOfRange(f"the log begins at {oldest}; what was at {seq} is gone", oldest=oldest)
