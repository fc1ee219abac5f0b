"""Anthropic's messages API.

Source: its API reference (messages, streaming, tool use, vision), version 2023-06-01. System messages become the
system prompt, answers of tools become turns of the user; a bound of the answer is required there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import trio

from mlzoo.errors import Unsupported
from mlzoo.frames import ToolCallDelta
from mlzoo.providers.counts import count_of
from mlzoo.providers.http import EVERY_S, Http
from mlzoo.providers.protocol import Failed, Piece, Vectors

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from contextlib import AbstractAsyncContextManager

    import httpx2

    from mlzoo.config.schema import ProviderEntry
    from mlzoo.frames import Embed, FinishReason, Generate
    from mlzoo.providers.secrets import Secrets

VERSION = "2023-06-01"
MAX_TOKENS = 4096  # where a request has no bound: every model of theirs allows as many
FINISHES: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
CHOICES = {"auto": {"type": "auto"}, "none": {"type": "none"}, "required": {"type": "any"}}


class Anthropic:
    """That API."""

    every_s = EVERY_S

    def __init__(self, entry: ProviderEntry, secrets: Secrets) -> None:
        self._http = Http(entry, secrets, lambda key: {"x-api-key": key}, {"anthropic-version": VERSION})

    def generate(self, work: Generate, remote: str) -> AbstractAsyncContextManager[AsyncIterator[Piece]]:
        """See ``Provider``."""
        return self._http.stream("/messages", body_of(work, remote), pieces_of, remote)

    async def embed(self, work: Embed, remote: str) -> Vectors:
        """Refuse: there is no such thing."""
        await trio.lowlevel.checkpoint()
        raise Failed(
            f"has no embeddings ({remote})",
            remedy=f"ask another model than {work.model}",
            is_worth_trying=False,
            code=Unsupported.code,
            data={"feature": "embed"},
        )

    async def aclose(self) -> None:
        """See ``Provider``."""
        await self._http.aclose()


# ------------------------------------------------------------------------------------------------ what is asked


def body_of(work: Generate, remote: str) -> dict[str, Any]:
    """Return the body of a request."""
    messages = work.messages if work.messages is not None else ({"role": "user", "content": work.prompt},)
    system = "\n\n".join(_text(message) for message in messages if message["role"] == "system")
    body: dict[str, Any] = {
        "model": remote,
        "messages": turns_of([message for message in messages if message["role"] != "system"]),
        "max_tokens": work.max_tokens or MAX_TOKENS,
        "stream": True,
    }
    if system:
        body["system"] = system
    sampling = work.sampling
    neutral = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
    body |= {name: value for name, usual in neutral.items() if (value := getattr(sampling, name)) != usual}
    if work.stop:
        body["stop_sequences"] = list(work.stop)
    if work.tools:
        body["tools"] = [_tool(tool.get("function", tool)) for tool in work.tools]
        if work.tool_choice is not None:
            body["tool_choice"] = _choice(work.tool_choice)
    return body


def turns_of(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return turns as blocks of content; those of one role that follow each other become one."""
    turns: list[dict[str, Any]] = []
    for message in messages:
        role = "assistant" if message["role"] == "assistant" else "user"
        blocks = _blocks(message)
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": role, "content": blocks})
    return turns


def _blocks(message: dict[str, Any]) -> list[dict[str, Any]]:
    if message["role"] == "tool":
        answer = {"type": "tool_result", "tool_use_id": message.get("tool_call_id", ""), "content": _text(message)}
        return [answer]
    content = message["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else [_part(part) for part in content]
    blocks = [part for part in parts if part.get("text", True)]  # Empty text is refused there.
    return blocks + [_use(call) for call in message.get("tool_calls") or ()]


def _part(part: dict[str, Any]) -> dict[str, Any]:
    if part["type"] != "image_url":
        return {"type": "text", "text": part["text"]}
    url = part["image_url"]["url"]
    head, comma, data = url.partition(",")
    if url.startswith("data:") and comma and head.endswith(";base64"):
        media_type = head.removeprefix("data:").removesuffix(";base64")
        return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}
    return {"type": "image", "source": {"type": "url", "url": url}}


