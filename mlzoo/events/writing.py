"""The end of a directory of segments: what is buffered, what is written, what is synced.

Groups and asides are written alike: buffered, written in one call, in a file that only grows, until the next one is
begun. Knows nothing of what the bytes say, nor of when to sync. Every error is an OSError of the disk's, after which
the writer is not to be used again.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from mlzoo.events import framing
from mlzoo.events.segments import encode_header

if TYPE_CHECKING:
    from mlzoo.events.segments import Header, Segments
    from mlzoo.world import AppendFile, Disk


class SegmentWriter:
    """Appends to the last segment of a directory."""

    def __init__(self, disk: Disk, segments: Segments) -> None:
        self.segments = segments
        self.first = 0  # the segment that is written; 0 where there is none yet
        self._disk = disk
        self._file: AppendFile | None = None
        self._buffer: list[bytes] = []
        self._end_bytes = 0  # where the next record will lie
        self._last = b""  # the group or aside that was added last
        self._last_crc: str | None = None  # the same of the end that an earlier process left
        self._next_mark_bytes = 0
        self._sealed: list[AppendFile] = []  # full segments, to be synced before the current one
        self._names_made = self._names_synced = 0

    @property
    def end_bytes(self) -> int:
        """The size that the segment has, or will have with what is buffered."""
        return self._end_bytes

    @property
    def last_crc(self) -> str | None:
        """The CRC of the last record, for the header of the next segment; None where there is none."""
        return framing.last_crc(self._last) if self._last else self._last_crc

    def resume(self, unsynced_seq: int, last_crc: str | None) -> None:
        """Go on in the last segment there is; an earlier process may not have synced what it wrote from a number on."""
        self._last_crc = last_crc
        *full, first = self.segments.firsts
        self._sealed = [
            self._disk.open_append(self.segments.path(segment))
            for segment, after in pairwise((*full, first))
            if after > unsynced_seq
        ]
        self._take(self._disk.open_append(self.segments.path(first)), first, self.segments.sizes[first])
        self._names_made = 1

    def begin(self, header: Header) -> None:
        """Begin the next segment; everything before is written. The old one is kept open until it is synced."""
        assert not self._buffer
        line = encode_header(header)
        file = self._disk.open_append(self.segments.path(header.segment))
        file.write(line)
        if self._file is not None:
            self._sealed.append(self._file)
        self._take(file, header.segment, len(line))
        self.segments.add(header.segment, len(line))
        self._names_made += 1

    def _take(self, file: AppendFile, first: int, end_bytes: int) -> None:
        self._file, self.first, self._end_bytes, self._next_mark_bytes = file, first, end_bytes, end_bytes

    def add(self, seq: int, data: bytes) -> None:
        """Buffer a group or an aside, whose first number is seq."""
        if self._end_bytes >= self._next_mark_bytes:
            self.segments.mark(self.first, seq, self._end_bytes)
            self._next_mark_bytes = self._end_bytes + framing.MARK_EVERY_BYTES
        self._buffer.append(data)
        self._last = data
        self._end_bytes += len(data)

    def write(self) -> bool:
        """Write what is buffered, in one call; return whether there was anything."""
        if not self._buffer or self._file is None:
            return False
        self._file.write(self._buffer[0] if len(self._buffer) == 1 else b"".join(self._buffer))
        self._buffer.clear()
        self.segments.sizes[self.first] = self._end_bytes
        return True

    async def sync(self) -> None:
        """Sync what is written by now: full segments, then the current one, then their names."""
        current, names_made = self._file, self._names_made
        while self._sealed and self._sealed[0] is not current:
            await self._disk.sync(self._sealed[0])
            self._sealed.pop(0).close()
        if current is not None:
            await self._disk.sync(current)
        if names_made > self._names_synced:
            await self._disk.sync_dir(self.segments.directory)
            self._names_synced = names_made

    def close_sealed(self) -> None:
        """Close full segments without a sync."""
        while self._sealed:
            self._sealed.pop().close()

    def close(self) -> None:
        """Close every file, without a sync; what is buffered is dropped."""
        self.close_sealed()
        if self._file is not None:
            self._file.close()
            self._file = None
