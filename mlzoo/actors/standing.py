"""What a connection's lines about conversations and personas wait for: that those before them hold.

A host sends on without waiting for answers, and what it sent first is to hold for what it sends next: a persona is put
and then asked, a conversation forked and then gone on with. What a name means is looked up when its line is taken, so
that line waits until every earlier change has been decided; not for its answer, nor until it is durable. Knows no
names: a line that speaks of any waits for all changes before it.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import attrs
import trio

from mlzoo import errors
from mlzoo.events.commands import Submit
from mlzoo.events.conversations import PutPersona

if TYPE_CHECKING:
    from mlzoo.actors.messages import Order
    from mlzoo.actors.services import Services


class Standing:
    """The changes of one connection that may not hold yet.

    Args:
        services: the log and the state.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._asked: list[trio.Event] = []  # that the engine decides
        self._found: list[trio.Event] = []  # that calls make which take a while

    @property
    def is_open(self) -> bool:
        """Whether there may be one."""
        return bool(self._asked or self._found)

    def noted(self, order: Order) -> Order:
        """Return what to ask of the engine, noted if it changes a name: a turn makes its conversation known."""
        command = order.command
        if not isinstance(command, PutPersona) and not (isinstance(command, Submit) and command.conversation):
            return order
        decided = trio.Event()
        self._asked = [*_not_yet(self._asked), decided]
        return attrs.evolve(order, decided=decided)

    def later(self, holds: trio.Event | None) -> None:
        """Note a call that changes something once this is set."""
        if holds is not None:
            self._found = [*_not_yet(self._found), holds]

    async def settle(self) -> None:
        """Return once all that was noted holds, or was refused, or never will be decided."""
        from mlzoo.actors.asking import progress  # noqa: PLC0415 (not on the way to the first ping)

        with suppress(errors.LogUnusable, errors.StorageFailed):  # Whoever looks something up is told so.
            while _not_yet(self._asked) and not self._services.state.stopped:
                await progress(self._services)
        for holds in self._found:
            await holds.wait()
        self._asked, self._found = [], []


def _not_yet(changes: list[trio.Event]) -> list[trio.Event]:
    return [change for change in changes if not change.is_set()]
