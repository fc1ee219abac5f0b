"""What a provider's requests say, gathered: rows that come faster than they are to be reported are joined.

Each piece that a server sends is an event of its own, and some send thousands a second; each report is a group in the
log. So the first row is reported at once, and what comes in the next moment goes together: a row a request. What one
request may have waiting is bounded: it reads no more from its server meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from mlzoo import frames
from mlzoo.frames_joined import hold

if TYPE_CHECKING:
    from mlzoo.actors.reports import Reports

WAITING_CHARS = 64 * 1024  # of one request


class Gathering:
    """The rows and ends that wait to be reported."""

    def __init__(self, reports: Reports) -> None:
        self.every_s = 0.0  # no more often is anything reported; 0: as it comes
        self._reports = reports
        self._rows: dict[str, frames.Row] = {}
        self._ends: list[frames.WorkFailed] = []
        self._due = trio.Event()
        self._taken = trio.Event()

    async def run(self) -> None:
        """Report what there is, again and again."""
        while True:
            await self._due.wait()
            self._due = trio.Event()
            rows, self._rows = self._rows, {}
            ends, self._ends = self._ends, []
            self._taken.set()
            self._taken = trio.Event()
            if rows:
                await self._reports.hear(frames.Stepped(rows=tuple(rows.values())))
            for end in ends:
                await self._reports.hear(end)
            if self.every_s:
                await trio.sleep(self.every_s)

    async def say(self, row: frames.Row) -> None:
        """Have a row reported, with what of its request is waiting."""
        hold(self._rows, row)
        self._due.set()
        await trio.lowlevel.checkpoint()
        while (held := self._rows.get(row.request)) is not None and len(held.content) > WAITING_CHARS:
            await self._taken.wait()

    def end(self, failure: frames.WorkFailed) -> None:
        """Have the end of a request reported, after all that it said."""
        self._ends.append(failure)
        self._due.set()
