"""The fold of conversations: what the end of a turn, a copy and a forgetting make of them.

A conversation is a list of turns that is linked backwards through the log; the state knows its end. A turn that was
completed is its next one, and one that was cancelled after it had said something; what failed, and what is ephemeral,
stays out. Decides nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

import attrs

from mlzoo.core.state import ConversationState, PersonaState, wall_ms
from mlzoo.events import conversations as talk
from mlzoo.events.facts import History, SummaryRef, TurnRef

if TYPE_CHECKING:
    from mlzoo.core.state import RequestState, State

BYTES_A_TOKEN = 4  # of an answer, about
TURN_BYTES = 256  # that are known of a turn beside its text, about
NO_HISTORY = History()


def history_of(state: State, request: RequestState) -> History | None:
    """Return the history that a request is dispatched with: None where it is of no conversation."""
    if not request.conversation:
        return None
    if request.history is not None:
        return request.history
    found = state.conversations.get(request.conversation)
    return NO_HISTORY if found is None else found.history


def grown_by(request: RequestState) -> int:
    """Return how many bytes of text a turn has, about."""
    return TURN_BYTES + request.size_bytes + BYTES_A_TOKEN * request.completion_tokens


def with_turn(state: State, request: RequestState, seq: int, at_ms: int, *, cancelled: bool) -> State:
    """Return a state in which a request that has ended is the latest turn of its conversation, if it is one."""
    said_nothing = cancelled and request.first_token_at_ms is None
    if request.ephemeral or request.history is None or said_nothing:
        return state
    was = state.conversations.get(request.conversation)
    from_seq = request.history.from_seq
    history = attrs.evolve(
        request.history,
        head=TurnRef(request=request.id, accepted_seq=request.accepted_seq, ended_seq=seq),
        from_seq=request.accepted_seq - 1 if from_seq is None else from_seq,
    )
    now = ConversationState(
        history=history,
        turns=1 if was is None else was.turns + 1,
        size_bytes=grown_by(request) + (0 if was is None else was.size_bytes),
        created_at_ms=at_ms if was is None else was.created_at_ms,
        updated_at_ms=at_ms,
        updated_seq=seq,
        persona=request.persona or ("" if was is None else was.persona),
        created_ms=request.asked_ms if was is None else was.created_ms,
        updated_ms=wall_ms(state, at_ms),
    )
    return _is(state, request.conversation, now)


def conversation_changes(
    state: State,
    event: talk.ConversationCarried | talk.ConversationForked | talk.ConversationDropped,
    seq: int,
    at_ms: int,
) -> State:
    """Return the state after turns were copied, or dropped."""
    match event:
        case talk.ConversationCarried():
            was = state.conversations[event.conversation]
            history = History(base_seq=event.base_seq, from_seq=event.base_seq, summary=event.summary)
            return _is(state, event.conversation, attrs.evolve(was, history=history, size_bytes=event.size_bytes))
        case talk.ConversationForked():
            fork = ConversationState(
                history=History(base_seq=event.base_seq, from_seq=event.base_seq, summary=event.summary),
                turns=event.turns,
                size_bytes=event.size_bytes,
                created_at_ms=at_ms,
                updated_at_ms=at_ms,
                updated_seq=seq,
                persona=event.persona,
                created_ms=wall_ms(state, at_ms),
                updated_ms=wall_ms(state, at_ms),
            )
            return _is(state, event.conversation, fork)
        case talk.ConversationDropped():
            left = {name: found for name, found in state.conversations.items() if name != event.conversation}
            return attrs.evolve(state, conversations=left)
        case _:
            assert_never(event)


def summarised(state: State, event: talk.ConversationSummarised, seq: int) -> State:
    """Return the state after a summary was made: its turn goes on with it, and later ones begin with it.

    Of an ephemeral turn nothing is kept, so that no other turn reads what was made for it.
    """
    request = state.requests[event.request]
    found = state.conversations.get(event.conversation)
    ref = SummaryRef(request=event.request, seq=seq, turns=event.turns, left_out=event.left_out)
    history = attrs.evolve(request.history or NO_HISTORY, summary=ref)
    requests = {**state.requests, event.request: attrs.evolve(request, history=history)}
    state = attrs.evolve(state, requests=requests)
    if found is None or request.ephemeral:
        return state
    size_bytes = found.size_bytes + event.size_bytes
    grown = attrs.evolve(found, history=attrs.evolve(found.history, summary=ref), size_bytes=size_bytes)
    return _is(state, event.conversation, grown)


def persona_changes(state: State, event: talk.PersonaPut | talk.PersonaDropped) -> State:
    """Return the state after a host has described a persona, or has it no more."""
    personas = {name: found for name, found in state.personas.items() if name != event.persona}
    if isinstance(event, talk.PersonaPut):
        personas[event.persona] = PersonaState(base_seq=event.base_seq, size_bytes=event.size_bytes)
    return attrs.evolve(state, personas=personas)


def _is(state: State, name: str, conversation: ConversationState) -> State:
    return attrs.evolve(state, conversations={**state.conversations, name: conversation})
