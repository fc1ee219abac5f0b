"""The event log against its peers: ``python bench/log.py``; --json for the figures alone.

Appends in groups of 100 without a sync, against SQLite (WAL, synchronous=OFF) and a bare write of the same bytes;
appends from 32 clients that wait for the disk, against SQLite (FULL) and a bare write + fdatasync of 32 at a time; the
lateness of the event loop meanwhile; asides; and replaying. All records are events of the schema, about 200 bytes long.

What waits for nothing is also measured per second of CPU time, the kernel's part included: on a machine that has
nothing else to do that is the same as wall time, and on a busy one it still means something. Targets are of wall time.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import tempfile
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import trio

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent))

from measure import Row, compare, interleave, main

from mlzoo.core.apply import Folding, apply
from mlzoo.core.state import State
from mlzoo.events.codec import encode_group
from mlzoo.events.commands import Cancel, ReportStep
from mlzoo.events.log import Log
from mlzoo.events.records import Group
from mlzoo.events.types import RequestAccepted, RequestCancelled, RequestStreamed
from mlzoo.world import real_world

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 5
GROUPS = 500  # of 100 records each
CLIENTS = 32
APPENDS = 6000
PINGS = 64
BATCHES = 500
STEP = ReportStep(device="cpu", rows=())
TOKENS = [RequestStreamed(request=f"req-{number % 16:020d}", row=number, tokens=1, seq=number) for number in range(99)]
CANCEL = Cancel(request="req-c", caller=None, target="req-a")
END = [RequestCancelled(request="req-a")]


@attrs.frozen(kw_only=True)
class Settings:
    """How the measured logs are kept: as by default, whatever the defaults are."""

    durability: str
    segment_bytes: int = 2 << 20
    asides_segment_bytes: int = 4 << 20
    budget_bytes: int = 1 << 30
    tail_bytes: int = 8 << 20
    keep_days: float | None = None


@contextmanager
def directory():
    """Yield a fresh directory on the disk that this project lies on, and remove it."""
    with tempfile.TemporaryDirectory(dir=Path(__file__).parent, prefix=".log-") as path:
        yield Path(path)


async def opened(path: Path, durability: str) -> Log:
    log = await Log.open(path / "log", real_world(), Settings(durability=durability), version="0.0.0")
    log.bind_state(dict, lambda: log.last_seq)
    return log


# ---------------------------------------------------------------------------------------------------- in groups of 100


def groups_of_100(clock_s: Callable[[], float]) -> float:
    """Return records per second of a clock, numbered, encoded and written, a group at a time."""

    async def measured(path: Path) -> float:
        log = await opened(path, "process")
        log.append(STEP, TOKENS, None, 0)
        start = clock_s()
        for number in range(GROUPS):
            log.append(STEP, TOKENS, None, number)
            log.commit()
        taken = clock_s() - start
        await log.close()
        return GROUPS * 100 / taken

    with directory() as path:
        return trio.run(measured, path)


def record_lines() -> list[bytes]:
    group = Group(first_seq=1, at_ms=1, time_ms=1_700_000_000_000, command=STEP, events=tuple(TOKENS))
    return encode_group(group, 0).splitlines(keepends=True)


def sqlite_groups_of_100() -> float:
    """Return rows per second of already encoded records, a transaction of 100 at a time, without syncs."""
    lines = record_lines()
    with directory() as path:
        database = database_at(path, "OFF")
        start = time.process_time()
        for number in range(GROUPS):
            with database:
                database.executemany("insert into log values (?, ?)", ((number, line) for line in lines))
        taken = time.process_time() - start
        database.close()
    return GROUPS * 100 / taken


def write_groups_of_100() -> float:
    """Return records per second of bytes that are there already, a write for each 100."""
    data = b"".join(record_lines())
    with directory() as path, (path / "file").open("ab", buffering=0) as file:
        start = time.process_time()
        for _ in range(GROUPS):
            file.write(data)
        return GROUPS * 100 / (time.process_time() - start)


def database_at(path: Path, synchronous: str) -> sqlite3.Connection:
    database = sqlite3.connect(path / "database")
    database.execute("pragma journal_mode = wal")
    database.execute(f"pragma synchronous = {synchronous}")
    database.execute("create table log (seq integer, record blob)")
    database.commit()
    return database


# ---------------------------------------------------------------------------------------------------- with the disk

lateness_ms: list[float] = []
idle_lateness_ms: list[float] = []


async def tick(lateness_ms: list[float]) -> None:
    """Note for ever how late the event loop is for what is due each millisecond."""
    while True:
        due = trio.current_time() + 0.001
        await trio.sleep_until(due)
        lateness_ms.append((trio.current_time() - due) * 1000)


def idle() -> float:
    """Note the lateness of a loop that does nothing else, on a machine that may have other work."""

    async def measured() -> None:
        with trio.move_on_after(0.4):
            await tick(idle_lateness_ms)

    trio.run(measured)
    return p99(idle_lateness_ms)


def p99(values: list[float]) -> float:
    """Return what one value in a hundred exceeds."""
    return sorted(values)[len(values) * 99 // 100]


async def synced(log: Log, seq: int) -> None:
    """Wait until all up to seq is durable, as the hub does for its readers."""
    while log.synced < seq:
        moved = trio.Event()
        log.on_progress.append(moved.set)
        await moved.wait()
        log.on_progress.remove(moved.set)


def from_32_clients() -> float:
    """Return records per second from clients that each wait until their group of two is durable."""

    async def client(log: Log) -> None:
        for _ in range(APPENDS // CLIENTS):
            group = log.append(CANCEL, END, None, 1)
            log.commit()
            await synced(log, group.last_seq)

    async def measured(path: Path) -> float:
        log = await opened(path, "disk")
        async with trio.open_nursery() as around:
            await around.start(log.run_flusher)
            around.start_soon(tick, lateness_ms)
            start = time.perf_counter()
            async with trio.open_nursery() as clients:
                for _ in range(CLIENTS):
                    clients.start_soon(client, log)
            taken = time.perf_counter() - start
            around.cancel_scope.cancel()
        await log.close()
        return APPENDS * 2 / taken

    with directory() as path:
        return trio.run(measured, path)


def sqlite_32_at_a_time() -> float:
    """Return rows per second in durable transactions of 64 rows, which is what 32 clients could share at best."""
    line = record_lines()[1]
    with directory() as path:
        database = database_at(path, "FULL")
        start = time.perf_counter()
        for number in range(APPENDS // CLIENTS):
            with database:
                database.executemany("insert into log values (?, ?)", ((number, line) for _ in range(CLIENTS * 2)))
        taken = time.perf_counter() - start
        database.close()
    return APPENDS * 2 / taken


def sync_32_at_a_time() -> float:
    """Return records per second of bytes that are there already, written and synced 64 at a time."""
    data = record_lines()[1] * CLIENTS * 2
    sync = getattr(os, "fdatasync", os.fsync)
    with directory() as path, (path / "file").open("ab", buffering=0) as file:
        start = time.perf_counter()
        for _ in range(APPENDS // CLIENTS):
            file.write(data)
            sync(file.fileno())
        return APPENDS * 2 / (time.perf_counter() - start)


# ---------------------------------------------------------------------------------------------------- asides, reading


def asides_of_64(clock_s: Callable[[], float]) -> float:
    """Return asides per second of a clock, committed 64 at a time."""

    async def measured(path: Path) -> float:
        log = await opened(path, "process")
        log.aside("con-1", "ping", 0, None, {})
        start = clock_s()
        for _ in range(BATCHES):
            for number in range(PINGS):
                log.aside("con-1", "ping", number, None, {})
            log.commit_asides()
        taken = clock_s() - start
        await log.close()
        return BATCHES * PINGS / taken

    with directory() as path:
        return trio.run(measured, path)


def replayed(clock_s: Callable[[], float], state: State | None) -> float:
    """Return records per second of a clock, verified, decoded and structured, from a segment of 30,000.

    With a state, in which those requests run, they are folded too, as a start does it.
    """

    async def measured(path: Path) -> float:
        log = await opened(path, "process")
        for number in range(300):
            log.append(STEP, TOKENS, None, number)
        log.commit()
        start = clock_s()
        folding = Folding(state or State())
        for group in log.replay():
            if state is not None:
                folding.add(group)
        assert state is None or folding.state != state
        taken = clock_s() - start
        await log.close()
        return 300 * 100 / taken

    with directory() as path:
        return trio.run(measured, path)


def running() -> State:
    """Return a state in which every request of ``TOKENS`` runs."""
    state = State()
    for number, token in enumerate(TOKENS, start=1):
        state = apply(state, RequestAccepted(request=token.request, caller=None, kind="chat"), number, 0)
    return state


def sqlite_read() -> float:
    """Return rows per second, read back as bytes."""
    lines = record_lines()
    with directory() as path:
        database = database_at(path, "OFF")
        with database:
            for number in range(300):
                database.executemany("insert into log values (?, ?)", ((number, line) for line in lines))
        start = time.process_time()
        count = sum(1 for _ in database.execute("select seq, record from log order by rowid"))
        taken = time.process_time() - start
        database.close()
    return count / taken


def measure(rounds: int) -> list[Row]:
    """Measure all, round by round."""
    lateness_ms.clear()
    idle_lateness_ms.clear()
    cpu, wall, state = time.process_time, time.perf_counter, running()
    found = interleave(
        rounds,
        {
            "groups": partial(groups_of_100, wall),
            "groups, CPU": partial(groups_of_100, cpu),
            "SQLite's groups": sqlite_groups_of_100,
            "written groups": write_groups_of_100,
            "clients": from_32_clients,
            "SQLite's clients": sqlite_32_at_a_time,
            "synced writes": sync_32_at_a_time,
            "asides": partial(asides_of_64, wall),
            "asides, CPU": partial(asides_of_64, cpu),
            "replay": partial(replayed, wall, None),
            "replay, CPU": partial(replayed, cpu, None),
            "fold": partial(replayed, wall, state),
            "fold, CPU": partial(replayed, cpu, state),
            "SQLite's rows": sqlite_read,
            "idle": idle,
        },
    )
    return rows_of(found, rounds)


def rows_of(found: dict[str, list[float]], rounds: int) -> list[Row]:
    """Return what was found beside what is wanted and what peers do."""

    def wanted(per_s: float) -> list[float]:
        return [per_s] * rounds

    groups, clients = "append in groups of 100 (process)", "append from 32 clients (disk)"
    groups_cpu, late = found["groups, CPU"], [p99(lateness_ms)]
    return [
        compare(groups, "/s", found["groups"], "wanted", wanted(250_000), ">= 1.0"),
        compare(groups, "/CPU s", groups_cpu, "wanted", wanted(250_000)),
        compare(groups, "/CPU s", groups_cpu, "SQLite WAL OFF", found["SQLite's groups"]),
        compare(groups, "/CPU s", groups_cpu, "bare write", found["written groups"]),
        compare(clients, "/s", found["clients"], "wanted", wanted(40_000), ">= 1.0"),
        compare(clients, "/s", found["clients"], "SQLite WAL FULL, 64 rows", found["SQLite's clients"]),
        compare(clients, "/s", found["clients"], "bare write + sync of 64", found["synced writes"]),
        compare("loop lateness p99 meanwhile", "ms", late, "allowed", [2.0], "<= 1.0"),
        compare("loop lateness p99 meanwhile", "ms", late, "of an idle loop", [p99(idle_lateness_ms)]),
        compare("asides, 64 a commit", "/s", found["asides"], "wanted", wanted(300_000), ">= 1.0"),
        compare("asides, 64 a commit", "/CPU s", found["asides, CPU"], "wanted", wanted(300_000)),
        compare("replay: verified and decoded", "/s", found["replay"], "wanted", wanted(150_000), ">= 1.0"),
        compare("replay: verified and decoded", "/CPU s", found["replay, CPU"], "wanted", wanted(150_000)),
        compare("replay: verified and decoded", "/CPU s", found["replay, CPU"], "SQLite", found["SQLite's rows"]),
        compare("replay: folded too", "/s", found["fold"], "wanted", wanted(150_000), ">= 1.0"),
        compare("replay: folded too", "/CPU s", found["fold, CPU"], "wanted", wanted(150_000)),
    ]


if __name__ == "__main__":
    main("Log", measure, rounds=ROUNDS)
