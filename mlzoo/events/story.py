"""Reading a log from outside, without its lock: its whole story in order, its verification, following its end.

A process may be writing meanwhile. What is not whole at the end is then simply not there yet, so nothing here trusts
sizes, and nothing here writes. Knows records as JSON; no class of commands or events is needed to show them.
"""

from __future__ import annotations

import heapq
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import attrs
import orjson

from mlzoo.errors import LogUnusable
from mlzoo.events import closed, framing
from mlzoo.events.answers import KeptAnswers
from mlzoo.events.blobs import Blobs, names_in
from mlzoo.events.identity import FILE, LOCK, read_identity, written_in
from mlzoo.events.newer import refuse_newer, refuse_newer_records
from mlzoo.events.recovery import look
from mlzoo.events.segments import CUT, READ_BYTES, SUFFIX, Segments, decode_header

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mlzoo.world import Disk, World

Record = tuple[bytes, dict[str, Any]]
"""A record's line as it stands in the file, and what it says."""


class LineReader:
    """Reads the whole lines of one directory's segments forward; what is not whole yet is read the next time.

    Args:
        start: The segment to begin with, counted from the last one; 0 begins with the first.
    """

    def __init__(self, disk: Disk, directory: Path, start: int = 0) -> None:
        self.stopped: list[str] = []  # where lines were not whole although the segment was full
        self._disk = disk
        self._directory = directory
        firsts = Segments(disk, directory).firsts
        self._first = firsts[max(0, len(firsts) - start) if start else 0] if firsts else 0
        self._offset = 0

    def lines(self) -> Iterator[bytes]:
        """Yield the lines that are whole by now, headers left out."""
        while True:
            segments = Segments(self._disk, self._directory)
            later = [first for first in segments.firsts if first > self._first]
            if self._first:
                path = segments.path(self._first)
                yield from self._lines_of(path)
                if later and self._offset < segments.sizes.get(self._first, 0):
                    self.stopped.append(f"{path.name}: what follows byte {self._offset} is not whole")
            if not later:
                return
            self._first, self._offset = later[0], 0

    def _lines_of(self, path: Path) -> Iterator[bytes]:
        wanted = READ_BYTES
        while True:
            try:
                chunk = self._disk.read(path, self._offset, wanted)
            except FileNotFoundError:
                return  # retention was faster
            at = 0
            while end := framing.line_end(chunk, at):
                start, at = at, end
                self._offset += end - start
                if not chunk.startswith(b'"segment":', start + framing.PREFIX_BYTES):
                    yield chunk[start : end - 1]
            missing = framing.line_size(chunk, at)
            if at == 0 and missing <= len(chunk):
                return
            if at == 0 and len(chunk) < wanted:
                return
            wanted = max(READ_BYTES, missing)


def story(groups: LineReader, asides: LineReader) -> Iterator[Record]:
    """Yield the records of both kinds in the order in which things happened."""

    def records(reader: LineReader) -> Iterator[Record]:
        for line in reader.lines():
            yield line, orjson.loads(line)

    return heapq.merge(records(groups), records(asides), key=_place)


def _place(record: Record) -> tuple[int, int]:
    data = record[1]
    return (data["log_seq"], 0) if "log_seq" in data else (data["after_seq"], data["aside_seq"])


# ------------------------------------------------------------------------------------------------ verification


@attrs.frozen(kw_only=True)
class Finding:
    """What a verification found of one log.

    Attributes:
        faults: What is not as it was written, one sentence each; empty: every record is whole.
        torn: What a crash (or a write in progress) left at the end; a fault only where nobody writes.
    """

    id: str
    segments: int
    records: int
    asides: int
    blobs: int
    size_bytes: int
    oldest_seq: int
    last_seq: int
    faults: tuple[str, ...]
    torn: tuple[str, ...]


def is_log(disk: Disk, path: Path) -> bool:
    """Whether a directory holds a log: its name, or at least its segments."""
    return FILE in disk.names(path) or any(name.endswith(SUFFIX) for name in disk.names(path / "segments"))


