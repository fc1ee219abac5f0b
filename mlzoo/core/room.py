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
    held_bytes = sum(one.size_bytes for one in state.conversations.values())
    if 0 < bounds.conversations_bytes < held_bytes + more_bytes:
        return _full(
            f"Conversations have {held_bytes} bytes of text, and {bounds.conversations_bytes} are allowed, half of the "
            "log's budget: delete some, or raise log.budget_bytes."
        )
    return None


def _full(message: str) -> Failure:
    return errors.StorageFailed(message, reason="conversations_full", retryable=True).failure()
