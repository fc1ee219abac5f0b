"""What may differ between two runs that are the same: the one place that says so.

Everything that is not named here is compared as it is.
"""

from __future__ import annotations

from typing import Any

Params = dict[str, Any] | list[Any] | None

# ------------------------------------------------------------------------------------------ what a host sends

HOSTS_OWN = "_meta"
"""The key of params that nobody looks at. Ids of calls are a host's own as well: answers carry those that it sent."""

NAMES_A_CALL = {"cancel": "request"}
"""The param of a method that names another call by its id: it is compared as the call that it names."""

DEFAULTS: dict[str, dict[str, Any]] = {
    "models.load": {"device": "auto", "pin": False},
    "models.pull": {"accept_license": False},
    "resume": {"after": -1},
}
"""Values that mean what leaving them out means, of methods whose params are recorded as they were understood."""

SECRETS = {"providers.authenticate": ("secret",)}
"""Params that are recorded as ``[secret]``: any text stands for them."""

SEVERAL = ("stop", "input")
"""Params that may be one string or a list: a list is what is recorded."""

# ------------------------------------------------------------------------------------------ what a sidecar answers

ANSWERS: dict[str, frozenset[str]] = {
    "chat": frozenset({"id", "timing", "device", "usage.cached_tokens"}),
    "complete": frozenset({"id", "timing", "device", "usage.cached_tokens"}),
    "resume": frozenset({"id", "timing", "device", "usage.cached_tokens"}),
    "embed": frozenset({"device"}),
    "predict": frozenset({"device"}),
    "initialize": frozenset({"server.version", "connection", "log", "capabilities.devices", "limits"}),
    "events.subscribe": frozenset({"subscription"}),
    "conversations.delete": frozenset({"groups"}),
    "forget": frozenset({"request", "groups"}),
    "personas.delete": frozenset({"groups"}),
}
"""Parts of the result of a method that belong to one run: ids, times, places."""

IN_LISTS: dict[str, tuple[str, frozenset[str]]] = {
    "conversations.list": ("conversations", frozenset({"bytes", "created_ms", "updated_ms", "log_seq", "running"})),
    "conversations.get": ("messages", frozenset({"log_seq", "time_ms", "request"})),
}
"""The same of each item of a list in the result: the list's name, and parts of its items."""

UNCOMPARED = frozenset(
    {"status", "metrics", "devices.list", "models.list", "models.info", "models.load", "events.read"}
)
"""Methods whose whole result is about one machine at one moment."""


def canonical(method: str, params: Params) -> Params:
    """Return params in the one form that stands for all ways of sending the same."""
    if not isinstance(params, dict):
        return params or {}
    defaults = DEFAULTS.get(method, {})
    kept = {
        name: value
        for name, value in params.items()
        if name != HOSTS_OWN and value is not None and not (name in defaults and _same(value, defaults[name]))
    }
    for name in SECRETS.get(method, ()):
        if isinstance(kept.get(name), str):
            kept[name] = "[secret]"
    for name in SEVERAL:
        if isinstance(kept.get(name), str):
            kept[name] = [kept[name]]
    if kept.get("stop") == []:
        del kept["stop"]
    if isinstance(kept.get("messages"), list):
        kept["messages"] = [_plain_message(message) for message in kept["messages"]]
    return kept


def steady(method: str, result: Any) -> Any:
    """Return of an answer's result what two runs have in common."""
    if method in UNCOMPARED or not isinstance(result, dict):
        return None if method in UNCOMPARED else result
    copy = dict(result)
    name, parts = IN_LISTS.get(method, ("", frozenset()))
    if name:
        items = copy.get(name, [])
        copy[name] = [{part: value for part, value in item.items() if part not in parts} for item in items]
    for path in ANSWERS.get(method, ()):
        first, _, rest = path.partition(".")
        if not rest:
            copy.pop(first, None)
        elif isinstance(copy.get(first), dict):
            copy[first] = {name: value for name, value in copy[first].items() if name != rest}
    return copy


def _same(left: Any, right: Any) -> bool:
    return type(left) is type(right) and bool(left == right)


def _plain_message(message: Any) -> Any:
    """Return a message as it is recorded: with its text, the parts of which are joined by newlines, and flat calls."""
    if not isinstance(message, dict):
        return message
    plain = {name: value for name, value in message.items() if value is not None}
    if message.get("content", "") is None:
        plain["content"] = ""  # beside calls, where it means that nothing was said
    parts, calls = plain.get("content"), plain.get("tool_calls")
    if isinstance(parts, list) and all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in parts):
        plain["content"] = "\n".join([part["text"] for part in parts])
    elif isinstance(parts, list):
        plain["content"] = [_plain_part(part) for part in parts]
    if isinstance(calls, list):
        plain["tool_calls"] = [_plain_call(call) for call in calls]
        if not calls:
            del plain["tool_calls"]
    return plain


def _plain_call(call: Any) -> Any:
    if not isinstance(call, dict):
        return call
    function = call["function"] if isinstance(call.get("function"), dict) else call
    identity, arguments = call.get("id") or "", function.get("arguments") or "{}"
    return {"id": identity, "name": function.get("name"), "arguments": arguments}


def _plain_part(part: Any) -> Any:
    """Return an image as it is recorded: a detail that changes nothing is left out."""
    image = part.get("image_url") if isinstance(part, dict) else None
    if not isinstance(image, dict) or image.get("detail") != "auto":
        return part
    return {**part, "image_url": {name: value for name, value in image.items() if name != "detail"}}
