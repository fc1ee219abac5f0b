"""``mlzoo log``: look at an event log, verify it, follow it, repair it, make a recording of it.

Only ``repair`` takes the log's lock; everything else reads what lies there, also while a sidecar writes.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace, _SubParsersAction

    from mlzoo.events.story import End, LineReader, Record

_PIPE_COLUMNS = 160  # of a line for people where there is no terminal to ask
_LEAST_COLUMNS = 40
_TEXT_CHARACTERS = 400  # of a text among others; --json shows all of it
_FOLLOW_S = 0.2


_EXAMPLES = {
    "stat": "./my-log",
    "verify": "./my-log",
    "cat": "--text ./my-log | less",
    "tail": "-n 5 -f ./my-log",
    "export": "./my-log -o greeting.ndjson --redact",
    "repair": "./my-log",
}


def add_parser(subparsers: _SubParsersAction[ArgumentParser]) -> None:
    """Add ``log`` and its own commands."""
    parser = subparsers.add_parser(
        "log", help="the event log: stat, verify, tail, cat, export, repair", epilog="example: mlzoo log cat ./my-log"
    )
    commands = parser.add_subparsers(dest="log_command", required=True, metavar="COMMAND")
    helps = {
        "stat": "what it holds, in numbers",
        "verify": "read everything; exits 0 only where every record is whole",
        "cat": "the whole story, in order",
        "tail": "the end of the story",
        "export": "make a recording: one file that mlzoo replay plays and checks",
        "repair": "cut it at the damage, keep what was cut, give it a new id",
    }
    for name, text in helps.items():
        command = commands.add_parser(name, help=text, epilog=f"example: mlzoo log {name} {_EXAMPLES[name]}")
        metavar, what = ("PATH", "a log, or one segment of it") if name == "verify" else ("DIR", "a log")
        command.add_argument("directory", metavar=metavar, type=Path, help=what)
        if name in ("cat", "tail"):
            form = command.add_mutually_exclusive_group()
            form.add_argument(
                "--json", action="store_true", default=None, help="records as they are; the default when piped"
            )
            form.add_argument(
                "--text", dest="json", action="store_false", help="lines for people; the default on a terminal"
            )
        if name == "export":
            _add_export(command)
        if name == "tail":
            command.add_argument("-n", "--lines", type=_count, default=20, metavar="N", help="records to begin with")
            command.add_argument("-f", "--follow", action="store_true", help="go on with what is written")


def _count(text: str) -> int:
    """Return a number of records; argparse says where it is none."""
    from argparse import ArgumentTypeError

    if not text.isdecimal():
        message = f"a number of records is 0 or more, not {text!r}"
        raise ArgumentTypeError(message)
    return int(text)


def _add_export(command: ArgumentParser) -> None:
    command.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="the recording")
    command.add_argument("--request", metavar="ID", help="of one request alone, and of its cancels")
    command.add_argument("--conversation", metavar="ID", help="of the turns of one conversation alone")
    command.add_argument("--connection", metavar="ID", help="of one connection alone")
    command.add_argument("--span", metavar="FIRST:LAST", help="of these log_seqs alone")
    command.add_argument(
        "--redact", action="store_true", help="take out mail addresses, secrets, long numbers and home directories"
    )
    command.add_argument(
        "--redact-rule", action="append", default=[], metavar="NAME=REGEX", help="take out what this finds as well"
    )


def run(args: Namespace) -> int:
    """Run one of the commands; return the exit status."""
    from mlzoo.errors import StorageFailed
    from mlzoo.events.story import is_log
    from mlzoo.world import RealDisk

    try:
        if args.log_command == "verify" and args.directory.is_file():
            return _verify_segment(args.directory)
        if args.directory.is_file():
            print(f"mlzoo log: {args.directory} is a file; a log is a directory", file=sys.stderr)
            return 2
        if not is_log(RealDisk(), args.directory):
            print(f"mlzoo log: there is no log in {args.directory}", file=sys.stderr)
            return 2
        if args.log_command not in ("verify", "repair"):  # which look deeper, at each record
            _refuse_newer(args.directory)
        match args.log_command:
            case "stat":
                return _stat(args.directory)
            case "verify":
                return _verify(args.directory)
            case "repair":
                return _repair(args.directory)
            case "export":
                return _export(args)
            case "cat":
                return _cat(args.directory, as_json=_as_json(args))
            case _:
                return _tail(args.directory, args.lines, follow=args.follow, as_json=_as_json(args))
    except OSError as error:  # Of the log, of a recording, or of stdout: that last is for the program to find out.
        raise StorageFailed(_unusable(args, error), reason="failed") from error


def _unusable(args: Namespace, error: OSError) -> str:
    """Say what could not be done with which file."""
    match args.log_command:
        case "repair":
            return f"the log {args.directory} cannot be repaired: {error}"
        case "export" if not _is_in(error.filename, args.directory):
            return f"the recording {args.output} cannot be written: {error.strerror or error}"
        case _:
            return f"the log {args.directory} cannot be read: {error}"


def _is_in(name: object, directory: Path) -> bool:
    return isinstance(name, str | Path) and directory.absolute() in Path(name).absolute().parents


def _refuse_newer(path: Path) -> None:
    """Refuse to show as this version's what a newer one wrote in a format that only it knows."""
    from mlzoo.events.newer import refuse_newer
    from mlzoo.world import real_world

    refuse_newer(real_world(), path)


