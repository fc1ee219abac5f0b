"""Groups of which the events are left as the lines that they were written as.

Who decides a recorded command again knows what its events must be: to compare that with the lines, as bytes, takes a
third of the time that it takes to parse them. Knows nothing of who compares, nor of files.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, cast

import attrs
import orjson

from mlzoo.events.codec import AT_ONCE, CODEC, group_count, parsed
from mlzoo.events.commands import Command
from mlzoo.events.records import Group
from mlzoo.events.types import RequestStreamed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlzoo.events.types import Event

_PIECE = (
    b'"log_seq":%d,%b"kind":"event","type":"RequestStreamed","version":1,"data":'
    b'{"request":%b,"row":%d,"tokens":%d,"seq":%d}}'
)


@attrs.define
class Unread:
    """A group of which the command was read; its events are the lines that they were read as."""

    first_seq: int
    at_ms: int
    time_ms: int
    command: Command
    lines: Sequence[bytes]


def unread_groups(lines: Sequence[bytes]) -> Iterator[Unread]:
    """Yield the groups of verified lines that are all there; an unfinished one at the end is left out."""
    at, end, decode = 0, len(lines), CODEC.decode
    while at < end:
        starts: list[int] = []
        while at < end and len(starts) < AT_ONCE:
            starts.append(at)
            at += group_count(lines[at])
        if at > end:
            starts.pop()  # It is unfinished.
        for start, record in zip(starts, parsed([lines[start] for start in starts]), strict=True):
            command: Command = decode(record["type"], record["version"], record["data"])
            seq, count = record["group"]
            events = lines[start + 1 : start + count]
            yield Unread(seq, record["at_ms"], record["time_ms"], command, events)


def read(group: Unread) -> Group:
    """Return a group with its events; without its text, which no decision reads.

    Raises:
        LogUnusable: A newer version wrote it (reason newer).
    """
    events = cast("tuple[Event, ...]", CODEC.decode_all(parsed(group.lines)))
    return Group(
        first_seq=group.first_seq, at_ms=group.at_ms, time_ms=group.time_ms, command=group.command, events=events
    )


def is_written_as(events: Sequence[Event], group: Unread) -> bool:
    """Whether these events would be written as a group's are, so that they are equal.

    Equal ones may be written in another way, by another version say.
    """
    if len(events) != len(group.lines):
        return False
    seq = group.first_seq
    common = b'"group":[%d,%d],"at_ms":%d,"time_ms":%d,' % (seq, len(events) + 1, group.at_ms, group.time_ms)
    for line, event in zip(group.lines, events, strict=True):
        seq += 1
        if type(event) is RequestStreamed and event.prompt_tokens is None and event.seq is not None:
            # By far the most frequent: written out here, which takes a third of the time. Where it were written in
            # another way one day, nothing would be wrong but the speed.
            body = _PIECE % (seq, common, _as_json(event.request), event.row, event.tokens, event.seq)
            is_same = event.cached_tokens == 0 and line.endswith(body)
        else:
            head, data = CODEC.encode(event)
            is_same = line.endswith(b'"log_seq":%d,%b%b%b}' % (seq, common, head, data))
        if not is_same:
            return False
    return True


@lru_cache(maxsize=1024)
def _as_json(name: str) -> bytes:
    return orjson.dumps(name)
