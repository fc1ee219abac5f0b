"""What params of inference mean: one value or several made the same, parts made text, and what is not served yet."""

from __future__ import annotations

from typing import Any

import attrs

from mlzoo.api.inference import (
    ChatParams,
    EmbedParams,
    GenerationParams,
    ImagePart,
    Message,
    TextPart,
    TokenizeParams,
)
from mlzoo.errors import Unsupported


def stop_strings(params: GenerationParams) -> tuple[str, ...]:
    """Return the stop strings, none or several."""
    return (params.stop,) if isinstance(params.stop, str) else params.stop or ()


def embed_texts(params: EmbedParams) -> tuple[str, ...]:
    """Return the texts, at least one."""
    return (params.input,) if isinstance(params.input, str) else params.input


def plain_messages(messages: tuple[Message, ...]) -> tuple[dict[str, Any], ...]:
    """Return messages as a chat template takes them: role and content, the parts of a text joined by newlines.

    Raises:
        Unsupported: There is an image among the parts.
    """
    return tuple({"role": message.role, "content": plain_text(message)} for message in messages)


def told_messages(messages: tuple[Message, ...]) -> tuple[dict[str, Any], ...]:
    """Return messages as they are recorded and handed on: what is only text as ``plain_messages`` has it."""
    return tuple(_told(message) for message in messages)


def _told(message: Message) -> dict[str, Any]:
    content: Any = message.content
    if not isinstance(content, str):
        is_text = all(isinstance(part, TextPart) for part in content)
        content = plain_text(message) if is_text else [attrs.asdict(part) for part in content]
    told: dict[str, Any] = {"role": message.role, "content": content}
    if message.tool_calls:
        told["tool_calls"] = list(message.tool_calls)
    if message.tool_call_id is not None:
        told["tool_call_id"] = message.tool_call_id
    return told


def plain_text(message: Message) -> str:
    """Return the text of one message.

    Raises:
        Unsupported: There is an image among the parts.
    """
    if isinstance(message.content, str):
        return message.content
    texts = []
    for part in message.content:
        if isinstance(part, ImagePart):
            raise Unsupported("images are not read by this version: send text", feature="vision")
        texts.append(part.text)
    return "\n".join(texts)


def unsupported_features(params: object) -> list[str]:
    """Return what params ask for that the protocol has and this version does not serve; mostly nothing.

    A value that changes nothing (``tools: []``, ``response_format: {"type": "text"}``) asks for nothing.
    """
    features = []
    if isinstance(params, ChatParams):
        features += _of_chat(params)
    if isinstance(params, ChatParams | TokenizeParams):
        features += _of_messages(params.messages or ())
    return list(dict.fromkeys(features))


def _of_chat(params: ChatParams) -> list[str]:
    asked = {
        "persona": params.persona is not None,
        "response_format": params.response_format not in (None, {"type": "text"}),
        "tools": bool(params.tools),
        "tool_choice": params.tool_choice not in (None, "none", "auto"),
    }
    return [feature for feature, is_asked in asked.items() if is_asked]


def _of_messages(messages: tuple[Message, ...]) -> list[str]:
    features = []
    for message in messages:
        if message.role == "tool" or message.tool_calls or message.tool_call_id is not None:
            features.append("tools")
        if any(isinstance(part, ImagePart) for part in message.content):
            features.append("vision")
    return features
