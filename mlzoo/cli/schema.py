"""``mlzoo schema``: the OpenRPC document of the protocol, as ``rpc.discover`` gives it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``schema`` to the commands of ``mlzoo``."""
    subparsers.add_parser(
        "schema", help="the OpenRPC document of the protocol", epilog="example: mlzoo schema > mlzoo.json"
    )


def run(_: argparse.Namespace) -> int:
    """Print the document; return the exit status."""
    import json

    from mlzoo.api.openrpc import document
    from mlzoo.views import event_types

    json.dump(document(events=event_types()), sys.stdout, indent=2)  # In ASCII, which every console can show.
    sys.stdout.write("\n")
    return 0