def _as_json(args: Namespace) -> bool:
    return bool(args.json) if args.json is not None else not sys.stdout.isatty()


# ------------------------------------------------------------------------------------------------ numbers


def _stat(path: Path) -> int:
    from mlzoo.events.blobs import Blobs
    from mlzoo.events.identity import read_identity
    from mlzoo.events.recovery import look
    from mlzoo.events.segments import Segments
    from mlzoo.events.story import gaps, verify_end
    from mlzoo.world import real_world

    world = real_world()
    groups, asides = Segments(world.disk, path / "segments"), Segments(world.disk, path / "asides")
    blobs = [size_bytes for _, size_bytes in Blobs(world.disk, world.ids, path / "blobs").files()]
    keys = world.disk.sizes(path / "keys")
    last = look(groups, groups.firsts[-1], strict=True).last_seq if groups.sizes else 0
    last_aside = look(asides, asides.firsts[-1], strict=False).last_seq if asides.sizes else 0
    for name, value in (
        ("id", read_identity(world, path)),
        ("log_seq", _span(next(iter(groups.sizes), 1), last)),
        ("asides", _span(next(iter(asides.sizes), 1), last_aside)),
        ("segments", f"{len(groups.sizes)}, {groups.size_bytes():,} bytes"),
        ("of asides", f"{len(asides.sizes)}, {asides.size_bytes():,} bytes"),
        ("blobs", f"{len(blobs)}, {sum(blobs):,} bytes"),
        ("keys", f"{len(keys)}, {sum(keys.values()):,} bytes"),
    ):
        print(f"{name:<10} {value}")
    between = gaps(groups)
    for one in between:
        print(f"mlzoo log: {one}", file=sys.stderr)
    return 1 if _tell_of(verify_end(world, path)) or between else 0


def _span(first: int, last: int) -> str:
    return f"{first} to {last}" if last >= first else "none"


def _tell_of(end: End) -> int:
    """Say on stderr what is not whole at the end of a log; return the exit status, which forgives a torn end."""
    for fault in (*end.faults, *end.torn):
        print(f"mlzoo log: {fault}", file=sys.stderr)
    return 1 if end.faults else 0


def _verify(path: Path) -> int:
    from mlzoo.events.story import verify
    from mlzoo.world import real_world

    found = verify(real_world(), path)
    for fault in found.faults:
        print(fault)
    verdict = (
        "all whole" if not found.faults else "whole but for its end" if found.faults == found.torn else "NOT whole"
    )
    records = f"{found.records} records ({found.oldest_seq} to {found.last_seq})" if found.records else "no records"
    print(f"{found.id}: {records} in {found.segments} segments, {found.asides} asides, {found.blobs} blobs: {verdict}")
    return 1 if found.faults else 0


def _verify_segment(path: Path) -> int:
    from mlzoo.events.segments import SUFFIX
    from mlzoo.events.story import verify_segment
    from mlzoo.world import real_world

    if path.suffix != SUFFIX or not path.stem.isdecimal():
        print(f"mlzoo log: {path} is no segment of a log: those are called after their first record", file=sys.stderr)
        return 2
    records, fault = verify_segment(real_world(), path)
    if fault:
        print(fault)
    print(f"{path.name}: {records} whole records: " + ("NOT whole" if fault else "all whole"))
    return 1 if fault else 0


def _repair(path: Path) -> int:
    import trio

    from mlzoo.events.repair import repair
    from mlzoo.world import real_world

    lost = trio.run(repair, real_world(), path)
    print("\n".join(lost) if lost else "nothing to repair")
    return 0


def _export(args: Namespace) -> int:
    from mlzoo.errors import LogUnusable
    from mlzoo.events.story import verify_end
    from mlzoo.replay.export import export, part_of
    from mlzoo.replay.redaction import BUILT_IN, rule_of
    from mlzoo.world import real_world

    rules = [*(BUILT_IN if args.redact else ()), *map(rule_of, args.redact_rule)]
    part = part_of(args.request, args.connection, args.span, args.conversation)
    damage = list((end := verify_end(real_world(), args.directory)).faults)
    try:
        made = None if damage else export(real_world(), args.directory, args.output, part=part, rules=rules)
    except LogUnusable as error:
        if error.data.get("reason") != "damaged":
            raise
        made, damage = None, [error.message]
    if made is None:
        way_on = f"`mlzoo log repair` makes it whole, also a copy of {args.directory}"
        print(f"mlzoo log: nothing was exported of a damaged log: {'; '.join(damage)}; {way_on}", file=sys.stderr)
        return 1
    _tell_of(end)
    print(f"{args.output}: {made.lines} lines of the wire, {made.groups} groups, {made.size_bytes:,} bytes")
    return 0