def is_written(disk: Disk, path: Path) -> bool:
    """Whether some process holds the log's lock. Asked only in doubt, since asking takes the lock for a moment."""
    lock = disk.lock(path / LOCK)
    if lock is not None:
        lock.release()
    return lock is None


def verify(world: World, path: Path) -> Finding:
    """Read everything, and check each record, the order of all, each blob that a record names, and the filed keys.

    Raises:
        LogUnusable: A newer version wrote some of it, or it does not say who it is.
        OSError: It cannot be read.
    """
    disk = world.disk
    identity = read_identity(world, path)
    refuse_newer(world, path)
    faults = [] if identity else [f"{FILE} is missing, which names the log; the next start writes it again"]
    torn: list[str] = []
    groups, asides = Segments(disk, path / "segments"), Segments(disk, path / "asides")
    blobs = Blobs(disk, world.ids, path / "blobs")
    refuse_newer_records(groups)
    end = _end_when_closed(disk, path, faults)
    records, last_seq, crc = _verify_segments(groups, faults, torn, end.last_seq)
    aside_records, _, _ = _verify_segments(asides, faults, torn)
    if what := closed.what_is_missing(end, last_seq, crc, groups, asides):
        faults.append(f"the log has lost records: {what}")
    named = 0
    for first in groups.firsts:
        for name in names_in(disk.read(groups.path(first))):
            named += 1
            faults += _verify_blob(disk, blobs, name)
    faults += _verify_keys(disk, path)
    if torn and is_written(disk, path):
        torn.clear()
    return Finding(
        id=identity or written_in(disk, path),
        segments=len(groups.sizes),
        records=records,
        asides=aside_records,
        blobs=named,
        size_bytes=groups.size_bytes() + asides.size_bytes(),
        oldest_seq=next(iter(groups.sizes), 1),
        last_seq=last_seq,
        faults=tuple(faults + torn),
        torn=tuple(torn),
    )


@attrs.frozen
class End:
    """What a look at the last segments found: the number of the last whole record, and the same as a verification."""

    last_seq: int
    faults: tuple[str, ...]
    torn: tuple[str, ...]


def verify_end(world: World, path: Path) -> End:
    """Check the last segment of either kind, and whether the log goes as far as it did; fails as ``verify`` does."""
    faults: list[str] = []
    torn: list[str] = []
    groups, asides = Segments(world.disk, path / "segments"), Segments(world.disk, path / "asides")
    end = _end_when_closed(world.disk, path, faults)
    _, last_seq, crc = _verify_segments(groups, faults, torn, end.last_seq, last=1)
    _verify_segments(asides, faults, torn, last=1)
    if what := closed.what_is_missing(end, last_seq, crc, groups, asides):
        faults.append(f"the log has lost records: {what}")
    if torn and is_written(world.disk, path):
        torn.clear()
    return End(last_seq, tuple(faults), tuple(torn))


def gaps(groups: Segments) -> list[str]:
    """Return what is missing between the segments of a log, by their first and last records, a sentence each."""
    found: list[str] = []
    for before, first in pairwise(groups.firsts):
        last_seq = look(groups, before, strict=True).last_seq
        if last_seq != first - 1:
            found.append(gap(last_seq, first))
    return found


def gap(last_seq: int, next_seq: int) -> str:
    """Return how a story goes on that has lost records, as a sentence."""
    return f"after {last_seq} comes {next_seq}: what was between is missing"


def _end_when_closed(disk: Disk, path: Path, faults: list[str]) -> closed.Closed:
    try:
        return closed.read(disk, path)
    except LogUnusable:
        faults.append(f"{closed.FILE}: not what was written")
        return closed.NEVER


def _verify_keys(disk: Disk, path: Path) -> list[str]:
    from mlzoo.events.keys import KeyIndex  # noqa: PLC0415 - brings in the classes of commands

    index, answers = KeyIndex(disk, path / "keys"), KeptAnswers(disk, path / "keys")
    try:
        index.open(tidy=False)
        answers.open(tidy=False)
        return index.verify() + answers.verify()
    except FileNotFoundError:
        return []  # A merge was faster; what it made can be verified the next time.


