"""Commands, events and asides as bytes, and back: the registry of types, their versions, and upcasting.

What is stored of a command or event is its class name, the version of its schema and the fields that differ from
their defaults. The registry is made of the unions ``Command`` and ``Event``, so a new class needs nothing here. A class
whose stored shape has changed says ``VERSION: ClassVar[int] = 2`` and leaves a function in ``UPCASTERS`` that turns
data of the version before into its own; functions are chained, so each is written once and never touched again.

Values are structured by functions that cattrs generates, made when a class is first met; cattrs itself is imported
then, since a sidecar that only answers pings needs none of it. Nothing is validated in depth: a CRC has shown that the
bytes are those that were written. Knows nothing of files and segments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, get_args, get_origin

import attrs
import orjson

from mlzoo.errors import Failure
from mlzoo.events.framing import seal
from mlzoo.events.records import Aside, Group
from mlzoo.events.segments import newer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mlzoo.errors import LogUnusable
    from mlzoo.events.commands import Command
    from mlzoo.events.types import Event

Data = dict[str, Any]
Upcaster = Callable[[Data], Data]
Kind = Literal["command", "event"]
Line = TypeVar("Line", bytes, bytes | memoryview)

AT_ONCE = 64  # lines that are parsed in one call where all are there
UPCASTERS: Mapping[tuple[str, int], Upcaster] = {}
"""(class name, version) -> a function from data of that version to data of the next one."""


@attrs.frozen
class Schema:
    """How one class is stored."""

    encode: Callable[[Any], Data]
    decode: Callable[[Data], Any]
    version: int
    head: bytes  # the part of a record that is the same for all instances


class Codec:
    """A closed set of attrs classes, as data and back.

    Args:
        classes: returns class name -> (kind of record, class); called when the first value is met.
        upcasters: (class name, version) -> a function from data of that version to data of the next one.
    """

    def __init__(
        self,
        classes: Callable[[], Mapping[str, tuple[Kind, type]]],
        upcasters: Mapping[tuple[str, int], Upcaster],
    ) -> None:
        self._classes = cache(classes)
        self._upcasters = upcasters
        self._by_class: dict[type, Schema] = {}
        self._by_name: dict[str, Schema] = {}

    def encode(self, value: object) -> tuple[bytes, bytes]:
        """Return the head of a value's record, which ends where its data begin, and the data as JSON."""
        schema = self._by_class.get(type(value)) or self._learn(type(value).__name__)
        return schema.head, orjson.dumps(schema.encode(value))

    def data(self, value: object) -> Data:
        """Return the fields of a value that differ from their defaults, as JSON has them."""
        schema = self._by_class.get(type(value)) or self._learn(type(value).__name__)
        return schema.encode(value)

    def decode(self, name: str, version: int, data: Data) -> Any:
        """Return the value that a record holds.

        Raises:
            LogUnusable: A newer version wrote it (reason newer).
        """
        schema = self._by_name.get(name) or self._known(name)
        if version != schema.version:
            data = self._upcast(name, version, schema.version, data)
        return schema.decode(data)

    def refuse_newer(self, name: str, version: int) -> None:
        """Raise as ``decode`` does of a record that says this of itself, whose data are not looked at."""
        known = (self._by_name.get(name) or self._known(name)).version
        if version > known:
            raise _newer_version(name, version, known)

    def _known(self, name: str) -> Schema:
        if name not in self._classes():
            raise newer(f"the log holds {name!r}, a kind of record that this version does not know")
        return self._learn(name)

    def decode_all(self, records: Iterable[Data]) -> tuple[Any, ...]:
        """Return the values that records hold. Raises as ``decode`` does."""
        values: list[Any] = []
        add, known = values.append, self._by_name.get
        for record in records:
            schema = known(record["type"])
            if schema is not None and schema.version == record["version"]:
                add(schema.decode(record["data"]))  # as above, a call less for each record
            else:
                add(self.decode(record["type"], record["version"], record["data"]))
        return tuple(values)

    def _upcast(self, name: str, version: int, current: int, data: Data) -> Data:
        if version > current:
            raise _newer_version(name, version, current)
        for step in range(version, current):
            data = self._upcasters[name, step](data)
        return data

    def _learn(self, name: str) -> Schema:
        """Generate the functions of a class when it is first met: making them all costs a start 50 ms."""
        kind, made = self._classes()[name]
        version = int(getattr(made, "VERSION", 1))
        converter = _converter()
        head = b'"kind":"%b","type":"%b","version":%d,"data":' % (kind.encode(), name.encode(), version)
        schema = Schema(converter.get_unstructure_hook(made), _decoder(converter, made), version, head)
        self._by_class[made] = self._by_name[name] = schema
        return schema


