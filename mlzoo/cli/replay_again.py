"""``mlzoo replay rerun`` and ``mlzoo replay shrink``: the commands that run what was recorded, once or many times."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace, _SubParsersAction
    from collections.abc import Iterator

    from mlzoo.events.recording import Recording
    from mlzoo.replay.failing import Trial
    from mlzoo.replay.rerun import Rerun

_INTERRUPTED = 130


def add_parsers(commands: _SubParsersAction[ArgumentParser]) -> None:
    """Add both."""
    rerun = commands.add_parser(
        "rerun",
        help="send the recorded lines to a sidecar again, and compare what it says",
        epilog="example: mlzoo replay rerun greeting.ndjson --model real",
    )
    rerun.add_argument("recording", metavar="RECORDING", type=Path, help="made by mlzoo log export")
    rerun.add_argument(
        "--model",
        choices=("recorded", "real"),
        default="recorded",
        help="whose output: the recording's (the default), compared to the byte, or that of real weights, by tokens",
    )
    rerun.add_argument(
        "--allow-other",
        action="store_true",
        help="with real weights: another digest, dtype, device or version than recorded is told, and no error",
    )
    rerun.add_argument(
        "--timeout", type=_positive, default=600.0, metavar="S", help="with real weights: for one answer; 600 without"
    )
    shrink = commands.add_parser(
        "shrink",
        help="find the smallest recording that still fails",
        epilog="example: mlzoo replay shrink failing.ndjson --check 'pytest tests/test_app.py --mlzoo-recording {}'",
    )
    shrink.add_argument("recording", metavar="RECORDING", type=Path, help="one that fails")
    shrink.add_argument(
        "--check",
        metavar="COMMAND",
        required=True,
        help="check, rerun, or a command that exits as it does for RECORDING where one still fails, and otherwise for "
        "one that holds nothing; {} is its path, else the path comes last",
    )
    shrink.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="RECORDING with .small before its end without"
    )
    shrink.add_argument("--seconds", type=_positive, default=600.0, metavar="S", help="that it may take; 600 without")
    shrink.add_argument("--runs", type=_count, default=1000, metavar="N", help="that may be tried; 1000 without")


def _positive(word: str) -> float:
    from argparse import ArgumentTypeError

    try:
        value = float(word)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise ArgumentTypeError(f"{word!r} is no number above 0")
    return value


def _count(word: str) -> int:
    from argparse import ArgumentTypeError

    if not word.isdecimal() or int(word) == 0:
        raise ArgumentTypeError(f"{word!r} is no whole number above 0")
    return int(word)


def run(args: Namespace) -> int:
    """Run one of the two; return the exit status.

    Raises:
        RecordingUnusable: The file is no recording, or none that can be believed.
        WeightsDiffer: Real weights are not what was recorded.
        ConfigError: There is nothing to run, or nothing fails.
    """
    from mlzoo.events import recording

    try:
        found = recording.read(args.recording)
    except OSError as error:
        print(f"mlzoo replay: {args.recording} cannot be read: {error}", file=sys.stderr)
        return 2
    if args.replay_command == "shrink":
        return _shrink(found, args)
    outcome = _rerun(found, args)
    for line in outcome.told():
        print(line)
    return 0 if outcome.holds else 1


def _rerun(found: Recording, args: Namespace) -> Rerun:
    from mlzoo.config import load
    from mlzoo.replay import rerun

    if args.model == "real":
        return rerun.rerun_with_weights(found, load(()), allow_other=args.allow_other, timeout_s=args.timeout)
    return rerun.rerun(found, load(()))


def _shrink(found: Recording, args: Namespace) -> int:
    from mlzoo.config import load
    from mlzoo.errors import ConfigError
    from mlzoo.events import recording
    from mlzoo.replay.failing import Enough, Trial
    from mlzoo.replay.shrink import size_of

    output = args.output or args.recording.with_suffix(f".small{args.recording.suffix}")
    config = load(()) if args.check == "rerun" else None
    smallest = found
    with tempfile.TemporaryDirectory(prefix="mlzoo-shrink-") as directory:
        trial = Trial(args.check, config, Path(directory) / "candidate.ndjson", runs=args.runs, seconds=args.seconds)
        ended, status = "nothing more can be left out", 0
        try:
            failure = trial.status(found)
            if not failure:
                raise ConfigError(f"{args.recording} does not fail: {args.check!r} exits with 0, so nothing to shrink")
            print(f"fails with status {failure}: {size_of(found)}", file=sys.stderr)
            trial.doubt(found, failure)
            for smaller in _smaller(found, trial, failure):
                smallest = smaller
                recording.write(output, smaller.header, smaller.lines)
                print(f"run {trial.count}: fails as well: {size_of(smaller)}", file=sys.stderr)
        except Enough:
            ended = "its time or its runs are used up"
        except KeyboardInterrupt:
            ended, status = "interrupted", _INTERRUPTED
        if smallest is found and trial.count:
            recording.write(output, found.header, found.lines)
    print(f"{output}: {size_of(smallest)}, of {size_of(found)}, after {trial.count} runs; {ended}")
    return status


def _smaller(found: Recording, trial: Trial, failure: int) -> Iterator[Recording]:
    from mlzoo.replay.shrink import shrunk

    return shrunk(found, lambda candidate: trial.status(candidate) == failure)
