"""Lines of the log: how one is sealed, and what of a file's bytes is whole. Pure: bytes in, places out.

Every line is plain JSON with a prefix of fixed width, so that jq reads a segment as it is and a scan parses nothing::

    {"crc":"1a2b3c4d","size":"0000011c","log_seq":17,"group":[16,3],"at_ms":…}
    {"crc":"5e6f7a8b","size":"000000a1","aside_seq":9,"after_seq":18,…}
    {"crc":"9c0d1e2f","size":"000000f0","segment":16,"log":"log-…",…}

``crc`` is the CRC-32 (IEEE 802.3) of the bytes from ``"size"`` to the last one before the newline; ``size`` counts
the bytes of the whole line with its newline; both in hexadecimal. ``group`` is [first log_seq, number of records]. The
first record of a group, its command, also says ``synced``: up to where the log was durable when it was written; and
``blobs``, where it has any: the names of the large values that belong to it.

That number is what tells a torn tail from damage. A power cut may leave any part of what was not synced: a page that
is whole after one that is lost. Damage at a place that no later record calls synced may be such a tail, of which nobody
was told, and is cut; damage before a place that was called synced is none, and must not be cut. Of the last sync no
record tells: an orderly end says it in a file of its own (``closed``), and where there was none, whole records behind
the damage are kept beside what is cut from (``recovery``), for they may have been told.

Knows nothing of files, of events or of what the data mean.
"""

from __future__ import annotations

import re
from typing import Literal
from zlib import crc32

import attrs

Verdict = Literal["whole", "torn", "damaged"]

PREFIX_BYTES = 36  # up to the first byte after the size
MARK_EVERY_BYTES = 64 * 1024
_CRC_END = 18
_NEWLINE = 0x0A
_LINE = re.compile(rb'\{"crc":"([0-9a-f]{8})","size":"([0-9a-f]{8})",')
_RECORD = re.compile(
    rb'\{"crc":"([0-9a-f]{8})","size":"([0-9a-f]{8})","(?:log|aside)_seq":(\d+),'
    rb'(?:"group":\[(\d+),(\d+)\],(?:"synced":(\d+),)?)?'
)
_HEADER = re.compile(rb'\{"crc":"([0-9a-f]{8})","size":"([0-9a-f]{8})","segment":(\d+),')
_RECORD_START = b'{"crc":"'


def seal(body: bytes) -> bytes:
    """Return the line of a body, which is a JSON object without its opening brace."""
    rest = b'"size":"%08x",%b' % (len(body) + PREFIX_BYTES + 1, body)
    return b'{"crc":"%08x",%b\n' % (crc32(rest), rest)


@attrs.frozen
class Scan:
    """What of a segment's bytes is whole.

    Attributes:
        header_bytes: Size of the header line; 0 where it is not whole.
        whole_bytes: Up to where the segment holds whole groups.
        first_seq: The first record found, or the place where one would stand.
        last_seq: The last record of the last whole group; ``first_seq - 1`` where there is none.
        last_offset: Where the last whole record's line starts; the header's place where there is none.
        synced: The highest ``synced`` that a whole group names; 0 where none does.
        verdict: whole; torn (what follows ``whole_bytes`` may be cut); damaged (it may not).
        lost_records: How many valid records follow the damage.
        marks: Some (first log_seq, offset) pairs of groups, in order, about one in 64 KiB.
    """

    header_bytes: int
    whole_bytes: int
    first_seq: int
    last_seq: int
    last_offset: int
    synced: int
    verdict: Verdict
    lost_records: int
    marks: tuple[tuple[int, int], ...]


def line_end(data: bytes | memoryview, offset: int) -> int:
    """Return the end of the valid line that starts at offset, or 0 where none does."""
    match = _LINE.match(data, offset)
    if match is None:
        return 0
    return _checked_end(data, offset, match)


def last_crc(data: bytes) -> str:
    """Return the CRC that the last of some whole lines says that it has."""
    start = data.rfind(b"\n", 0, -1) + 1 + len(_RECORD_START)
    return data[start : start + 8].decode()


def line_size(data: bytes, offset: int) -> int:
    """Return how many bytes the line at offset says that it has, unchecked; 0 where that cannot be read yet."""
    match = _LINE.match(data, offset)
    return int(match[2], 16) if match is not None else 0