def _newer_version(name: str, version: int, known: int) -> LogUnusable:
    return newer(f"the log holds {name!r} in version {version}; this version knows it up to {known}")


def _same(value: Any, _: object = None) -> Any:
    return value


def _is_plain(kind: Any) -> bool:
    """Whether values of a type are stored as they are: JSON's own scalars, closed sets of them, and free JSON."""
    if kind in (str, int, float, bool, Any, dict[str, Any], Mapping[str, Any]) or get_origin(kind) is Literal:
        return True
    members = get_args(kind)
    return (
        bool(members)
        and get_origin(kind) not in (tuple, dict, list, Mapping)
        and all(member is type(None) or _is_plain(member) for member in members)
    )


@cache
def _converter() -> Any:
    """Return the one converter; Any, since cattrs is imported here and not before."""
    import cattrs  # noqa: PLC0415 - not on the way to the first ping

    converter = cattrs.Converter(detailed_validation=False, omit_if_default=True)
    converter.register_structure_hook_func(_is_plain, _same)
    converter.register_unstructure_hook_func(_is_plain, _same)
    return converter


def _decoder(converter: Any, made: type[attrs.AttrsInstance]) -> Callable[[Data], Any]:
    """Return the function that makes an instance of data.

    Where every field is stored as it is, or is made of such instances, the class itself is that, in half the time; most
    records are such.
    """
    structure = converter.get_structure_hook(made)
    attrs.resolve_types(made)
    kinds = [(field.name, field.type) for field in attrs.fields(made) if not _is_plain(field.type)]
    parts = [(name, _part(converter, kind)) for name, kind in kinds]
    if any(part is None for _, part in parts):
        return lambda data: structure(data, made)

    # Where a later release added a field, it is passed over; where one is missing, that is said.
    def plain(data: Data) -> Any:
        try:
            return made(**data)
        except TypeError:
            return structure(data, made)

    def nested(data: Data) -> Any:
        try:
            fields = data.copy()
            for name, part in parts:
                if name in data:
                    fields[name] = part(data[name])
            return made(**fields)
        except (KeyError, TypeError):
            return structure(data, made)

    return nested if parts else plain


def _part(converter: Any, kind: Any) -> Any:
    """Return the function that makes the value of a field that is not plain; None where only cattrs knows it."""
    if isinstance(kind, type) and attrs.has(kind):
        return _decoder(converter, kind)
    members = get_args(kind)
    if get_origin(kind) is tuple and members[1:] == (...,):
        if _is_plain(members[0]):
            return tuple
        member = _part(converter, members[0])
        return member and (lambda values: tuple([member(value) for value in values]))
    if len(members) == 2 and members[1] is type(None):
        member = _part(converter, members[0])
        return member and (lambda value: None if value is None else member(value))
    return None


def classes_of(**unions: Any) -> dict[str, tuple[Kind, type]]:
    """Return the registry of the given unions: class name -> (kind of record, class)."""
    return {
        member.__name__: (cast("Kind", kind), member) for kind, union in unions.items() for member in get_args(union)
    }


def _stored() -> dict[str, tuple[Kind, type]]:
    from mlzoo.events import commands, types  # noqa: PLC0415 - not on the way to the first ping

    return classes_of(command=commands.Command, event=types.Event)


CODEC = Codec(_stored, UPCASTERS)


def encode_group(group: Group, synced: int) -> bytes:
    """Return the lines of a group: its command's, then those of its events.

    Raises:
        TypeError: Something in it is no JSON; nothing was written.
    """
    count = len(group.events) + 1
    stamps = b'"at_ms":%d,"time_ms":%d,' % (group.at_ms, group.time_ms)
    head, data = CODEC.encode(group.command)
    text = b"" if group.text is None else b',"text":' + orjson.dumps(group.text)
    blob = getattr(group.command, "blob", None)
    blobs = b"" if blob is None else b'"blobs":%b,' % orjson.dumps([blob])
    seq = group.first_seq
    place = b'"group":[%d,%d],' % (seq, count)
    parts = [seal(b'"log_seq":%d,%b"synced":%d,%b%b%b%b%b}' % (seq, place, synced, blobs, stamps, head, data, text))]
    encode = CODEC.encode
    common = place + stamps
    for event in group.events:
        seq += 1
        head, data = encode(event)
        parts.append(seal(b'"log_seq":%d,%b%b%b}' % (seq, common, head, data)))
    return b"".join(parts)


