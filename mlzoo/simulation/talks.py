"""What conversations are by what the log's files say alone: which turns have ended well, in their order. I20.

A fold of its own, of lines as they lie there, which shares no code with that of the core; and what a host is told of a
conversation, compared with it. Where records have gone, the copy that was made before says what was in them.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import attrs

from mlzoo.simulation.workers import is_answer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlzoo.core.state import State

COPIES = {"ConversationCarried", "ConversationForked"}


@attrs.define
class Talks:
    """The conversations of a log, and what they have been since somebody looks."""

    turns: dict[str, tuple[str, ...]] = attrs.field(factory=dict)  # conversation -> the requests that its turns are
    were: dict[str, set[tuple[str, ...]]] = attrs.field(factory=dict)

    def turn(self, name: str, request: str) -> None:
        """Note that a turn of a conversation has ended, and is one."""
        self._is(name, (*self.turns.get(name, ()), request))

    def note(self, kind: str, fields: dict[str, Any], command: dict[str, Any]) -> None:
        """Note an event about a conversation, and the command that led to it."""
        if kind in COPIES:
            self._is(fields["conversation"], tuple(row["request"] for row in command["data"]["rows"]))
        elif kind == "ConversationDropped":
            self._is(fields["conversation"], ())
            del self.turns[fields["conversation"]]

    def _is(self, name: str, turns: tuple[str, ...]) -> None:
        self.turns[name] = turns
        self.were.setdefault(name, {()}).add(turns)


def folded_otherwise(talks: Talks, state: State) -> Iterator[str]:
    """Yield where a state has other conversations than the log tells of."""
    for name in sorted({*talks.turns, *state.conversations}):
        wanted, found = talks.turns.get(name), state.conversations.get(name)
        if wanted is None or found is None:
            yield f"{name} has the turns {wanted}, and the state has {found}"
        elif found.turns != len(wanted):
            yield f"{name} has the turns {wanted}, and the state counts {found.turns}"
        elif found.history.head is not None and found.history.head.request != wanted[-1]:
            yield f"{name} ends with {wanted[-1]}, and the state with {found.history.head.request}"


def told_otherwise(talks: Talks, result: dict[str, Any]) -> Iterator[str]:
    """Yield where a host is told of another conversation than there has been."""
    name, messages = result["conversation"], result["messages"]
    turns = tuple(dict.fromkeys(message["request"] for message in messages))
    if turns not in talks.were.get(name, {()}):
        yield f"{name} is told to have the turns {turns}, and has {talks.turns.get(name)}"
    for asked, answered in pairwise(messages):
        is_turn = (asked["role"], answered["role"]) == ("user", "assistant")
        is_whole = not {"gone", "cancelled"} & answered.keys()
        if is_turn and is_whole and not is_answer(asked["content"], answered["content"], goes_on_otherwise=True):
            yield f"{name} is told to answer {asked['content']} with {answered['content']!r}"
