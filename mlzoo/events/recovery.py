"""What a start does to the files of a log: find the end of what is whole, and cut what a crash left behind it.

Segments are one stream: a crash may have lost the end of one that was not synced while the next one is there. Then
nothing of the next one was promised either, and it goes. Only what can be the trace of a crash is cut (``framing`` and
``closed`` say how that is known); anything else is damage, and the log is left as it is. Where whole records follow the
cut, it may have been damage all the same, of what no record calls synced: what is cut then lies in a file beside the
segment. Recovering twice gives what recovering once gives, also where the first recovery was itself cut short: files go
from the last one backwards.
"""

from __future__ import annotations

import errno
from itertools import count, pairwise
from typing import TYPE_CHECKING

import attrs
import orjson

from mlzoo.events import framing
from mlzoo.events.closed import NEVER, end_is_missing, missing
from mlzoo.events.segments import CUT, Header, damaged

if TYPE_CHECKING:
    from pathlib import Path

    from mlzoo.events.closed import Closed
    from mlzoo.events.segments import Segments
    from mlzoo.world import Disk

QUICK_BYTES = 256 * 1024
NO_SPACE = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}  # Windows has no quota of this name.


@attrs.frozen
class Recovered:
    """Where a start found the end of the records.

    Attributes:
        header: The header of the last segment.
        last_seq: The last whole record; one less than the segment's first where it has none.
        at_ms: The log's clock there (0 for asides, which have none).
        crc: Of that record; where there is none, of the one before its segment, if any.
        synced: Up to where the records themselves say that they are durable.
        repaired: What was cut, one sentence each.
    """

    header: Header
    last_seq: int
    at_ms: int
    crc: str | None
    synced: int
    repaired: tuple[str, ...]


async def recover(segments: Segments, *, strict: bool, closed: Closed = NEVER) -> Recovered | None:
    """Cut what a crash left, and return the end; None where no segment is whole.

    Args:
        segments: The segments, whose sizes are made to fit.
        strict: Whether damage before the end is an error. Asides are not worth that: there the rest of the last
            segment is cut.
        closed: What the last orderly end said.

    Raises:
        LogUnusable: Damaged, or written by a newer version.
        OSError: The disk would not.
    """
    repaired: list[str] = []
    while segments.sizes:
        first = segments.firsts[-1]
        found = look(segments, first, strict=strict)
        header = segments.header(first) if found.header_bytes else None
        if (found.verdict == "damaged" and strict) or (header is None and first <= closed.last_seq):
            raise damaged(segments.path(first), found.whole_bytes)
        synced = max(found.synced, header.synced if header is not None else 0)
        if header is None or (strict and _lost_before(segments, header.oldest, max(synced, closed.last_seq))):
            repaired.append(await _drop(segments, first, found))
            continue
        at_ms, crc = _end(segments, first, found) if found.last_seq >= first else (header.at_ms, header.previous)
        if not closed.is_kept(found.last_seq, crc):
            if found.whole_bytes < segments.sizes[first]:
                raise damaged(segments.path(first), found.whole_bytes)
            raise missing(segments.directory.parent, end_is_missing(closed, found.last_seq))
        if found.whole_bytes < segments.sizes[first]:
            repaired.append(await _cut(segments, first, found))
        return Recovered(header, found.last_seq, at_ms, crc, synced, tuple(repaired))
    if closed.last_seq:
        raise missing(segments.directory.parent, end_is_missing(closed, 0))
    return None


def look(segments: Segments, first: int, *, strict: bool) -> framing.Scan:
    """Verify a segment; of a long one only its end, where that says itself that the rest was durable."""
    size_bytes = segments.sizes[first]
    if size_bytes > 2 * QUICK_BYTES:
        start = size_bytes - QUICK_BYTES
        end = framing.scan_end(segments.disk.read(segments.path(first), start, QUICK_BYTES))
        # Its first record says where it begins; what lies before that must be what some record calls synced.
        if end is not None and end.verdict == "whole" and (not strict or end.synced >= end.first_seq - 1):
            return attrs.evolve(end, header_bytes=1, whole_bytes=size_bytes, last_offset=start + end.last_offset)
    return segments.scan(first)


def _lost_before(segments: Segments, oldest: int, synced: int) -> bool:
    """Whether a segment that nobody called synced has lost records to a crash, so that the last one has no past."""
    pairs = list(pairwise(segments.firsts))
    for before, first in reversed(pairs):
        if synced >= first - 1 or before < oldest:
            break
        found = segments.scan(before)
        if found.verdict == "damaged":
            raise damaged(segments.path(before), found.whole_bytes)
        if found.last_seq != first - 1:
            return True
    return False


async def _drop(segments: Segments, first: int, found: framing.Scan) -> str:
    path = segments.path(first)
    records = found.last_seq - first + 1 + found.lost_records
    kept = await _kept(segments, path, 0, records)
    segments.disk.remove(path)
    await segments.disk.sync_dir(segments.directory)
    segments.forget(first)
    return f"{path.name}: dropped, a crash left it without its beginning{kept}"


async def _cut(segments: Segments, first: int, found: framing.Scan) -> str:
    path, lost = segments.path(first), segments.sizes[first] - found.whole_bytes
    kept = await _kept(segments, path, found.whole_bytes, found.lost_records)
    await _rewrite(segments, path, found.whole_bytes)
    segments.sizes[first] = found.whole_bytes
    where = f"after the last whole group (log_seq {found.last_seq}) cut at {found.whole_bytes}"
    return f"{path.name}: {lost} bytes {where}{kept}"


async def _kept(segments: Segments, path: Path, offset: int, records: int) -> str:
    """Keep what is about to be cut, if there are whole records in it; return that as the end of a sentence."""
    if not records:
        return ""
    kept = await keep_cut(segments.disk, path, segments.disk.read(path, offset), offset)
    return f"; {records} whole records among them lie in {segments.directory.name}/{kept.name}"


async def keep_cut(disk: Disk, path: Path, data: bytes, offset: int) -> Path:
    """Keep what is cut from a segment at some offset in a file beside it, and return that; no other such one goes.

    Raises:
        OSError: The disk would not.
    """
    names = disk.names(path.parent)
    for number in count(1):
        kept = path.with_name(f"{path.name}{CUT}{offset}" + (f"-{number}" if number > 1 else ""))
        if kept.name not in names:
            await disk.replace(kept, data)
            return kept
        if disk.read(kept) == data:  # It was kept before a crash, and cut after it.
            return kept
    raise AssertionError


async def _rewrite(segments: Segments, path: Path, size_bytes: int) -> None:
    """Leave a segment's first bytes, in a file of its own.

    A file that is merely cut gets the same blocks back when it grows, and after the next crash they may hold whole
    records of before the cut, at their old places, behind new ones that they never followed.
    """
    try:
        await segments.disk.replace(path, segments.disk.read(path, 0, size_bytes))
    except OSError as error:
        if error.errno not in NO_SPACE and not isinstance(error, PermissionError):
            raise
        # A full disk must not keep a log from being opened, nor, on Windows, whoever else has the file open.
        await segments.disk.truncate(path, size_bytes)


def _end(segments: Segments, first: int, found: framing.Scan) -> tuple[int, str]:
    """Return the time and the CRC of the last whole record."""
    line = segments.disk.read(segments.path(first), found.last_offset, found.whole_bytes - found.last_offset)
    return int(orjson.loads(line).get("at_ms", 0)), framing.last_crc(line)
