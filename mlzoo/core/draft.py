"""A decision in the making: each event is applied as soon as it is said, so that the next one sees its effect."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlzoo.core.apply import Folding
    from mlzoo.core.state import State
    from mlzoo.core.streams import Counts
    from mlzoo.events.types import Event, RequestStreamed


class Draft:
    """The events said so far and the state after them; lives only inside one decision.

    Args:
        folding: what came before; the draft's events are folded into it.
        first_seq: the log_seq of the command.
        at_ms: the log's clock.
    """

    __slots__ = ("_folding", "at_ms", "counts", "events", "first_seq", "only_streams")

    def __init__(self, folding: Folding, first_seq: int, at_ms: int) -> None:
        self._folding = folding
        self.first_seq = first_seq
        self.at_ms = at_ms
        self.events: list[Event] = []
        self.counts = folding.counts  # What the pieces of a request add up to: it costs no new state, as a look does.
        self.only_streams = True  # Whether nothing was said but pieces of streams.

    @property
    def state(self) -> State:
        """The state after the events said so far."""
        return self._folding.state

    def say(self, event: Event) -> None:
        """Add an event and apply it."""
        self.events.append(event)
        self.only_streams = False
        self._folding.take(event, self.first_seq + len(self.events), self.at_ms)

    def stream(self, piece: RequestStreamed, counts: Counts) -> None:
        """Add a piece of a request, of which ``counts`` were looked up since anything else was said."""
        self.events.append(piece)
        losses = counts.losses
        counts.add(piece, self.at_ms)
        if counts.losses < losses:
            self.only_streams = False  # Who kept others away by its losses does not any more.
