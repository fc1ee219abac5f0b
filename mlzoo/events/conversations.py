"""Commands and events about conversations and personas: one part of ``mlzoo.events.commands`` and ``.types``.

The rules are told there. A conversation's turns are requests like any others, and belong to it by their acceptance;
what is here copies turns, or drops them. Those commands that a host's call waits for, without being that call, have a
request of their own and no caller: who ordered one looks for what became of it.
"""

from __future__ import annotations

import attrs

from mlzoo.events.facts import TurnFacts, TurnRef

# ------------------------------------------------------------------------------------------------ commands


@attrs.frozen(kw_only=True)
class CarryConversation:
    """The turns of a conversation, copied to the end of the log, so that their own records may go.

    It counts only if the conversation still is what it was when they were read. Text: a list, one item a turn.
    """

    request: str
    conversation: str
    head: TurnRef | None
    base_seq: int | None
    rows: tuple[TurnFacts, ...]
    size_bytes: int


@attrs.frozen(kw_only=True)
class ForkConversation:
    """A host wants the first turns of a conversation to be another one's, too. Text: a list, one item a turn."""

    request: str
    source: str
    conversation: str
    persona: str
    rows: tuple[TurnFacts, ...]
    size_bytes: int


@attrs.frozen(kw_only=True)
class DropConversation:
    """A host wants a conversation to be no more: what runs for it ends. Its text goes beside this."""

    request: str
    conversation: str


ConversationCommand = CarryConversation | ForkConversation | DropConversation

# ------------------------------------------------------------------------------------------------ events


@attrs.frozen(kw_only=True)
class ConversationCarried:
    """All turns of a conversation so far lie in the text of this command, and nothing before it is needed for them."""

    conversation: str
    base_seq: int
    size_bytes: int


@attrs.frozen(kw_only=True)
class ConversationForked:
    """There is a new conversation, which begins with the turns in the text of this command."""

    conversation: str
    base_seq: int
    turns: int
    size_bytes: int
    persona: str = ""


@attrs.frozen(kw_only=True)
class ConversationDropped:
    """There is no such conversation any more."""

    conversation: str


ConversationEvent = ConversationCarried | ConversationForked | ConversationDropped

__all__ = [
    "CarryConversation",
    "ConversationCarried",
    "ConversationCommand",
    "ConversationDropped",
    "ConversationEvent",
    "ConversationForked",
    "DropConversation",
    "ForkConversation",
]
