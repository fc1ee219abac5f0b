"""Answers that outlive their records: what a key stands for, copied out of segments that retention is to drop.

They lie beside the index of keys, in ``keys/``, as a host hears them: the pieces of the stream, then a result or an
error. A part holds those that were accepted one after the other, a sealed line each, and is named by what it holds:
``first-last-newest.answers``, the first and last log_seq of an acceptance, and when the last of them ended. A part
that grows is written anew and the old one goes; where a crash leaves both, the smaller one goes at the next start.

Where the answers of a part stand is remembered of the parts that were asked for last, so that a look-up reads one line.

Knows nothing of when an answer is copied, nor of what is in it. Errors of the disk are OSError.
"""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING, Any

import attrs
import orjson
import trio

from mlzoo.errors import Failure, LogUnusable
from mlzoo.events import framing

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from mlzoo.world import Disk

SUFFIX = ".answers"
TEMPORARY = ".new"
PART_BYTES = 4 * 1024 * 1024  # above which the next part is begun
KNOWN_PARTS = 8  # of which it is remembered where each answer stands, so that memory does not grow with the keys
_ANSWERED = re.compile(rb'"answer":("(?:[^"\\]|\\.)*"),')
_NAMED = re.compile(rb'"answer":"[^"]*","accepted_seq":([0-9]+),')


@attrs.frozen(kw_only=True)
class KeptAnswer:
    """What became of a request, as its host hears it: the pieces of its stream, then a result or a failure."""

    request: str
    accepted_seq: int
    ended_at_ms: int
    pieces: list[Any]
    result: Any = None
    failure: Failure | None = None
    conversation: str = ""  # that it was a turn of


@attrs.frozen(kw_only=True)
class SealedAnswer:
    """An answer as it is to be written."""

    accepted_seq: int
    ended_at_ms: int
    line: bytes


@attrs.frozen(kw_only=True)
class Part:
    """One file of answers, by what its name says."""

    name: str
    first: int
    last: int
    newest_at_ms: int
    size_bytes: int


