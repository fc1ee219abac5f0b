"""What goes when a log reaches its byte budget, or a segment its age, and how it goes.

Whole segments go, oldest first, never the one that is being written. First go asides that every host has taken; then
groups, with the blobs that they name, that neither a live request nor a reader nor the result of a key needs; then,
since the budget is a promise too and a host may stop reading for ever, asides that a host has not taken; then groups
that only readers need. What a live request needs stays, over the budget if need be: the core bounds it. A reader that
was robbed finds that out when it reads on, and its host is told.

What the result of a key or a conversation needs stays as well, until somebody has copied it: two segments before the
budget is reached, who keeps the keys, and who carries conversations on, are pressed to do so (``Claims``). Copies and
keys count, and where they alone fill half of the budget, nobody is let in with a new key; conversations count in a
half of their own.

By age goes only what none of those need; results of keys are copied for that, too. Age is that of the wall clock, as
people count it: a segment is as old as the beginning of the next one, and one that is written is sealed after a quarter
of the time that segments are kept.

Removing is done in slices, since the event loop goes on meanwhile; a crash in
between leaves files older than the last header's ``oldest``, which the next start removes. What was once cut from a
segment (``recovery``) goes with it.
"""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING

import attrs
import trio

from mlzoo.events.blobs import HEAD_BYTES, names_in
from mlzoo.events.segments import CUT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from mlzoo.config.schema import LogConfig
    from mlzoo.events.blobs import Blobs
    from mlzoo.events.index import RequestIndex
    from mlzoo.events.segments import Header, Segments
    from mlzoo.world import World

SLICE_BYTES = 256 * 1024
DAY_MS = 24 * 60 * 60 * 1000


@attrs.frozen(kw_only=True)
class Needs:
    """From where on records are still wanted.

    Attributes:
        live_seq: First log_seq that a live request needs.
        followed_seq: First log_seq that a live request or the reader of an ended one needs.
        kept_seq: First log_seq that a live request, the result of a key or a conversation needs.
        unread_aside: First aside_seq that some host has not taken.
    """

    live_seq: int
    followed_seq: int
    kept_seq: int
    unread_aside: int


class Claims:
    """Who still needs what of a log: the engine, by what it answers when asked, and hosts that have not read."""

    def __init__(self, index: RequestIndex, budget_bytes: int) -> None:
        self.needed_from: Callable[[], int] = lambda: 1
        self.kept_from: Callable[[], int] = lambda: 1
        self.keys_bytes: Callable[[], int] = lambda: 0  # of keys, and of copies of what they stand for
        self.press: Callable[[int], None] = _nobody  # called with the log_seq before which results are to be copied
        self.carry: Callable[[int], None] = _nobody  # the same for conversations
        self._index = index
        self._budget_bytes = budget_bytes
        self._unread: dict[str, int] = {}  # connection -> the first aside that its host has not taken

    def keep_asides(self, connection: str, first: int | None) -> None:
        """Spare the asides from a number on; None: a connection needs none of them any more."""
        if first is None:
            self._unread.pop(connection, None)
        else:
            self._unread[connection] = first

    def keys_are_full(self) -> bool:
        """Whether there is no room for what a new key will stand for; then what has expired is looked for."""
        full = self.keys_bytes() > self._budget_bytes // 2
        if full:
            self.press(0)
        return full

    def needs(self, aside_end: int) -> Needs:
        """Return what is to be spared now; no aside is numbered aside_end yet."""
        live = self.needed_from()
        followed = self._index.oldest()
        return Needs(
            live_seq=live,
            followed_seq=live if followed is None else min(live, followed),
            kept_seq=min(live, self.kept_from()),
            unread_aside=min(self._unread.values(), default=aside_end),
        )


def _nobody(_seq: int) -> None:
    """Copy nothing, and carry nothing."""


