"""A decision in the making: each event is applied as soon as it is said, so that the next one sees its effect."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlzoo.core.apply import apply

if TYPE_CHECKING:
    from mlzoo.core.state import State
    from mlzoo.events.types import Event


class Draft:
    """The events said so far and the state after them; lives only inside one call of ``decide``."""

    __slots__ = ("at_ms", "events", "first_seq", "state")

    def __init__(self, state: State, first_seq: int, at_ms: int) -> None:
        self.state = state
        self.first_seq = first_seq
        self.at_ms = at_ms
        self.events: list[Event] = []

    def say(self, event: Event) -> None:
        """Add an event and apply it."""
        self.events.append(event)
        self.state = apply(self.state, event, self.first_seq + len(self.events), self.at_ms)
