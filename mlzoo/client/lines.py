"""Requests become lines, lines become what has arrived: the protocol's envelope.

Pure functions over bytes and values. Knows no processes, and not which requests wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import orjson

from mlzoo.client.errors import ProtocolViolation, RemoteError
from mlzoo.client.inbox import Answered, Arrival, Delta, Failed, Progress
from mlzoo.transport.ndjson import TooLong

if TYPE_CHECKING:
    from collections.abc import Mapping

LINE_BYTES = 16 * 1024 * 1024  # What version 1 takes in one line, unless it is configured otherwise.
DEPTH = 128  # How deep version 1 lets values nest.


@attrs.frozen
class ForRequest:
    """Something for the request of this id."""

    request: int | str
    arrival: Arrival


@attrs.frozen
class ForSubscription:
    """An event for the subscription of this name."""

    subscription: str
    event: dict[str, Any]


@attrs.frozen
class Ignored:
    """A notification of a kind that this client does not know: version 1 may grow."""


Incoming = ForRequest | ForSubscription | Ignored


def request_line(
    method: str, params: Mapping[str, Any], request: int | None = None, *, limit_bytes: int = LINE_BYTES
) -> bytes:
    """Return the line of a call, or without an id that of a notification.

    Raises:
        ValueError: The params have no form that the protocol takes. Sent all the same, such a line could not be
            answered under its id, and its caller would wait for ever.
    """
    message: dict[str, Any] = {"jsonrpc": "2.0", "method": method, "params": params}
    if request is not None:
        message["id"] = request
    try:
        line = orjson.dumps(message, option=orjson.OPT_APPEND_NEWLINE)
    except orjson.JSONEncodeError as error:
        raise ValueError(f"the params of {method} have no JSON form: {error}") from error
    if len(line) > limit_bytes:
        raise ValueError(f"the params of {method} make a line of {len(line)} bytes: at most {limit_bytes} are taken")
    if line.count(b"[") + line.count(b"{") > DEPTH and _depth(message) > DEPTH:
        raise ValueError(f"the params of {method} nest deeper than {DEPTH}")
    return line


def parse(line: bytes | TooLong) -> Incoming:
    """Return what a line from the sidecar says, and for whom.

    Raises:
        ProtocolViolation: It is nothing that version 1 allows, or an answer without an id: that is given to a line
            which could not be read, and which call of ours stood in it nobody can tell.
    """
    if isinstance(line, TooLong):
        raise ProtocolViolation(f"the sidecar wrote a line of {line.size_bytes} bytes")
    try:
        message = orjson.loads(line)
        if "method" in message:
            return _notification(message["method"], message.get("params", {}))
        if "error" not in message:
            return ForRequest(message["id"], Answered(message["result"]))
        error = message["error"]
        failure = RemoteError(error["code"], error["message"], error.get("data"))
        if message["id"] is None:
            raise ProtocolViolation(f"the sidecar could not read a line of this client: {failure}")
        return ForRequest(message["id"], Failed(failure))
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        excerpt = line[:200].decode(errors="replace")
        raise ProtocolViolation(f"this is no message of the protocol: {excerpt!r}") from error


def _notification(method: str, params: dict[str, Any]) -> Incoming:
    match method:
        case "stream":
            return ForRequest(params["request"], Delta(params["seq"], params["delta"]))
        case "progress":
            return ForRequest(params["request"], Progress(params))
        case "event":
            return ForSubscription(params["subscription"], params)
        case _:
            return Ignored()


def _depth(value: object) -> int:
    """Return how deep a value nests. orjson has refused what is deeper than 254, so the recursion ends in time."""
    match value:
        case dict():
            return 1 + max(map(_depth, value.values()), default=0)
        case list() | tuple():
            return 1 + max(map(_depth, value), default=0)
        case _:
            return 0
