"""The keeper of keys: moves what became of keyed requests out of the state and into the log's index of keys.

The state holds the keys of requests that ended not long ago, so that its size stays that of the work in flight. When
there are some, they are filed, durably, and then the engine hears that the state needs them no more. A crash in between
has them filed twice, which changes nothing.

Where the log has to drop segments that results of keys still need, it copies those results first, whole, as a host
would hear them; a crash in between has them looked at again, and what is copied already is passed over. What was
ephemeral or is forgotten is not copied. Knows nothing of who asks with a key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from mlzoo.actors.messages import Order
from mlzoo.errors import LogUnusable, OutOfRange
from mlzoo.events import types as ev
from mlzoo.events.answers import PART_BYTES, KeptAnswer, SealedAnswer, sealed
from mlzoo.events.commands import ReportKeysFiled
from mlzoo.events.records import is_gone
from mlzoo.views import Delta, Refusal, RequestView, Result

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mlzoo.actors.ledger import Ledger
    from mlzoo.actors.mailbox import Ref
    from mlzoo.actors.messages import EngineMessage
    from mlzoo.actors.runtime import Inbox
    from mlzoo.errors import Failure
    from mlzoo.events.commands import KeyFacts
    from mlzoo.events.records import Group

TURN_GROUPS = 64  # read from the log before other tasks get their turn
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
        self._wanted_seq = 0  # what results of keys need from before it is to be copied
        self._pressed = trio.Event()

    async def run(self, inbox: Inbox[None]) -> None:
        """File whenever there is enough, until told to stop."""
        on_progress = self._ledger.log.on_progress
        on_progress.append(self._look)
        self._ledger.log.claims.press = self._press
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._file_what_is_due)
                nursery.start_soon(self._copy_what_is_wanted)
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

    # ------------------------------------------------------------------------------------------------ copies

    def _press(self, upto_seq: int) -> None:
        self._wanted_seq = max(self._wanted_seq, upto_seq)
        self._pressed.set()

    async def _copy_what_is_wanted(self) -> None:
        ledger, log = self._ledger, self._ledger.log
        while True:
            if log.failed is None:
                wanted_seq = self._wanted_seq  # More may be wanted by the time that this much is copied.
                async with log.forgetter.lock:
                    try:
                        log.answers.expire(self._ended_after_ms())
                        ledger.copied_seq = max(ledger.copied_seq, await self._copy_up_to(wanted_seq))
                    except OSError as error:
                        log.fail(error)
            await self._pressed.wait()
            self._pressed = trio.Event()

    def _ended_after_ms(self) -> int:
        """Return the moment after which a request must have ended for its result to be kept."""
        return self._ledger.now_ms() - self._ledger.state.bounds.key_ms

    async def _copy_up_to(self, end_seq: int) -> int:
        """Copy what keys stand for whose requests were accepted before a place, where nothing is live.

        Returns:
            Up to where that was done: nothing before is needed for a key.
        """
        ledger, log = self._ledger, self._ledger.log
        next_seq = max(ledger.copied_seq, min(ledger.keys_from(), end_seq), log.oldest_seq)
        copies: list[SealedAnswer] = []
        size_bytes, limit = 0, TURN_GROUPS
        while next_seq < end_seq:
            try:
                groups = log.read(next_seq - 1, limit)
            except OutOfRange:  # Retention has dropped meanwhile what no key needs.
                next_seq = max(next_seq + 1, log.oldest_seq)
                continue
            except LogUnusable:  # What is damaged can be shown to nobody; it ends with its segment at the latest.
                if limit == 1:
                    next_seq = log.segment_after(next_seq) or end_seq
                limit = limit // 2 or TURN_GROUPS  # Something whole may stand before it.
                continue
            if not groups:
                break
            for event, seq in _accepted(groups):
                copy = await self._whole_copy(event, seq) if next_seq <= seq < end_seq else None
                if copy is not None:
                    copies.append(sealed(copy))
                    size_bytes += len(copies[-1].line)
                if size_bytes >= PART_BYTES:
                    await log.answers.put(copies)
                    copies, size_bytes = [], 0
            next_seq = groups[-1].last_seq + 1
            await trio.lowlevel.checkpoint()
        await log.answers.put(copies)
        return min(next_seq, end_seq)

    async def _whole_copy(self, event: ev.RequestAccepted, accepted_seq: int) -> KeptAnswer | None:
        """Return a copy; None also where what it would hold is damaged or gone: then it can be shown to nobody."""
        try:
            return await self._copy(event, accepted_seq)
        except (LogUnusable, OutOfRange):
            return None

    async def _copy(self, event: ev.RequestAccepted, accepted_seq: int) -> KeptAnswer | None:
        """Return the result of a request as its host hears it; None where nobody will ask for it, or it is there."""
        log, facts = self._ledger.log, self._ledger.state.keys.get(event.key) or self._ledger.keys.find(event.key)
        if event.ephemeral or facts is None or facts.ended_at_ms <= self._ended_after_ms():
            return None  # The text of an ephemeral one is in memory, and comes to no disk.
        try:
            if log.answers.find(event.request, accepted_seq) is not None:
                return None
        except LogUnusable:
            pass  # The records are still there: what was damaged is copied once more.
        while log.synced < facts.ended_seq and log.failed is None:
            await self._progress()
        view = RequestView(event.request, log.get_blob, after_seq=accepted_seq - 2, since=facts.ended_seq)
        pieces: list[Any] = []
        for read, group in enumerate(log.groups_of(event.request, view.after_seq), start=1):
            if read == 1 and is_gone(group.text):
                return None  # A copy of how it failed would say that it is not forgotten: what comes again were kept.
            for piece in view.read(group):
                match piece:
                    case Delta():
                        pieces.append(piece.delta)
                    case Result():
                        return _kept(event, facts, pieces, result=piece.result)
                    case Refusal():
                        is_unsaid = piece.failure.code == OutOfRange.code
                        return None if is_unsaid else _kept(event, facts, pieces, failure=piece.failure)
                    case _:
                        message = f"{event.request} has no end at {facts.ended_seq}"
                        raise AssertionError(message)
            if read % TURN_GROUPS == 0:
                await trio.lowlevel.checkpoint()
        return None

    async def _progress(self) -> None:
        """Wait until something more is synced."""
        moved, on_progress = trio.Event(), self._ledger.log.on_progress
        on_progress.append(moved.set)
        try:
            await moved.wait()
        finally:
            on_progress.remove(moved.set)


def _accepted(groups: Sequence[Group]) -> Iterator[tuple[ev.RequestAccepted, int]]:
    """Yield the acceptances of requests with a key, and where they stand."""
    for group in groups:
        for seq, event in enumerate(group.events, group.first_seq + 1):
            if isinstance(event, ev.RequestAccepted) and event.key:
                yield event, seq


def _kept(
    event: ev.RequestAccepted, facts: KeyFacts, pieces: list[Any], *, result: Any = None, failure: Failure | None = None
) -> KeptAnswer:
    return KeptAnswer(
        request=event.request,
        accepted_seq=facts.accepted_seq,
        ended_at_ms=facts.ended_at_ms,
        pieces=pieces,
        result=result,
        failure=failure,
        conversation=event.conversation,
    )