# ------------------------------------------------------------------------------------------------ the story


def _readers(path: Path, start: int = 0) -> tuple[LineReader, LineReader]:
    from mlzoo.events.story import LineReader
    from mlzoo.world import RealDisk

    disk = RealDisk()
    return LineReader(disk, path / "segments", start), LineReader(disk, path / "asides", start)


def _cat(path: Path, *, as_json: bool) -> int:
    from mlzoo.events.story import gap, story, verify_end
    from mlzoo.world import real_world

    readers, end = _readers(path), verify_end(real_world(), path)
    last_seq, stopped, left_out = 0, [], 0
    for record in story(*readers):
        seq = record[1].get("log_seq")
        if seq is None and end.faults and record[1]["after_seq"] > end.last_seq:
            left_out += 1
            continue
        if seq is not None and last_seq and seq != last_seq + 1:
            stopped.append(gap(last_seq, seq))
        last_seq = seq or last_seq
        _show(record, as_json=as_json)
    stopped += [place for reader in readers for place in reader.stopped]
    if left_out:
        stopped.append(f"{left_out} asides are left out, which tell of what followed the damage")
    for place in stopped:
        print(f"mlzoo log: {place}", file=sys.stderr)
    return 1 if _tell_of(end) or stopped else 0


def _tail(path: Path, count: int, *, follow: bool, as_json: bool) -> int:
    from collections import deque

    from mlzoo.events.story import gap, story

    readers, last_seq, status = _readers(path, start=2), 0, 0
    for record in deque(story(*readers), maxlen=max(0, count)):
        seq = record[1].get("log_seq")
        if seq is not None and last_seq and seq != last_seq + 1:
            print(f"mlzoo log: {gap(last_seq, seq)}", file=sys.stderr)
            status = 1
        last_seq = seq or last_seq
        _show(record, as_json=as_json)
    while follow:
        sys.stdout.flush()
        time.sleep(_FOLLOW_S)
        for record in story(*readers):
            _show(record, as_json=as_json)
    return status


def _show(record: Record, *, as_json: bool) -> None:
    line, data = record
    if as_json:
        sys.stdout.write(line.decode() + "\n")
    else:
        print(in_words(data, _columns()))


def _columns() -> int:
    """Return how wide a line for people may be: as the terminal is, or COLUMNS says."""
    import shutil

    return max(_LEAST_COLUMNS, shutil.get_terminal_size((_PIPE_COLUMNS, 24)).columns)


def in_words(data: dict[str, Any], columns: int) -> str:
    """Return a record as lines for people, no wider than that: time, place, what, whose, and what else it says."""
    return "\n".join(_cut(line, columns) for line in _in_words(data).split("\n"))


def _cut(line: str, columns: int) -> str:
    """Cut a line to so many columns; a wide character takes two of them, a combining one none."""
    from unicodedata import combining, east_asian_width

    widths = [0 if combining(letter) else 1 + (east_asian_width(letter) in "WF") for letter in line]
    if sum(widths) <= columns:
        return line
    taken = 0
    for index, width in enumerate(widths):
        taken += width
        if taken > columns - 1:
            return f"{line[:index]}…"
    return line


def _in_words(data: dict[str, Any]) -> str:
    at = time.strftime("%H:%M:%S", time.localtime(data["time_ms"] / 1000)) + f".{data['time_ms'] % 1000:03}"
    if "aside_seq" in data:
        asked = data.get("rpc") if data.get("rpc") is not None else (data.get("params") or {}).get("request")
        what = " ".join(filter(None, [data["connection"], data["method"], "" if asked is None else f"#{asked}"]))
        said = {name: data[name] for name in ("params", "result", "failure") if data.get(name)}
        return f"{at} {'·':>8} {what} {_fields(said)}".rstrip()
    is_command = data["kind"] == "command"
    fields = dict(data["data"])
    request = fields.pop("request", "")
    line = f"{at} {data['log_seq']:>8} {'>' if is_command else ' '} {data['type']} {request} {_fields(fields)}".rstrip()
    if data.get("text") is not None:
        line += f"\n{'':>24}{_short(data['text'])}"
    return line


def _fields(fields: dict[str, Any]) -> str:
    return " ".join(f"{name}={_short(value)}" for name, value in fields.items())


def _short(value: Any) -> str:
    import orjson

    text = value if isinstance(value, str) and value.isprintable() else orjson.dumps(value).decode()
    return text if len(text) <= _TEXT_CHARACTERS else f"{text[:_TEXT_CHARACTERS]}… ({len(text)} characters)"
