import zlib

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlzoo.events import framing
from mlzoo.events.codec import encode_group
from mlzoo.events.commands import Strike
from mlzoo.events.framing import scan, scan_end, seal
from mlzoo.events.records import Group
from mlzoo.events.segments import Header, encode_header
from mlzoo.events.types import RequestCancelled


def group(first_seq, records, synced=0):
    events = tuple(RequestCancelled(request=f"r{number}") for number in range(records - 1))
    return encode_group(Group(first_seq=first_seq, at_ms=1, time_ms=2, command=Strike(), events=events), synced)


HEADER = encode_header(Header(segment=1, log="log-x", version="0", at_ms=0, time_ms=0, oldest=1, synced=0))
GROUPS = [group(1, 2), group(3, 3), group(6, 1), group(7, 4)]
WHOLE = HEADER + b"".join(GROUPS)


def test_a_line_is_plain_json_that_says_its_crc_and_size():
    line = seal(b'"a":1}')
    data = orjson.loads(line)
    assert int(data["size"], 16) == len(line)
    assert int(data["crc"], 16) == zlib.crc32(line[line.index(b'"size"') : -1])


def test_whole_segments_are_found_whole():
    found = scan(WHOLE, 1)
    assert (found.verdict, found.whole_bytes, found.last_seq) == ("whole", len(WHOLE), 10)
    assert orjson.loads(WHOLE[found.last_offset :])["log_seq"] == 10


def test_a_torn_tail_is_cut_at_the_last_whole_group():
    ends = [len(HEADER)]
    for data in GROUPS:
        ends.append(ends[-1] + len(data))
    for size in range(len(HEADER), len(WHOLE)):
        found = scan(WHOLE[:size], 1)
        assert found.whole_bytes == max(end for end in ends if end <= size)
        assert found.verdict == ("whole" if size in ends else "torn")


def test_a_segment_without_a_whole_header_holds_nothing():
    for size in range(len(HEADER)):
        assert scan(HEADER[:size], 1).header_bytes == 0
    assert scan(WHOLE, 2).header_bytes == 0


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 7))
def test_no_flipped_bit_goes_unnoticed(offset, bit):
    data = bytearray(WHOLE)
    data[offset] ^= 1 << bit
    found = scan(bytes(data), 1)
    assert found.verdict != "whole"
    assert found.whole_bytes <= offset


def test_damage_before_what_was_synced_is_no_torn_tail():
    data = bytearray(HEADER + group(1, 2) + group(3, 2) + group(5, 1, synced=4))
    data[len(HEADER) + len(group(1, 2)) + 60] ^= 1
    found = scan(bytes(data), 1)
    assert (found.verdict, found.last_seq, found.lost_records) == ("damaged", 2, 2)


def test_damage_among_what_nobody_called_synced_is_a_torn_tail():
    data = bytearray(HEADER + group(1, 2) + group(3, 2, synced=2) + group(5, 1, synced=2))
    data[len(HEADER) + len(group(1, 2)) + 60] ^= 1
    found = scan(bytes(data), 1)
    assert (found.verdict, found.last_seq, found.lost_records) == ("torn", 2, 2)


def test_a_stale_record_of_an_earlier_life_proves_nothing():
    found = scan(HEADER + group(1, 2) + bytes(30) + group(1, 1, synced=900), 1)
    assert (found.verdict, found.last_seq) == ("torn", 2)


@pytest.mark.parametrize("stray", [group(4, 1), group(12, 1), b"\n", b"{}\n"])
def test_a_record_out_of_its_place_ends_what_is_whole(stray):
    assert scan(WHOLE + stray, 1).whole_bytes == len(WHOLE)


def test_the_end_of_a_segment_can_be_read_alone():
    found = scan_end(WHOLE[len(HEADER) + 5 :])
    assert found is not None
    assert (found.verdict, found.first_seq, found.last_seq) == ("whole", 2, 10)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_garbage_is_never_taken_for_records(data):
    assert scan(data, 1).last_seq == 0
    assert scan(WHOLE + data, 1).last_seq == 10
    end = scan_end(data)
    assert end is None or end.verdict != "whole"


def test_marks_are_groups_starts_about_every_64_kib():
    data, seq = HEADER, 1
    while len(data) < 5 * framing.MARK_EVERY_BYTES:
        data += group(seq, 50)
        seq += 50
    marks = scan(data, 1).marks
    assert 4 <= len(marks) <= 6
    for first_seq, offset in marks:
        assert orjson.loads(data[offset : data.index(b"\n", offset)])["group"][0] == first_seq
