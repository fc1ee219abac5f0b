"""Conversations, as hosts look at them and fork them: read from the log, and told message by message.

A message is known by its log_seq: a question by that of the command that brought it, an answer by that of its end. So
it is in forks, too, which own a copy. How turns become a prompt is told in ``work``, how they go in ``forgetting``.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import attrs
import trio

from mlzoo import errors
from mlzoo.actors.asking import decided, folded
from mlzoo.actors.outcomes import Later
from mlzoo.core.conversations import is_known
from mlzoo.events.conversations import ForkConversation
from mlzoo.events.history import read_at_once, read_through
from mlzoo.events.records import GONE, is_gone

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlzoo.actors.services import Services
    from mlzoo.api.conversations import ConversationsForkParams, ConversationsGetParams
    from mlzoo.core.state import ConversationState, State
    from mlzoo.events.commands import JsonObject
    from mlzoo.events.history import Summary, Turns


async def listed(services: Services) -> JsonObject:
    """Return every conversation shortly, the latest first.

    Raises:
        LogUnusable: the log cannot be folded.
    """
    state = (await folded(services)).state
    running = {request.conversation for request in state.requests.values()}
    latest = sorted(state.conversations.items(), key=lambda item: -item[1].updated_seq)
    return {
        "conversations": [
            {
                "conversation": name,
                "turns": found.turns,
                "bytes": found.size_bytes,
                "created_ms": found.created_ms or services.wall_ms(found.created_at_ms),
                "updated_ms": found.updated_ms or services.wall_ms(found.updated_at_ms),
                "log_seq": found.updated_seq,
                "running": name in running,
                **({"persona": found.persona} if found.persona else {}),
            }
            for name, found in latest
        ]
    }


async def get(services: Services, params: ConversationsGetParams) -> JsonObject:
    """Return what was said in a conversation.

    Raises:
        LogUnusable: what the log has of it is damaged.
        NotFound: there is no such conversation, or no such place in it.
        OutOfRange: the place is after the end of the log.
    """
    await folded(services)
    found, turns, summary = await _read(services, params.conversation)
    _refuse_ahead(services, params.at)
    return shown(params.conversation, params.at, "" if found is None else found.persona, turns, summary)


async def _read(services: Services, name: str) -> tuple[ConversationState | None, Turns, Summary | None]:
    """Return a conversation, its turns and its summary; None and none, where its first turn is under way."""
    while True:
        found = _find(services.state, name)
        if found is None:
            return None, (), None
        history = services.log.reader.history
        try:
            turns = await read_through(history.turns(found.history))
            return found, turns, await read_through(history.summary(found.history))
        except errors.OutOfRange:
            if services.state.conversations.get(name) is found:
                raise
            # It was copied meanwhile, and its records are gone.


def again(services: Services, params: ConversationsGetParams) -> JsonObject:
    """Return once more what was said in a conversation, without waiting; fails as ``get`` does."""
    found = _find(services.state, params.conversation)
    if found is None:
        return shown(params.conversation, params.at, "", ())
    history = services.log.reader.history
    turns, summary = read_at_once(history.turns(found.history)), read_at_once(history.summary(found.history))
    return shown(params.conversation, params.at, found.persona, turns, summary)


def fork(services: Services, params: ConversationsForkParams, into: str) -> Later:
    """Return what becomes of ``conversations.fork``."""
    return Later(partial(_fork, services, params, into), holds=trio.Event())


async def _fork(services: Services, params: ConversationsForkParams, into: str) -> JsonObject:
    """Begin a conversation with a copy of turns of another one, and return the answer once it is durable.

    Raises:
        InvalidParams: there is a conversation of that name.
        LogUnusable: what the log has of it is damaged.
        NotFound: there is no such conversation, or no such place in it.
        OutOfRange: the place is after the end of the log.
        ShuttingDown, StorageFailed, TooLarge: nothing new is taken in, or there is no room for it.
    """
    await folded(services)
    async with services.log.forgetter.lock:  # What is copied while it is forgotten would come back.
        found, turns, summary = await _read(services, params.conversation)
        _refuse_ahead(services, params.at)
        kept = upto(turns, params.at)
        if summary is not None and not _was_made(summary, params.at):
            summary = None
        command = ForkConversation(
            request=services.world.ids.new("req"),
            source=params.conversation,
            conversation=into,
            persona="" if found is None else found.persona,
            rows=tuple(attrs.evolve(turn.facts, forked=True) for turn in kept),
            size_bytes=sum(turn.size_bytes for turn in kept),
            summary=None if summary is None else summary.ref,
        )
        beside = [] if summary is None else [{"summary": summary.text}]
        result, _ = await decided(services, command, [*(turn.text for turn in kept), *beside])
        return result


def _find(state: State, name: str) -> ConversationState | None:
    """Return a conversation; None where its first turn is under way."""
    found = state.conversations.get(name)
    if found is None and not is_known(state, name):
        message = "There is no such conversation: conversations.list tells which there are."
        raise errors.NotFound(message, what="conversation", id=name)
    return found


def _refuse_ahead(services: Services, at: int | None) -> None:
    last_seq = services.log.last_seq
    if at is not None and at > last_seq:
        message = f"the log ends at {last_seq}, before {at}"
        raise errors.OutOfRange(message, type="ahead", durable=services.log.synced)


def shown(name: str, at: int | None, persona: str, turns: Turns, summary: Summary | None = None) -> JsonObject:
    """Return a conversation as hosts are told of it, as it was at a place; None: as it is.

    Of summaries there is the latest one, so that a place before it has none.

    Raises:
        NotFound: it is no place of the conversation.
    """
    kept = turns if at is None else upto(turns, at)
    told: JsonObject = {"conversation": name, "messages": list(messages_of(kept))}
    if summary is not None and _was_made(summary, at):
        told["summary"] = {
            "content": summary.text,
            "turns": summary.ref.turns - summary.ref.left_out,
            "upto": turns[summary.ref.turns - 1].facts.ended_seq,
            "log_seq": summary.ref.seq,
            "request": summary.ref.request,
        }
    return told | {"persona": persona} if persona else told


def _was_made(summary: Summary, at: int | None) -> bool:
    """Whether there was this summary at a place, and so all turns that it stands for; None: as it is."""
    return at is None or summary.ref.seq <= at


def upto(turns: Turns, at: int) -> Turns:
    """Return the turns that had ended at a place: a question's turn had not, an answer's had.

    Raises:
        NotFound: it is no place of the conversation.
    """
    for number, turn in enumerate(turns):
        if at in {turn.facts.asked_seq, turn.facts.ended_seq}:
            return turns[: number + (at == turn.facts.ended_seq)]
    raise errors.NotFound(
        f"{at} is no place of this conversation: take the log_seq of a message that conversations.get tells of.",
        what="place",
        id=str(at),
    )


def messages_of(turns: Turns) -> Iterator[JsonObject]:
    """Yield the messages of turns as hosts are told of them."""
    for turn in turns:
        facts, text = turn.facts, turn.text
        flags: JsonObject = {}
        if facts.cancelled:
            flags["cancelled"] = True
        if is_gone(text):
            flags["gone"] = text.get(GONE, "forgotten")
            text = {"messages": [{"role": "user", "content": ""}], "content": ""}
        asked = {"log_seq": facts.asked_seq, "time_ms": facts.asked_at_ms, "request": facts.request, **flags}
        if "greeting" in text:
            yield {"role": "assistant", "content": text["greeting"], **asked}
        for message in text["messages"]:
            yield {"role": message["role"], "content": message["content"], **asked}
        ended = {"log_seq": facts.ended_seq, "time_ms": facts.ended_at_ms, "request": facts.request, **flags}
        yield {"role": "assistant", "content": text["content"], **ended}
