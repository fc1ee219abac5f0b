"""What a worker is told about a request: from its command and text, and where it goes on, from what the log has of it.

The engine has the commands of this life's requests at hand. Those of an earlier life, and what was said of any request
that was interrupted, are read from the log, by the actor that sends them to its worker: it may take its time over that,
which the engine may not. Knows nothing of processes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, assert_never

import attrs
import trio

from mlzoo.errors import LogUnusable, OutOfRange
from mlzoo.events import commands as cmd
from mlzoo.events import types as ev
from mlzoo.events.records import GONE, is_gone
from mlzoo.frames import Detokenize, Embed, Generate, Sampling, Tokenize

if TYPE_CHECKING:
    from mlzoo.actors.messages import GoOn
    from mlzoo.events.log import Log
    from mlzoo.frames import ToWorker

TURN_GROUPS = 64  # read from the log before other tasks get their turn


def frame_of(submit: cmd.Submit, text: Any) -> ToWorker:
    """Return what a worker is told about a request that begins."""
    request, model = submit.request, submit.model.name
    match submit.method:
        case "chat" | "complete":
            return Generate(
                request=request,
                model=model,
                messages=tuple(text["messages"]) if "messages" in text else None,
                prompt=text.get("prompt"),
                sampling=submit.sampling or Sampling(),
                stop=tuple(text.get("stop", ())),
                max_tokens=submit.max_tokens,
                exact=submit.determinism == "exact",
                batch=submit.priority == "batch",
                ephemeral=submit.ephemeral,
            )
        case "embed":
            return Embed(request=request, model=model, texts=tuple(text["texts"]), normalize=submit.normalize)
        case "tokenize":
            messages = tuple(text["messages"]) if "messages" in text else None
            return Tokenize(request=request, model=model, text=text.get("text"), messages=messages)
        case "detokenize":
            return Detokenize(request=request, model=model, tokens=tuple(text["tokens"]))
        case _:
            assert_never(submit.method)


async def frame_from(log: Log, message: GoOn) -> ToWorker:
    """Return what a worker is told about a request that goes on, or was accepted in an earlier life.

    Raises:
        LogUnusable: What the log has of it is damaged.
        OutOfRange: Some of it is not kept any more.
    """
    frame: ToWorker | None = None
    tokens: list[int] = []
    said: list[str] = []
    accepted_at = message.accepted_seq - 2  # before the group of its acceptance, which is the first event of it
    for read, group in enumerate(log.groups_of(message.request, accepted_at), start=1):
        if isinstance(group.command, cmd.Submit) and group.command.request == message.request:
            if is_gone(group.text):
                raise _gone(message.request, group.text)
            frame = frame_of(group.command, group.text)
        for event in group.events:
            # A row that came too late has no event: it was not said.
            if isinstance(event, ev.RequestStreamed) and event.request == message.request:
                row = group.text[event.row]
                if is_gone(row):
                    raise _gone(message.request, row)
                tokens += row["tokens"]
                said.append(row["content"])
        if read % TURN_GROUPS == 0:
            await trio.lowlevel.checkpoint()
    if frame is None:
        raise LogUnusable(
            f"the log does not hold the request {message.request}, which is to go on",
            reason="inconsistent",
            path=str(log.path),
            log_seq=message.accepted_seq,
            remedy="send the request again, under another key",
        )
    if message.resume is None or not isinstance(frame, Generate):
        return frame
    return attrs.evolve(frame, resume=message.resume, tokens=tuple(tokens), said="".join(said))


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
