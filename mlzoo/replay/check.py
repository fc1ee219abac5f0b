"""``mlzoo replay check``: everything that was decided is decided again, and must come out the same.

For each group: what ``decide`` says of the recorded command, in the state that everything before it led to, is what was
recorded. Where a core of another version decided, its events are folded and not compared. The states that the headers
of segments hold must be those that the fold arrives at. Reads a log from outside, without its lock.

Since a segment's header holds the state that it begins with, segments are checked side by side, in several processes,
and then that each ends where the next one begins.
"""

from __future__ import annotations

from functools import partial
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any

import attrs

from mlzoo.core.apply import Folding
from mlzoo.core.decide import decide_next
from mlzoo.core.state import State
from mlzoo.errors import ConfigError, LogUnusable
from mlzoo.events import recording
from mlzoo.events.codec import CODEC
from mlzoo.events.commands import Start
from mlzoo.events.records import CORE_VERSION
from mlzoo.events.segments import Segments, damaged
from mlzoo.events.story import gap, is_log
from mlzoo.events.unread import Unread, is_written_as, read, unread_groups
from mlzoo.replay.differences import Difference, differences
from mlzoo.replay.telling import group_in
from mlzoo.state_codec import decode_state

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from mlzoo.events.records import Group
    from mlzoo.events.types import Event
    from mlzoo.world import Disk, World


SIDE_BY_SIDE_BYTES = 32 * 1024 * 1024  # From here on the start of more processes is worth its second.


@attrs.frozen(kw_only=True)
class Departure:
    """The first place where what is decided now is not what was recorded."""

    seq: int
    what: str
    fields: tuple[Difference, ...]


@attrs.frozen(kw_only=True)
class Base:
    """Where a fold begins, or what it must have arrived at."""

    seq: int
    state: State
    core_version: int


@attrs.define(kw_only=True)
class Checked:
    """What a check found. Records are commands and events."""

    compared: int = 0
    folded: int = 0
    other_versions: list[str] = attrs.field(factory=list)  # which spans were folded only, and why
    notes: list[str] = attrs.field(factory=list)
    difference: Departure | None = None
    begins: Base | None = None
    ends: Base | None = None

    def told(self) -> list[str]:
        """Return it in sentences."""
        lines = [*self.notes, *self.other_versions]
        if self.difference is not None:
            lines += [self.difference.what, *(f"  {field}" for field in self.difference.fields)]
        folded = f", {self.folded} only folded" if self.folded else ""
        outcome = "all as recorded" if self.difference is None else "NOT as recorded"
        if self.difference is None and not self.compared:
            outcome = "nothing could be decided again"
        return [*lines, f"{self.compared} records compared{folded}: {outcome}"]


def check(world: World, path: Path, processes: int = 1) -> Checked:
    """Check a log's directory, or a recording.

    Args:
        world: its disk is read.
        path: where the log or recording is.
        processes: how many may work at once on a log of several segments.

    Raises:
        ConfigError: The path is neither.
        LogUnusable: The log is damaged, or newer than this version.
        RecordingUnusable: The recording cannot be believed.
        OSError: It cannot be read.
    """
    if path.is_dir():
        if not is_log(world.disk, path):
            raise ConfigError(f"there is no log in {path}")
        return _check_log(world.disk, path / "segments", processes)
    found = recording.read(path)
    if not found.header.get("folds", True):
        part = found.header.get("part")
        return Checked(notes=[f"this is of one {part} alone: it is whole, and nothing of it can be folded"])
    return fold(_of_recording(found))


def _check_log(disk: Disk, directory: Path, processes: int) -> Checked:
    segments = Segments(disk, directory)
    headers = [segments.header(first) for first in segments.firsts]
    if len(headers) <= 1 or any(header is None or header.state is None for header in headers[1:]):
        return fold(chain.from_iterable(map(partial(_of_segment, segments), segments.firsts)))
    if processes == 1 or segments.size_bytes() < SIDE_BY_SIDE_BYTES:
        return joined(map(partial(_check_segment, disk, directory), segments.firsts))
    import multiprocessing  # noqa: PLC0415 - what checks a small log or a recording does without
    from concurrent.futures import ProcessPoolExecutor  # noqa: PLC0415

    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(headers)), mp_context=context) as executor:
        return joined(executor.map(partial(_check_segment, disk, directory), segments.firsts))


def _check_segment(disk: Disk, directory: Path, first: int) -> Checked:
    return fold(_of_segment(Segments(disk, directory), first))


