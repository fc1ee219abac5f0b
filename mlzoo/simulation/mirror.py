"""Reads the log's files of a simulated disk into the evidence, each record once, in the moment in which it is written.

Without the log's own code: bytes, lines and JSON. Knows no invariant, and nothing of what hosts are told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from mlzoo.events.records import is_gone
from mlzoo.simulation.evidence import TERMINAL, Record
from mlzoo.simulation.histories import ASIDES, GROUPS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlzoo.simulation.disk import Inode, SimulatedDisk
    from mlzoo.simulation.evidence import Evidence, JsonObject, Log, Request

ALWAYS = {"log_seq", "group", "at_ms", "kind", "type", "data"}  # what every record of a group says


class Mirror:
    """Reads what is new in the log's files on a disk.

    Args:
        disk: where they are.
        evidence: where it goes.
    """

    def __init__(self, disk: SimulatedDisk, evidence: Evidence) -> None:
        self._disk = disk
        self._evidence = evidence
        self._offsets: dict[int, int] = {}
        self._inodes: list[Inode] = []  # whose identity the offsets go by
        self._names: dict[tuple[str, str], Inode] = {}

    def kept(self, *, power: bool) -> list[bytes]:
        """Return the lines of records that a crash now must leave: those of groups that are there as a whole."""
        oldest = self._oldest()  # What a header calls dropped may go at any time.
        named = list(self._disk.files.get(GROUPS, {}).values())
        there = [r for r in self._evidence.log.groups if r.data["log_seq"] >= oldest and r.inode in named]
        records = [r for r in there if not power or r.is_durable(self._disk)]
        while records and records[-1].data["log_seq"] != sum(records[-1].data["group"]) - 1:
            records.pop()
        return [record.line for record in records]

    def new_groups(self) -> Iterator[Record]:
        """Yield the records of groups that were written since the last call, each as soon as what it says is noted."""
        for record in self._new(GROUPS):
            try:
                _note(self._evidence.log, record)
            except (KeyError, IndexError, TypeError):
                if not self._evidence.damaged:
                    raise
                continue  # One bit makes another name of a field's.
            yield record

    def new_asides(self) -> Iterator[Record]:
        """Yield the same of asides."""
        for record in self._new(ASIDES):
            if self._evidence.damaged and "rpc" not in record.data:
                continue  # As above.
            self._evidence.log.asides.setdefault(record.data["rpc"], []).append(record)
            yield record

    def read_all(self) -> None:
        """Note everything that there is."""
        for _ in (*self.new_groups(), *self.new_asides()):
            pass

    def follow_replaced(self) -> Iterator[tuple[bytes, bytes]]:
        """Note that a file of groups was put in the place of another one; yield each line that was, and that is."""
        for name, inode in self._disk.files.get(GROUPS, {}).items():
            known = self._names.get((GROUPS, name), inode)
            if known is not inode:
                yield from self._follow(name, known, inode)

    def _follow(self, name: str, known: Inode, inode: Inode) -> Iterator[tuple[bytes, bytes]]:
        self._names[GROUPS, name] = inode
        self._inodes.append(inode)
        self._offsets[id(inode)] = self._offsets[id(known)]
        here = {record.end: record for record in self._evidence.log.groups if record.inode is known}
        end = 0
        for line in bytes(inode.data).splitlines(keepends=True):
            end += len(line)
            record = here.get(end)
            if record is not None:
                if record.line != line:
                    yield record.line, line
                record.line, record.inode, record.before, record.data = line, inode, known, self._evidence.parsed(line)

    def _oldest(self) -> int:
        """Return the first log_seq that is kept, as the last header has it: a power cut brings back some before it."""
        names = self._disk.files.get(GROUPS, {})
        for name in sorted(names, reverse=True):
            end = names[name].data.find(b"\n")
            if end >= 0 and name.endswith(".ndjson"):
                try:
                    return int(self._evidence.parsed(bytes(names[name].data[:end]))["oldest"])
                except (orjson.JSONDecodeError, KeyError):
                    continue  # It was torn, or damaged.
        return 1

    def _new(self, directory: str) -> list[Record]:
        found: list[Record] = []
        names = self._disk.files.get(directory, {})
        offsets = self._offsets
        changed = [name for name, inode in names.items() if offsets.get(id(inode)) != len(inode.data)]
        if not changed:
            return found
        if directory == GROUPS and any(id(names[name]) not in offsets for name in changed):
            oldest = f"{self._oldest():020}"
            changed = [name for name in changed if name >= oldest or id(names[name]) in offsets]
        for name in sorted(changed):
            inode = names[name]
            size = len(inode.data)
            seen = offsets.get(id(inode))
            if seen is None:
                self._inodes.append(inode)
                self._names[directory, name] = inode
                seen = 0
            if size == seen or not name.endswith(".ndjson"):
                continue
            end = inode.data.rfind(b"\n", seen) + 1
            if not end:
                continue
            for line in bytes(inode.data[seen:end]).splitlines(keepends=True):
                seen += len(line)
                if line.startswith(b'"segment":', 36):
                    continue
                try:
                    found.append(Record(self._evidence.parsed(line), line, inode, seen))
                except orjson.JSONDecodeError:
                    # Of asides, what a crash left in full segments may be anything.
                    if directory != ASIDES and not self._evidence.damaged:
                        raise
            offsets[id(inode)] = seen
        return found


def _note(log: Log, record: Record) -> None:
    data = record.data
    if not data.keys() >= ALWAYS:
        raise KeyError(*sorted(ALWAYS - data.keys()))  # Before anything of it is noted: others look for all of these.
    log.groups.append(record)
    log.by_seq[data["log_seq"]] = record
    if data["kind"] == "command":
        return
    fields = data["data"]
    match data["type"]:
        case "RequestAccepted":
            request = log.request(fields["request"])
            request.accepted += 1
            request.kind = fields["kind"]
            request.accepted_at_ms = data["at_ms"]
            request.deadline_at_ms = fields.get("deadline_at_ms")
            request.key = fields.get("key", "")
            request.params_digest = fields.get("params_digest", "")
            request.ephemeral = fields.get("ephemeral", False)
            request.conversation = fields.get("conversation", "")
            _named(log, request, fields)
            log.accepted[request.id] = request
        case "RequestStreamed":
            request = log.request(fields["request"])
            row = log.by_seq[data["group"][0]].data["text"][fields["row"]]
            request.pieces.append((fields["seq"], None if is_gone(row) else row.get("content", "")))
        case "RequestDispatched":
            log.request(fields["request"]).device = fields["device"]
        case "RequestRerouted":
            log.request(fields["request"]).device = None
        case "RequestSuspended":
            request = log.request(fields["request"])
            request.suspensions.append(record)
            request.ran_on, request.device = request.device, None
        case "ModelLoadStarted":
            log.loads += 1
        case str(kind) if kind in TERMINAL:
            request = log.request(fields["request"])
            request.terminals.append(record)
            request.ran_on, request.device = request.device, None
            request.cancelled = kind == "RequestCancelled"
            is_turn = kind == "RequestCompleted" or (request.cancelled and bool(request.pieces))
            if is_turn and request.conversation and not request.ephemeral:
                log.talks.turn(request.conversation, request.id)
            _named(log, request, fields)
            if kind == "RequestAttached":  # What its caller hears is the story of the target.
                log.by_rpc[fields["caller"]["rpc"]] = log.request(fields["target"])
        case str(kind) if kind.startswith("Conversation"):
            log.talks.note(kind, fields, log.by_seq[data["group"][0]].data)
        case _:
            return


def _named(log: Log, request: Request, fields: JsonObject) -> None:
    caller = fields.get("caller")
    if caller is not None:
        request.rpc = caller["rpc"]
        log.by_rpc[caller["rpc"]] = request