class KeptAnswers:
    """The answers that one log keeps beside its records."""

    def __init__(self, disk: Disk, directory: Path) -> None:
        self._disk = disk
        self._directory = directory
        self._parts: list[Part] = []
        self._known: dict[str, dict[int, int]] = {}  # by part: accepted_seq -> offset of the line; last used last
        self._has_removed = False  # what a power cut may still take back

    def open(self, *, tidy: bool = True) -> None:
        """Find the parts, and remove what a crash has left, unless another process owns them (tidy)."""
        found: list[Part] = []
        for name, size_bytes in self._disk.sizes(self._directory).items():
            if name.endswith(SUFFIX):
                first, last, newest_at_ms = map(int, name.removesuffix(SUFFIX).split("-"))
                found.append(Part(name=name, first=first, last=last, newest_at_ms=newest_at_ms, size_bytes=size_bytes))
            elif tidy and name.endswith(SUFFIX + TEMPORARY):
                self._disk.remove(self._directory / name)
        self._parts = [part for part in found if not any(self._holds(other, part) for other in found)]
        for part in found:
            if tidy and part not in self._parts:
                self._disk.remove(self._directory / part.name)

    def size_bytes(self) -> int:
        """Return the size of all parts."""
        return sum(part.size_bytes for part in self._parts)

    def find(self, request: str, accepted_seq: int) -> KeptAnswer | None:
        """Return the answer to a request that was accepted there, if it is kept.

        Raises:
            LogUnusable: It is damaged, or something is so where it would stand, so that nobody can say whether it is.
        """
        damaged = None
        for part in self._parts:
            if part.first <= accepted_seq <= part.last:
                try:
                    found = self._find_in(part, request, accepted_seq)
                except LogUnusable as error:  # It may have been copied once more, into another part.
                    damaged = error
                    continue
                if found is not None:
                    return found
        if damaged is not None:
            raise damaged
        return None

    def _find_in(self, part: Part, request: str, accepted_seq: int) -> KeptAnswer | None:
        """Return the answer to a request if a part holds it; fails as ``find`` does."""
        offsets = self._known.pop(part.name, None)
        if offsets is not None:
            self._remember(part.name, offsets)
            if accepted_seq not in offsets:
                return None
            line = self._line_at(part, offsets[accepted_seq])
            if _is_of(line, request) and _is_whole(line):
                return _answer(line)
        # Nothing is known of the part, or the line is damaged, or the part is written anew at this very moment.
        lines = self._lines(part)
        offsets = _offsets(lines)
        self._remember(part.name, offsets)
        for line in lines:
            if _is_of(line, request) and _is_whole(line):
                return _answer(line)
        if offsets is None:
            raise self._damaged(part)
        return None

    def _remember(self, name: str, offsets: dict[int, int] | None) -> None:
        """Remember where the answers of a part stand; None: they are looked for each time."""
        self._known.pop(name, None)
        if offsets is not None:
            self._known[name] = offsets
        if len(self._known) > KNOWN_PARTS:
            del self._known[next(iter(self._known))]

    def verify(self) -> list[str]:
        """Read all, and return what is not as it was written."""
        faults = []
        for part in self._parts:
            data = self._disk.read(self._directory / part.name)
            at = 0
            while end := framing.line_end(data, at):
                at = end
            if at != len(data):
                faults.append(f"keys/{part.name}: not whole at byte {at}")
        return faults

    async def put(self, answers: Sequence[SealedAnswer]) -> None:
        """Keep answers, in the order of their acceptance; durable when this returns."""
        if answers:
            await self._disk.make_dir(self._directory)
        left = deque(answers)
        while left:
            last = self._parts[-1] if self._parts and self._parts[-1].size_bytes < PART_BYTES else None
            size_bytes = 0 if last is None else last.size_bytes
            some: list[SealedAnswer] = []
            while left and size_bytes < PART_BYTES:
                some.append(left.popleft())
                size_bytes += len(some[-1].line)
            await self._append(last, some)

    async def _append(self, last: Part | None, answers: Sequence[SealedAnswer]) -> None:
        """Have a part grow by answers, or begin one with them."""
        before = b"" if last is None else b"".join(line + b"\n" for line in self._lines(last))
        data = before + b"".join(answer.line for answer in answers)
        seqs = [answer.accepted_seq for answer in answers]
        newest_at_ms = max(answer.ended_at_ms for answer in answers)
        if last is not None:
            seqs += [last.first, last.last]
            newest_at_ms = max(newest_at_ms, last.newest_at_ms)
        while (name := f"{min(seqs):020d}-{max(seqs):020d}-{newest_at_ms}{SUFFIX}") in self._names_but(last):
            newest_at_ms += 1  # Copies that were made anew may span just what another part does.
        await self._disk.replace(self._directory / name, data)
        offsets = {} if last is None else self._known.pop(last.name, None)
        if offsets is not None:
            at = len(before)
            for answer in answers:
                offsets[answer.accepted_seq] = at
                at += len(answer.line)
        self._remember(name, offsets)
        part = Part(name=name, first=min(seqs), last=max(seqs), newest_at_ms=newest_at_ms, size_bytes=len(data))
        self._parts[len(self._parts) - (last is not None) :] = [part]
        if last is not None and name != last.name:
            self._disk.remove(self._directory / last.name)

    async def of_conversation(self, conversation: str, upto_seq: int) -> set[str]:
        """Return the requests of a conversation that were accepted up to a log_seq, and whose answers are kept."""
        requests = set[str]()
        named = b'"conversation":%b' % orjson.dumps(conversation)
        for part in tuple(self._parts):
            await trio.lowlevel.checkpoint()
            whole = [line for line in self._lines(part) if named in line and _is_whole(line)]
            found = [orjson.loads(line) for line in whole]
            requests |= {
                one["answer"]
                for one in found
                if one.get("conversation") == conversation and one["accepted_seq"] <= upto_seq
            }
        return requests

    async def forget(self, requests: Collection[str]) -> int:
        """Remove the answers to requests; return how many there were. Durable when this returns."""
        found = 0
        names = {orjson.dumps(request) for request in requests}
        for number, part in enumerate(self._parts):
            await trio.lowlevel.checkpoint()
            lines = self._lines(part)
            kept = [line for line in lines if _name_in(line) not in names]
            if len(kept) < len(lines):
                data = b"".join(line + b"\n" for line in kept)
                found += len(lines) - len(kept)
                await self._disk.replace(self._directory / part.name, data)
                self._remember(part.name, None)
                self._parts[number] = attrs.evolve(part, size_bytes=len(data))
        return found

    def expire(self, ended_after_ms: int) -> None:
        """Remove the parts of which no answer ended after a moment."""
        for part in tuple(self._parts):
            if part.newest_at_ms <= ended_after_ms:
                self._disk.remove(self._directory / part.name)
                self._parts.remove(part)
                self._remember(part.name, None)
                self._has_removed = True

    async def sync_removed(self) -> None:
        """Return once what had expired and was removed stays so, whatever happens."""
        if self._has_removed:
            await self._disk.sync_dir(self._directory)
            self._has_removed = False

    def _lines(self, part: Part) -> list[bytes]:
        """Return the lines of a part without their newlines; one that was cut short is one too."""
        lines = self._disk.read(self._directory / part.name).split(b"\n")
        return lines if lines[-1] else lines[:-1]

    def _names_but(self, last: Part | None) -> set[str]:
        return {part.name for part in self._parts if part is not last}

    def _line_at(self, part: Part, offset: int) -> bytes:
        """Return the line that stood at an offset without its newline, as long as it says that it is."""
        path = self._directory / part.name
        size_bytes = framing.line_size(self._disk.read(path, offset, framing.PREFIX_BYTES), 0)
        return self._disk.read(path, offset, min(size_bytes, part.size_bytes - offset))[:-1]

    def _holds(self, part: Part, other: Part) -> bool:
        """Whether a part is what another one has grown to; one may also span another, by a copy that was made anew."""
        if not (part.first <= other.first and other.last <= part.last and part.size_bytes > other.size_bytes):
            return False
        before = self._disk.read(self._directory / other.name)
        return self._disk.read(self._directory / part.name, 0, len(before)) == before

    def _damaged(self, part: Part) -> LogUnusable:
        return LogUnusable(
            f"the answers kept in keys/{part.name} are damaged, and what this key stands for is lost",
            reason="damaged",
            path=str(self._directory.parent),
            remedy="restore that file, or ask under another key",
        )


