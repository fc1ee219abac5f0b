"""Params and results of conversations.*: what was said in them, forks of them, and their end."""

from __future__ import annotations

from typing import Literal

import attrs

from mlzoo.api.fields import INTEGER_MAX, about, checked, naming
from mlzoo.api.inference import Role

_NAME = naming("Name of the conversation.")
_AT = "As it was at this place: the log_seq of one of its messages."


@attrs.frozen(kw_only=True)
class ConversationParams:
    """The conversation that is meant."""

    conversation: str = attrs.field(validator=checked, metadata=_NAME)


@attrs.frozen(kw_only=True)
class ConversationsGetParams:
    """The conversation that is asked for, as it is or as it was."""

    conversation: str = attrs.field(validator=checked, metadata=_NAME)
    at: int | None = attrs.field(default=None, validator=checked, metadata=about(_AT, minimum=0, maximum=INTEGER_MAX))


@attrs.frozen(kw_only=True)
class ConversationsForkParams:
    """The conversation that is to be forked, from which place on, and what the fork is called."""

    conversation: str = attrs.field(validator=checked, metadata=_NAME)
    at: int = attrs.field(validator=checked, metadata=about(_AT, minimum=0, maximum=INTEGER_MAX))
    into: str | None = attrs.field(
        default=None, validator=checked, metadata=naming('Name of the fork; without it, or with "new", a fresh one.')
    )


# ---------------------------------------------------------------------------------------------------------- results


@attrs.frozen(kw_only=True)
class Conversation:
    """One conversation, shortly."""

    conversation: str
    turns: int
    bytes: int = attrs.field(metadata=about("Of text, about."))
    created_ms: int = attrs.field(
        metadata=about(
            "When its first turn was asked, or it was forked: wall clock, milliseconds since 1970, as the next."
        )
    )
    updated_ms: int
    log_seq: int = attrs.field(metadata=about("Where its latest turn ended."))
    running: bool = attrs.field(metadata=about("Whether a turn of it is under way."))
    persona: str | None = None


@attrs.frozen(kw_only=True)
class ConversationsListResult:
    """All conversations, the latest first."""

    conversations: tuple[Conversation, ...]


@attrs.frozen(kw_only=True)
class RecordedMessage:
    """A message as it was said, and where. It is known by its log_seq, also in forks."""

    role: Role
    content: str
    log_seq: int
    time_ms: int
    request: str = attrs.field(metadata=about("The request that it was asked or answered with."))
    cancelled: bool | None = attrs.field(default=None, metadata=about("Whether its turn was cancelled."))
    gone: Literal["forgotten", "ephemeral", "late"] | None = attrs.field(
        default=None, metadata=about("Why its text is not there.")
    )


@attrs.frozen(kw_only=True)
class RecordedSummary:
    """What the model reads in the place of the oldest turns, which did not fit into its context any more."""

    content: str
    turns: int = attrs.field(metadata=about("How many turns it tells of."))
    upto: int = attrs.field(metadata=about("The log_seq of the last message that it stands for."))
    log_seq: int = attrs.field(metadata=about("Where it was made."))
    request: str = attrs.field(metadata=about("The turn for which it was made."))


@attrs.frozen(kw_only=True)
class ConversationsGetResult:
    """What was said in a conversation, oldest first."""

    conversation: str
    messages: tuple[RecordedMessage, ...]
    persona: str | None = None
    summary: RecordedSummary | None = None


@attrs.frozen(kw_only=True)
class ConversationsForkResult:
    """There is a fork, with a copy of its own of the turns before."""

    conversation: str = attrs.field(metadata=about("Name of the fork."))
    turns: int


@attrs.frozen(kw_only=True)
class ConversationsDeleteResult:
    """It is gone, durably: no byte of its text is in the log."""

    conversation: str
    groups: int = attrs.field(metadata=about("How many commands of the log were about it; they are tombstones now."))
