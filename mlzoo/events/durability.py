"""How far the groups of one log got: written, synced, or failed for good; and the task that syncs.

Two watermarks: ``written`` survives the death of this process, ``synced`` a power cut. With durability ``process`` the
second follows the first and nothing is ever synced. One task syncs in a thread, once for all that was written
meanwhile, and then removes what retention dropped before.

An error of the disk is final: nothing more is taken, no sync is retried, since the kernel drops what it could not write
and calls it clean. Knows nothing of what is written.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

import trio

from mlzoo.events import closed
from mlzoo.events.identity import failed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlzoo.errors import StorageFailed
    from mlzoo.events.retention import Retention
    from mlzoo.events.writing import SegmentWriter


class Durability:
    """The watermarks of one log, and what moves them.

    Args:
        path: of the log, for what is said of it.
        writer: what is synced.
        retention: whose files go once the header that drops them is durable.
        syncs: whether anything is ever synced.
    """

    def __init__(self, path: Path, writer: SegmentWriter, retention: Retention, *, syncs: bool) -> None:
        self.written = 0
        self.synced = 0
        self.syncs = syncs
        self.on_progress: list[Callable[[], None]] = []  # called when a watermark has moved, or the log has failed
        self._path = path
        self._writer = writer
        self._retention = retention
        self._failure: OSError | None = None
        self._work = trio.Event()
        self._flushing = trio.Lock()

    def wrote(self, seq: int) -> None:
        """Note that all up to a log_seq is written; who is told of it is up to ``tell``."""
        self.written = seq
        if not self.syncs:
            self.synced = seq

    def ask(self) -> None:
        """Have the flusher look: something must be synced, or removed."""
        self._work.set()

    async def run(self) -> None:
        """Flush whenever somebody asks for it; one task.

        Raises:
            StorageFailed: A sync failed (reason failed); final.
        """
        while True:
            await self._work.wait()
            # Whom the last sync woke writes before the next one begins, which then serves them too.
            await trio.lowlevel.checkpoint()
            self._work = trio.Event()
            await self.flush()

    async def flush(self, *, seals: bool = False) -> None:
        """Sync what is written by now, and remove what was dropped by now; fails as ``run`` does.

        Args:
            seals: whether full segments are closed too, where there is nothing new in them.
        """
        async with self._flushing:
            self.check()  # The sync that was waited for may have failed, and the next one would say that all is well.
            target, dropped = self.written, self._retention.dropped
            try:
                if not self.syncs:
                    self._writer.close_sealed()
                elif target > self.synced or dropped or seals:
                    with trio.CancelScope(shield=True):  # Whoever leaves sees it through, or the log has failed.
                        await self._writer.sync()
                    self.synced = target
                    self.tell()
                await self._retention.remove(dropped)
            except OSError as error:
                self.fail(error)

    async def close(self) -> None:
        """Flush, and say beside the segments up to where that was; fails as ``run`` does."""
        await self.flush()
        crc = self._writer.last_crc
        if self.syncs and crc is not None:
            with suppress(OSError):  # On a full disk, say: the log is as whole, and less can be said of it.
                await closed.write(self._writer.segments.disk, self._path, closed.Closed(self.synced, crc))

    def tell(self) -> None:
        """Tell everybody that a watermark has moved, or that the log has failed."""
        for call in self.on_progress:
            call()

    @property
    def failed(self) -> StorageFailed | None:
        """Why nothing more is taken; None while it is."""
        return None if self._failure is None else failed(self._path, self._failure)

    def fail(self, error: OSError) -> NoReturn:
        """Take nothing more, tell everybody, and raise what a host is to hear."""
        self._failure = error
        self.tell()
        raise failed(self._path, error) from error

    def check(self) -> None:
        """Raise what a host is to hear if the log has failed."""
        if self._failure is not None:
            raise failed(self._path, self._failure)
