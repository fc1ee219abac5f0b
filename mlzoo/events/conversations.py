"""Commands and events about conversations and personas: one part of ``mlzoo.events.commands`` and ``.types``.

The rules are told there. A conversation's turns are requests like any others, and belong to it by their acceptance;
what is here copies turns, or drops them. Those commands that a host's call waits for, without being that call, have a
request of their own and no caller: who ordered one looks for what became of it.
"""

from __future__ import annotations

import attrs

from mlzoo.events.facts import Caller, SummaryRef, TurnFacts, TurnRef

# ------------------------------------------------------------------------------------------------ commands


@attrs.frozen(kw_only=True)
class CarryConversation:
    """The turns of a conversation, copied to the end of the log, so that their own records may go.

    It counts only if the conversation still is what it was when they were read. Text: a list, one item a turn, and one
    of the summary, where there is one.
    """

    request: str
    conversation: str
    head: TurnRef | None
    base_seq: int | None
    rows: tuple[TurnFacts, ...]
    size_bytes: int
    summary: SummaryRef | None = None


@attrs.frozen(kw_only=True)
class ForkConversation:
    """A host wants the first turns of a conversation to be another one's, too. Text: as of ``CarryConversation``."""

    request: str
    source: str
    conversation: str
    persona: str
    rows: tuple[TurnFacts, ...]
    size_bytes: int
    summary: SummaryRef | None = None


@attrs.frozen(kw_only=True)
class DropConversation:
    """A host wants a conversation to be no more: what runs for it ends. Its text goes beside this."""

    request: str
    conversation: str


@attrs.frozen(kw_only=True)
class PutPersona:
    """A host describes a persona. Text: {persona}, as it was sent."""

    request: str
    caller: Caller
    persona: str
    size_bytes: int


@attrs.frozen(kw_only=True)
class CarryPersona:
    """A persona, copied to the end of the log, if it still is the one that was read. Text: {persona}."""

    request: str
    persona: str
    base_seq: int


@attrs.frozen(kw_only=True)
class DropPersona:
    """A host wants a persona that a host described to be no more. Its text goes beside this."""

    request: str
    persona: str


PersonaCommand = PutPersona | CarryPersona | DropPersona
ConversationCommand = CarryConversation | ForkConversation | DropConversation | PersonaCommand

# ------------------------------------------------------------------------------------------------ events


@attrs.frozen(kw_only=True)
class ConversationCarried:
    """All turns of a conversation so far lie in the text of this command, and nothing before it is needed for them."""

    conversation: str
    base_seq: int
    size_bytes: int
    summary: SummaryRef | None = None


@attrs.frozen(kw_only=True)
class ConversationForked:
    """There is a new conversation, which begins with the turns in the text of this command."""

    conversation: str
    base_seq: int
    turns: int
    size_bytes: int
    persona: str = ""
    summary: SummaryRef | None = None


@attrs.frozen(kw_only=True)
class ConversationSummarised:
    """Later turns read a summary in the place of the oldest ones: item ``row`` of the group's text, {summary}.

    It was made for a turn that goes on with it at once. It stands for ``turns`` of them, of which left_out are in no
    summary. Made of the turns of these requests, and of the summary that an earlier turn, ``after``, had made.
    """

    conversation: str
    request: str
    row: int
    turns: int
    size_bytes: int
    left_out: int = 0
    of: tuple[str, ...] = ()
    after: str = ""


@attrs.frozen(kw_only=True)
class ConversationDropped:
    """There is no such conversation any more."""

    conversation: str


@attrs.frozen(kw_only=True)
class PersonaPut:
    """There is a persona, as the text of this command describes it."""

    persona: str
    base_seq: int
    size_bytes: int


@attrs.frozen(kw_only=True)
class PersonaDropped:
    """There is no such persona of a host's any more."""

    persona: str


PersonaEvent = PersonaPut | PersonaDropped
ConversationEvent = (
    ConversationCarried | ConversationForked | ConversationSummarised | ConversationDropped | PersonaEvent
)

__all__ = [
    "CarryConversation",
    "CarryPersona",
    "ConversationCarried",
    "ConversationCommand",
    "ConversationDropped",
    "ConversationEvent",
    "ConversationForked",
    "ConversationSummarised",
    "DropConversation",
    "DropPersona",
    "ForkConversation",
    "PersonaCommand",
    "PersonaDropped",
    "PersonaEvent",
    "PersonaPut",
    "PutPersona",
]
