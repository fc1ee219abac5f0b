"""Recordings: one NDJSON file that holds what a log held, made to lie in git beside the tests that play it.

The first line is the header, the last one says how many lines stand before it and what their SHA-256 is; between them
each line is one of these, told apart by its first key, in this order::

    {"host":"con-1","n":1,"ms":0,"id":1,"method":"chat","params":{…}}       what a host sent, its n-th line
    {"sidecar":"con-1","for":1,"ms":7,"stream":{"seq":0,"delta":{…}}}        what it heard, and for which line of its
    {"group":2,"at_ms":0,"ms":0,"command":["Submit",1,{…}],"events":[[…]]}   what the log had: command, events, text

Times are milliseconds since the recording's first moment; ids are small numbers in the order of their appearance. A
format of a higher number cannot be read by this version. Within a format a higher ``minor`` only adds keys and kinds of
lines: they are kept where a recording is written again, and ignored otherwise.

Light on purpose, since ``mlzoo replay play`` starts with it: lines are plain data. Knows nothing of what they mean.
"""

from __future__ import annotations

import hashlib
import os
from itertools import chain
from typing import TYPE_CHECKING, Any

import attrs
import orjson

from mlzoo.errors import MlzooError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

FORMAT = 1
MINOR = 0
Line = dict[str, Any]
NEEDED: dict[str, dict[str, type]] = {
    "host": {"host": str, "n": int, "ms": int},
    "sidecar": {"sidecar": str, "ms": int},
    "group": {"group": int, "at_ms": int, "ms": int, "command": list, "events": list},
}
"""The kinds of lines, by their first key, and what each has."""
TRIPLE = 3


class RecordingUnusable(MlzooError):
    """The file's fault: it is no recording, newer than this version, cut, or edited (``data.reason``)."""

    type = "recording_unusable"


@attrs.frozen(kw_only=True)
class Recording:
    """A recording as it was read: plain data, in the order of the file."""

    header: Line
    lines: tuple[Line, ...]

    def connections(self) -> list[str]:
        """Return the names of the connections that it holds, in the order of their first line."""
        return list(dict.fromkeys(line["host"] for line in self.lines if "host" in line))

    def wire(self, connection: str) -> list[Line]:
        """Return the lines of one connection, the host's and the sidecar's."""
        return [line for line in self.lines if connection in (line.get("host"), line.get("sidecar"))]

    def groups(self) -> Iterator[Line]:
        """Yield what of the log it holds."""
        return (line for line in self.lines if "group" in line)


def write(path: Path, header: Line, lines: Iterable[Line]) -> int:
    """Write a recording, whole or not at all; return its size in bytes.

    Raises:
        OSError: The disk would not.
    """
    temporary = path.with_name(path.name + ".new")
    digest = hashlib.sha256()
    count = size_bytes = 0
    try:
        with temporary.open("wb") as file:
            for line in chain((header,), lines):
                data = orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
                digest.update(data)
                size_bytes += file.write(data)
                count += 1
            size_bytes += file.write(_end(count, digest.hexdigest()))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return size_bytes


def _end(count: int, digest: str) -> bytes:
    return orjson.dumps({"end": {"lines": count, "sha256": digest}}, option=orjson.OPT_APPEND_NEWLINE)


def read(path: Path) -> Recording:
    """Return a recording, verified as a whole.

    Raises:
        RecordingUnusable: It is none, or none that can be believed.
        OSError: It cannot be read.
    """
    return parse(path.read_bytes(), str(path))


def parse(data: bytes, name: str) -> Recording:
    """Return the recording that bytes hold; name says in errors which one it is. Raises as ``read`` does."""
    first, _, _ = data.partition(b"\n")
    header = _object(first)
    if header is None or type(header.get("recording")) is not int or header["recording"] < 1:
        raise _unusable(name, "none", "it is no recording: mlzoo log export makes one")
    if header["recording"] > FORMAT:
        what = f"it is in format {header['recording']}, this version reads up to {FORMAT}: use a newer mlzoo"
        raise _unusable(name, "newer", what)
    start = data.rfind(b"\n", 0, len(data) - 1) + 1
    if not data[start:].strip():
        raise _unusable(name, "edited", "blank lines follow its end: take them out")
    last = _object(data[start:])
    end = last.get("end") if last is not None else None
    if not isinstance(end, dict) or not data.endswith(b"\n"):
        raise _unusable(name, "cut", "it is cut: its last line is missing; record it again")
    body = data[:start]
    digest = hashlib.sha256(body).hexdigest()
    if digest != end.get("sha256"):
        counted = body.count(b"\n")
        if counted != end.get("lines"):
            what = f"it is cut or was added to: it has {counted} lines and had {end.get('lines')}; record it again"
            raise _unusable(name, "cut", what)
        if b"\r\n" in body:
            raise _unusable(name, "edited", "its line ends were changed: let git keep them, `*.ndjson -text`")
        what = f"it was edited: its digest is {digest} and its end says {end.get('sha256')}"
        raise _unusable(name, "edited", f"{what}; record it again")
    is_newer = header.get("minor", MINOR) > MINOR
    lines = []
    for number, line in enumerate(body.split(b"\n")[1:-1], 2):
        found = _object(line)
        fault = "it is no JSON object" if found is None else _fault(found, is_newer=is_newer)
        if found is None or fault:
            raise _unusable(name, "edited", f"its line {number} is none of a recording: {fault}; record it again")
        lines.append(found)
    return Recording(header=header, lines=tuple(lines))


def _fault(line: Line, *, is_newer: bool) -> str:
    """Return what is wrong with a line, as far as everybody relies on it; empty where nothing is."""
    kind = next((kind for kind in NEEDED if kind in line), None)
    if kind is None:
        return "" if is_newer else f"it has none of the keys {', '.join(NEEDED)}"
    for key, types in NEEDED[kind].items():
        if not isinstance(line.get(key), types) or isinstance(line.get(key), bool):
            return f"its {key} is missing or of another kind"
    if kind == "host" and not line.keys() & {"method", "refused", "eof"}:
        return "it has no method"
    if kind == "host" and not isinstance(line.get("method", ""), str):
        return "its method is of another kind"
    if kind == "sidecar" and not isinstance(line.get("for", 0), int):
        return "its for is of another kind"
    if kind == "group" and not all(_is_typed(entry) for entry in (line["command"], *line["events"])):
        return "its command or one of its events is no triple of type, version and data"
    return ""


def _is_typed(entry: Any) -> bool:
    if not isinstance(entry, list) or len(entry) != TRIPLE:
        return False
    return isinstance(entry[0], str) and isinstance(entry[1], int) and isinstance(entry[2], dict)


def _object(line: bytes) -> Line | None:
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None


def _unusable(name: str, reason: str, what: str) -> RecordingUnusable:
    return RecordingUnusable(f"{name} cannot be used: {what}.", reason=reason, path=name)