def sealed(answer: KeptAnswer) -> SealedAnswer:
    """Return an answer as it is to be written."""
    return SealedAnswer(accepted_seq=answer.accepted_seq, ended_at_ms=answer.ended_at_ms, line=_line(answer))


def _offsets(lines: Sequence[bytes]) -> dict[int, int] | None:
    """Return where the lines of a part begin, by the acceptance that each is of; None where one is damaged."""
    offsets, at = dict[int, int](), 0
    for line in lines:
        named = _NAMED.match(line, framing.PREFIX_BYTES)
        if named is None or not _is_whole(line):
            return None
        offsets[int(named[1])] = at
        at += len(line) + 1
    return offsets


def _is_whole(line: bytes) -> bool:
    return framing.line_end(line + b"\n", 0) == len(line) + 1


def _answer(line: bytes) -> KeptAnswer:
    data = orjson.loads(line)
    failure = data.get("failure")
    return KeptAnswer(
        request=data["answer"],
        accepted_seq=data["accepted_seq"],
        ended_at_ms=data["ended_at_ms"],
        pieces=data["pieces"],
        result=data.get("result"),
        failure=None if failure is None else Failure(failure["code"], failure["message"], failure["data"]),
    )


def _name_in(line: bytes) -> bytes | None:
    """Return the request that a line answers, as it stands there; None where it is damaged."""
    named = _ANSWERED.match(line, framing.PREFIX_BYTES)
    return None if named is None else named[1]


def _is_of(line: bytes, request: str) -> bool:
    return line.startswith(b'"answer":%b,' % orjson.dumps(request), framing.PREFIX_BYTES)


def _line(answer: KeptAnswer) -> bytes:
    body = {
        "answer": answer.request,
        "accepted_seq": answer.accepted_seq,
        "ended_at_ms": answer.ended_at_ms,
        "pieces": answer.pieces,
    }
    if answer.conversation:
        body["conversation"] = answer.conversation
    if answer.failure is not None:
        failure = answer.failure
        body["failure"] = {"code": failure.code, "message": failure.message, "data": failure.data}
    else:
        body["result"] = answer.result
    return framing.seal(orjson.dumps(body)[1:])
