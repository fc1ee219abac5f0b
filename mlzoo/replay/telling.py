"""A log as a story that can be told on: its groups and asides in order, as plain data, from outside and without a lock.

Knows the shape of records and what a group is; knows no class of commands or events, so that nothing of what a newer
version wrote is lost on the way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import attrs

from mlzoo.errors import LogUnusable
from mlzoo.events.closed import missing
from mlzoo.events.codec import CODEC
from mlzoo.events.recording import RecordingUnusable
from mlzoo.events.records import Group
from mlzoo.events.story import LineReader, gap, story

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mlzoo.events.commands import Command
    from mlzoo.events.recording import Line
    from mlzoo.events.types import Event
    from mlzoo.world import Disk

Typed = tuple[str, int, dict[str, Any]]
"""A command or an event: its type, the version of its schema, its data."""


@attrs.frozen(kw_only=True)
class Told:
    """A group as plain data. ``more`` is what stood beside it in a recording of a newer minor version."""

    first_seq: int
    at_ms: int
    time_ms: int
    command: Typed
    events: tuple[Typed, ...]
    text: Any = None
    more: dict[str, Any] = attrs.field(factory=dict)

    @property
    def last_seq(self) -> int:
        """The log_seq of the group's last record."""
        return self.first_seq + len(self.events)


def tell(disk: Disk, path: Path) -> Iterator[Told | Line]:
    """Yield the groups and asides of a log in the order in which things happened; asides as they stand there.

    A group that is not whole at the end is not there yet.

    Raises:
        LogUnusable: Damaged.
    """
    readers = LineReader(disk, path / "segments"), LineReader(disk, path / "asides")
    pending: list[Line] = []
    last_seq = 0
    for _, record in story(*readers):
        if "aside_seq" in record:
            yield record
            continue
        if last_seq and record["log_seq"] != last_seq + 1:
            raise missing(path, gap(last_seq, record["log_seq"]))
        last_seq = record["log_seq"]
        pending.append(record)
        if len(pending) == record["group"][1]:
            yield _told(pending)
            pending = []
    stopped = [place for reader in readers for place in reader.stopped]
    if stopped:
        raise LogUnusable(
            f"the log {path} is damaged: {stopped[0]}; `mlzoo log repair {path}` cuts it there",
            reason="damaged",
            path=str(path),
            remedy=f"mlzoo log repair {path}",
        )


def _told(records: list[Line]) -> Told:
    command, *events = [(record["type"], record["version"], record["data"]) for record in records]
    first = records[0]
    return Told(
        first_seq=first["log_seq"],
        at_ms=first["at_ms"],
        time_ms=first["time_ms"],
        command=command,
        events=tuple(events),
        text=first.get("text"),
    )


def group_of(told: Told) -> Group:
    """Return a group as the core knows it.

    Raises:
        LogUnusable: A newer version wrote it (reason newer).
    """
    decode = CODEC.decode
    return Group(
        first_seq=told.first_seq,
        at_ms=told.at_ms,
        time_ms=told.time_ms,
        command=cast("Command", decode(*told.command)),
        events=cast("tuple[Event, ...]", tuple([decode(*event) for event in told.events])),
        text=told.text,
    )


def line_of(told: Told) -> Line:
    """Return the line of a recording that holds a group."""
    line: Line = {
        "group": told.first_seq,
        "at_ms": told.at_ms,
        "ms": told.time_ms,
        "command": told.command,
        "events": told.events,
    }
    if told.text is not None:
        line["text"] = told.text
    return line | told.more


def told_in(line: Line) -> Told:
    """Return the group that a line of a recording holds."""
    known = {"group", "at_ms", "ms", "command", "events", "text"}
    kind, version, data = line["command"]
    return Told(
        first_seq=line["group"],
        at_ms=line["at_ms"],
        time_ms=line["ms"],
        command=(kind, version, data),
        events=tuple([(kind, version, data) for kind, version, data in line["events"]]),
        text=line.get("text"),
        more={name: value for name, value in line.items() if name not in known},
    )


def group_in(line: Line) -> Group:
    """Return the group that a line of a recording holds, as the core knows it.

    Raises:
        RecordingUnusable: A newer version recorded it.
    """
    try:
        return group_of(told_in(line))
    except LogUnusable as error:
        raise RecordingUnusable(error.message.replace("the log", "the recording"), **error.data) from error
