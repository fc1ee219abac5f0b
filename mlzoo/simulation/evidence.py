"""What is known of a story from outside: what the log's files hold, and what each host was told.

The invariants (``invariants``) are checked against this. Knows nothing of them, nor of actors, nor of how the files are
read (``mirror``).
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from typing import TYPE_CHECKING, Any, get_args

import attrs
import orjson

from mlzoo.core.state import State
from mlzoo.events import types as ev
from mlzoo.events.codec import CODEC
from mlzoo.events.records import is_gone
from mlzoo.simulation.disk import Inode, SimulatedDisk
from mlzoo.simulation.histories import GROUPS, LOG
from mlzoo.simulation.talks import Talks

if TYPE_CHECKING:
    from collections.abc import Iterator


JsonObject = dict[str, Any]
KEYS = str(LOG / "keys")
COPIES = {"CarryConversation", "ForkConversation"}
TRANSIENT = {kind.__name__ for kind in get_args(ev.Event) if getattr(kind, "TRANSIENT", False)}
TERMINAL = {kind.__name__ for kind in get_args(ev.Event) if getattr(kind, "TERMINAL", False)}


@attrs.define
class Record:
    """One line of the log: what it says, and where it lies."""

    data: JsonObject
    line: bytes
    inode: Inode
    end: int  # where it ends in the file
    before: Inode | None = None  # the file that this one has replaced, with the same records at the same places

    def is_durable(self, disk: SimulatedDisk) -> bool:
        """Whether a power cut would surely leave it: its bytes, and the name of its file."""
        for inode in disk.durable_files.get(GROUPS, {}).values():
            if (inode is self.inode or inode is self.before) and self.end <= len(inode.durable):
                return True
        return False

    def is_named(self, disk: SimulatedDisk) -> bool:
        """Whether its file is there, and was not removed on purpose."""
        return any(inode is self.inode for inode in disk.files.get(GROUPS, {}).values())


@attrs.define
class Request:
    """What the log says of one request."""

    id: str
    rpc: str | int | None = None
    kind: str = ""
    accepted: int = 0
    accepted_at_ms: int = 0
    deadline_at_ms: int | None = None
    terminals: list[Record] = attrs.field(factory=list)
    pieces: list[tuple[int | None, str | None]] = attrs.field(factory=list)  # (seq, content), None where it is gone
    device: str | None = None  # on which it runs
    ran_on: str | None = None  # until its last suspension or its end; None where it waited then
    cancelled: bool = False
    key: str = ""
    params_digest: str = ""
    suspensions: list[Record] = attrs.field(factory=list)
    ephemeral: bool = False
    conversation: str = ""
    elder: Request | None = None  # the same as it ended in an earlier life: its records may have gone since


@attrs.define
class Heard:
    """What one host was told, and what it is owed."""

    name: str
    first: bool  # it spawned the sidecar: its end of input is what the sidecar leaves for
    asked: dict[str | int, JsonObject] = attrs.field(factory=dict)  # id -> what was asked
    asked_often: dict[str | int, int] = attrs.field(factory=dict)
    answers: dict[str | int, list[JsonObject]] = attrs.field(factory=dict)
    deltas: dict[str | int, list[JsonObject]] = attrs.field(factory=dict)
    garbage: int = 0  # lines that earn an error without an id
    nameless: int = 0  # errors without an id
    deaf: bool = False  # it closed its reading end
    read_upto: dict[str, int] = attrs.field(factory=dict)  # the last log_seq of each of its subscriptions
    reads_since_s: float = -math.inf  # on trio's clock; infinity while it does not read
    late: bool = False  # it did not read when the sidecar, which leaves, had waited long enough for it


@attrs.define
class Log:
    """What the files of the log hold by now."""

    groups: list[Record] = attrs.field(factory=list)
    by_seq: dict[int, Record] = attrs.field(factory=dict)
    asides: dict[str | int | None, list[Record]] = attrs.field(factory=dict)  # by id of the call
    requests: dict[str, Request] = attrs.field(factory=dict)
    by_rpc: dict[str | int, Request] = attrs.field(factory=dict)  # the last one under an id
    last_at_ms: int = 0
    loads: int = 0
    elders: dict[str, Request] = attrs.field(factory=dict)  # with a key, and ended before this life
    accepted: dict[str, Request] = attrs.field(factory=dict)  # in any life: records of them may outlive that one
    talks: Talks = attrs.field(factory=Talks)

    def request(self, name: str) -> Request:
        """Return what is known of a request."""
        found = self.requests.get(name)
        if found is None:
            found = self.requests[name] = Request(name)
            elder = found.elder = self.elders.get(name)
            if elder is not None:  # What its acceptance said holds, though that may be dropped.
                found.rpc, found.key, found.params_digest = elder.rpc, elder.key, elder.params_digest
                found.kind, found.ephemeral = elder.kind, elder.ephemeral
                found.accepted_at_ms, found.deadline_at_ms = elder.accepted_at_ms, elder.deadline_at_ms
        return found

    def begin_again(self) -> Log:
        """Return an empty one, which knows what was accepted, and ended under keys, since that outlives its records."""
        ended = {name: r for name, r in self.requests.items() if r.key and r.accepted and r.terminals}
        return Log(elders={**ended, **self.elders}, accepted=self.accepted)

    def lose(self, last_seq: int) -> None:
        """Note that a crash has left nothing after a log_seq."""
        lost = [name for name, r in self.elders.items() if r.terminals[-1].data["log_seq"] > last_seq]
        for name in lost:
            del self.elders[name]
            if name in self.requests:
                self.requests[name].elder = None


@attrs.define
class Evidence:
    """All of one story, life after life."""

    durability: str
    disk: SimulatedDisk = attrs.field(factory=SimulatedDisk)  # of this life
    log: Log = attrs.field(factory=Log)
    hosts: list[Heard] = attrs.field(factory=list)  # of this life
    states: dict[int, State] = attrs.field(factory=dict)  # the live state after a log_seq that was written
    kept: list[bytes] = attrs.field(
        factory=list
    )  # lines that the crash before this life had to leave, then: that it left
    spawned: int = 0
    now_ms: int = 0  # trio's clock, as it was when the step happened
    began_ms: int = 0  # the same when this life's first record was written
    began_at_ms: int = 0  # the log's clock then
    incidents: list[str] = attrs.field(factory=list)
    damaged: bool = False  # a fault of the disk itself, not of a crash: less can be asked of this log
    storage_failed: bool = False
    unusable: bool = False  # nothing can be recorded in this life
    stays_ms: int = 0  # that the first host of this life may stay
    slept_ms: int = 0  # that the machine slept while sidecars lived
    drops: bool = False  # segments go by their age, whoever subscribes to them
    shut_down: bool = False  # a host has asked for the end of this life
    said: dict[str, list[str | int]] = attrs.field(factory=dict)  # words -> the calls that said them in this life
    ephemeral: set[str] = attrs.field(factory=set)  # words that nobody may find on the disk, ever
    forgotten: set[str] = attrs.field(factory=set)  # words that nobody may find there any more
    forgets: Counter[str] = attrs.field(factory=Counter)  # words -> the calls that may have had them forgotten
    deleted: set[str] = attrs.field(factory=set)  # names of conversations and personas that somebody wanted deleted
    calls: dict[str | int, str] = attrs.field(factory=dict)  # what each call says, or asks for, in all lives
    keyed: dict[str | int, JsonObject] = attrs.field(factory=dict)  # what each call with a key asks for
    build: int = 0  # of the workers: another one computes other bits
    began_on: dict[str, int] = attrs.field(factory=dict)  # request -> the build that computed its first words
    trace: Any = attrs.field(factory=lambda: hashlib.blake2b(digest_size=8))
    folded: tuple[list[bytes], State] = attrs.field(factory=lambda: ([], State()))  # lines, and where they lead
    _parsed: dict[bytes, JsonObject] = attrs.field(factory=dict)
    _decoded: dict[bytes, Any] = attrs.field(factory=dict)

    def note(self, *parts: object) -> None:
        """Add to the trace, by which two tellings of a story are compared."""
        for part in parts:
            self.trace.update(part if isinstance(part, bytes) else repr(part).encode())

    def parsed(self, line: bytes) -> JsonObject:
        """Return what a line says. Most are met in several lives, and equal bytes say the same; nobody may change it.

        Raises:
            orjson.JSONDecodeError: it is no JSON.
        """
        found = self._parsed.get(line)
        if found is None:
            found = self._parsed[line] = orjson.loads(line)
        return found

    def event(self, record: Record) -> Any:
        """Return the event of a record, of which each is decoded once as well."""
        found = self._decoded.get(record.line)
        if found is None:
            data = record.data
            found = self._decoded[record.line] = CODEC.decode(data["type"], data["version"], data["data"])
        return found

    def say(self, words: str, call: str | int, *, ephemeral: bool) -> None:
        """Note that a host says words, which may be on the disk again from now on: not those of a forgotten key."""
        self.said.setdefault(words, []).append(call)
        self.calls[call] = words
        if not is_of_key(words):
            self.forgotten.discard(words)
        if ephemeral:
            self.ephemeral.add(words)

    def about_to_forget(self, words: str) -> JsonObject:
        """Return what is to be known of a call that has words forgotten, when it is answered."""
        self.forgets[words] += 1
        calls = self.said.get(words, [])
        is_all_recorded = all(call in self.log.by_rpc for call in calls)
        return {"forgets": words, "said": len(calls) if is_all_recorded else -1}

    def forget(self, asked: JsonObject) -> None:
        """Note that words were forgotten, unless somebody has said them since; a key takes all that comes with it."""
        words = asked["forgets"]
        if is_of_key(words) or asked["said"] == len(self.said.get(words, [])):
            self.forgotten.add(words)

    def not_forgotten(self, asked: JsonObject) -> None:
        """Note that a call has found nothing to forget."""
        self.forgets[asked["forgets"]] -= 1

    def may_be_gone(self, request: Request | None) -> bool:
        """Whether the text of a request may have gone because somebody wanted that."""
        if request is None:
            return False
        asked = self.log.accepted.get(request.id, request)  # The record of that may be gone, and others not.
        was_wanted = self.forgets[self.calls.get(asked.rpc or "", "")] > 0
        return asked.ephemeral or was_wanted or asked.conversation in self.deleted

    def is_copied(self, request: Request) -> bool:
        """Whether a power cut would leave a copy of what became of a request, beside the records."""
        mark = b'"answer":"%b"' % request.id.encode()
        files = self.disk.durable_files.get(KEYS, {})
        return any(name.endswith(".answers") and mark in inode.durable for name, inode in files.items())

    def on_disk(self, words: set[str]) -> Iterator[str]:
        """Yield where words stand, as prompt or as a piece of an answer, in any file there is, or may come back."""
        # A file that has two names is one, and what is durable of it mostly is how it begins: nothing is read twice.
        named = (
            (f"{path}/{file}", inode)
            for files in (self.disk.files, self.disk.durable_files)
            for path, names in files.items()
            for file, inode in names.items()
        )
        places = {id(inode): (place, inode) for place, inode in named} if words else {}
        versions = [
            (place, data)
            for place, inode in places.values()
            for data in ((inode.data,) if inode.data.startswith(inode.durable) else (inode.data, inode.durable))
        ]
        for name in sorted(words):
            bare = name.encode()
            found = [(place, data) for place, data in versions if bare in data]  # Mostly nowhere, and all is read once.
            marks = (bare + b":", bare + b"/", bare + b"+")
            yield from dict.fromkeys(
                f"{name} in {place}" for place, data in found if any(map(data.__contains__, marks))
            )


def saying(name: object) -> str:
    """Return the words by which a prompt, and the pieces of its answer, can be found on a disk."""
    return f"say-{name}"


def is_of_key(words: str) -> bool:
    """Whether words are said under a key."""
    return words.startswith(saying("key-"))


def is_same_but_forgotten(kept: bytes, found: bytes, evidence: Evidence) -> bool:
    """Whether two lines are one record, of which either may have lost text that somebody wanted forgotten."""
    if kept == found:
        return True
    log = evidence.log
    was, now = orjson.loads(kept), orjson.loads(found)
    texts = was.pop("text", None), now.pop("text", None)
    for record in (was, now):
        record.pop("crc")
        record.pop("blobs", None)
    data = was["data"]
    if not evidence.deleted.isdisjoint({data.get("conversation"), data.get("persona")}):
        return bool(was == now)
    if was["type"] in {"ReportStep", *COPIES} and all(isinstance(text, list) for text in texts):
        names, pairs = [row["request"] for row in data["rows"]], list(zip(*texts, strict=True))
    else:
        names, pairs = [data.get("request"), data.get("target")], [texts]
    known = [log.requests.get(name) or log.accepted.get(name) for name in names]
    is_copy = was["type"] in COPIES  # Of what it holds, the records may have gone that say whose it was.
    may_be_gone = [evidence.may_be_gone(request) or (is_copy and request is None) for request in known]
    if len(pairs) != len(names):
        may_be_gone = [any(may_be_gone)]
    return was == now and all(
        text == other or (gone and (is_gone(text) or is_gone(other)))
        for (text, other), gone in zip(pairs, may_be_gone, strict=True)
    )