def _checked_end(data: bytes | memoryview, offset: int, match: re.Match[bytes]) -> int:
    end = offset + int(match[2], 16)
    if end > len(data) or end <= offset + PREFIX_BYTES or data[end - 1] != _NEWLINE:
        return 0
    if crc32(memoryview(data)[offset + _CRC_END : end - 1]) != int(match[1], 16):
        return 0
    return end


def scan(data: bytes, first_seq: int) -> Scan:
    """Return what of a whole segment's bytes is whole; its name says which record comes first."""
    match = _HEADER.match(data)
    header_end = _checked_end(data, 0, match) if match is not None and int(match[3]) == first_seq else 0
    if not header_end:
        synced, records = _after_damage(data, 0, first_seq)
        verdict: Verdict = "damaged" if synced >= first_seq else "torn"
        return Scan(0, 0, first_seq, first_seq - 1, 0, 0, verdict, records, ())
    return _scan_records(data, header_end, first_seq, header_end)


def scan_end(data: bytes) -> Scan | None:
    """Return what of the end of a segment is whole, from the first record found there; None where there is none.

    The header lies elsewhere. ``marks`` and offsets count from the start of data.
    """
    offset = data.find(b"\n" + _RECORD_START) + 1
    match = _RECORD.match(data, offset)
    if match is None:
        return None
    return _scan_records(data, offset, int(match[3]), 0)


def _scan_records(data: bytes, offset: int, first_seq: int, header_bytes: int) -> Scan:
    """Walk the records from offset; kept in one loop since recovery is as fast as this is."""
    size = len(data)
    record = _RECORD.match
    expected = first_seq
    whole, whole_seq, last_offset, synced = offset, first_seq - 1, 0, 0
    group_end = 0  # the seq after the group that is open; 0 where none is
    group_text = b""  # how each of its records names it
    first, named, group_offset = first_seq, 0, offset
    marks: list[tuple[int, int]] = []
    next_mark = 0
    while offset < size:
        end = data.find(b"\n", offset) + 1  # No record holds a newline within: JSON escapes it.
        crc = crc32(data[offset + _CRC_END : end - 1])
        # What such a record begins with is made and compared, which is faster than to read it, and as strict.
        if group_end:
            head = b'{"crc":"%08x","size":"%08x","log_seq":%d,%b' % (crc, end - offset, expected, group_text)
            if not data.startswith(head, offset):
                break
        else:
            if not data.startswith(b'{"crc":"%08x","size":"%08x",' % (crc, end - offset), offset):
                break
            match = record(data, offset)
            if match is None or int(match[3]) != expected:
                break
            first_text, count_text, synced_text = match.group(4, 5, 6)
            first = int(first_text) if first_text is not None else expected
            # The very first record looked at may stand in the middle of its group, where only an end is scanned.
            if expected not in (first, first_seq):
                break
            group_end = first + int(count_text) if count_text is not None else expected + 1
            group_offset = offset
            if group_end > expected + 1:
                group_text = b'"group":[%b,%b],' % (first_text, count_text)
            if synced_text is not None:
                named = int(synced_text)
        expected += 1
        if expected == group_end:
            if group_offset >= next_mark:
                marks.append((first, group_offset))
                next_mark = group_offset + MARK_EVERY_BYTES
            group_end, whole, whole_seq, last_offset = 0, end, expected - 1, offset
            synced = max(synced, named)
        offset = end
    verdict: Verdict = "whole"
    records = 0
    if whole < size:
        later, records = _after_damage(data, whole, whole_seq + 1)
        verdict = "damaged" if later > whole_seq else "torn"
    return Scan(header_bytes, whole, first_seq, whole_seq, last_offset, synced, verdict, records, tuple(marks))


def _after_damage(data: bytes, offset: int, cut_seq: int) -> tuple[int, int]:
    """Return the highest ``synced`` named by valid records after offset, and how many of them there are.

    Only records that belong after the cut count: a stale one from an earlier life of these blocks proves nothing.
    """
    synced = records = 0
    while True:
        offset = data.find(_RECORD_START, offset)
        if offset < 0:
            return synced, records
        match = _RECORD.match(data, offset)
        end = _checked_end(data, offset, match) if match is not None else 0
        if match is None or not end or int(match[3]) < cut_seq:
            offset += 1
            continue
        records += 1
        synced = max(synced, int(match[6] or 0))
        offset = end
