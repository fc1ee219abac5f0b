"""Room for conversations: their text stays in the log for as long as they do, so that it has an end.

Of one conversation, so that it fits into an answer and into a copy; of their number, as each stands in the state; of
all of them, as what they have leaves no room in the log's budget for anything else. Knows text by its size alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlzoo import errors

if TYPE_CHECKING:
    from mlzoo.core.state import State
    from mlzoo.errors import Failure

MOST_PERSONAS = 256  # that hosts describe


def full(state: State, name: str, more_bytes: int) -> Failure | None:
    """Return why a conversation may not grow by so many bytes of text, or None."""
    bounds, found = state.bounds, state.conversations.get(name)
    size_bytes = more_bytes + (0 if found is None else found.size_bytes)
    if 0 < bounds.conversation_bytes < size_bytes:
        return errors.TooLarge(
            f"The conversation would have {size_bytes} bytes, {bounds.conversation_bytes} are allowed "
            "(limits.conversation_bytes): go on in a fork of an earlier place, or in a new one.",
            limit=bounds.conversation_bytes,
            got=size_bytes,
        ).failure()
    if found is None and 0 < bounds.max_conversations <= len(state.conversations):
        count = len(state.conversations)
        return _full(f"There are {count} conversations already: delete some, or raise limits.max_conversations.")
    return _all_full(state, more_bytes)


def _all_full(state: State, more_bytes: int) -> Failure | None:
    held_bytes = sum(one.size_bytes for one in state.conversations.values())
    held_bytes += sum(one.size_bytes for one in state.personas.values())
    if 0 < state.bounds.conversations_bytes < held_bytes + more_bytes:
        return _full(
            f"Conversations have {held_bytes} bytes of text, {state.bounds.conversations_bytes} are allowed, half of "
            "the log's budget: delete some, or raise log.budget_bytes."
        )
    return None


def no_persona_more(state: State, name: str, size_bytes: int) -> Failure | None:
    """Return why there is no room for what a host says of a persona, or None."""
    if name not in state.personas and len(state.personas) >= MOST_PERSONAS:
        return _full(f"There are {MOST_PERSONAS} personas already: delete some.")
    return _all_full(state, size_bytes)


def _full(message: str) -> Failure:
    return errors.StorageFailed(message, reason="conversations_full", retryable=True).failure()
