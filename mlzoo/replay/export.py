"""Making a recording of a log, or of a part of it.

The log is read three times, from outside and without its lock: for what is taken out of it, for what went over the
wire, for the records themselves. So that its size in memory is that of the lines that went over the wire.
"""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING, Any

import attrs

import mlzoo
from mlzoo.api.wire import DIGEST
from mlzoo.core.apply import apply_group
from mlzoo.errors import ConfigError, NotFound
from mlzoo.events import recording
from mlzoo.events.answers import KeptAnswers
from mlzoo.events.blobs import Blobs
from mlzoo.events.identity import read_identity
from mlzoo.events.recording import Line
from mlzoo.events.records import CORE_VERSION
from mlzoo.events.segments import Segments
from mlzoo.replay.names import Names
from mlzoo.replay.redaction import Redaction
from mlzoo.replay.talks import told_conversation, told_persona
from mlzoo.replay.telling import Told, group_of, line_of, tell
from mlzoo.replay.wire import Wire
from mlzoo.state_codec import decode_state, encode_state
from mlzoo.views import event_params

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from mlzoo.events.answers import KeptAnswer
    from mlzoo.events.records import Group
    from mlzoo.replay.redaction import Rule
    from mlzoo.replay.wire import Entry
    from mlzoo.world import World


@attrs.frozen(kw_only=True)
class Part:
    """Which part of a log; one of the four, or all of it. Only all of it and a span can be folded again."""

    request: str | None = None
    conversation: str | None = None
    connection: str | None = None
    span: tuple[int, int] | None = None


ALL = Part()


@attrs.frozen(kw_only=True)
class Exported:
    """What was written."""

    lines: int
    groups: int
    size_bytes: int


def export(world: World, path: Path, output: Path, *, part: Part = ALL, rules: Sequence[Rule] = ()) -> Exported:
    """Write a recording of the log at path.

    Raises:
        LogUnusable: The log is damaged or newer than this version.
        NotFound: The part is not in it.
        OSError: It cannot be read, or the recording cannot be written.
    """
    telling = _Telling(world, path, rules)
    wire = Wire(telling.blob, telling.again, telling.kept)
    facts = _Facts()
    requests: set[str] = set()
    puts: dict[str, str] = {}
    first = None
    for told in telling.story():
        if not isinstance(told, Told):
            wire.aside(told)
            continue
        requests |= _with_persona(_about(told, part, telling.names), told, part, puts)
        if _is_in(told, part, requests):
            first = told if first is None else first
            facts.learn(told)
        wire.group(group_of(told))
    lines = list(wire.lines(lambda entry: _is_wanted(entry, part, requests, telling.names)))
    if first is None and not lines:
        raise NotFound(f"{path} holds nothing of that", what="part", id=_named(part))
    header = telling.header(part, first) | attrs.asdict(facts)
    groups = [0]

    def body() -> Iterator[Line]:
        yield from lines
        for told in telling.story():
            if isinstance(told, Told) and _is_in(told, part, requests):
                groups[0] += 1
                yield line_of(told if requests == set() else _own(told, requests))

    size_bytes = recording.write(output, header, body())
    return Exported(lines=len(lines), groups=groups[0], size_bytes=size_bytes)


