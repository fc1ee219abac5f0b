"""The way on for a damaged log: cut it at the damage, keep what was cut, and give what remains a new id.

With a new id hosts discard the places that they kept, since other records may come to stand there. Knows nothing of
what the records say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlzoo.errors import LogUnusable
from mlzoo.events import closed, framing
from mlzoo.events.identity import LOCK, give_identity, locked, read_identity
from mlzoo.events.newer import refuse_newer, refuse_newer_records
from mlzoo.events.recovery import keep_cut
from mlzoo.events.segments import CUT, Segments

if TYPE_CHECKING:
    from pathlib import Path

    from mlzoo.world import World


async def repair(world: World, path: Path) -> tuple[str, ...]:
    """Cut a log where it is damaged; return what was lost, one sentence each. A whole log is left as it is.

    Raises:
        LogUnusable: Another process writes it (reason locked), or a newer version wrote some of it (reason newer):
            what that version meant is not for this one to cut.
        OSError: The disk would not.
    """
    lock = world.disk.lock(path / LOCK)
    if lock is None:
        raise locked(path)
    try:
        groups = Segments(world.disk, path / "segments")
        asides = Segments(world.disk, path / "asides")
        refuse_newer(world, path)
        refuse_newer_records(groups)
        cuts = _damage(groups, ordered=True)
        aside_cuts = _damage(asides, ordered=False)
        gone = _missing(world, path, groups, asides)
        if not cuts and not aside_cuts and not gone and _has_identity(world, path):
            return ()
        # The new id first: were it last, a crash in between would leave a log that lost records under its old id.
        identity = await give_identity(world, path)
        lost = [f"the log's new id is {identity}", *gone]
        for first, offset in reversed(cuts):
            lost.append(await _cut(groups, first, offset))
        for first, offset in aside_cuts:
            lost.append(await _cut(asides, first, offset))
        if cuts and not _holds_records(Segments(world.disk, groups.directory)):
            kept = groups.directory / f"*{CUT}*"
            lost.append(f"the log is EMPTY now: no record is left in it; all that it held was cut, and lies in {kept}")
        await closed.write(world.disk, path, closed.Closed())  # Last: until then, a start refuses what lost records.
        return tuple(lost)
    finally:
        lock.release()


def _has_identity(world: World, path: Path) -> bool:
    try:
        return read_identity(world, path) is not None
    except LogUnusable:
        return False


def _missing(world: World, path: Path, groups: Segments, asides: Segments) -> list[str]:
    """Return what is not there although nothing of what is there is damaged, one sentence each."""
    try:
        end = closed.read(world.disk, path)
    except LogUnusable:
        return [f"{closed.FILE} was damaged: nobody can say whether records are missing at the end"]
    last_seq, crc = 0, None
    if groups.sizes:
        found = groups.scan(groups.firsts[-1])
        last_seq = found.last_seq
        if found.last_seq >= found.first_seq:
            crc = framing.last_crc(world.disk.read(groups.path(found.first_seq), 0, found.whole_bytes))
    what = closed.what_is_missing(end, last_seq, crc, groups, asides)
    return [f"records are missing: {what}"] if what else []


def _holds_records(segments: Segments) -> bool:
    return any(segments.scan(first).last_seq >= first for first in segments.firsts)


def _damage(segments: Segments, *, ordered: bool) -> list[tuple[int, int]]:
    """Return (segment, offset of its first byte that goes), oldest first. Ordered segments all go after a damage."""
    cuts: list[tuple[int, int]] = []
    last_seq = 0
    for first in segments.firsts:
        if ordered and (cuts or (last_seq and first != last_seq + 1)):
            cuts.append((first, 0))
            continue
        found = segments.scan(first)
        last_seq = found.last_seq
        if found.header_bytes and not _says_what_headers_say(segments, first):
            cuts.append((first, 0))
        elif found.verdict != "whole":
            cuts.append((first, found.whole_bytes))
    return cuts


def _says_what_headers_say(segments: Segments, first: int) -> bool:
    try:
        return segments.header(first) is not None
    except LogUnusable:
        return False


async def _cut(segments: Segments, first: int, offset: int) -> str:
    disk, path = segments.disk, segments.path(first)
    data = disk.read(path, offset)
    kept = await keep_cut(disk, path, data, offset)
    if offset:
        await disk.truncate(path, offset)
    else:
        disk.remove(path)
        await disk.sync_dir(segments.directory)
    records = data.count(b'{"crc":"')
    return f"{segments.directory.name}/{path.name}: {records} records or parts of them, now in {kept}"
