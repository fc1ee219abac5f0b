"""Forgetting requests: every byte of their text goes from the log, and all that was decided about them stays.

A text becomes a tombstone, ``{"gone":"forgotten"}``, and spaces up to the size that it had: every record keeps its
place to the byte, so that whoever stands somewhere in a file, in this process or another, stands well. Records are
sealed anew. Each segment is put in place whole (temporary file, sync, rename, sync of the directory): a crash leaves
the old one or the new, and forgetting again forgets the rest. Blobs go before the record that lists them stops to.
What is here is pure; ``forgetter`` does it.

What belongs to a request: the text of its own command, its rows of each step and its answer; and, under its key, of
every call that came with that key, for it repeats the same text or names the key; copies that conversations have of
it; and summaries that were made of it, or of such a summary. What belongs to a conversation: all of its requests, and
its own copies of turns; those of its forks are theirs. Ids, counts, times and digests stay. Knows nothing of who may
forget, nor of whether the request still runs.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import attrs
import orjson

from mlzoo.events import framing
from mlzoo.events.belonging import COPIES
from mlzoo.events.codec import CODEC, lines_of_groups
from mlzoo.events.records import tombstone

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlzoo.events.records import Group

_TEXT = b',"text":'
ASKED = frozenset({"Submit", "Resume"})  # commands that may come with a key
BOUND = frozenset({"RequestAccepted", "RequestAttached"})  # events by which they come to mean what it stands for
PERSONAS = frozenset({"PutPersona", "CarryPersona"})  # commands that describe one
FEW = 8  # names that are looked for one by one
_NAMES = re.compile(rb'"(?:request|target|key|answer)":"([^"\\]*)"')


@attrs.frozen
class Target:
    """What is to be forgotten: a request, and the digest of its key, if it has one."""

    request: str
    key: str = ""


@attrs.frozen
class TargetConversation:
    """What is to be forgotten: what belongs to the conversations of a name that had been dropped by a log_seq."""

    conversation: str
    upto_seq: int


@attrs.frozen
class TargetPersona:
    """What is to be forgotten: what hosts had said of a persona by a log_seq."""

    persona: str
    upto_seq: int


@attrs.frozen
class Wanted:
    """Whose text goes: that of requests, by their names and the digests of their keys; or of a conversation."""

    requests: frozenset[str]
    keys: frozenset[str] = frozenset()
    conversation: str = ""
    upto_seq: int = 0
    persona: str = ""
    summaries: frozenset[str] = frozenset()  # by the turns for which they were made

    def is_named(self, data: bytes) -> bool:
        """Whether some records may be about it."""
        if any(name and orjson.dumps(name) in data for name in (self.conversation, self.persona)):
            return True
        names = {name.encode() for name in (*self.requests, *self.keys, *self.summaries) if name}
        if len(names) <= FEW:
            return any(b'"%b"' % name in data for name in names)
        return not names.isdisjoint(_NAMES.findall(data))


@attrs.frozen
class Forgotten:
    """What a segment is without a request's text."""

    data: bytes  # as many as before
    groups: tuple[int, ...]  # the first log_seq of each that was about the request
    blobs: tuple[str, ...]  # the names of the large values that belonged to it


def of_request(target: Target) -> Wanted:
    """Return whose text goes with a request."""
    return Wanted(frozenset({target.request}), frozenset({target.key} - {""}))


def without(segment: bytes, target: Wanted) -> Forgotten:
    """Return a whole segment without the text of some requests, or of a conversation. Pure."""
    header_end = framing.line_end(segment, 0)
    parts: list[bytes] = [segment[:header_end]]
    groups: list[int] = []
    blobs: list[str] = []
    for lines in lines_of_groups(segment[header_end:].split(b"\n")[:-1]):
        command, named = _about(lines, target)
        if command is not None:
            lines = (_cleared(lines[0], command, target), *lines[1:])  # noqa: PLW2901 - what follows wants the new ones
            groups.append(command["log_seq"])
            blobs += named
        parts += [line + b"\n" for line in lines]
    data = b"".join(parts)
    assert len(data) == len(segment), "every record keeps its place"
    return Forgotten(data, tuple(groups), tuple(blobs))


def target_in(segment: bytes, request: str) -> Target | None:
    """Return what is forgotten with the request of a call that was asked here; None: it was not.

    A call that was attached stands for the request that it heard; one that was refused, for itself alone, whatever its
    key stands for.
    """
    wanted = b'"request":"%b"' % request.encode()
    for lines in lines_of_groups(segment[framing.line_end(segment, 0) :].split(b"\n")[:-1]):
        command = orjson.loads(lines[0]) if wanted in lines[0] else None
        if command is None or command["type"] not in ASKED or command["data"]["request"] != request:
            continue
        for event in map(orjson.loads, lines[1:]):
            if event["data"].get("request") == request and event["type"] in BOUND:
                return Target(event["data"].get("target", request), command["data"].get("key", ""))
        return Target(request)
    return None