class _Telling:
    """The story of a log as a recording tells it: small names, times from its beginning, text redacted."""

    def __init__(self, world: World, path: Path, rules: Sequence[Rule]) -> None:
        self.names = Names()
        self._world = world
        self._path = path
        self._rules = rules
        self._redaction = Redaction(rules)
        self._began_ms: int | None = None
        self._segments = Segments(world.disk, path / "segments")
        self._blobs = Blobs(world.disk, world.ids, path / "blobs")
        self._blob_names: dict[str, str] = {}
        if rules:
            for told in tell(world.disk, path):
                if isinstance(told, Told):
                    self._redaction.learn(told)
            self._redaction.decide()
            self.names.also |= self._redaction.digests

    def story(self) -> Iterator[Told | Line]:
        """Yield groups and asides."""
        for told in tell(self._world.disk, self._path):
            time_ms = told.time_ms if isinstance(told, Told) else told["time_ms"]
            if self._began_ms is None:
                self._began_ms = time_ms
            yield self._group(told) if isinstance(told, Told) else self._aside(told)

    def _group(self, told: Told) -> Told:
        renamed = self.names.renamed
        kind, version, data = told.command
        self._remember_blob(data)
        return attrs.evolve(
            told,
            time_ms=told.time_ms - (self._began_ms or 0),
            command=(kind, version, renamed(data)),
            events=tuple([(kind, version, renamed(data)) for kind, version, data in told.events]),
            text=self._redaction.group_text(told) if self._rules else told.text,
        )

    def _aside(self, aside: Line) -> Line:
        told: Line = {**self.names.renamed(aside), "time_ms": aside["time_ms"] - (self._began_ms or 0)}
        if not self._rules or told["rpc"] is None:
            return told
        for name in ("params", "result", "failure"):
            if name in told:
                told[name] = self._redaction.text(told[name])
        if isinstance(told.get("params"), dict) and DIGEST in told["params"]:
            told["params"] = {DIGEST: None}  # It is that of a text which may be easy to guess.
        return told

    def _remember_blob(self, data: Line) -> None:
        blob = data.get("blob")
        if isinstance(blob, str):
            self._blob_names[self.names.name(blob)] = blob

    def blob(self, name: str) -> bytes:
        """Return a large value by its small name."""
        return self._blobs.get(self._blob_names.get(name, name))

    def kept(self, request: str, accepted_seq: int) -> KeptAnswer | None:
        """Return the copy of an answer by its request's small name, told as everything else is."""
        answers = KeptAnswers(self._world.disk, self._path / "keys")
        answers.open(tidy=False)
        kept = answers.find(self.names.meant(request), accepted_seq)
        if kept is None:
            return None
        kept = self._redaction.answer(kept)
        failure = kept.failure
        if failure is not None:
            failure = attrs.evolve(failure, data=self.names.renamed(dict(failure.data)))
        return attrs.evolve(kept, result=self.names.renamed(kept.result), failure=failure)

    def again(self, method: str, params: Any, last_seq: int) -> Any:
        """Return what a view of the log showed when last_seq was its end."""
        if method == "rpc.discover":
            from mlzoo.actors.observation import discover  # noqa: PLC0415 - large, and rarely wanted

            return discover()
        asked = params or {}
        if method == "personas.get":
            return told_persona(self._groups_until(last_seq), asked["name"])
        if method == "conversations.get":
            return self._conversation(asked["conversation"], asked.get("at"), last_seq)
        after = max(asked.get("after") or 0, next(iter(self._segments.sizes), 1) - 1)
        shown: list[Line] = []
        for told in takewhile(lambda told: not isinstance(told, Told) or told.first_seq <= last_seq, self.story()):
            if not isinstance(told, Told) or told.last_seq <= after:
                continue
            group = group_of(told)
            for index in range(max(0, after + 1 - group.first_seq), len(group.events) + 1):
                event = event_params(group, index)
                after = event["log_seq"]
                if _is_asked(event, asked):
                    shown.append(event)
                if len(shown) == asked.get("limit"):
                    return {"events": shown, "last": after}
        return {"events": shown, "last": after}

    def _conversation(self, name: str, at: int | None, last_seq: int) -> Line:
        """Return what was told of a conversation when last_seq was the log's end."""
        header = self._segments.header(next(iter(self._segments.sizes), 1)) if self._segments.sizes else None
        base = None if header is None else header.state
        return told_conversation(decode_state(self.names.renamed(base)), self._groups_until(last_seq), name, at)

    def _groups_until(self, last_seq: int) -> Iterator[Group]:
        groups = (group_of(told) for told in self.story() if isinstance(told, Told))
        return takewhile(lambda group: group.first_seq <= last_seq, groups)

    def header(self, part: Part, first: Told | None) -> Line:
        """Return the first line of the recording."""
        base_seq = next(iter(self._segments.sizes), 1)
        found = self._segments.header(base_seq) if self._segments.sizes else None
        header: Line = {
            "recording": recording.FORMAT,
            "minor": recording.MINOR,
            "mlzoo": mlzoo.__version__ if found is None else found.version,
            "core_version": CORE_VERSION if found is None else found.core_version,
            "log": read_identity(self._world, self._path),
            "part": _named(part),
            "folds": part == ALL or part.span is not None,
            "redacted": [rule.name for rule in self._rules],
        }
        if header["folds"] and first is not None and found is not None and (found.state or first.first_seq > base_seq):
            header["state"] = self.names.renamed(self._state_before(first.first_seq, found.state))
        return header

    def _state_before(self, seq: int, base: Line | None) -> Line:
        state = decode_state(base)
        for told in tell(self._world.disk, self._path):
            if isinstance(told, Told):
                if told.first_seq >= seq:
                    break
                state = apply_group(state, group_of(told))
        return encode_state(state)