def decode_group(lines: Sequence[bytes | memoryview]) -> Group:
    """Return the group that verified lines hold.

    Raises:
        LogUnusable: A newer version wrote it (reason newer).
    """
    record, *events = parsed(lines)
    return _group(record, events)


def parsed(lines: Sequence[bytes | memoryview]) -> list[Data]:
    """Return lines as data. As one array: a start and a check spend most of their time here."""
    return cast("list[Data]", orjson.loads(b"[%b]" % b",".join(lines)))


def _group(record: Data, events: list[Data]) -> Group:
    return Group(
        first_seq=record["log_seq"],
        at_ms=record["at_ms"],
        time_ms=record["time_ms"],
        command=cast("Command", CODEC.decode(record["type"], record["version"], record["data"])),
        events=cast("tuple[Event, ...]", CODEC.decode_all(events)),
        text=record.get("text"),
    )


def encode_aside(
    aside_seq: int,
    after_seq: int,
    time_ms: int,
    connection: str,
    method: str,
    rpc: str | int | None,
    params: Any,
    result: Any,
    failure: Failure | None,
) -> bytes:
    """Return the line of an aside that has these fields.

    Written by hand, and without an ``Aside``, which takes as long to make as its line: every ping passes here.

    Raises:
        TypeError: Something in it is no JSON; nothing was written.
    """
    dumps = orjson.dumps
    head = _aside_head(connection, method)
    body = b'"aside_seq":%d,"after_seq":%d,"time_ms":%d,%b%b' % (aside_seq, after_seq, time_ms, head, dumps(rpc))
    if params is not None:
        body += b',"params":' + dumps(params)
    if result is not None:
        body += b',"result":' + dumps(result)
    if failure is not None:
        body += b',"failure":' + dumps({"code": failure.code, "message": failure.message, "data": failure.data})
    return seal(body + b"}")


@lru_cache(maxsize=1024)
def _aside_head(connection: str, method: str) -> bytes:
    return b'"connection":%b,"method":%b,"rpc":' % (orjson.dumps(connection), orjson.dumps(method))


def decode_aside(line: bytes | memoryview) -> Aside:
    """Return the aside that a verified line holds."""
    data = orjson.loads(line)
    failure = data.get("failure")
    return Aside(
        aside_seq=data["aside_seq"],
        after_seq=data["after_seq"],
        time_ms=data["time_ms"],
        connection=data["connection"],
        method=data["method"],
        rpc=data["rpc"],
        params=data.get("params"),
        result=data.get("result"),
        failure=None if failure is None else Failure(failure["code"], failure["message"], failure["data"]),
    )


def groups_in(lines: Iterable[bytes | memoryview]) -> Iterator[Group]:
    """Yield the groups that verified lines hold, in order; an unfinished one at the end is left out.

    No line is taken before it is needed: more of them may come meanwhile.
    """
    return map(decode_group, lines_of_groups(lines))


def groups_of(lines: Sequence[bytes]) -> Iterator[Group]:
    """Yield the same of lines that are all there, such as those of a segment: they are parsed many at once."""
    records = chain.from_iterable(parsed(lines[at : at + AT_ONCE]) for at in range(0, len(lines), AT_ONCE))
    for record in records:
        count = record["group"][1] - 1
        events = list(islice(records, count))
        if len(events) == count:
            yield _group(record, events)


def lines_of_groups(lines: Iterable[Line]) -> Iterator[tuple[Line, ...]]:
    """Yield the lines of each group; an unfinished one at the end is left out."""
    pending: list[Line] = []
    wanted = 0
    for line in lines:
        if not pending:
            wanted = group_count(line)
        pending.append(line)
        if len(pending) == wanted:
            yield tuple(pending)
            pending = []


def group_count(line: bytes | memoryview) -> int:
    """Return how many records the group has whose first line this is."""
    head = line if type(line) is bytes else bytes(line[:140])
    comma = head.index(b",", head.index(b'"group":[') + 9)
    return int(head[comma + 1 : head.index(b"]", comma)])