def _use(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function", call)
    try:
        given = orjson.loads(function["arguments"] or "{}")
    except orjson.JSONDecodeError:
        given = {"arguments": function["arguments"]}  # As a model wrote it, and nobody else may have understood it.
    return {"type": "tool_use", "id": call["id"], "name": function["name"], "input": given}


def _text(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "\n".join(part.get("text", "") for part in content)


def _tool(function: dict[str, Any]) -> dict[str, Any]:
    tool = {"name": function["name"], "input_schema": function.get("parameters") or {"type": "object"}}
    return tool | ({"description": function["description"]} if function.get("description") else {})


def _choice(choice: Any) -> dict[str, Any]:
    if isinstance(choice, str):
        return CHOICES.get(choice, CHOICES["auto"])
    return {"type": "tool", "name": choice.get("function", choice).get("name", "")}


# ------------------------------------------------------------------------------------------------ what is said


class _Answer:
    """One answer in the making: what its events have said beside their texts."""

    def __init__(self) -> None:
        self.calls: dict[int, int] = {}  # index of a block -> index of the call in it
        self.finish: FinishReason | None = None
        self.usage: dict[str, Any] = {}

    def ending(self) -> Piece:
        told = {name: count_of(value) for name, value in self.usage.items()}
        cached = told.get("cache_read_input_tokens") or 0
        read = (told.get("input_tokens"), cached, told.get("cache_creation_input_tokens") or 0)
        prompt_tokens = None if read[0] is None else sum(part or 0 for part in read)
        return Piece(
            finish_reason=self.finish or "stop",
            prompt_tokens=prompt_tokens,
            completion_tokens=told.get("output_tokens"),
            cached_tokens=cached,
        )


async def pieces_of(events: AsyncIterator[httpx2.ServerSentEvent]) -> AsyncGenerator[Piece, None]:
    """Yield what the events of a stream say; the last piece has the finish reason and the usage."""
    answer = _Answer()
    is_done = False
    try:
        async for event in events:
            said = orjson.loads(event.data)
            is_done = said["type"] == "message_stop"
            if is_done:
                break
            yield _piece(said, answer)
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise Failed("said what cannot be understood", is_worth_trying=False) from error
    if not is_done and answer.finish is None:
        raise Failed("broke off its answer")
    yield answer.ending()


def _piece(said: dict[str, Any], answer: _Answer) -> Piece:
    """Return what an event says, mostly a piece of text.

    Raises:
        Failed: It is an error.
    """
    match said["type"]:
        case "message_start":
            answer.usage |= said["message"].get("usage") or {}
        case "content_block_start" if said["content_block"]["type"] == "tool_use":
            block = said["content_block"]
            index = answer.calls[said["index"]] = len(answer.calls)
            call = ToolCallDelta(index=index, id=_is_text(block["id"]), name=_is_text(block["name"]))
            return Piece(tool_calls=(call,))
        case "content_block_start":
            return Piece(content=_is_text(said["content_block"].get("text", "")))
        case "content_block_delta":
            return _delta(said, answer)
        case "message_delta":
            answer.usage |= said.get("usage") or {}
            reason = said["delta"].get("stop_reason")
            answer.finish = FINISHES.get(reason, "stop") if reason else answer.finish
        case "error":
            raise _failed(said["error"])
        case _:
            pass  # A ping, the end of a block, or what came later than this was written.
    return Piece()


def _delta(said: dict[str, Any], answer: _Answer) -> Piece:
    delta = said["delta"]
    match delta["type"]:
        case "text_delta":
            return Piece(content=_is_text(delta["text"]))
        case "thinking_delta":
            return Piece(reasoning=_is_text(delta["thinking"]))
        case "input_json_delta":
            call = ToolCallDelta(index=answer.calls[said["index"]], arguments=_is_text(delta["partial_json"]))
            return Piece(tool_calls=(call,) if call.arguments else ())
        case _:
            return Piece()


def _is_text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _failed(error: dict[str, Any]) -> Failed:
    is_busy = error.get("type") in {"overloaded_error", "rate_limit_error", "api_error", "timeout_error"}
    return Failed(
        "ended its answer with an error",
        status=529 if error.get("type") == "overloaded_error" else None,
        is_worth_trying=is_busy,
        remedy="" if is_busy else "see detail",
        detail=str(error.get("message", "")),
    )
