"""The carrier: copies conversations, and personas of hosts, out of segments that retention is to drop.

So an old conversation neither pins the log for ever nor loses what was said in it: log-structured cleaning, as file
systems do it (Rosenblum and Ousterhout 1992). What is copied are the turns alone, a tenth of what their records take.
A conversation of which a turn is under way is not copied: it is tried again with the next segment. Nothing that is
forgotten meanwhile comes back, since who forgets waits until a copy has been decided. Knows nothing of hosts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from mlzoo import errors
from mlzoo.actors.asking import decided, folded
from mlzoo.events.conversations import CarryConversation, CarryPersona
from mlzoo.events.history import read_through
from mlzoo.events.records import tombstone

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlzoo.actors.runtime import Inbox
    from mlzoo.actors.services import Services
    from mlzoo.core.state import ConversationState, PersonaState


class Carrier:
    """One instance of the carrier.

    Args:
        services: the log, the state and the engine.
        observe: told of a conversation that cannot be read, and so stays where it is.
    """

    def __init__(self, services: Services, observe: Callable[..., None]) -> None:
        self._services = services
        self._observe = observe
        self._wanted_seq = 0  # before which nothing is to be needed
        self._pressed = trio.Event()
        self._damaged: set[str] = set()  # conversations of which that was told

    async def run(self, inbox: Inbox[None]) -> None:
        """Carry whenever that is wanted, until told to stop."""
        self._services.log.claims.carry = self._press
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._carry_what_is_wanted)
            inbox.ready()
            await inbox.stopping.wait()
            nursery.cancel_scope.cancel()

    def _press(self, upto_seq: int) -> None:
        self._wanted_seq = max(self._wanted_seq, upto_seq)
        self._pressed.set()

    async def _carry_what_is_wanted(self) -> None:
        ledger = await folded(self._services)
        while True:
            await self._pressed.wait()
            self._pressed = trio.Event()
            for name, found in tuple(ledger.state.conversations.items()):
                from_seq = found.history.from_seq
                if from_seq is not None and from_seq < self._wanted_seq:
                    await self._carry(name, found)
            for name, persona in tuple(ledger.state.personas.items()):
                if persona.base_seq < self._wanted_seq:
                    await self._carry_persona(name, persona)

    async def _carry(self, name: str, found: ConversationState) -> None:
        """Carry one conversation, unless it has changed, or a turn of it is under way."""
        services, history = self._services, found.history
        async with services.log.forgetter.lock:
            state = services.state
            is_busy = any(request.conversation == name for request in state.requests.values())
            if is_busy or state.conversations.get(name) != found:
                return
            try:
                turns = await read_through(services.log.reader.history.turns(history))
                summary = await read_through(services.log.reader.history.summary(history))
                command = CarryConversation(
                    request=services.world.ids.new("req"),
                    conversation=name,
                    head=history.head,
                    base_seq=history.base_seq,
                    rows=tuple(turn.facts for turn in turns),
                    size_bytes=sum(turn.size_bytes for turn in turns),
                    summary=history.summary,
                )
                text: list[Any] = [turn.text for turn in turns]
                if history.summary is not None:
                    text.append(tombstone("forgotten") if summary is None else {"summary": summary.text})
                await decided(services, command, text)
            except (errors.LogUnusable, errors.OutOfRange) as error:
                if name not in self._damaged:
                    self._damaged.add(name)
                    self._observe("error", "conversation damaged", conversation=name, message=error.message)
            except (errors.ShuttingDown, errors.StorageFailed):
                return  # The next sidecar does it, if any does.

    async def _carry_persona(self, name: str, found: PersonaState) -> None:
        """Carry what a host said of a persona, unless it has said something else since."""
        services = self._services
        async with services.log.forgetter.lock:
            if services.state.personas.get(name) != found:
                return
            try:
                [group] = services.log.read(found.base_seq - 1, 1)
                request = services.world.ids.new("req")
                await decided(
                    services, CarryPersona(request=request, persona=name, base_seq=found.base_seq), group.text
                )
            except (errors.LogUnusable, errors.OutOfRange) as error:
                if name not in self._damaged:
                    self._damaged.add(name)
                    self._observe("error", "persona damaged", persona=name, message=error.message)
            except (errors.ShuttingDown, errors.StorageFailed):
                return