def _verify_segments(
    segments: Segments, faults: list[str], torn: list[str], closed_seq: int = 0, *, last: int = 0
) -> tuple[int, int, str | None]:
    """Return how many records are whole, and the number and the CRC of the last one.

    Args:
        segments: To be read.
        faults: Gets what is damaged or missing.
        torn: Gets what a crash may have left.
        closed_seq: Up to where it was no crash.
        last: How many of the last segments; 0: all.
    """
    records, last_seq, crc = 0, 0, None
    firsts = segments.firsts[-last:]
    for first in firsts:
        name = segments.path(first).name
        if last_seq and first != last_seq + 1:
            faults.append(f"{segments.directory.name}/{name}: follows {last_seq}, what was between is missing")
        found = segments.scan(first)
        header = segments.header(first) if found.header_bytes else None
        if crc is not None and header is not None and last_seq == first - 1 and header.previous != crc:
            faults.append(f"{segments.directory.name}/{name}: does not follow the segment that stands before it")
        records += found.last_seq - first + 1
        last_seq = found.last_seq
        if found.last_seq >= first:
            line = segments.disk.read(segments.path(first), found.last_offset, framing.PREFIX_BYTES)
            crc = framing.last_crc(line)
        if found.verdict == "whole":
            continue
        where = f"{segments.directory.name}/{name}"
        may_be_torn = first == firsts[-1] and found.last_seq >= closed_seq
        if may_be_torn and _is_torn(found, segments.disk.read(segments.path(first), found.whole_bytes)):
            torn.append(_torn(where, found, segments.sizes[first]))
        else:
            faults.append(_damaged(where, found, is_cut_next=may_be_torn))
    return records, last_seq, crc


def _is_torn(found: framing.Scan, rest: bytes) -> bool:
    """Whether what follows the whole groups is the beginning of the next one, and nothing else that is whole."""
    at = records = 0
    while end := framing.line_end(rest, at):
        if orjson.loads(rest[at:end]).get("group", [0])[0] != found.last_seq + 1:
            return False
        at, records = end, records + 1
    return found.verdict == "torn" and records == found.lost_records


def _torn(where: str, found: framing.Scan, size_bytes: int) -> str:
    return (
        f"{where}: torn at byte {found.whole_bytes}: the last {size_bytes - found.whole_bytes} bytes are what a crash "
        "left of a group that nobody was told of; the next start cuts them"
    )


def _damaged(where: str, found: framing.Scan, *, is_cut_next: bool) -> str:
    what = f"{where}: damaged at byte {found.whole_bytes}, {found.lost_records} whole records follow"
    if not is_cut_next or found.verdict == "damaged":
        return what
    return (
        f"{what}, which no record calls durable, as a power cut may leave it; the next start cuts there, and keeps "
        f"what it cuts in {where}{CUT}{found.whole_bytes}"
    )


def verify_segment(world: World, path: Path) -> tuple[int, str]:
    """Read one segment of a log and check each record; return how many are whole, and what is not, if anything.

    What a process that writes to it just now has not finished yet is no fault.

    Raises:
        LogUnusable: A newer version wrote it.
        OSError: It cannot be read.
    """
    data, first, log = world.disk.read(path), int(path.stem), path.absolute().parent.parent
    found = framing.scan(data, first)
    records = found.last_seq - first + 1
    if found.header_bytes:
        decode_header(data[: found.header_bytes - 1])
    if found.verdict == "whole":
        return records, ""
    end = _end_when_closed(world.disk, log, [])
    may_be_torn = found.last_seq >= end.last_seq or first > end.last_seq
    if not may_be_torn or not _is_torn(found, data[found.whole_bytes :]):
        return records, _damaged(path.name, found, is_cut_next=False)
    is_being_written = is_log(world.disk, log) and is_written(world.disk, log)
    return records, "" if is_being_written else _torn(path.name, found, len(data))


def _verify_blob(disk: Disk, blobs: Blobs, name: str) -> list[str]:
    try:
        data = disk.read(blobs.path(name))
    except FileNotFoundError:
        return [f"blobs/{name}: a record names it, it is missing"]
    return [] if blobs.is_whole(name, data) else [f"blobs/{name}: not what its name says"]
