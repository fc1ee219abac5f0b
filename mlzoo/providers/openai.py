"""Servers that speak as OpenAI's does: chat completions, completions and embeddings.

Source: OpenAI's API reference (chat/create, chat/streaming, completions, embeddings), and what vLLM, llama.cpp, Ollama
and transformers make of it: ``reasoning_content`` beside ``reasoning``, a stream that ends without its mark or
without usage, vectors as numbers where base64 was asked for.
"""

from __future__ import annotations

import array
import base64
import binascii
import math
import sys
from typing import TYPE_CHECKING, Any, cast

import orjson
import trio

from mlzoo.frames import TokenLogprob, ToolCallDelta
from mlzoo.providers.counts import count_of
from mlzoo.providers.http import EVERY_S, Http
from mlzoo.providers.protocol import TOO_LONG, Failed, Piece, Vectors, too_long

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from contextlib import AbstractAsyncContextManager

    import httpx2

    from mlzoo.config.schema import ProviderEntry
    from mlzoo.frames import Embed, FinishReason, Generate
    from mlzoo.providers.secrets import Secrets

DONE = "[DONE]"
CALLS = 128  # of tools in one answer
FINISHES: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


class OpenAI:
    """One such server."""

    every_s = EVERY_S

    def __init__(self, entry: ProviderEntry, secrets: Secrets) -> None:
        self._entry = entry
        self._http = Http(entry, secrets, lambda key: {"authorization": f"Bearer {key}"})

    def generate(self, work: Generate, remote: str) -> AbstractAsyncContextManager[AsyncIterator[Piece]]:
        """See ``Provider``."""
        if work.prompt is not None:
            return self._http.stream("/completions", completion_body(work, remote, self._entry), pieces_of, remote)
        return self._http.stream("/chat/completions", chat_body(work, remote, self._entry), pieces_of, remote)

    async def embed(self, work: Embed, remote: str) -> Vectors:
        """See ``Provider``."""
        body = {"model": remote, "input": list(work.texts), "encoding_format": "base64"}
        answer = await self._http.json("/embeddings", body, remote)
        return await trio.to_thread.run_sync(vectors_of, answer, len(work.texts), work.normalize)

    async def aclose(self) -> None:
        """See ``Provider``."""
        await self._http.aclose()


# ------------------------------------------------------------------------------------------------ what is asked


def chat_body(work: Generate, remote: str, entry: ProviderEntry) -> dict[str, Any]:
    """Return the body of a chat completion."""
    body: dict[str, Any] = {"model": remote, "messages": [message_of(message) for message in work.messages or ()]}
    body |= _sampling(work, entry)
    if work.sampling.logprobs:
        body |= {"logprobs": True, "top_logprobs": work.sampling.top_logprobs}
    if work.max_tokens is not None:
        body[entry.max_tokens_field] = work.max_tokens
    if work.tools:
        body["tools"] = list(work.tools)
        if work.tool_choice is not None:
            body["tool_choice"] = work.tool_choice
    if work.response_format not in (None, {"type": "text"}):
        body["response_format"] = work.response_format
    return body


def completion_body(work: Generate, remote: str, entry: ProviderEntry) -> dict[str, Any]:
    """Return the body of a completion."""
    body = {"model": remote, "prompt": work.prompt, **_sampling(work, entry)}
    if work.sampling.logprobs:
        body["logprobs"] = work.sampling.top_logprobs
    if work.max_tokens is not None:
        body["max_tokens"] = work.max_tokens
    return body


def _sampling(work: Generate, entry: ProviderEntry) -> dict[str, Any]:
    """Return what says how to sample. What is neutral is left out, as some servers refuse what they do not know."""
    sampling = work.sampling
    body: dict[str, Any] = {"stream": True}
    if entry.sends_usage:
        body["stream_options"] = {"include_usage": True}
    if entry.sends_seed:
        body["seed"] = sampling.seed
    neutral = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
    body |= {name: value for name, usual in neutral.items() if (value := getattr(sampling, name)) != usual}
    if work.stop:
        body["stop"] = list(work.stop)
    return body


