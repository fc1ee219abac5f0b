"""What a worker is told about a request: from its command and text, and where it goes on, from what the log has of it.

The engine has the commands of this life's requests at hand. Those of an earlier life, and what was said of any request
that was interrupted, are read from the log, by the actor that sends them to its worker: it may take its time over that,
which the engine may not. Knows nothing of processes.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any, assert_never

import attrs
import trio

from mlzoo.errors import LogUnusable, OutOfRange
from mlzoo.events import commands as cmd
from mlzoo.events import types as ev
from mlzoo.events.history import SUMMARY_WANTED, read_through, summary_messages, turn_messages
from mlzoo.events.records import GONE, is_gone
from mlzoo.frames import Detokenize, Embed, Generate, Predict, Sampling, Tokenize, Truncation

if TYPE_CHECKING:
    from mlzoo.actors.messages import GoOn
    from mlzoo.events.facts import History
    from mlzoo.events.log import Log
    from mlzoo.frames import Messages, ToWorker

TURN_GROUPS = 64  # read from the log before other tasks get their turn


def frame_of(submit: cmd.Submit, text: Any, rerouted: str = "") -> ToWorker:
    """Return what a worker is told about a request that begins; where it was rerouted, to which model."""
    request, model, sampling = submit.request, submit.model.name, submit.sampling
    for candidate in submit.chain if rerouted else ():
        if candidate.model.name == rerouted:
            model, sampling = candidate.model.name, candidate.sampling
    params = text.get("params", {})  # as they were sent
    match submit.method:
        case "chat" | "complete":
            return Generate(
                request=request,
                model=model,
                messages=_messages(text),
                prompt=text.get("prompt"),
                sampling=sampling or Sampling(),
                stop=tuple(text.get("stop", ())),
                max_tokens=submit.max_tokens,
                exact=submit.determinism == "exact",
                batch=submit.priority == "batch",
                ephemeral=submit.ephemeral,
                truncation=submit.truncation or Truncation(),
                tools=tuple(params.get("tools") or ()),
                tool_choice=params.get("tool_choice"),
                response_format=params.get("response_format"),
                adapter=submit.adapter,
            )
        case "embed":
            texts, batch = tuple(text["texts"]), submit.priority == "batch"
            return Embed(request=request, model=model, texts=texts, normalize=submit.normalize, batch=batch)
        case "predict":
            batch = submit.priority == "batch"
            return Predict(request=request, model=model, inputs=tuple(text["inputs"]), batch=batch)
        case "tokenize":
            messages = tuple(text["messages"]) if "messages" in text else None
            return Tokenize(request=request, model=model, text=text.get("text"), messages=messages)
        case "detokenize":
            return Detokenize(request=request, model=model, tokens=tuple(text["tokens"]))
        case _:
            assert_never(submit.method)


def _messages(text: Any) -> Messages | None:
    """Return the messages of a request, behind the system prompt of its persona, if they bring none."""
    if "messages" not in text:
        return None
    messages = tuple(text["messages"])
    if "system" not in text or any(message["role"] == "system" for message in messages):
        return messages
    return ({"role": "system", "content": text["system"]}, *messages)


async def frame_from(log: Log, message: GoOn) -> ToWorker:
    """Return what a worker is told about a request that goes on, has a history, or was accepted in an earlier life.

    Raises:
        LogUnusable: What the log has of it is damaged.
        OutOfRange: Some of it is not kept any more.
    """
    if message.begun is not None:
        frame = frame_of(*message.begun, message.model)
        return await _behind_history(log, frame, message.begun[1], message.history)
    asked: tuple[cmd.Submit, Any] | None = None
    tokens: list[int] = []
    said: list[str] = []
    cut = 0
    accepted_at = message.accepted_seq - 2  # before the group of its acceptance, which is the first event of it
    for read, group in enumerate(log.groups_of(message.request, accepted_at), start=1):
        if isinstance(group.command, cmd.Submit) and group.command.request == message.request:
            if is_gone(group.text):
                raise _gone(message.request, group.text)
            asked = (group.command, group.text)
        for event in group.events:
            # A row that came too late has no event: it was not said.
            if isinstance(event, ev.RequestStreamed) and event.request == message.request:
                row = group.text[event.row]
                if is_gone(row):
                    raise _gone(message.request, row)
                tokens += row["tokens"]
                said.append(row["content"])
                cut += event.truncated
        if read % TURN_GROUPS == 0:
            await trio.lowlevel.checkpoint()
    if asked is None:
        raise LogUnusable(
            f"the log does not hold the request {message.request}, which is to go on",
            reason="inconsistent",
            path=str(log.path),
            log_seq=message.accepted_seq,
            remedy="send the request again, under another key",
        )
    frame = await _behind_history(log, frame_of(*asked, message.model), asked[1], message.history)
    if message.resume is None or not isinstance(frame, Generate):
        return frame
    return attrs.evolve(
        frame,
        resume=message.resume,
        tokens=tuple(tokens),
        said="".join(said),
        cut=cut,
        fingerprint=message.fingerprint,
    )


async def _behind_history(log: Log, frame: ToWorker, text: Any, history: History | None) -> ToWorker:
    """Return a turn of a conversation with what was said before it: what a persona says at first, and all turns.

    Where a summary stands for some of them, it is read in their place. Fails as ``frame_from`` does.
    """
    if history is None or not isinstance(frame, Generate) or frame.messages is None:
        return frame
    said = await read_through(log.reader.history.turns(history))
    summary = await read_through(log.reader.history.summary(history))
    begins = 0 if summary is None else summary.ref.turns
    turns = [(number, turn.facts.request, turn_messages(turn)) for number, turn in enumerate(said, start=1)][begins:]
    if not said and "greeting" in text:
        turns = [(0, "", ({"role": "assistant", "content": text["greeting"]},))]
    turns = [turn for turn in turns if turn[2]]
    beside = () if summary is None else summary_messages(summary)
    first = sum(message["role"] == "system" for message in frame.messages[:1])
    older = chain.from_iterable(messages for _, _, messages in turns)
    is_summarised = frame.truncation.policy == "summarise"
    return attrs.evolve(
        frame,
        messages=(*frame.messages[:first], *beside, *older, *frame.messages[first:]),
        leading=first + len(beside),
        summary=len(beside),
        left_out=0 if summary is None else summary.ref.left_out,
        turns=tuple(len(messages) for _, _, messages in turns),
        asks=SUMMARY_WANTED if is_summarised else "",
        numbers=tuple(number for number, _, _ in turns) if is_summarised else (),
        names=tuple(name for _, name, _ in turns) if is_summarised else (),
    )


def _gone(request: str, text: dict[str, str]) -> OutOfRange:
    """Return what is said where a tombstone stands; one that had no room for it does not tell why it does."""
    match text.get(GONE):
        case "ephemeral":
            why = "was ephemeral and is not kept any more"
        case "forgotten":
            why = "was forgotten"
        case _:
            why = "is not kept any more"
    return OutOfRange(f"the text of {request} {why}: it cannot go on", oldest=0)
