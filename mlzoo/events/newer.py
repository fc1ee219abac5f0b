"""Finding out that a newer version of mlzoo wrote a log, before anything is done with what that version meant.

Knows where versions stand: in ``log.json``, in the header of each segment, and in each record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from mlzoo.errors import LogUnusable
from mlzoo.events.identity import read_identity
from mlzoo.events.segments import Segments

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlzoo.world import World


def refuse_newer(world: World, path: Path) -> None:
    """Look at what a log and its segments say of their format. Damage is left to those who look for it.

    Raises:
        LogUnusable: A newer version wrote some of it (reason newer).
        OSError: It cannot be read.
    """
    _unless_newer(lambda: read_identity(world, path))
    for directory in ("segments", "asides"):
        segments = Segments(world.disk, path / directory)
        for first in segments.firsts:
            refuse_newer_header(segments, first)


def refuse_newer_header(segments: Segments, first: int) -> None:
    """Look at the header of one segment; raises as ``refuse_newer`` does."""
    try:
        _unless_newer(lambda: segments.header(first))
    except FileNotFoundError:
        return  # Retention was faster.


def refuse_newer_records(segments: Segments) -> None:
    """Look at the version of every whole record; raises as ``refuse_newer`` does."""
    from mlzoo.events.codec import CODEC  # noqa: PLC0415 - brings in the classes of commands

    seen: set[tuple[str, int]] = set()
    for first in segments.firsts:
        for line in segments.load(first)[1]:
            record = orjson.loads(line)
            stored = (record["type"], record["version"])
            if stored not in seen:
                seen.add(stored)
                try:
                    CODEC.refuse_newer(*stored)
                except LogUnusable as error:
                    error.data["path"] = str(segments.directory.parent)
                    raise


def _unless_newer(look: Callable[[], object]) -> None:
    try:
        look()
    except LogUnusable as error:
        if error.data["reason"] == "newer":
            raise
