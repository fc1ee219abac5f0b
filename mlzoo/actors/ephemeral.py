"""What of a command's text is recorded: all of it, or tombstones where a request wants nothing kept.

Nor is kept what comes for a request that has ended: nobody hears it, and it may be known no more what it wanted. Nor
what comes with a key whose request was forgotten: it repeats what was, or names the key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlzoo.core.state import under_key
from mlzoo.errors import LogUnusable, OutOfRange
from mlzoo.events import commands as cmd
from mlzoo.events.records import GONE, Gone, is_gone, tombstone

if TYPE_CHECKING:
    from mlzoo.actors.ledger import Ledger
    from mlzoo.core.state import State
    from mlzoo.events.commands import Command


def kept_text(ledger: Ledger, command: Command, text: Any) -> Any:
    """Return what is recorded of a text: itself, or something new with tombstones in it."""
    if text is None:
        return None
    state = ledger.state
    match command:
        case cmd.ReportStep():  # by far the most frequent
            reasons = [why_not(state, row.request) or _why_no_summary(ledger, row) for row in command.rows]
            if any(reasons):
                return [row if why is None else tombstone(why) for row, why in zip(text, reasons, strict=True)]
        case cmd.Submit() if command.ephemeral:
            return tombstone("ephemeral")
        case cmd.ReportAnswer() | cmd.ReportFailure():
            why = why_not(state, command.request)
            return text if why is None else tombstone(why)
        case cmd.Submit() | cmd.Resume() | cmd.Cancel() if command.key:
            bound = under_key(state, command.key)
            if bound is not None:
                return tombstone("ephemeral") if bound.ephemeral else text
            return text if (why := _why_key_is_gone(ledger, command)) is None else tombstone(why)
        case _:
            pass  # There is none.
    return text


def _why_no_summary(ledger: Ledger, row: cmd.RowFacts) -> Gone | None:
    """Return why a summary is not kept: what it was made of was forgotten meanwhile."""
    if row.summary is None or "forgetter" not in vars(ledger.log):
        return None
    request = ledger.state.requests[row.request]
    before = None if request.history is None else request.history.summary
    read = row.summary.of if before is None else (*row.summary.of, before.request)
    return "forgotten" if ledger.log.forgetter.went_after(request.accepted_seq, read) else None


def _why_key_is_gone(ledger: Ledger, command: cmd.Submit | cmd.Resume | cmd.Cancel) -> Gone | None:
    """Return why nothing is kept of what comes with a key whose request does not live; None: it is, or it is new."""
    known = None if isinstance(command, cmd.Cancel) else command.known
    facts = ledger.state.keys.get(command.key, known)
    if facts is None:
        return None
    if "forgetter" in vars(ledger.log) and command.key in ledger.log.forgetter.going:
        return "forgotten"
    try:
        asked = next(iter(ledger.log.groups_of(facts.request, facts.accepted_seq - 2)), None)
    except (OutOfRange, LogUnusable):
        return None if _is_copied(ledger, facts) else "late"
    is_its = asked is not None and getattr(asked.command, "request", None) == facts.request
    is_forgotten = asked is not None and is_gone(asked.text) and asked.text.get(GONE, "forgotten") == "forgotten"
    return "forgotten" if is_its and is_forgotten else None


def _is_copied(ledger: Ledger, facts: cmd.KeyFacts) -> bool:
    """Whether there is a copy of what a key stands for: else it has expired or was forgotten."""
    try:
        return ledger.log.answers.find(facts.request, facts.accepted_seq) is not None
    except LogUnusable:
        return False


def is_kept(ledger: Ledger, request: str) -> bool:
    """Return whether what comes for a request may reach the disk."""
    return why_not(ledger.state, request) is None


def why_not(state: State, request: str) -> Gone | None:
    """Return why nothing that comes for a request is kept; None: it is."""
    found = state.requests.get(request)
    if found is None:
        return "late"
    return "ephemeral" if found.ephemeral else None
