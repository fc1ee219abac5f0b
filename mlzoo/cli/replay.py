"""``mlzoo replay``: check what a log or a recording says, play a recording to a host.

``play`` must answer in a blink, as the sidecar does: plain arguments are read by hand, and nothing is imported that it
does without.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace, _SubParsersAction
    from collections.abc import Sequence

    from mlzoo.replay.matching import Report

_OPTIONS = ("--speed", "--connection", "--report", "--in-turn")


class Wishes(NamedTuple):
    """What the command line of ``play`` asks for."""

    recording: str
    speed: float = math.inf
    connection: str | None = None
    report: str | None = None
    in_turn: str | None = None


def parse(words: Sequence[str]) -> Wishes | None:
    """Return what plain arguments say, ``RECORDING [--option value]...``; None where argparse has to read them."""
    values: dict[str, str] = {}
    rest, files = list(words), []
    while rest:
        word = rest.pop(0)
        if word in _OPTIONS and rest:
            values[word] = rest.pop(0)
        else:
            files.append(word)
    speed = _speed_or_none(values.get("--speed", "max"))
    if speed is None or len(files) != 1 or files[0].startswith("-"):
        return None
    if "--in-turn" in values and ("--connection" in values or "--report" in values):
        return None
    wishes = [values.get(option) for option in ("--connection", "--report", "--in-turn")]
    return Wishes(files[0], speed, *wishes)


def add_parser(subparsers: _SubParsersAction[ArgumentParser]) -> None:
    """Add ``replay`` and its own commands."""
    parser = subparsers.add_parser(
        "replay",
        help="check, play, rerun or shrink what was recorded",
        epilog="example: mlzoo replay check greeting.ndjson",
    )
    commands = parser.add_subparsers(dest="replay_command", required=True, metavar="COMMAND")
    check = commands.add_parser(
        "check",
        help="fold a log or a recording again and compare each decision",
        epilog="example: mlzoo replay check greeting.ndjson",
    )
    check.add_argument("path", metavar="PATH", type=Path, help="a log's directory, or a recording")
    play = commands.add_parser(
        "play",
        help="play the sidecar's part on stdio, from a recording",
        epilog="example: mlzoo replay play greeting.ndjson --connection con-1",
    )
    play.add_argument("recording", metavar="RECORDING", help="made by mlzoo log export")
    play.add_argument(
        "--speed", type=_speed, default=math.inf, metavar="X", help="times the recorded speed, or max (the default)"
    )
    which = play.add_mutually_exclusive_group()
    which.add_argument("--connection", metavar="NAME", help="which connection, where the recording holds several")
    which.add_argument(
        "--in-turn",
        metavar="DIR",
        help="each start with this DIR, empty at first, plays the next connection, and writes its report there",
    )
    play.add_argument("--report", metavar="FILE", help="where the report is written as well, once the host has left")
    from mlzoo.cli import replay_again

    replay_again.add_parsers(commands)


def run(args: Namespace) -> int:
    """Run one of the commands; return the exit status."""
    if args.replay_command == "play":
        if args.in_turn is not None and args.report is not None:
            args.parser.error("argument --report: not allowed with argument --in-turn, which writes reports itself")
        return play(Wishes(args.recording, args.speed, args.connection, args.report, args.in_turn))
    if args.replay_command == "check":
        return _check(args.path)
    from mlzoo.cli import replay_again

    return replay_again.run(args)


def play(wishes: Wishes) -> int:
    """Play a recording on stdio; return the exit status.

    Raises:
        RecordingUnusable: The file is no recording, or none that can be believed.
        ConfigError: It has no such connection, or none whose turn it is.
    """
    from mlzoo.transport.stdio import claim

    claimed = claim()  # Before any other import, as the sidecar does.

    import gc

    gc.disable()
    from mlzoo.events import recording
    from mlzoo.replay import play as player

    gc.freeze()
    gc.enable()
    try:
        found = recording.read(Path(wishes.recording))
    except OSError as error:
        print(f"mlzoo replay: {wishes.recording} cannot be read: {error}", file=sys.stderr)
        return 2
    output = None if wishes.report is None else Path(wishes.report)
    if wishes.in_turn is None:
        connection = player.connection_of(found, wishes.connection)
    else:
        try:
            connection, output = player.next_connection(found, Path(wishes.in_turn))
        except OSError as error:
            print(f"mlzoo replay: {wishes.in_turn} cannot be used: {error}", file=sys.stderr)
            return 2

    def write(report: Report) -> None:
        if output is not None:
            output.write_text("\n".join([*player.told(report), ""]), encoding="utf-8")

    report = player.play(claimed, found, connection, wishes.speed, write)
    for line in player.told(report):
        print(f"mlzoo replay: {line}", file=sys.stderr)
    write(report)
    return 0 if report.holds else 1


def _speed(word: str) -> float:
    speed = _speed_or_none(word)
    if speed is None:
        from argparse import ArgumentTypeError

        raise ArgumentTypeError(f"{word!r} is no speed: give a number above 0, or max")
    return speed


def _speed_or_none(word: str) -> float | None:
    if word == "max":
        return math.inf
    try:
        speed = float(word)
    except ValueError:
        return None
    return speed if speed > 0 else None


def _check(path: Path) -> int:
    from mlzoo.replay.check import check
    from mlzoo.world import real_world

    try:
        found = check(real_world(), path, processes=os.cpu_count() or 1)
    except OSError as error:
        print(f"mlzoo replay: {path} cannot be read: {error}", file=sys.stderr)
        return 2
    for line in found.told():
        print(line)
    return 0 if found.difference is None else 1
