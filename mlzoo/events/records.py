# ruff: noqa: TC004 - the types are for readers and mypy; importing them would cost every start.
"""What the log is made of: groups of one command and its events, and asides.

Light on purpose: it knows that there are commands and events, and not which. So a sidecar that has only been pinged
has not imported their many classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import attrs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlzoo.errors import Failure
    from mlzoo.events.commands import Command
    from mlzoo.events.types import Event

Gone = Literal["forgotten", "ephemeral", "late"]
GONE = "gone"
CORE_VERSION = 1  # of the rules by which events follow from commands


@attrs.frozen(kw_only=True)
class Group:
    """One command and what it led to: written all or not at all.

    The command has log_seq ``first_seq``, its events the numbers after it. ``at_ms`` is the log's own clock: it goes
    on where the last sidecar stopped and counts only time in which one ran. ``text`` belongs to the command.
    """

    first_seq: int
    at_ms: int
    time_ms: int
    command: Command
    events: tuple[Event, ...]
    text: Any = None

    @property
    def last_seq(self) -> int:
        """The log_seq of the group's last record."""
        return self.first_seq + len(self.events)


@attrs.frozen(kw_only=True)
class Aside:
    """Something that changes nothing, recorded all the same: one call answered where it arrived, or a notification.

    ``after_seq`` is the last log_seq at that moment, which gives asides their place in the whole story.
    """

    aside_seq: int
    after_seq: int
    time_ms: int
    connection: str
    method: str
    rpc: str | int | None
    params: Any = None
    result: Any = None
    failure: Failure | None = None


def tombstone(why: Gone) -> dict[str, str]:
    """Return what stands in the place of a text, or of a row of one, that is not there."""
    return {GONE: why}


def is_gone(text: Any) -> bool:
    """Whether a text, or a row of one, is a tombstone: no text is empty, or says this of itself."""
    return isinstance(text, dict) and (not text or GONE in text)


def request_of(event: Event) -> str | None:
    """Return the request that an event belongs to, or None where it is about the machine."""
    return getattr(event, "request", None)


def durable(events: Sequence[Event]) -> bool:
    """Whether a group must reach the disk before its answers are shown."""
    return not all(getattr(event, "TRANSIENT", False) for event in events)


def is_terminal(event: Event) -> bool:
    """Whether an event is the last of its request."""
    return getattr(event, "TERMINAL", False)
