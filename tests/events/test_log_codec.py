from typing import ClassVar, get_args

import attrs
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from json_strategies import JSON, values

from mlzoo.errors import Failure, LogUnusable
from mlzoo.events import commands, types
from mlzoo.events.codec import (
    CODEC,
    Codec,
    classes_of,
    decode_aside,
    decode_group,
    encode_aside,
    encode_group,
    groups_in,
)
from mlzoo.events.records import Aside, Group

COMMANDS = st.one_of(*map(values, get_args(commands.Command)))
EVENTS = st.one_of(*map(values, get_args(types.Event)))


@pytest.mark.parametrize("kind", [*get_args(commands.Command), *get_args(types.Event)], ids=lambda kind: kind.__name__)
def test_every_class_comes_back_as_it_was_stored(kind):
    @settings(max_examples=25, deadline=None)
    @given(values(kind))
    def check(value):
        head, data = CODEC.encode(value)
        record = orjson.loads(b"{" + head + data + b"}")
        assert CODEC.decode(record["type"], record["version"], record["data"]) == value

    check()


@settings(deadline=None, max_examples=60)
@given(COMMANDS, st.lists(EVENTS, max_size=4), JSON, st.integers(1, 2**53))
def test_a_group_comes_back_as_it_was_written(command, events, text, seq):
    group = Group(first_seq=seq, at_ms=5, time_ms=6, command=command, events=tuple(events), text=text)
    lines = encode_group(group, synced=0).splitlines()
    assert decode_group(lines) == group
    assert [record["log_seq"] for record in map(orjson.loads, lines)] == list(range(seq, group.last_seq + 1))


@settings(deadline=None, max_examples=60)
@given(values(Aside))
def test_an_aside_comes_back_as_it_was_written(aside):
    assert decode_aside(encode_aside(*attrs.astuple(aside, recurse=False))) == aside


def test_fields_at_their_defaults_are_not_stored():
    assert CODEC.data(commands.ReportStorage(low=True)) == {"low": True}


def test_text_stands_on_the_command_alone():
    group = Group(
        first_seq=1,
        at_ms=0,
        time_ms=0,
        command=commands.Strike(),
        events=(types.RequestCancelled(request="r"),),
        text={"prompt": "hello"},
    )
    command, event = map(orjson.loads, encode_group(group, synced=0).splitlines())
    assert command["text"] == {"prompt": "hello"}
    assert command["kind"] == "command"
    assert event["kind"] == "event"
    assert "text" not in event


def test_an_unfinished_group_at_the_end_is_left_out():
    group = Group(
        first_seq=1,
        at_ms=0,
        time_ms=0,
        command=commands.Strike(),
        events=(types.RequestCancelled(request="r"),),
    )
    later = attrs.evolve(group, first_seq=3)
    lines = (encode_group(group, 0) + encode_group(later, 0)).splitlines()
    assert list(groups_in(lines[:-1])) == [group]


def test_what_is_no_json_is_refused_before_anything_is_written():
    group = Group(first_seq=1, at_ms=0, time_ms=0, command=commands.Strike(), events=(), text={"a": object()})
    with pytest.raises(TypeError):
        encode_group(group, synced=0)


# ------------------------------------------------------------------------------------------------ versions


@attrs.frozen(kw_only=True)
class Moved:
    """A class whose stored shape has changed twice: x and y were one list, and before that two strings."""

    VERSION: ClassVar[int] = 3
    x: int
    y: int


MOVED = Codec(
    lambda: classes_of(event=Moved | types.RequestCancelled),
    {
        ("Moved", 1): lambda data: {"at": [int(data["left"]), int(data["top"])]},
        ("Moved", 2): lambda data: {"x": data["at"][0], "y": data["at"][1]},
    },
)


@pytest.mark.parametrize(
    ("version", "data"), [(1, {"left": "3", "top": "4"}), (2, {"at": [3, 4]}), (3, {"x": 3, "y": 4})]
)
def test_data_of_an_old_version_become_those_of_the_current_one(version, data):
    assert MOVED.decode("Moved", version, data) == Moved(x=3, y=4)


def test_the_current_version_is_the_one_that_is_written():
    head, _ = MOVED.encode(Moved(x=1, y=2))
    assert b'"version":3' in head


@pytest.mark.parametrize(("name", "version"), [("Moved", 4), ("Unheard", 1)])
def test_what_a_newer_version_wrote_is_refused_as_newer(name, version):
    with pytest.raises(LogUnusable) as caught:
        MOVED.decode(name, version, {})
    assert caught.value.data["reason"] == "newer"


def test_a_field_that_a_later_release_added_is_passed_over():
    assert CODEC.decode("RequestCancelled", 1, {"request": "r", "why": "later"}) == types.RequestCancelled(request="r")


def test_a_failure_inside_an_aside_keeps_its_data():
    aside = Aside(
        aside_seq=1,
        after_seq=0,
        time_ms=0,
        connection="c",
        method="m",
        rpc=None,
        failure=Failure(-32602, "no", {"path": ["a"]}),
    )
    assert decode_aside(encode_aside(*attrs.astuple(aside, recurse=False))) == aside
