"""``mlzoo schema``: the OpenRPC document of the protocol, as ``rpc.discover`` gives it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``schema`` to the commands of ``mlzoo``."""
    subparsers.add_parser("schema", help="the OpenRPC document of the protocol")


def run(_: argparse.Namespace) -> int:
    """Print the document; return the exit status."""
    import json

    from mlzoo.api.openrpc import document

    json.dump(document(events=public_events()), sys.stdout, indent=2)  # In ASCII, which every console can show.
    sys.stdout.write("\n")
    return 0


def public_events() -> dict[str, type]:
    """Return what ``events.read`` shows, by its type on the wire: the commands and the events of the log."""
    from mlzoo.events import commands, types
    from mlzoo.events.codec import classes_of

    registry = classes_of(command=commands.Command, event=types.Event)
    return {name: cls for name, (_, cls) in registry.items()}
