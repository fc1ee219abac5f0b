"""The event log: one writer appends groups and asides, a flusher makes them durable, anyone reads them by place.

``append`` and ``aside`` number, encode and buffer; ``commit`` and ``commit_asides`` write that in one call, inline,
since a write to the page cache costs microseconds. ``run_flusher``, one task, syncs (``durability``).

A group lies in one segment. When it is full, ``commit`` begins the next one, whose header holds the folded state: so a
start reads one segment, and retention is removing files. ``recovery`` knows what a crash in between leaves.

An error of the disk is final for this log. Knows nothing of who appends, of JSON-RPC, or of what commands and events
mean.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import cached_property
from typing import TYPE_CHECKING, Any

import trio

from mlzoo.errors import OutOfRange
from mlzoo.events.answers import KeptAnswers
from mlzoo.events.asides import AsideLog
from mlzoo.events.blobs import Blobs
from mlzoo.events.closed import expected
from mlzoo.events.codec import encode_group
from mlzoo.events.durability import Durability
from mlzoo.events.identity import LOCK, give_identity, locked, read_identity, unwritable, written_in
from mlzoo.events.index import RequestIndex, Tail
from mlzoo.events.reading import GroupReader
from mlzoo.events.records import Aside, Group, durable
from mlzoo.events.recovery import recover
from mlzoo.events.retention import Claims, Needs, Retention
from mlzoo.events.segments import FORMAT, Header, Segments
from mlzoo.events.writing import SegmentWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from mlzoo.config.schema import LogConfig
    from mlzoo.errors import Failure, StorageFailed
    from mlzoo.events.commands import Command, JsonObject
    from mlzoo.events.forgetter import Forgetter
    from mlzoo.events.types import Event
    from mlzoo.world import Lock, World


class Log:
    """An open log, of which this process is the one writer. Made by ``open``; used from one event loop."""

    def __init__(self, path: Path, world: World, settings: LogConfig, lock: Lock, identity: str, version: str) -> None:
        self.path = path
        self.id = identity
        self.format = FORMAT
        self.repaired: tuple[str, ...] = ()  # what recovery cut, one sentence each
        self.last_seq = 0  # the last log_seq given out
        self.clock_ms = 0  # the last at_ms
        self._world = world
        self._settings = settings
        self._lock = lock
        self._version = version
        self._segments = Segments(world.disk, path / "segments")
        self._writer = SegmentWriter(world.disk, self._segments)
        self._asides = AsideLog(world, path / "asides", settings.asides_segment_bytes, identity, version)
        self._blobs = Blobs(world.disk, world.ids, path / "blobs", settings.tail_bytes)
        self._tail = Tail(settings.tail_bytes)
        self._index = RequestIndex()
        self.reader = GroupReader(self._segments, self._tail, self._index)
        self.segment_after = self.reader.segment_after  # for who reads on behind what is damaged
        self.answers = KeptAnswers(world.disk, path / "keys")
        self.claims = Claims(self._index, settings.budget_bytes)
        self._retention = Retention(world, self._segments, self._asides.segments, self._blobs, settings, self.claims)
        self._durability = Durability(path, self._writer, self._retention, syncs=settings.durability == "disk")
        self.on_progress = self._durability.on_progress  # called when a watermark has moved, or the log has failed
        self.fail = self._durability.fail  # for who keeps files beside the segments and meets an error of the disk
        self._base: Header | None = None  # of the segment that replay begins with
        self._snapshot: Callable[[], JsonObject] | None = None
        self._wants_sync = False

    @classmethod
    async def open(cls, path: Path, world: World, config: LogConfig, *, version: str) -> Log:
        """Open a log for writing, or make one.

        Only the end of the last segment is verified, all that a crash can have touched; ``replay`` verifies the rest
        of it, ``mlzoo log verify`` everything.

        Raises:
            LogUnusable: locked, newer, damaged or unwritable (``data.reason``).
        """
        try:
            await world.disk.make_dir(path)
            if (lock := world.disk.lock(path / LOCK)) is None:
                raise locked(path)
            with ExitStack() as undo:
                undo.callback(lock.release)
                identity = read_identity(world, path) or await give_identity(world, path, written_in(world.disk, path))
                log = cls(path, world, config, lock, identity, version)
                undo.callback(log._close_files)
                await log._recover()
                undo.pop_all()
        except OSError as error:
            raise unwritable(path, error) from error
        return log

    async def _recover(self) -> None:
        await self._world.disk.make_dir(self._segments.directory)
        await self._world.disk.make_dir(self._asides.segments.directory)
        self._segments.drop_beginnings()
        end = expected(self.path, self._segments, self._asides.segments)
        found = await recover(self._segments, strict=True, closed=end)
        if found is None:
            self._base = self._begin_segment()
        else:
            self._base = found.header
            self.last_seq, self.clock_ms, self.repaired = found.last_seq, found.at_ms, found.repaired
            self._retention.resume(found.header)
            self._writer.resume(found.synced + 1, found.crc)
            self._durability.ask()
        if self._durability.syncs:
            # What was read may be in the page cache only: nobody is shown it before it is durable.
            await self._writer.sync()
        self._durability.written = self._durability.synced = self.last_seq
        await self._asides.open()
        self.repaired += self._asides.repaired

    @property
    def oldest_seq(self) -> int:
        """The first log_seq that is kept."""
        return next(iter(self._segments.sizes))

    @property
    def base_seq(self) -> int:
        """The last log_seq before the groups of ``replay``."""
        return self._base.segment - 1 if self._base is not None else 0

    def base_state(self) -> JsonObject | None:
        """Return the folded state before the groups of ``replay``; None where they begin with the log."""
        return self._base.state if self._base is not None else None

    def replay(self) -> Iterator[Group]:
        """Yield the groups after ``base_state`` that are written, verified, and index their requests.

        Raises:
            LogUnusable: Damaged, or written by a newer version.
        """
        assert self._base is not None
        for group in self.reader.whole_segment(self._base.segment, self.written):
            self._index.add(group)
            yield group

    def bind_state(
        self,
        snapshot: Callable[[], JsonObject],
        needed_from: Callable[[], int],
        kept_from: Callable[[], int] | None = None,
    ) -> None:
        """Say where the folded state after all that was appended comes from; without it no second segment is begun.

        Retention keeps what a live request needs, from ``needed_from`` on, and the result of a key, from ``kept_from``.
        """
        self._snapshot = snapshot
        self.claims.needed_from, self.claims.kept_from = needed_from, kept_from or needed_from

    # ------------------------------------------------------------------------------------------------ writing

    def append(self, command: Command, events: Sequence[Event], text: Any, at_ms: int, *, told: Any = None) -> Group:
        """Number a command and its events and buffer them; the next commit writes them. Never blocks.

        Readers are told ``told`` for the text, if it is given, while memory has it.

        Raises:
            StorageFailed: The log has failed before (reason failed).
            TypeError: Something in it is no JSON; the log is as it was.
        """
        self._durability.check()
        group = Group(
            first_seq=self.last_seq + 1,
            at_ms=at_ms,
            time_ms=self._world.clock.wall_ms(),
            command=command,
            events=tuple(events),
            text=text,
        )
        data = encode_group(group, self._called_synced())
        self._writer.add(group.first_seq, data)
        self.last_seq = group.last_seq
        self.clock_ms = at_ms
        self._tail.add_told(group, len(data), told)
        self._index.add(group)
        self._wants_sync = self._wants_sync or (self._durability.syncs and durable(group.events))
        return group

    def commit(self) -> None:
        """Write all that was appended, in one call; wake the flusher where something of it must be durable.

        Raises:
            StorageFailed: The disk would not (reason failed); final.
        """
        self._durability.check()
        try:
            if not self._writer.write():
                return
            self._durability.wrote(self.last_seq)
            if self._retention.is_full(self._writer.end_bytes) and self._may_begin_segment():
                self._begin_segment()
                self._durability.ask()
        except OSError as error:
            self._durability.fail(error)
        self._tail.trim(self.written)
        if self._wants_sync:
            self._wants_sync = False
            self._durability.ask()
        self._durability.tell()

    def _begin_segment(self, *, spare_bytes: int = 0) -> Header:
        """Begin a segment after all that is written; its header says what is kept from now on."""
        self._retention.drop_groups(self._needs(), spare_bytes=spare_bytes)
        first = self.last_seq + 1
        header = Header(
            segment=first,
            log=self.id,
            version=self._version,
            at_ms=self.clock_ms,
            time_ms=self._world.clock.wall_ms(),
            oldest=next(iter(self._segments.sizes), first),
            synced=self._called_synced(),
            previous=self._writer.last_crc,
            state=self._snapshot() if self._snapshot is not None else None,
        )
        self._writer.begin(header)
        return header

    def _may_begin_segment(self) -> bool:
        """Whether there is a state for its header, and all is written, and something after the last header."""
        return self._snapshot is not None and self.written == self.last_seq >= self._writer.first

    def _needs(self) -> Needs:
        """Return what retention is to spare."""
        return self.claims.needs(self._asides.last_seq + 1)

    def _called_synced(self) -> int:
        """Return up to where the next record calls the log durable, as ``framing`` explains."""
        return self.synced if self._durability.syncs else self.last_seq

    # ------------------------------------------------------------------------------------------------ durability

    async def run_flusher(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Sync what was written whenever a commit asks for it, and remove what is kept no longer; one task.

        Raises:
            StorageFailed: A sync failed (reason failed); final.
        """
        task_status.started()
        try:
            await self._blobs.measure(self._segments)
        except OSError as error:
            self._durability.fail(error)
        await self._durability.run()

    @property
    def written(self) -> int:
        """Up to where the log survives the death of this process."""
        return self._durability.written

    @property
    def synced(self) -> int:
        """Up to where the log survives a power cut; with durability ``process`` the same as ``written``."""
        return self._durability.synced

    @property
    def failed(self) -> StorageFailed | None:
        """Why this log takes nothing more; None while it does. ``on_progress`` is called when it changes."""
        return self._durability.failed

    def is_shown(self, group: Group) -> bool:
        """Whether a group may be spoken of: it is durable, or written where it needs no more than that."""
        return group.last_seq <= (self.synced if durable(group.events) else self.written)

    # ------------------------------------------------------------------------------------------------ asides

    def aside(
        self,
        connection: str,
        method: str,
        rpc: str | int | None,
        params: Any = None,
        result: Any = None,
        failure: Failure | None = None,
    ) -> int:
        """Buffer an aside and return its number; the next ``commit_asides`` writes it. None of its parts is a secret.

        Raises:
            StorageFailed: The disk would not, now or before (reason failed).
            TypeError: Something in it is no JSON; the log is as it was.
        """
        self._durability.check()
        try:
            return self._asides.append(self.last_seq, connection, method, rpc, params, result, failure)
        except OSError as error:
            self._durability.fail(error)

    def commit_asides(self) -> None:
        """Write the asides that are buffered, in one call, so that their replies may be emitted; fails as commit."""
        self._durability.check()
        try:
            if self._asides.commit():
                if self._retention.drop_asides(self._needs(), groups_can_go=self._may_begin_segment()):
                    # Only a header can say that groups are kept no longer. The next one may have to wait for a group.
                    self._begin_segment(spare_bytes=self._settings.budget_bytes // 4)
                self._durability.ask()
        except OSError as error:
            self._durability.fail(error)

    def keep_asides(self, connection: str, first: int | None) -> None:
        """Spare the asides from a number on, which the host of a connection has still to take; None: it has all."""
        self.claims.keep_asides(connection, first)

    def read_asides(self, connection: str, first: int) -> Iterator[Aside]:
        """Yield the written asides of a connection from an aside_seq on, one of its own; fails as ``read`` does."""
        return self._asides.read(connection, first)

    # ------------------------------------------------------------------------------------------------ reading

    def groups_of(self, request: str, after_seq: int) -> Iterator[Group]:
        """Yield the groups that speak of a request and start after a log_seq, up to the end as it is when reached.

        They may not be shown yet (``is_shown``). Where no index says which they are, all between them come as well.
        Fails as ``read`` does.
        """
        return self.reader.of_request(request, after_seq)

    def read(self, after_seq: int, limit: int) -> list[Group]:
        """Return up to limit written groups that end after a log_seq, those before what is damaged, if anything is.

        Raises:
            OutOfRange: The place lies before what is kept (type expired) or after what is written (type ahead).
            LogUnusable: The first of them is damaged.
        """
        if after_seq > self.written:
            raise OutOfRange(f"the log ends at {self.written}, before {after_seq}", type="ahead", durable=self.synced)
        return self.reader.some(after_seq, limit, self.written)

    def forget_index(self, request: str) -> None:
        """Drop what memory holds of a request's places, once its last reader is done."""
        self._index.forget(request)

    def cut_index(self, request: str) -> None:
        """Note that a request began before the groups of ``replay``."""
        self._index.cut(request)

    @cached_property
    def forgetter(self) -> Forgetter:
        """Who forgets requests in the files of this log."""
        from mlzoo.events.forgetter import Forgetter  # noqa: PLC0415 (not on the way to the first ping)

        parts = (self._segments, self._writer, self._blobs, self.answers, self._tail, self.reader, self._durability)
        return Forgetter(*parts, commit=self.commit, seal=self._seal)

    def _seal(self) -> None:
        """Begin a segment after all that is written, if anything has been written to this one."""
        if self._may_begin_segment():
            self._begin_segment()

    async def put_blob(self, data: bytes, *, kept: bool = True) -> str:
        """Keep a large value durably, or else in memory, and return its name; fails as commit does."""
        self._durability.check()
        try:
            return await self._blobs.put(data, self.last_seq) if kept else self._blobs.hold(data)
        except OSError as error:
            self._durability.fail(error)

    def get_blob(self, name: str) -> bytes:
        """Return a large value; NotFound where it is not kept (any more), LogUnusable where it is damaged."""
        return self._blobs.get(name)

    def drop_blob(self, name: str) -> None:
        """Remove a large value that no record has come to name."""
        self._blobs.remove(name)

    def size_bytes(self) -> int:
        """Return the size of segments, asides, blobs and keys."""
        return self._retention.size_bytes()

    async def close(self) -> None:
        """Write and sync what there is, and give the lock back; the flusher has ended before. Fails as ``commit``."""
        try:
            if self.failed is None:
                self.commit_asides()
                self.commit()
                await self._durability.close()
        finally:
            self._close_files()
            self._lock.release()

    def _close_files(self) -> None:
        self._writer.close()
        self._asides.close()
