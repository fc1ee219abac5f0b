"""``mlzoo serve``: its arguments, and the first steps of the sidecar's process. ``mlzoo.app`` does all the rest.

Every import before the first reply is time that a host waits. So this file imports next to nothing, and arguments in
their plain form are read by hand; argparse, which explains and takes all other forms, costs 12 ms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

_UNWRITTEN = 3
_OPTIONS = ("--log", "--parent-pid", "--socket", "--config-dir")


class Wishes(NamedTuple):
    """What the command line asks for; not an attrs class, since attrs is imported after the protocol's fds are safe."""

    overrides: Sequence[str] = ()
    log: str | None = None
    parent_pid: int | None = None
    socket: str | None = None
    config_dir: str | None = None


def parse(words: Sequence[str]) -> Wishes | None:
    """Return what plain arguments say, ``[--option value]... [key=value]...``; None where argparse has to read them."""
    values: dict[str, str] = {}
    rest = list(words)
    while rest and rest[0] in _OPTIONS:
        name, value, *rest = (*rest, "-") if len(rest) == 1 else rest
        values[name] = value
    parent_pid = values.get("--parent-pid", "1")
    if (
        not parent_pid.isdecimal()
        or int(parent_pid) < 1
        or any(not word or word.startswith("-") for word in (*values.values(), *rest))
    ):
        return None
    return Wishes(
        overrides=rest,
        log=values.get("--log"),
        parent_pid=int(parent_pid) if "--parent-pid" in values else None,
        socket=values.get("--socket"),
        config_dir=values.get("--config-dir"),
    )


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``serve`` to the commands of ``mlzoo``."""
    parser = subparsers.add_parser(
        "serve",
        help="the sidecar: speaks the protocol on stdin and stdout",
        description="Serve the protocol on stdin and stdout until stdin ends. Logs go to stderr.",
        epilog="example: mlzoo serve --log ./log limits.max_running=8",
    )
    parser.add_argument("--log", metavar="DIR", help="the event log; without it, one in the user's state directory")
    parser.add_argument("--parent-pid", metavar="N", type=_pid, help="leave when this process is gone")
    parser.add_argument("--socket", metavar="PATH", help="serve a Unix socket as well")
    parser.add_argument("--config-dir", metavar="DIR", help="searched before the built-in configuration")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="OVERRIDE", help="key=value, such as limits.max_running=8"
    )


def _pid(word: str) -> int:
    pid = int(word)
    if pid < 1:
        raise ValueError
    return pid


def run(args: argparse.Namespace) -> int:
    """Serve as parsed arguments say; return the exit status."""
    return serve(Wishes(args.overrides, args.log, args.parent_pid, args.socket, args.config_dir))


def serve(wishes: Wishes) -> int:
    """Serve; return the exit status.

    Raises:
        ConfigError: The configuration does not hold; nothing was started.
    """
    import sys

    if sys.stdout is None and wishes.socket is None:
        print("mlzoo: stdout is closed, and there is no --socket: there is nobody to serve", file=sys.stderr)
        return _UNWRITTEN
    from mlzoo.transport.stdio import claim

    claimed = claim()  # Before any other import: whatever prints from here on reaches stderr, not the host.

    import gc

    # The collector would walk the growing heap again and again while modules load, and find nothing: what a module
    # defines stays. Frozen, none of it is walked later either.
    gc.disable()
    from pathlib import Path

    from mlzoo.app import serve as serve_app

    gc.freeze()
    gc.enable()
    return serve_app(
        claimed,
        overrides=wishes.overrides,
        log=None if wishes.log is None else Path(wishes.log),
        parent_pid=wishes.parent_pid,
        socket=None if wishes.socket is None else Path(wishes.socket),
        config_dir=None if wishes.config_dir is None else Path(wishes.config_dir),
    )
