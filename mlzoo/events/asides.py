"""Asides on disk: what changes nothing, recorded all the same, in segments of its own.

Written before the reply is emitted, never synced, first to go when the byte budget is reached. Every ping passes here:
one aside costs a few microseconds, and cattrs is not needed. Knows nothing of groups; ``after_seq`` gives an aside its
place among them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from mlzoo.errors import OutOfRange
from mlzoo.events.codec import decode_aside, encode_aside
from mlzoo.events.recovery import recover
from mlzoo.events.segments import Header, Segments
from mlzoo.events.writing import SegmentWriter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mlzoo.errors import Failure
    from mlzoo.events.records import Aside
    from mlzoo.world import World


class AsideLog:
    """The asides of one log. Errors of the disk are OSError; after one, nothing more may be appended."""

    def __init__(self, world: World, directory: Path, segment_bytes: int, log_id: str, version: str) -> None:
        self.last_seq = 0
        self.repaired: tuple[str, ...] = ()
        self.segments = Segments(world.disk, directory)
        self._writer = SegmentWriter(world.disk, self.segments)
        self._clock = world.clock
        self._segment_bytes = segment_bytes
        self._log_id = log_id
        self._version = version

    async def open(self) -> None:
        """Find the end, cut what a crash left behind it, and open the last segment; the first one waits for need."""
        self.segments.drop_beginnings()
        found = await recover(self.segments, strict=False)
        if found is not None:
            self.last_seq = found.last_seq
            self.repaired = found.repaired
            self._writer.resume(found.last_seq + 1, found.crc)

    def append(
        self,
        after_seq: int,
        connection: str,
        method: str,
        rpc: str | int | None,
        params: Any,
        result: Any,
        failure: Failure | None,
    ) -> int:
        """Number and encode an aside, and return its number; it is written by the next commit."""
        seq = self.last_seq + 1
        line = encode_aside(seq, after_seq, self._clock.wall_ms(), connection, method, rpc, params, result, failure)
        if not self._writer.first:
            self._begin_segment()
        self._writer.add(seq, line)
        self.last_seq = seq
        return seq

    def commit(self) -> bool:
        """Write what was appended, in one call; return whether a new segment was begun after it."""
        if self._writer.write() and self._writer.end_bytes >= self._segment_bytes:
            self._begin_segment()
            self._writer.close_sealed()
            return True
        return False

    def _begin_segment(self) -> None:
        first = self.last_seq + 1
        self._writer.begin(
            Header(
                segment=first,
                log=self._log_id,
                version=self._version,
                at_ms=0,
                time_ms=self._clock.wall_ms(),
                oldest=next(iter(self.segments.sizes), first),
                synced=0,
                previous=self._writer.last_crc,
            )
        )

    def read(self, connection: str, first: int) -> Iterator[Aside]:
        """Yield the written asides of a connection from one of its own on, in order.

        Raises:
            OutOfRange: That one is not kept any more (type expired).
            LogUnusable: What was read is damaged.
        """
        oldest = next(iter(self.segments.sizes), self.last_seq + 1)
        if first < oldest:
            raise OutOfRange(f"the asides begin at {oldest}; what was at {first} is gone", oldest=oldest)
        wanted = b'"connection":' + orjson.dumps(connection)
        for line in self.segments.lines_from(first):
            if wanted in line:
                aside = decode_aside(line)
                if aside.aside_seq >= first and aside.connection == connection:
                    yield aside

    def close(self) -> None:
        """Close the files; what was not committed is dropped."""
        self._writer.close()