def joined(checks: Iterable[Checked]) -> Checked:
    """Return what was found of a whole log, up to the first difference, from what was found of each segment."""
    whole = Checked()
    parts = list(checks)
    for before, part in pairwise([None, *parts]):
        if part is None:
            continue
        if before is not None and before.ends is not None and part.begins is not None:
            if before.ends.seq != part.begins.seq - 1:
                raise _missing(before.ends.seq, part.begins.seq - 1)
            whole.difference = _apart(part.begins, before.ends.state)
            if whole.difference is not None:
                break
        whole.compared += part.compared
        whole.folded += part.folded
        whole.other_versions += [note for note in part.other_versions if note not in whole.other_versions[-1:]]
        whole.difference = part.difference
        if whole.difference is not None:
            break
    return whole


def _missing(last_seq: int, before_seq: int) -> LogUnusable:
    remedy = "put the log's files back, or record it again"
    return LogUnusable(f"{gap(last_seq, before_seq + 1)}; {remedy}", reason="damaged", remedy=remedy)


def fold(story: Iterator[Base | Group | Unread]) -> Checked:
    """Decide everything again, up to the first difference. A story begins with its base."""
    checked = Checked()
    folding, version, last_seq, since = Folding(State()), CORE_VERSION, None, 0
    for item in story:
        if isinstance(item, Base):
            if checked.begins is None:
                folding, checked.begins = Folding(item.state), item
            elif (apart := _apart(item, folding.state)) is not None:
                checked.difference = apart
                break
            version, since = item.core_version, item.seq
            continue
        if last_seq is not None and last_seq != item.first_seq - 1:
            raise _missing(last_seq, item.first_seq - 1)
        count = 1 + len(item.lines if isinstance(item, Unread) else item.events)
        last_seq = item.first_seq + count - 1
        if isinstance(item.command, Start) and item.command.core_version != version:
            version, since = item.command.core_version, item.first_seq
        if version != CORE_VERSION:
            folding.add(_read(item))
            checked.folded += count
            _note_version(checked, since, version)
            continue
        # What is decided is folded at once: where it is what was recorded, that is the state of the next decision.
        events = decide_next(folding, item.command, item.first_seq, item.at_ms)
        checked.compared += count
        if isinstance(item, Unread) and is_written_as(events, item):
            continue
        recorded = _read(item)
        if events != recorded.events:
            checked.difference = _departure(recorded, events)
            break
    else:
        if last_seq is not None:
            checked.ends = Base(seq=last_seq, state=folding.state, core_version=version)
        elif checked.begins is not None:
            checked.ends = attrs.evolve(checked.begins, seq=checked.begins.seq - 1)
    return checked


def _read(item: Group | Unread) -> Group:
    return read(item) if isinstance(item, Unread) else item


def _note_version(checked: Checked, since: int, version: int) -> None:
    note = f"from log_seq {since} on core_version {version} decided, this is {CORE_VERSION}: folded, not compared"
    if note not in checked.other_versions[-1:]:
        checked.other_versions.append(note)


def _apart(base: Base, state: State) -> Departure | None:
    if base.state == state and list(base.state.requests) == list(state.requests):
        return None
    what = f"the segment of {base.seq} begins with another state than what is before it leads to:"
    fields = differences(_plain(state), _plain(base.state), "state")
    return Departure(seq=base.seq, what=what, fields=tuple(fields))


def _departure(group: Group, events: tuple[Event, ...]) -> Departure:
    name = type(group.command).__name__
    found = differences([_shown(event) for event in group.events], [_shown(event) for event in events], "events")
    what = f"log_seq {group.first_seq}, {name}, is decided otherwise now:"
    return Departure(seq=group.first_seq, what=what, fields=tuple(found))


def _shown(event: Event) -> dict[str, Any]:
    return {"type": type(event).__name__, **CODEC.data(event)}


def _plain(state: State) -> dict[str, Any]:
    return attrs.asdict(state)


def _of_segment(segments: Segments, first: int) -> Iterator[Base | Group | Unread]:
    header = segments.header(first)
    found, lines = segments.load(first)
    is_last = first == segments.firsts[-1]
    if header is None or found.verdict == "damaged" or (found.verdict != "whole" and not is_last):
        raise damaged(segments.path(first), found.whole_bytes)
    if header.state is not None or first == segments.firsts[0]:
        yield Base(seq=first, state=decode_state(header.state), core_version=header.core_version)
    yield from unread_groups(lines)


def _of_recording(found: recording.Recording) -> Iterator[Base | Group | Unread]:
    groups = found.groups()
    state = decode_state(found.header.get("state"))
    yield Base(seq=1, state=state, core_version=found.header.get("core_version", CORE_VERSION))
    for line in groups:
        yield group_in(line)
