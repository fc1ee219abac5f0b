"""What of a command's text is recorded: all of it, or tombstones where a request wants nothing kept.

Nor is kept what comes for a request that has ended: nobody hears it, and it may be known no more what it wanted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlzoo.core.state import under_key
from mlzoo.events import commands as cmd
from mlzoo.events.records import Gone, tombstone

if TYPE_CHECKING:
    from mlzoo.actors.ledger import Ledger
    from mlzoo.core.state import State
    from mlzoo.events.commands import Command


def kept_text(state: State, command: Command, text: Any) -> Any:
    """Return what is recorded of a text: itself, or something new with tombstones in it."""
    if text is None:
        return None
    match command:
        case cmd.ReportStep():  # by far the most frequent
            reasons = [why_not(state, row.request) for row in command.rows]
            if any(reasons):
                return [row if why is None else tombstone(why) for row, why in zip(text, reasons, strict=True)]
        case cmd.Submit() if command.ephemeral:
            return tombstone("ephemeral")
        case cmd.ReportAnswer() | cmd.ReportFailure():
            why = why_not(state, command.request)
            return text if why is None else tombstone(why)
        case cmd.Resume() | cmd.Cancel() if command.key:
            bound = under_key(state, command.key)
            return tombstone("ephemeral") if bound is not None and bound.ephemeral else text
        case _:
            pass  # There is none.
    return text


def is_kept(ledger: Ledger, request: str) -> bool:
    """Return whether what comes for a request may reach the disk."""
    return why_not(ledger.state, request) is None


def why_not(state: State, request: str) -> Gone | None:
    """Return why nothing that comes for a request is kept; None: it is."""
    found = state.requests.get(request)
    if found is None:
        return "late"
    return "ephemeral" if found.ephemeral else None
