"""Conversations: what becomes of copies of their turns, and of those that are dropped.

How turns follow one another is told in ``history`` (the fold) and ``schedule`` (one runs at a time). Knows no text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

import attrs

from mlzoo import errors
from mlzoo.core import requests
from mlzoo.core.history import TURN_BYTES
from mlzoo.core.room import full
from mlzoo.events import conversations as talk
from mlzoo.events import types as ev

if TYPE_CHECKING:
    from mlzoo.core.draft import Draft
    from mlzoo.core.state import State
    from mlzoo.errors import Failure
    from mlzoo.events.facts import SummaryRef


def decide(draft: Draft, command: talk.CarryConversation | talk.ForkConversation | talk.DropConversation) -> None:
    """Decide one of these commands."""
    match command:
        case talk.CarryConversation():
            carry(draft, command)
        case talk.ForkConversation():
            fork(draft, command)
        case talk.DropConversation():
            drop(draft, command)
        case _:
            assert_never(command)


def carry(draft: Draft, command: talk.CarryConversation) -> None:
    """Take a copy of all turns in the place of their own records, unless something has happened to them since."""
    name, found = command.conversation, draft.state.conversations.get(command.conversation)
    read = (command.head, command.base_seq, command.summary)
    is_same = found is not None and (found.history.head, found.history.base_seq, found.history.summary) == read
    carried = is_same and _is_idle(draft.state, name)
    if carried:
        draft.say(
            talk.ConversationCarried(
                conversation=name,
                base_seq=draft.first_seq,
                size_bytes=command.size_bytes + TURN_BYTES * len(command.rows),
                summary=_copied(command.summary),
            )
        )
    draft.say(ev.RequestReplied(request=command.request, caller=None, result={"carried": carried}))


def fork(draft: Draft, command: talk.ForkConversation) -> None:
    """Begin a conversation with the turns of another one, under a name that is free."""
    name, turns = command.conversation, len(command.rows)
    size_bytes = command.size_bytes + TURN_BYTES * turns
    taken = _is_taken(draft.state, name)
    refusal = taken or requests.door_closed(draft.state) or full(draft.state, name, size_bytes)
    if refusal is not None:
        draft.say(ev.RequestFailed(request=command.request, caller=None, failure=refusal))
        return
    draft.say(
        talk.ConversationForked(
            conversation=name,
            base_seq=draft.first_seq,
            turns=turns,
            size_bytes=size_bytes,
            persona=command.persona,
            summary=_copied(command.summary),
        )
    )
    reply = {"conversation": name, "turns": turns}
    draft.say(ev.RequestReplied(request=command.request, caller=None, result=reply))


def _copied(summary: SummaryRef | None) -> SummaryRef | None:
    return None if summary is None else attrs.evolve(summary, is_copied=True)


def drop(draft: Draft, command: talk.DropConversation) -> None:
    """End what runs for a conversation, and let go of it. What is unknown is no error: its text may still be there."""
    for request in tuple(draft.state.requests.values()):
        if request.conversation == command.conversation:
            requests.withdraw(draft, request)
            draft.say(ev.RequestCancelled(request=request.id))
    known = command.conversation in draft.state.conversations
    if known:
        draft.say(talk.ConversationDropped(conversation=command.conversation))
    draft.say(ev.RequestReplied(request=command.request, caller=None, result={"dropped": known}))


def is_known(state: State, name: str) -> bool:
    """Whether there is a conversation, or the first turn of one is under way."""
    return name in state.conversations or not _is_idle(state, name)


def _is_taken(state: State, name: str) -> Failure | None:
    if not is_known(state, name):
        return None
    return errors.InvalidParams(
        "There is a conversation of that name already: choose another, or leave it out.",
        path="into",
        expected="a name that no conversation has",
    ).failure()


def _is_idle(state: State, name: str) -> bool:
    return not any(request.conversation == name for request in state.requests.values())