@attrs.define
class _Facts:
    """What answers depend on, as far as the records say it."""

    models: dict[str, Line] = attrs.field(factory=dict)
    workers: dict[str, Line] = attrs.field(factory=dict)
    seeds: dict[str, int] = attrs.field(factory=dict)

    def learn(self, told: Told) -> None:
        kind, _, data = told.command
        if kind == "Submit":
            self.models.setdefault(data["model"]["name"], {})["digest"] = data["model"].get("digest", "")
            if data.get("sampling") is not None:
                self.seeds[data["request"]] = data["sampling"].get("seed", 0)
        elif kind == "ReportLoaded":
            names = ("device", "dtype", "architecture", "batching", "fingerprint")
            facts: Line = {name: data[name] for name in names if name in data}
            if data.get("adapters"):
                facts["adapters"] = adapters_of(data)
            self.models.setdefault(data["model"], {}).update(facts)
        elif kind == "ReportWorkerUp":
            self.workers[data["device"]] = {"threads": data.get("threads"), "versions": data.get("versions")}


def adapters_of(loaded: Line) -> dict[str, str]:
    """Return the digest of each adapter that a model was loaded with."""
    return {adapter["name"]: adapter["digest"] for adapter in loaded.get("adapters", ())}


def part_of(request: str | None, connection: str | None, span: str | None, conversation: str | None = None) -> Part:
    """Return the part that a command line asks for.

    Raises:
        ConfigError: It asks for several, or the span is none.
    """
    if sum(wish is not None for wish in (request, connection, span, conversation)) > 1:
        raise ConfigError("choose one of --request, --conversation, --connection and --span")
    if span is None:
        return Part(request=request, connection=connection, conversation=conversation)
    first, colon, last = span.partition(":")
    if not colon or not first.isdecimal() or not last.isdecimal() or int(first) > int(last):
        raise ConfigError(f"{span!r} is no span: write FIRST:LAST, two numbers of records")
    return Part(span=(int(first), int(last)))


def _named(part: Part) -> str:
    if part.span is not None:
        return f"span {part.span[0]}:{part.span[1]}"
    named = {"request": part.request, "connection": part.connection, "conversation": part.conversation}
    return next((name for name, wish in named.items() if wish is not None), "all")


def _about(told: Told, part: Part, names: Names) -> set[str]:
    """Return the requests of a part that a group begins: one and its cancels, or those of a connection or so."""
    kind, _, data = told.command
    request = data.get("request")
    if not isinstance(request, str):
        return set()
    if part.request is not None:
        wanted = names.known(part.request)
        is_of = request == wanted or (kind == "Cancel" and data.get("target") == wanted)
    elif part.conversation is not None:
        is_of = kind == "Submit" and data.get("conversation") == names.name(part.conversation)
    else:
        caller = data.get("caller") or {}
        is_of = part.connection is not None and caller.get("connection") == names.known(part.connection)
    return {request} if is_of and (data.get("caller") or kind == "Cancel") else set()


def _with_persona(found: set[str], told: Told, part: Part, puts: dict[str, str]) -> set[str]:
    """Return requests that a group begins, and the call that described the persona which holds for them.

    Args:
        found: The requests.
        told: The group.
        part: Of a connection what others have said is none.
        puts: Persona -> the call that described it last; what the group says of one is noted.
    """
    kind, _, data = told.command
    persona: str = data.get("persona", "")
    changes = {event for event, _, _ in told.events}
    if kind == "PutPersona" and "PersonaPut" in changes:  # It may have been refused.
        puts[persona] = data["request"]
    elif "PersonaDropped" in changes:
        puts.pop(persona, None)
    elif found and part.connection is None and persona in puts:
        return {*found, puts[persona]}
    return found


def _is_in(told: Told, part: Part, requests: set[str]) -> bool:
    if part.span is not None:
        return part.span[0] <= told.first_seq <= part.span[1]
    if part == ALL:
        return True
    _, _, data = told.command
    spoken_of = {row["request"] for row in data.get("rows", ())} | {data.get("request")}
    spoken_of |= {event.get("request") for _, _, event in told.events}
    return not requests.isdisjoint(spoken_of)


def _own(told: Told, requests: set[str]) -> Told:
    """Return a group without the text of other requests that were in the same step."""
    if told.command[0] != "ReportStep" or told.text is None:
        return told
    rows = told.command[2]["rows"]
    text = [said if facts["request"] in requests else None for facts, said in zip(rows, told.text, strict=True)]
    return attrs.evolve(told, text=text)


def _is_wanted(entry: Entry, part: Part, requests: set[str], names: Names) -> bool:
    if part.span is not None:
        return part.span[0] <= entry.seq <= part.span[1]
    if part.connection is not None:
        return entry.connection == names.known(part.connection)
    is_about_its_call = entry.request is None and entry.call > 0 and "sidecar" in entry.line
    return part == ALL or entry.request in requests or is_about_its_call


def _is_asked(event: Line, asked: Line) -> bool:
    types = asked.get("types")
    if types is not None and event["type"] not in types:
        return False
    return asked.get("request") is None or event.get("request") == asked["request"]