def message_of(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message as OpenAI has it; calls of tools may come as we tell them: {id, name, arguments}."""
    calls = message.get("tool_calls")
    if not calls:
        return {name: value for name, value in message.items() if name != "tool_calls"}
    nested = [
        call
        if "function" in call
        else {"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": call["arguments"]}}
        for call in calls
    ]
    return {**message, "tool_calls": nested}


# ------------------------------------------------------------------------------------------------ what is said


async def pieces_of(events: AsyncIterator[httpx2.ServerSentEvent]) -> AsyncGenerator[Piece, None]:
    """Yield what the events of a stream say; the last piece has the finish reason and the usage."""
    finish: FinishReason | None = None
    usage: dict[str, Any] = {}
    is_done = False
    try:
        async for event in events:
            if event.data == DONE:
                is_done = True
                break
            chunk = _no_error(_is_object(orjson.loads(event.data), "a chunk"))
            usage = chunk.get("usage") or usage
            for choice in chunk.get("choices") or ():
                piece = _piece(_is_object(choice, "a choice"))
                yield piece
                finish = FINISHES.get(choice["finish_reason"], "stop") if choice.get("finish_reason") else finish
    except Failed:
        raise
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise Failed("said what cannot be understood", is_worth_trying=False) from error
    except Exception:
        if finish is None:
            raise  # What broke off after the end is whole, but for its usage.
    if finish is None and not is_done:
        raise Failed("broke off its answer")
    yield _ending(finish or "stop", usage)


def _ending(finish: FinishReason, usage: Any) -> Piece:
    told = usage if isinstance(usage, dict) else {}
    details = told.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else 0
    return Piece(
        finish_reason=finish,
        prompt_tokens=count_of(told.get("prompt_tokens")),
        completion_tokens=count_of(told.get("completion_tokens")),
        cached_tokens=count_of(cached) or 0,
    )


def _piece(choice: dict[str, Any]) -> Piece:
    if choice.get("index", 0) != 0:
        return Piece()
    delta = choice.get("delta") or {}
    content = delta.get("content") or delta.get("refusal") or choice.get("text") or ""
    reasoning = delta.get("reasoning_content") or delta.get("reasoning") or ""
    if not isinstance(content, str) or not isinstance(reasoning, str):
        raise TypeError
    logprobs = choice.get("logprobs") or {}
    return Piece(
        content=content,
        reasoning=reasoning,
        tool_calls=tuple([_call(call) for call in delta.get("tool_calls") or ()]),
        logprobs=tuple([_logprob(token) for token in logprobs.get("content") or ()]),
    )


def _call(call: dict[str, Any]) -> ToolCallDelta:
    function = call.get("function") or {}
    index, texts = call.get("index", 0), (call.get("id"), function.get("name"), function.get("arguments"))
    if not isinstance(index, int) or not 0 <= index < CALLS:
        raise TypeError
    if not all(text is None or isinstance(text, str) for text in texts):
        raise TypeError
    named, name, arguments = (text or "" for text in texts)
    return ToolCallDelta(index=index, id=named, name=name, arguments=arguments)


def _logprob(token: dict[str, Any]) -> TokenLogprob:
    rivals = [(str(rival["token"]), _finite(rival["logprob"])) for rival in token.get("top_logprobs") or ()]
    return TokenLogprob(token=str(token["token"]), logprob=_finite(token["logprob"]), top=tuple(rivals))


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


def _is_object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(what)
    return value


def _no_error(chunk: dict[str, Any]) -> dict[str, Any]:
    """Return a chunk that is no error in the midst of a stream.

    Raises:
        Failed: It is one.
    """
    error = chunk.get("error")
    if not error:
        return chunk
    told = error if isinstance(error, dict) else {"message": error}
    detail = told.get("message")
    if told.get("code") == TOO_LONG:
        raise too_long(str(detail))
    raise Failed("ended its answer with an error", detail=str(detail or ""))


def vectors_of(answer: Any, count: int, normalize: bool) -> Vectors:
    """Return the vectors of an answer, in the order of the texts.

    Raises:
        Failed: They are not there, or not as many, or of several lengths.
    """
    try:
        rows: list[list[float]] = [[]] * count
        for place, item in enumerate(answer["data"]):
            rows[item.get("index", place)] = _vector(item["embedding"], normalize=normalize)
        is_whole = len(answer["data"]) == count and len({len(row) for row in rows} - {0}) == 1 and all(rows)
        prompt_tokens = count_of((answer.get("usage") or {}).get("prompt_tokens")) or 0
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, binascii.Error) as error:
        raise Failed("said embeddings that cannot be understood", is_worth_trying=False) from error
    if not is_whole:
        raise Failed("said other embeddings than were asked for", is_worth_trying=False)
    return Vectors(rows=rows, prompt_tokens=prompt_tokens)


def _vector(embedding: Any, *, normalize: bool) -> list[float]:
    """Return one vector, of numbers or of float32 in base64; its digits give back each number that came."""
    if isinstance(embedding, str):
        numbers = array.array("f", base64.b64decode(embedding, validate=True))
        if sys.byteorder == "big":
            numbers.byteswap()
        vector = [float(f"{number:.9g}") for number in numbers]
    else:
        vector = [float(number) for number in cast("list[Any]", embedding)]
    norm = math.hypot(*vector)
    if not math.isfinite(norm):
        raise ValueError
    if normalize and norm > 0 and abs(norm - 1) > 1e-5:
        vector = [number / norm for number in vector]
    return vector
