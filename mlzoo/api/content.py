"""What params of inference mean: one value or several made the same, parts made text, and what is not served yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from mlzoo.api.forms import NamedTool, WrittenCall
from mlzoo.api.inference import ChatParams, GenerationParams, ImagePart, Message, TextPart
from mlzoo.errors import InvalidParams

if TYPE_CHECKING:
    from mlzoo.api.embed import EmbedParams


def stop_strings(params: GenerationParams) -> tuple[str, ...]:
    """Return the stop strings, none or several."""
    return (params.stop,) if isinstance(params.stop, str) else params.stop or ()


def embed_texts(params: EmbedParams) -> tuple[str, ...]:
    """Return the texts, at least one."""
    return (params.input,) if isinstance(params.input, str) else params.input


def told_messages(messages: tuple[Message, ...]) -> tuple[dict[str, Any], ...]:
    """Return messages as they are recorded and handed on: the parts of a text joined by newlines, calls as ours are.

    Raises:
        InvalidParams: The arguments of a call are not the text of a JSON object.
    """
    return tuple(_told(message, f"messages[{place}]") for place, message in enumerate(messages))


def _told(message: Message, path: str) -> dict[str, Any]:
    told: dict[str, Any] = {"role": message.role, "content": _content(message)}
    if message.tool_calls:
        told["tool_calls"] = [
            _called(call, f"{path}.tool_calls[{place}]") for place, call in enumerate(message.tool_calls)
        ]
    if message.tool_call_id is not None:
        told["tool_call_id"] = message.tool_call_id
    return told


def _called(call: WrittenCall, path: str) -> dict[str, Any]:
    """Return a call as answers have it, however it was sent."""
    function = call.function
    name, arguments = (call.name, call.arguments) if function is None else (function.name, function.arguments)
    if not _is_object(arguments or "{}"):
        expected = "the text of a JSON object"
        place = f"{path}.arguments" if function is None else f"{path}.function.arguments"
        raise _refusal(expected, place)
    return {"id": call.id, "name": name, "arguments": arguments or "{}"}


def _is_object(text: str) -> bool:
    try:
        return isinstance(orjson.loads(text), dict)
    except orjson.JSONDecodeError:
        return False


def check_tools(params: ChatParams) -> None:
    """See that the tools can be called, and that those which must be are there.

    Raises:
        InvalidParams: With path and expected.
    """
    names: list[str] = []
    for place, tool in enumerate(params.tools or ()):
        path = f"tools[{place}].function"
        if tool.function.name in names:
            raise _refusal("a name that no other tool has", f"{path}.name")
        if (tool.function.parameters or {}).get("type", "object") != "object":
            raise _refusal('"object"', f"{path}.parameters.type")
        names.append(tool.function.name)
    choice = params.tool_choice
    if isinstance(choice, NamedTool) and choice.function.name not in names:
        raise _refusal("the name of one of the tools", "tool_choice.function.name")
    if choice == "required" and not names:
        raise _refusal("tools, since one of them is to be called", "tools")


def _refusal(expected: str, path: str) -> InvalidParams:
    return InvalidParams(f"{path}: expected {expected}", path=path, expected=expected)


def _content(message: Message) -> str | list[dict[str, Any]]:
    """Return what a message holds: its text, or its parts where there is an image among them."""
    if message.content is None or isinstance(message.content, str):
        return message.content or ""
    if any(isinstance(part, ImagePart) for part in message.content):
        return [_part(part) for part in message.content]
    return "\n".join(part.text for part in message.content if isinstance(part, TextPart))


def _part(part: TextPart | ImagePart) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    detail = {} if part.image_url.detail == "auto" else {"detail": part.image_url.detail}
    return {"type": "image_url", "image_url": {"url": part.image_url.url, **detail}}


def unsupported_features(_params: object) -> list[str]:
    """Return what params ask for that the protocol has and this version serves for no model: nothing any more."""
    return []
