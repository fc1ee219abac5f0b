"""Up to where a log was durable when it was last closed in order: ``closed.json``, beside the directories of segments.

A record says up to where the log was durable when it was written, so that nobody says it of the last ones. An orderly
end syncs them, and then says here what it synced. That stays true for ever: records only come after it, retention never
takes the last segment, and forgetting changes no event, of which the last record of a group is one. So the file stays
when the next life begins, and what is missing up to that place was taken by no crash. A repair, which may cut it,
says here that nothing is known. Knows nothing of what records say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import orjson

from mlzoo.errors import LogUnusable
from mlzoo.events import framing

if TYPE_CHECKING:
    from pathlib import Path

    from mlzoo.events.segments import Segments
    from mlzoo.world import Disk

FILE = "closed.json"
NO_SEGMENTS = "it has asides, which are written after its first segment was, and no segment"


@attrs.frozen
class Closed:
    """The end of a log when it was closed.

    Attributes:
        last_seq: The last record; 0 where nothing is known.
        last_crc: Its CRC.
    """

    last_seq: int = 0
    last_crc: str = ""

    def is_kept(self, last_seq: int, last_crc: str | None) -> bool:
        """Whether a log that ends with a record, and is whole up to there, may be what this one became."""
        return last_seq > self.last_seq or (last_seq == self.last_seq and last_crc in (self.last_crc, None))


NEVER = Closed()
"""A log in which nothing is said of that: it was never closed. One that was repaired says that nothing is known."""


async def write(disk: Disk, path: Path, closed: Closed) -> None:
    """Say it, whole or not at all; all up to there is durable.

    Raises:
        OSError: The disk would not.
    """
    body = {"last_seq": closed.last_seq, "last_crc": closed.last_crc}
    await disk.replace(path / FILE, framing.seal(orjson.dumps(body)[1:]))


def read(disk: Disk, path: Path) -> Closed:
    """Return what the last orderly end of a log said.

    Raises:
        LogUnusable: It is not what was written (reason damaged).
        OSError: The disk would not.
    """
    try:
        data = disk.read(path / FILE)
    except FileNotFoundError:
        return NEVER
    if data and framing.line_end(data, 0) == len(data):
        found = orjson.loads(data)
        return Closed(int(found["last_seq"]), str(found["last_crc"]))
    raise LogUnusable(
        f"{path / FILE}, which says up to where the log was whole, is damaged; "
        f"`mlzoo log repair {path}` keeps what is whole now",
        reason="damaged",
        path=str(path),
        segment=FILE,
        offset=0,
        remedy=f"mlzoo log repair {path}",
    )


def expected(path: Path, groups: Segments, asides: Segments) -> Closed:
    """Return the same to who is about to look for the end of a log; raises as ``read`` does, and where all is gone."""
    closed = read(groups.disk, path)
    if closed is NEVER and asides.sizes and not groups.sizes:
        raise missing(path, NO_SEGMENTS)
    return closed


def missing(path: Path, what: str) -> LogUnusable:
    """Return the error for a log of which files are gone, or the ends of some."""
    return LogUnusable(
        f"the log is damaged: {what}; put its files back, or have `mlzoo log repair {path}` go on without",
        reason="damaged",
        path=str(path),
        remedy=f"put its files back, or mlzoo log repair {path}",
    )


def what_is_missing(closed: Closed, last_seq: int, last_crc: str | None, groups: Segments, asides: Segments) -> str:
    """Return what is not there of a log that ends with a record, as a part of a sentence; nothing: all is."""
    if closed is NEVER and asides.sizes and not groups.sizes:
        return NO_SEGMENTS
    return "" if closed.is_kept(last_seq, last_crc) else end_is_missing(closed, last_seq)


def end_is_missing(closed: Closed, last_seq: int) -> str:
    """Return how a log ends before the place up to which it was whole, as a part of a sentence."""
    if last_seq == closed.last_seq:
        return f"its record {last_seq} is another one than when it was last closed"
    what = f"only those up to {last_seq} are there" if last_seq else "there is none of them"
    return f"it had whole records up to {closed.last_seq} when it was last closed, and {what}"
