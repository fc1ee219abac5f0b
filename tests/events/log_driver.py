"""What the tests of the log share: groups to append, settings that make small segments, and a way to read all back."""

from pathlib import Path

import attrs
import trio

from mlzoo.events.commands import Cancel, ReportStep, RowFacts
from mlzoo.events.log import Log
from mlzoo.events.records import Group
from mlzoo.events.types import RequestCancelled, RequestStreamed

DIRECTORY = Path("/state/log")


@attrs.frozen(kw_only=True)
class Settings:
    durability: str = "disk"
    segment_bytes: int = 1 << 20
    asides_segment_bytes: int = 1 << 20
    budget_bytes: int = 1 << 30
    tail_bytes: int = 1 << 20
    keep_days: float | None = None


async def open_log(world, path=DIRECTORY, **settings):
    return await Log.open(path, world, Settings(**settings), version="0.0.0")


def bind(log):
    """Give segment headers a state of which a test can see where it was taken."""
    log.bind_state(lambda: {"last_seq": log.last_seq}, lambda: log.last_seq)


async def wait_synced(log, seq):
    """Wait until all up to seq is synced, as whoever speaks of it must; something up to there asks for a sync."""
    while log.synced < seq:
        if log.failed is not None:
            raise log.failed
        moved = trio.Event()
        log.on_progress.append(moved.set)
        await moved.wait()
        log.on_progress.remove(moved.set)


def append_tokens(log, number, request="req-a"):
    """Append a group that need not be synced by itself: one token of one request."""
    command = ReportStep(device="cpu", rows=(RowFacts(request=request, tokens=1, size_bytes=3),))
    event = RequestStreamed(request=request, row=0, tokens=1, seq=number)
    return log.append(command, [event], [{"content": f"t{number}", "tokens": [number]}], at_ms=number)


def append_end(log, number, request="req-a"):
    """Append a group that must be synced: the end of a request, in three records."""
    command = Cancel(request=f"req-c{number}", caller=None, target=request)
    return log.append(command, [RequestCancelled(request=request), RequestCancelled(request="b")], None, at_ms=number)


def read_all(log) -> list[Group]:
    return log.read(log.oldest_seq - 1, 1_000_000)
