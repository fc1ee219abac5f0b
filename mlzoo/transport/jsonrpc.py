"""JSON-RPC 2.0 (https://www.jsonrpc.org/specification): a line becomes a request, an answer becomes a line.

Pure functions over bytes and frozen values. Knows no methods, no models, and not which requests are in flight.

Where the specification leaves room: what is no valid request object is answered, with id null, even where it has no
id (as the specification's own examples do); a valid one without an id is a notification and is never answered. Unknown
members beside jsonrpc, id, method and params are ignored. Of duplicate keys the last one counts.
"""

from __future__ import annotations

import re
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import attrs
import orjson

from mlzoo.errors import Failure, InvalidRequest, ParseError, TooLarge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlzoo.transport.ndjson import TooLong

Id = str | int
Params = dict[str, Any] | list[Any] | None

LINE_BYTES = 16 * 1024 * 1024  # The protocol's limit for a line in either direction, without its end.
# How deep values may nest. orjson reads 1024 levels but writes 254: what it could not write must not come in.
DEPTH = 128
BATCH_MEMBERS = 1000  # How many members a batch may have.
ID_MAX = 2**53  # Beyond it a reader that keeps numbers as doubles would send another id back.

# A string, also one that never ends: a pattern that could fail there would try again at each quote inside it.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")  # One level down, one level up, as signed bytes.
_ALL_BUT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


@attrs.frozen
class Call:
    """A request that is to be answered. params is what came: by name, by position, or absent."""

    id: Id
    method: str
    params: Params


@attrs.frozen
class Notification:
    """A request that is never answered, not even with an error."""

    method: str
    params: Params


@attrs.frozen
class Bad:
    """What cannot be served. It is answered with the failure, under its id where that could be read."""

    id: Id | None
    failure: Failure


@attrs.frozen
class Batch:
    """Several at once, at least one. What answers are due go out together, as one array."""

    members: tuple[Call | Notification | Bad, ...]


Message = Call | Notification | Batch | Bad


# -------------------------------------------------------------------------------------------------- line -> request


def parse(line: bytes, batch_members: int = BATCH_MEMBERS) -> Message:
    """Return what one line says. Any bytes give a value; nothing is raised."""
    if len(line) > DEPTH and _is_too_deep(line):
        return Bad(None, ParseError(f"not accepted: arrays and objects nest deeper than {DEPTH}").failure())
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return Bad(None, ParseError(f"not valid JSON: {error}").failure())
    if type(value) is not list:
        return _parse_request(value)
    if not value:
        return _invalid("a batch must have at least one member")
    if len(value) > batch_members:
        message = f"the batch has {len(value)} members: send at most {batch_members} at once"
        return Bad(None, TooLarge(message, limit=batch_members, got=len(value)).failure())
    return Batch(tuple([_parse_request(member) for member in value]))


def too_long(line: TooLong, limit_bytes: int = LINE_BYTES) -> Bad:
    """Return what stands for a line that was skipped."""
    message = f"the line is {line.size_bytes} bytes long: at most {limit_bytes} are taken"
    return Bad(None, TooLarge(message, limit=limit_bytes, got=line.size_bytes).failure())


def _parse_request(value: object) -> Call | Notification | Bad:
    if type(value) is not dict:
        return _invalid("a request is an object")
    request: dict[str, Any] = value
    request_id: Id | None = request.get("id")
    # An id has to come back unchanged, so 1.0 is none, nor is true: Python has both equal to 1. An absent one is fine.
    if type(request_id) is int:
        if not -ID_MAX <= request_id <= ID_MAX:
            return _invalid("id must be within +-2^53")
    elif type(request_id) is not str and "id" in request:
        return _invalid("id must be a string or an integer")
    if request.get("jsonrpc") != "2.0":
        return _invalid('jsonrpc must be "2.0"', request_id)
    method = request.get("method")
    if type(method) is not str:
        return _invalid("method must be a string", request_id)
    params: Params = request.get("params")
    if type(params) is not dict and type(params) is not list and "params" in request:
        return _invalid("params must be an object or an array, or absent", request_id)
    return Notification(method, params) if request_id is None else Call(request_id, method, params)


def _invalid(message: str, request_id: Id | None = None) -> Bad:
    return Bad(request_id, InvalidRequest(message).failure())


def _is_too_deep(line: bytes) -> bool:
    """Say whether brackets outside strings nest deeper than DEPTH. Of what is not JSON either answer is right."""
    if line.count(b"[") + line.count(b"{") <= DEPTH:
        return False
    steps = _STRING.sub(b"", line).translate(_STEPS, _ALL_BUT_BRACKETS)
    return max(accumulate(memoryview(steps).cast("b")), default=0) > DEPTH


# --------------------------------------------------------------------------------------------------- answer -> line


def result_line(request_id: Id, result: object, limit_bytes: int = LINE_BYTES) -> bytes:
    """Return the answer to a call; one that would be over the limit is error 1011 instead.

    Raises:
        TypeError: the result has no JSON form, or nests deeper than 253: a bug of ours.
    """
    line = orjson.dumps({"jsonrpc": "2.0", "id": request_id, "result": result}, option=orjson.OPT_APPEND_NEWLINE)
    return line if len(line) <= limit_bytes else _too_large_line(request_id, len(line), limit_bytes)


def error_line(request_id: Id | None, failure: Failure, limit_bytes: int = LINE_BYTES) -> bytes:
    """Return the error that answers a call, or (id None) a line that has no id; over the limit it is error 1011.

    Raises:
        TypeError: the failure's data have no JSON form: a bug of ours.
    """
    error: dict[str, Any] = {"code": failure.code, "message": failure.message}
    if failure.data:
        error["data"] = failure.data
    line = orjson.dumps({"jsonrpc": "2.0", "id": request_id, "error": error}, option=orjson.OPT_APPEND_NEWLINE)
    return line if len(line) <= limit_bytes else _too_large_line(request_id, len(line), limit_bytes)


def notification_line(method: str, params: object, limit_bytes: int = LINE_BYTES) -> bytes:
    """Return a notification.

    Raises:
        TooLarge: it would be over the limit. There is no id to answer with that, so the caller decides.
        TypeError: params have no JSON form: a bug of ours.
    """
    line = orjson.dumps({"jsonrpc": "2.0", "method": method, "params": params}, option=orjson.OPT_APPEND_NEWLINE)
    if len(line) > limit_bytes:
        raise TooLarge(f"a {method} notification of {len(line)} bytes", limit=limit_bytes, got=len(line))
    return line


def batch_line(answers: Sequence[tuple[Id | None, bytes]], limit_bytes: int = LINE_BYTES) -> bytes:
    """Return the array that answers a batch, from its members' ids and lines; b"" where no answer is due.

    While the array is over the limit its longest member becomes error 1011.
    """
    if not answers:
        return b""
    lines = [line[:-1] for _, line in answers]
    size_bytes = sum(map(len, lines)) + len(lines) + 2
    for index in sorted(range(len(lines)), key=lambda i: len(lines[i]), reverse=True):
        if size_bytes <= limit_bytes:
            break
        shorter = _too_large_line(answers[index][0], len(lines[index]), limit_bytes)[:-1]
        size_bytes += len(shorter) - len(lines[index])
        lines[index] = shorter
    return b"[" + b",".join(lines) + b"]\n"


def _too_large_line(request_id: Id | None, size_bytes: int, limit_bytes: int) -> bytes:
    failure = TooLarge(
        "the answer does not fit into one line: ask for less", limit=limit_bytes, got=size_bytes
    ).failure()
    return error_line(request_id, failure, limit_bytes=size_bytes + LINE_BYTES)
