"""What of a history that is too long for a model's context is left out: whole turns, the oldest first. Pure.

Token counts come in, and the number of turns that go comes out; who counted, and what the turns say, is not known here.
What stands before the history (a system prompt) and after it (the last user's turn) always stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlzoo.frames import Truncation

if TYPE_CHECKING:
    from collections.abc import Sequence

KEPT_SHARE = 2  # of the room, one part of so many stays full where turns are summarised: the next ones fit as well
SUMMARY_SHARE = 8  # a summary has at most one part of so many of the context,
SUMMARY_TOKENS = 512  # and no more than this
ANSWER_SHARE = 4  # one part of so many of the context is left for an answer of which nobody said how long it may be
MOST_SHARE = 2  # and no more than one of so many, however long it may be


def room_for_prompt(context: int, max_tokens: int | None) -> int:
    """Return how many tokens of a context a prompt with a history may have, so that there is room for its answer."""
    if max_tokens is None:
        return context - context // ANSWER_SHARE
    return context - min(max_tokens, context // MOST_SHARE)


def summary_tokens(context: int) -> int:
    """Return how many tokens a summary may have."""
    return min(SUMMARY_TOKENS, context // SUMMARY_SHARE)


def turns_to_summarise(turns: Sequence[int], tokens: int, room: int) -> int:
    """Return how many of the oldest turns a summary is to stand for: none where all fit, else more than must go.

    So the turns that come next find room, and not each of them begins with another summary.
    """
    if tokens <= room:
        return 0
    return turns_to_cut(turns, tokens, room // KEPT_SHARE, Truncation(policy="drop_oldest"))


def turns_to_cut(turns: Sequence[int], tokens: int, room: int, truncation: Truncation) -> int:
    """Return how many of the oldest turns go, at most all.

    Args:
        turns: Tokens of each turn, oldest first.
        tokens: Of the whole prompt, the turns included.
        room: Tokens that it may have.
        truncation: What may be left out.
    """
    if truncation.policy == "none":
        return 0
    cut = max(0, len(turns) - truncation.keep_last) if truncation.policy == "keep_last" else 0
    left = tokens - sum(turns[:cut])
    while left > room and cut < len(turns):
        left -= turns[cut]
        cut += 1
    return cut
