"""``mlzoo``: one program, one small file for each of its commands.

A command's module is imported when it is chosen, and argparse when there is something to explain: ``mlzoo serve`` must
answer in a blink. Each module has ``add_parser(subparsers)`` and ``run(args)``, which returns the exit status: 0 done;
1 what was checked does not hold; 2 wrong usage or configuration; 3 storage failed, or stdout did; 4 another process
holds the log.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Sequence

    from mlzoo.errors import MlzooError

COMMANDS = {
    "serve": "the sidecar: speaks the protocol on stdin and stdout",
    "chat": "talk to a model, on a terminal or for one answer",
    "models": "the model store: list, pull, info, remove",
    "devices": "what hardware was found, and what fits on it",
    "log": "the event log: stat, verify, tail, cat, export, repair",
    "replay": "check, play, rerun or shrink what was recorded",
    "fit": "train a model on a data file; it is then served by its name",
    "schema": "the OpenRPC document of the protocol",
    "doctor": "check the installation, devices, store and log, and say what to do",
}
_INTERRUPTED = 130  # As shells have it: 128 and the number of SIGINT.


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments (without the program's name) choose; return the exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["serve"]:
        from mlzoo.cli import serve

        wishes = serve.parse(words[1:])
        if wishes is not None:
            return _on_stdio(lambda: serve.serve(wishes))
    if words[:2] == ["replay", "play"]:
        from mlzoo.cli import replay

        played = replay.parse(words[2:])
        if played is not None:
            return _on_stdio(lambda: replay.play(played))
    from mlzoo.cli.stdout import UNWRITTEN, Stdout, open_the_closed

    if not open_the_closed():
        print("mlzoo: stdout is closed, there is nowhere to write to", file=sys.stderr)
        return UNWRITTEN
    stdout = Stdout()
    try:
        status = _run(words)
    except KeyboardInterrupt:
        status = _INTERRUPTED
    except (SystemExit, Exception) as error:  # The first is argparse's, which has explained itself.
        unwritten = stdout.settle()  # Then that was the reason, whatever it was taken for.
        if unwritten is not None:
            return unwritten
        if not isinstance(error, Exception):
            raise
        return _explain(error)
    return stdout.settle() or status


def _on_stdio(speak: Callable[[], int]) -> int:
    """Run what speaks the protocol: it takes stdout for itself, so that what is said of stdout does not concern it."""
    try:
        return speak()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except Exception as error:  # noqa: BLE001 (raised again where it cannot be explained)
        return _explain(error)


def _explain(error: Exception) -> int:
    """Say in a line what was wrong; return the exit status. What cannot be explained is raised again."""
    from mlzoo.errors import MlzooError

    if not isinstance(error, MlzooError):
        raise error
    print(f"mlzoo: {error.message}", file=sys.stderr)
    return exit_status(error)


def exit_status(error: MlzooError) -> int:
    """Return the exit status that tells a script what kind of error it was."""
    from mlzoo import errors

    match error:
        case errors.ConfigError() | errors.ModelNotFound() | errors.InvalidParams() | errors.Unsupported():
            return 2
        case errors.LogUnusable() if error.data.get("reason") == "locked":
            return 4
        case errors.LogUnusable() | errors.StorageFailed():
            return 3
        case errors.PullFailed() if error.data.get("reason") == "disk":
            return 3
        case _:
            return 1


def _run(arguments: Sequence[str]) -> int:
    args = _parse(arguments)
    from importlib import import_module

    status: int = import_module(f"mlzoo.cli.{args.command}").run(args)
    return status


def _parse(arguments: Sequence[str]) -> Namespace:
    """Parse with argparse, which leaves with status 2 on wrong usage and with 0 after --help.

    Only the chosen command's module is imported, for its arguments; of the others the table above knows enough.
    """
    from importlib import import_module

    from mlzoo import __version__
    from mlzoo.cli.parser import Parser

    chosen = next((word for word in arguments if not word.startswith("-")), None)
    parser = Parser(prog="mlzoo", description="A machine-learning sidecar.", epilog="example: mlzoo chat 'Hello!'")
    parser.add_argument("--version", action="version", version=f"mlzoo {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")
    for name, explanation in COMMANDS.items():
        if name == chosen:
            import_module(f"mlzoo.cli.{name}").add_parser(subparsers)
        else:
            subparsers.add_parser(name, help=explanation)
    args, rest = parser.parse_known_args(list(arguments))
    # argparse takes positional arguments up to the first option that follows one, so an override after it is left over.
    if any(word.startswith("-") or "=" not in word for word in rest) or (rest and not hasattr(args, "overrides")):
        args.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.overrides = [*args.overrides, *rest]
    return args
