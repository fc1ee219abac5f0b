"""The filer of keys: moves what became of keyed requests out of the state and into the log's index of keys.

The state holds the keys of requests that ended not long ago, so that its size stays that of the work in flight. When
there are some, they are filed, durably, and then the engine hears that the state needs them no more. A crash in between
has them filed twice, which changes nothing. Knows nothing of who asks with a key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from mlzoo.actors.messages import Order
from mlzoo.events.commands import ReportKeysFiled

if TYPE_CHECKING:
    from mlzoo.actors.ledger import Ledger
    from mlzoo.actors.mailbox import Ref
    from mlzoo.actors.messages import EngineMessage
    from mlzoo.actors.runtime import Inbox
    from mlzoo.events.commands import KeyFacts

FILED_AT_ONCE = 64  # keys that make a filing worth its syncs


class KeyFiler:
    """One instance of the filer.

    Args:
        ledger: the state, the log and its index of keys.
        engine: hears what was filed.
    """

    def __init__(self, ledger: Ledger, engine: Ref[EngineMessage]) -> None:
        self._ledger = ledger
        self._engine = engine
        self._upto_seq = 0  # what is filed, whether the state has dropped it yet or not
        self._due = trio.Event()

    async def run(self, inbox: Inbox[None]) -> None:
        """File whenever there is enough, until told to stop."""
        on_progress = self._ledger.log.on_progress
        on_progress.append(self._look)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._file_what_is_due)
                inbox.ready()
                await inbox.stopping.wait()
                nursery.cancel_scope.cancel()
        finally:
            on_progress.remove(self._look)

    def _look(self) -> None:
        if len(self._ledger.state.keys) >= FILED_AT_ONCE and len(self._unfiled()) >= FILED_AT_ONCE:
            self._due.set()

    def _unfiled(self) -> dict[str, KeyFacts]:
        """Return the keys whose ends are durable: what a power cut could take back is not filed."""
        synced = self._ledger.log.synced
        return {
            key: facts for key, facts in self._ledger.state.keys.items() if self._upto_seq < facts.ended_seq <= synced
        }

    async def _file_what_is_due(self) -> None:
        while True:
            self._look()  # There may have been enough before this instance began.
            await self._due.wait()
            self._due = trio.Event()
            unfiled = self._unfiled()
            if not unfiled or self._ledger.log.failed is not None:
                continue
            try:
                await self._ledger.keys.file(unfiled)
            except OSError as error:
                self._ledger.log.fail(error)
            self._upto_seq = max(facts.ended_seq for facts in unfiled.values())
            await self._engine.tell(Order(ReportKeysFiled(upto_seq=self._upto_seq)))
