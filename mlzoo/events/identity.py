"""Who a log is: its id and format in ``log.json``, and the ways in which it cannot be used.

Hosts keep places in a log by its id; repair with loss gives it a new one. Knows nothing of records.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import orjson

from mlzoo.errors import LogUnusable, StorageFailed
from mlzoo.events.recovery import NO_SPACE
from mlzoo.events.segments import FORMAT, Segments

if TYPE_CHECKING:
    from pathlib import Path

    from mlzoo.world import Disk, World

FILE = "log.json"
NO_RIGHTS = {errno.EACCES, errno.EPERM, errno.EROFS}
LOCK = "lock"


async def give_identity(world: World, path: Path, identity: str = "") -> str:
    """Give a log an id, a new one unless it is said which, and return it.

    Raises:
        OSError: The disk would not.
    """
    identity = identity or world.ids.new("log")
    data = {"id": identity, "format": FORMAT, "created_ms": world.clock.wall_ms()}
    await world.disk.replace(path / FILE, orjson.dumps(data) + b"\n")
    return identity


def read_identity(world: World, path: Path) -> str | None:
    """Return the id of a log; None where it has none yet.

    Raises:
        LogUnusable: Its format is newer than this version, or the file is damaged.
        OSError: The disk would not.
    """
    if FILE not in world.disk.names(path):
        return None
    try:
        found = orjson.loads(world.disk.read(path / FILE))
        identity, written = str(found["id"]), int(found["format"])
    except (ValueError, KeyError, TypeError) as error:
        raise LogUnusable(
            f"{path / FILE} does not name a log; `mlzoo log repair {path}` gives it a new name",
            reason="damaged",
            path=str(path),
            segment=FILE,
            offset=0,
            remedy=f"mlzoo log repair {path}",
        ) from error
    if written > FORMAT:
        raise LogUnusable(
            f"the log {path} is in format {written}; this version reads up to {FORMAT}",
            reason="newer",
            path=str(path),
            remedy="use the version of mlzoo that wrote it, or another log",
        )
    return identity


def written_in(disk: Disk, path: Path) -> str:
    """Return the id of a log whose file is gone, as its segments say it; nothing where there is none to say it."""
    segments = Segments(disk, path / "segments")
    for first in reversed(segments.firsts):
        header = segments.header(first)
        if header is not None:
            return header.log
    return ""


def locked(path: Path) -> LogUnusable:
    """Return the error for a log that another process writes."""
    return LogUnusable(
        f"another process holds the log {path}; give this one a log of its own with --log",
        reason="locked",
        path=str(path),
        remedy="end the other process, or choose another log",
    )


def unwritable(path: Path, error: OSError) -> LogUnusable:
    """Return the error for a log that the disk or its permissions keep from being written."""
    is_full = error.errno in NO_SPACE
    return LogUnusable(
        f"the log {path} cannot be written: {error}",
        reason="unwritable",
        path=str(path),
        remedy="make room on that disk, or choose a directory on another one with --log"
        if is_full
        else "choose a directory that this user can write to, with --log",
    )


def failed(path: Path, why: OSError) -> StorageFailed:
    """Return the error for a log whose disk failed while it was written."""
    way_on = "start again"
    if why.errno in NO_SPACE:
        way_on = "make room on that disk, then start again"
    elif why.errno in NO_RIGHTS:
        way_on = "let this user write to all of it, or choose another with --log, then start again"
    return StorageFailed(
        f"the log {path} could not be written ({why}); nothing more is recorded until a restart: {way_on}",
        reason="failed",
    )
