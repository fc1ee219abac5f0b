"""The files that records of one kind lie in: their names, their headers, and where in them a record is.

A segment's name is the number of its first record, so the order of names is the order of records, and retention is
removing files. Knows nothing of what records mean, nor of who writes them; reading takes no lock.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Any

import attrs
import orjson

from mlzoo.errors import LogUnusable
from mlzoo.events import framing
from mlzoo.events.records import CORE_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mlzoo.world import Disk

FORMAT = 1
SUFFIX = ".ndjson"
TEMPORARY = ".new"
CUT = ".cut-"  # in the name of a file that holds what was cut from a segment
READ_BYTES = 256 * 1024
NAMES = (  # of a header's fields, in their order on the disk
    "segment",
    "log",
    "format",
    "core_version",
    "version",
    "at_ms",
    "time_ms",
    "oldest",
    "synced",
    "previous",
    "state",
)


@attrs.frozen(kw_only=True)
class Header:
    """The first line of a segment.

    Attributes:
        segment: Number of the segment's first record.
        log: Id of the log that it was written for.
        version: Version of mlzoo that wrote it.
        at_ms: The log's clock.
        time_ms: The wall clock.
        oldest: First record that was still kept when the segment began; earlier files are leftovers.
        synced: Up to where the log was durable.
        state: The folded state before the first record, which makes the segment readable without those before.
        previous: CRC of the record before the first one, by which a segment of another life is found out; None where
            there is none. That record is an event, or an aside, so that no forgetting changes it.
        core_version: Of the core that folded it.
    """

    segment: int
    log: str
    version: str
    at_ms: int
    time_ms: int
    oldest: int
    synced: int
    state: dict[str, Any] | None = None
    previous: str | None = None
    format: int = FORMAT
    core_version: int = CORE_VERSION


def encode_header(header: Header) -> bytes:
    """Return the line of a header."""
    return framing.seal(orjson.dumps({name: getattr(header, name) for name in NAMES})[1:])


def decode_header(line: bytes | memoryview) -> Header:
    """Return the header that a verified line holds.

    Raises:
        LogUnusable: A newer version wrote it (reason newer).
    """
    data = orjson.loads(line)
    for what, known in (("format", FORMAT), ("core_version", CORE_VERSION)):
        if data[what] > known:
            raise newer(f"a segment was written with {what} {data[what]}; this version knows it up to {known}")
    return Header(**{name: data[name] for name in NAMES})


def newer(message: str) -> LogUnusable:
    """Return the error for what a later version of mlzoo wrote."""
    return LogUnusable(message, reason="newer", remedy="use the version of mlzoo that wrote it, or another log")


def damaged(path: Path, offset: int, what: str = "a record is not whole") -> LogUnusable:
    """Return the error for damage that cannot be the trace of a crash."""
    log = path.parent.parent
    return LogUnusable(
        f"the log is damaged: {what} in {path.name} at byte {offset}; `mlzoo log repair {log}` cuts it there",
        reason="damaged",
        path=str(log),
        segment=path.name,
        offset=offset,
        remedy=f"mlzoo log repair {log}",
    )


def unreadable(path: Path, error: OSError) -> LogUnusable:
    """Return the error for a file of a log that the disk or its permissions keep from being read."""
    return LogUnusable(
        f"the log {path} cannot be read: {error}",
        reason="damaged",
        path=str(path),
        remedy="see to it that this user can read all of its files, and that the disk is whole",
    )


class Segments:
    """The segments in one directory, oldest first. Sizes are those of whole, written records."""

    def __init__(self, disk: Disk, directory: Path) -> None:
        self.disk = disk
        self.directory = directory
        self.sizes: dict[int, int] = {}
        for name, size_bytes in disk.sizes(directory).items():
            stem, _, suffix = name.partition(".")
            if f".{suffix}" == SUFFIX and stem.isdigit():
                self.sizes[int(stem)] = size_bytes
        self._marks: dict[int, list[tuple[int, int]]] = {}
        self._paths: dict[int, Path] = {}

    @property
    def firsts(self) -> list[int]:
        """The number of each segment's first record, ascending."""
        return list(self.sizes)

    def path(self, first: int) -> Path:
        """Return the path of a segment."""
        found = self._paths.get(first)
        if found is None:
            found = self._paths[first] = self.directory / f"{first:020d}{SUFFIX}"
        return found

    def size_bytes(self) -> int:
        """Return the size of all segments."""
        return sum(self.sizes.values())

    def drop_beginnings(self) -> None:
        """Remove what a crash has left of segments that were to be put in another's place."""
        for name in self.disk.names(self.directory):
            if name.endswith(SUFFIX + TEMPORARY):
                self.disk.remove(self.directory / name)

    def add(self, first: int, size_bytes: int) -> None:
        """Take a new last segment, of which the header is written."""
        self.sizes[first] = size_bytes
        self._marks[first] = []

    def forget(self, first: int) -> None:
        """Leave out a segment, whose file is removed by the caller."""
        self.sizes.pop(first, None)
        self._marks.pop(first, None)
        self._paths.pop(first, None)

    def mark(self, first: int, seq: int, offset: int) -> None:
        """Note that the group of seq starts at offset of a segment that is being written; few of them are kept."""
        marks = self._marks.get(first)
        if marks is not None and (not marks or offset - marks[-1][1] >= framing.MARK_EVERY_BYTES):
            marks.append((seq, offset))

    def scan(self, first: int) -> framing.Scan:
        """Read and verify a whole segment, and keep where its groups lie."""
        return self._scanned(first, self.disk.read(self.path(first), 0, self.sizes[first]))

    def load(self, first: int) -> tuple[framing.Scan, list[bytes]]:
        """Read and verify a whole segment, and return the lines of its whole groups too."""
        data = self.disk.read(self.path(first), 0, self.sizes[first])
        found = self._scanned(first, data)
        # No line holds a newline within: JSON escapes it.
        return found, data[found.header_bytes : found.whole_bytes].split(b"\n")[:-1]

    def _scanned(self, first: int, data: bytes) -> framing.Scan:
        found = framing.scan(data, first)
        self._marks[first] = list(found.marks)
        return found

    def header(self, first: int) -> Header | None:
        """Return the header of a segment, or None where it is not whole.

        Raises:
            LogUnusable: A newer version wrote it, or it does not say what a header says.
        """
        path, size_bytes = self.path(first), min(4096, self.sizes[first])
        data = self.disk.read(path, 0, size_bytes)
        wanted = framing.line_size(data, 0)
        if wanted > len(data):
            data = self.disk.read(path, 0, wanted)
        end = framing.line_end(data, 0)
        if not end or not data.startswith(b'"segment":', framing.PREFIX_BYTES):
            return None
        try:
            return decode_header(memoryview(data)[: end - 1])
        except LogUnusable as error:
            error.data["path"] = str(self.directory.parent)
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(path, 0, f"the first line is no header ({error!r})") from error

    def lines_from(self, seq: int) -> Iterator[bytes]:
        """Yield the lines of verified records, from the group or some before it that holds seq, to the end.

        Raises:
            LogUnusable: What was read is damaged.
        """
        firsts = self.firsts
        start = max(0, bisect_right(firsts, seq) - 1)
        for first in firsts[start:]:
            if first in self.sizes:  # Retention may have been faster.
                yield from self._lines(first, self._offset(first, seq))

    def _offset(self, first: int, seq: int) -> int:
        """Return a place at or before the group of seq; 0 is that of the header."""
        if first not in self._marks:
            found = self.scan(first)
            if found.verdict == "damaged" or not found.header_bytes:
                raise damaged(self.path(first), found.whole_bytes)
        marks = self._marks[first]
        place = bisect_right(marks, seq, key=lambda mark: mark[0])
        return marks[place - 1][1] if place else 0

    def _lines(self, first: int, offset: int) -> Iterator[bytes]:
        path, chunk, at = self.path(first), b"", 0
        is_header = offset == 0
        while offset + at < self.sizes.get(first, 0):
            end = framing.line_end(chunk, at)
            if not end:
                # The rest of the chunk is the beginning of a line: read on from there, at least that line.
                wanted = max(READ_BYTES, framing.line_size(chunk, at))
                offset += at
                chunk, at = self.disk.read(path, offset, min(wanted, self.sizes[first] - offset)), 0
                end = framing.line_end(chunk, 0)
                if not end and framing.line_size(chunk, 0) > len(chunk):
                    chunk = self.disk.read(path, offset, framing.line_size(chunk, 0))
                    end = framing.line_end(chunk, 0)
                if not end:
                    raise damaged(path, offset)
            if not is_header:
                yield chunk[at : end - 1]
            is_header = False
            at = end
