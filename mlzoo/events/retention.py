"""What goes when a log reaches its byte budget, and how it goes.

Asides go first, then the oldest groups that no live request needs, whole segments at a time, with the blobs that they
name; never a segment that is written. Removing is done in slices, since the event loop goes on meanwhile; a crash in
between leaves files older than the last header's ``oldest``, which the next start removes.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import trio

from mlzoo.events.blobs import names_in

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mlzoo.events.blobs import Blobs
    from mlzoo.events.segments import Segments
    from mlzoo.world import Disk

SLICE_BYTES = 256 * 1024
_NAME_BYTES = 256  # more than a record's blob field has


class Retention:
    """Keeps one log within its budget."""

    def __init__(self, disk: Disk, groups: Segments, asides: Segments, blobs: Blobs, budget_bytes: int) -> None:
        self._disk = disk
        self._groups = groups
        self._asides = asides
        self._blobs = blobs
        self._budget_bytes = budget_bytes
        self._doomed: list[Path] = []

    def size_bytes(self) -> int:
        """Return the size of segments, asides and blobs."""
        return self._groups.size_bytes() + self._asides.size_bytes() + self._blobs.size_bytes()

    def drop_asides(self) -> None:
        """Drop the oldest asides while the log is over its budget."""
        sizes = list(self._asides.sizes.items())
        self._drop(self._asides, oldest_first(sizes[:-1], self.size_bytes() - self._budget_bytes))

    def drop_groups(self, needed_from: int) -> None:
        """Drop the oldest groups, too, while the log is over its budget; those from needed_from on stay.

        How much of the blobs is whose is not known; each segment is taken to have its share.
        """
        self.drop_asides()
        sizes = self._groups.sizes
        share = 1 + self._blobs.size_bytes() / max(1, self._groups.size_bytes())
        free = [(first, int(sizes[first] * share)) for first, after in pairwise(sizes) if after <= needed_from]
        self._drop(self._groups, oldest_first(free, self.size_bytes() - self._budget_bytes))

    def drop_before(self, oldest: int) -> None:
        """Drop groups that an earlier process had dropped already."""
        self._drop(self._groups, [first for first in self._groups.sizes if first < oldest])

    def _drop(self, segments: Segments, firsts: list[int]) -> None:
        """Let readers see these no more; their files go with the next ``remove``."""
        for first in firsts:
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
            path = self._doomed[0]
            offset, tail = 0, b""
            while data := self._disk.read(path, offset, SLICE_BYTES):
                for name in names_in(tail + data):
                    self._blobs.remove(name)
                offset, tail = offset + len(data), data[-_NAME_BYTES:]
                await trio.lowlevel.checkpoint()
            self._disk.remove(path)
            self._doomed.pop(0)


def oldest_first(sizes: Sequence[tuple[int, int]], over_bytes: int) -> list[int]:
    """Return the first of (segment, size) that together win over_bytes; none where nothing is to be won."""
    chosen = []
    for first, size_bytes in sizes:
        if over_bytes <= 0:
            break
        chosen.append(first)
        over_bytes -= size_bytes
    return chosen