class Retention:
    """Keeps one log within its budget and its time."""

    def __init__(
        self, world: World, groups: Segments, asides: Segments, blobs: Blobs, settings: LogConfig, claims: Claims
    ) -> None:
        self._claims = claims
        self._disk = world.disk
        self._clock = world.clock
        self._groups = groups
        self._asides = asides
        self._blobs = blobs
        self._budget_bytes = settings.budget_bytes
        self._segment_bytes = settings.segment_bytes
        self._keep_ms = None if settings.keep_days is None else settings.keep_days * DAY_MS
        self._begun_ms = world.clock.wall_ms()  # when the segment that is written was begun
        self._doomed: list[Path] = []

    def is_full(self, end_bytes: int) -> bool:
        """Whether the segment that is written is to be sealed, for its size or its age."""
        if end_bytes >= self._segment_bytes:
            return True
        return self._keep_ms is not None and self._clock.wall_ms() - self._begun_ms > self._keep_ms / 4

    def size_bytes(self) -> int:
        """Return the size of segments, asides, blobs and keys."""
        segments_bytes = self._groups.size_bytes() + self._asides.size_bytes()
        return segments_bytes + self._blobs.size_bytes() + self._claims.keys_bytes()

    def drop_asides(self, needs: Needs, *, groups_can_go: bool) -> bool:
        """Drop the oldest asides while the log is over its budget; return whether it is now the groups' turn."""
        over_bytes = self._drop_asides_before(needs.unread_aside, self._over_bytes())
        if groups_can_go and over_bytes > 0 and self._free_groups(min(needs.followed_seq, needs.kept_seq)):
            return True
        self._drop_asides_before(None, over_bytes)
        return False

    def drop_groups(self, needs: Needs, *, spare_bytes: int = 0) -> None:
        """Drop what is too old, and the oldest groups, too, while the log is over its budget; then a segment begins.

        Free ones also go to have some bytes to spare.
        """
        self._begun_ms = self._clock.wall_ms()
        self._drop_old(self._asides, needs.unread_aside)
        self._drop_old(self._groups, min(needs.followed_seq, needs.kept_seq))
        over_bytes = self._drop_asides_before(needs.unread_aside, self._over_bytes())
        free_seq = min(needs.followed_seq, needs.kept_seq)
        over_bytes = self._drop_groups_before(free_seq, over_bytes + spare_bytes) - spare_bytes
        over_bytes = self._drop_asides_before(None, over_bytes)
        over_bytes = self._drop_groups_before(needs.kept_seq, over_bytes)
        upto_seq = self._wanted_before(needs.live_seq, over_bytes + 2 * self._segment_bytes)
        upto_seq = max(upto_seq, self._old_before(self._groups, min(needs.live_seq, needs.followed_seq)))
        if upto_seq > needs.kept_seq:
            self._claims.press(upto_seq)
            self._claims.carry(upto_seq)

    def _wanted_before(self, seq: int, over_bytes: int) -> int:
        """Return the log_seq before which groups would have to go for nothing to be over; no later than one."""
        upto_seq = 0
        for (_, size_bytes), after in zip(self._free_groups(seq), self._groups.firsts[1:], strict=False):
            if over_bytes <= 0:
                break
            over_bytes, upto_seq = over_bytes - size_bytes, after
        return upto_seq

    def _over_bytes(self) -> int:
        return self.size_bytes() - self._budget_bytes

    def _drop_asides_before(self, first: int | None, over_bytes: int) -> int:
        """Drop the oldest segments of asides that end before a number, None: any; return what is still over."""
        sizes = self._asides.sizes
        free = [(segment, sizes[segment]) for segment, after in pairwise(sizes) if first is None or after <= first]
        return self._drop(self._asides, free, over_bytes)

    def _drop_groups_before(self, seq: int, over_bytes: int) -> int:
        return self._drop(self._groups, self._free_groups(seq), over_bytes)

    def _free_groups(self, seq: int) -> list[tuple[int, int]]:
        """Return the full segments that end before a log_seq, and what each would win.

        How much of the blobs is whose is not known; each segment is taken to have its share.
        """
        sizes = self._groups.sizes
        share = 1 + self._blobs.size_bytes() / max(1, self._groups.size_bytes())
        return [(first, int(sizes[first] * share)) for first, after in pairwise(sizes) if after <= seq]

    def _drop_old(self, segments: Segments, seq: int) -> None:
        """Drop full segments that end before a number and are older than any is kept."""
        end = self._old_before(segments, seq)
        for first in segments.firsts:
            if first < end:
                self._doom(segments, first)

    def _old_before(self, segments: Segments, seq: int) -> int:
        """Return where the full segments end that are older than any is kept; no later than a number."""
        end = 0
        for after in segments.firsts[1:] if self._keep_ms is not None else ():
            header = segments.header(after) if after <= seq else None
            if header is None or header.time_ms > self._begun_ms - (self._keep_ms or 0):
                break
            end = after
        return end

    def resume(self, header: Header) -> None:
        """Go on where an earlier process was: drop the groups that it had dropped already."""
        self._begun_ms = header.time_ms
        for first in [first for first in self._groups.sizes if first < header.oldest]:
            self._doom(self._groups, first)

    def _drop(self, segments: Segments, free: Sequence[tuple[int, int]], over_bytes: int) -> int:
        """Drop the first of (segment, what it wins) until nothing is over; return what still is."""
        for first, size_bytes in free:
            if over_bytes <= 0:
                break
            self._doom(segments, first)
            over_bytes -= size_bytes
        return over_bytes

    def _doom(self, segments: Segments, first: int) -> None:
        """Let readers see a segment no more; its file goes with a later ``remove``."""
        self._doomed.append(segments.path(first))
        segments.forget(first)

    @property
    def dropped(self) -> int:
        """How many dropped segments still have their files."""
        return len(self._doomed)

    async def remove(self, count: int) -> None:
        """Remove the first files of what was dropped, each after the blobs that its records name.

        Only those whose header that drops them is durable may go, or a crash could leave a gap in the segments.
        """
        for _ in range(count):
            with suppress(FileNotFoundError):  # Who forgot a request in it has removed it, and all its blobs.
                await self._remove_blobs(self._doomed[0])
            self._disk.remove(self._doomed[0])
            self._doomed.pop(0)
        for segments in (self._groups, self._asides) if count else ():
            self._remove_cuts_before(segments)

    def _remove_cuts_before(self, segments: Segments) -> None:
        """Remove what was once cut from segments that are kept no longer, or stood where they did."""
        oldest = next(iter(segments.sizes), 0)
        for name in self._disk.names(segments.directory):
            stem, cut, _ = name.partition(CUT)
            if cut and int(stem.partition(".")[0]) < oldest:
                self._disk.remove(segments.directory / name)

    async def _remove_blobs(self, path: Path) -> None:
        """Remove the blobs that a segment's records name."""
        offset, tail = 0, b""
        while data := self._disk.read(path, offset, SLICE_BYTES):
            for name in names_in(tail + data):
                self._blobs.remove(name)
            offset, tail = offset + len(data), _last_line(tail + data)
            await trio.lowlevel.checkpoint()


def _last_line(data: bytes) -> bytes:
    """Return the beginning of the line that goes on after data, as long as that may be wanted."""
    start = data.rfind(b"\n") + 1
    return data[start : start + HEAD_BYTES]