def _about(lines: Sequence[bytes], target: Wanted) -> tuple[dict[str, Any] | None, list[str]]:
    """Return a group's command if its text has something of the target, and the blobs that belong to it."""
    if not any(target.is_named(line) for line in lines):
        return None, []
    command, *events = [orjson.loads(line) for line in lines]
    data, requests = command["data"], target.requests
    if target.persona:
        is_its = command["type"] in PERSONAS and data["persona"] == target.persona
        return (command, []) if is_its and command["log_seq"] <= target.upto_seq else (None, [])
    if command["type"] in COPIES and target.conversation:
        is_its = data["conversation"] == target.conversation and command["log_seq"] <= target.upto_seq
        return (command, []) if is_its else (None, [])
    is_own = data.get("request") in requests or data.get("target") in requests
    is_keyed = data.get("key") in target.keys
    is_attached = any(event["data"].get("target") in requests for event in events)
    has_row = any(_which(command, target))
    if not (is_own or is_keyed or is_attached or has_row):
        return None, []
    return command, command.get("blobs", []) if is_own else []


def _rows(command: dict[str, Any], target: Wanted) -> list[dict[str, Any]]:
    """Return the rows of a command whose text is a list of theirs; none, where all of its text is one's."""
    is_list = command["type"] == "ReportStep" or (command["type"] in COPIES and not target.conversation)
    return command["data"]["rows"] if is_list else []


def _which(command: dict[str, Any], target: Wanted) -> list[bool]:
    """Return which items of a text that is a list are the target's; a copied summary is the last one."""
    which = [
        row["request"] in target.requests or ("summary" in row and row["request"] in target.summaries)
        for row in _rows(command, target)
    ]
    copied = command["data"].get("summary") if which and command["type"] in COPIES else None
    return which if copied is None else [*which, copied["request"] in target.summaries]


def _cleared(line: bytes, command: dict[str, Any], target: Wanted) -> bytes:
    """Return the line of a command without the target's text and blobs."""
    start, end = _text_span(line, command), len(line) - 1
    if start:
        rows = _which(command, target)
        by_row = bool(rows) and isinstance(command["text"], list)
        text = _without_rows(line, start, command["text"], rows) if by_row else padded(end - start)
        line = line[:start] + text + line[end:]
    if command.get("blobs"):
        listed = b'"blobs":%b' % orjson.dumps(command["blobs"])
        line = line.replace(listed, b'"blobs":[%b]' % (b" " * (len(listed) - len(b'"blobs":[]'))), 1)
    return framing.seal(line[framing.PREFIX_BYTES :])[:-1]


def _text_span(line: bytes, command: dict[str, Any]) -> int:
    """Return where the text of a command begins in its line; 0 where it has none. It ends before the last brace."""
    data = b'"data":%b' % orjson.dumps(command["data"])
    start = line.index(data) + len(data)
    if line[start : start + len(_TEXT)] != _TEXT:
        assert line[start:] == b"}", "the text comes last"
        return 0
    return start + len(_TEXT)


def _without_rows(line: bytes, start: int, rows: list[Any], which: list[bool]) -> bytes:
    """Return the list of a step's text without some of its rows; others may be tombstones already."""
    at, parts = start + 1, []
    for row, is_gone in zip(rows, which, strict=True):
        end = at + len(orjson.dumps(row))
        while line[end : end + 1] == b" ":
            end += 1
        parts.append(padded(end - at) if is_gone else line[at:end])
        at = end + 1
    assert at == len(line) - 1, "a text is as it was written"
    return b"[" + b",".join(parts) + b"]"


def padded(size_bytes: int) -> bytes:
    """Return a tombstone of that size; where there is no room for it, an empty object."""
    found = orjson.dumps(tombstone("forgotten"))
    return (found if len(found) <= size_bytes else b"{}").ljust(size_bytes)


def text_without(group: Group, target: Wanted) -> Any:
    """Return the text of a group about the target as memory has it: others' rows may be there and in no file."""
    gone = None if group.text is None else tombstone("forgotten")
    command = {"type": type(group.command).__name__, "data": CODEC.data(group.command)}
    which = _which(command, target)
    if not which or not isinstance(group.text, list):
        return gone
    return [gone if is_its else said for is_its, said in zip(which, group.text, strict=True)]
