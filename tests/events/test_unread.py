"""Groups of which the events are compared as they were written, and read where that says nothing."""

import attrs
import orjson
import pytest

from mlzoo.events import commands as cmd
from mlzoo.events import types as ev
from mlzoo.events.codec import encode_group, groups_of
from mlzoo.events.records import Group
from mlzoo.events.unread import Unread, is_written_as, read, unread_groups

PIECE = ev.RequestStreamed(request='req-"é', row=0, tokens=1, seq=7)
PIECES = (
    PIECE,
    attrs.evolve(PIECE, request="req-b", row=1),
    attrs.evolve(PIECE, seq=None),
    attrs.evolve(PIECE, prompt_tokens=5, cached_tokens=2),
    attrs.evolve(PIECE, prompt_tokens=0),
)


def step(events, first_seq=3):
    command = cmd.ReportStep(device="cpu", rows=(cmd.RowFacts(request="req-a", tokens=1, size_bytes=3),))
    return Group(first_seq=first_seq, at_ms=5, time_ms=6, command=command, events=events)


def lines_of(*groups):
    return b"".join(encode_group(group, 0) for group in groups).split(b"\n")[:-1]


def unread(events):
    [found] = unread_groups(lines_of(step(events)))
    return found


def test_events_are_told_to_be_those_that_were_written():
    assert is_written_as((*PIECES, ev.WorkerRetired(device="cpu")), unread((*PIECES, ev.WorkerRetired(device="cpu"))))


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize(
    "changes",
    [{"request": "req-c"}, {"row": 9}, {"tokens": 2}, {"seq": 8}, {"prompt_tokens": 9}, {"cached_tokens": 9}],
    ids=str,
)
def test_one_that_differs_in_any_field_is_told_apart(piece, changes):
    other = attrs.evolve(piece, **changes)
    assert not is_written_as((PIECE, other), unread((PIECE, piece)))
    assert not is_written_as((other,), unread((piece,)))


def test_one_more_and_one_less_are_told_apart():
    assert not is_written_as(PIECES[:2], unread(PIECES[:1]))
    assert not is_written_as(PIECES[:1], unread(PIECES[:2]))


def test_another_kind_of_event_with_the_same_request_is_told_apart():
    accepted = ev.RequestCancelled(request=PIECE.request)
    assert not is_written_as((accepted,), unread((PIECE,)))
    assert not is_written_as((PIECE,), unread((accepted,)))


def test_what_was_written_in_another_way_is_equal_once_it_is_read():
    group = unread((PIECE,))
    spelled = orjson.dumps(dict(reversed(orjson.loads(group.lines[0]).items())))
    other = Unread(group.first_seq, group.at_ms, group.time_ms, group.command, [spelled])
    assert not is_written_as((PIECE,), other)
    assert read(other) == step((PIECE,))


def test_groups_are_the_same_as_when_they_are_read_at_once_and_an_unfinished_one_is_left_out():
    groups, seq = [], 1
    for number in range(150):
        groups.append(step(PIECES[: number % 4], seq))
        seq = groups[-1].last_seq + 1
    lines = lines_of(*groups)
    assert [read(group) for group in unread_groups(lines)] == groups == list(groups_of(lines))
    assert [read(group) for group in unread_groups(lines[:-1])] == groups[:-1]
