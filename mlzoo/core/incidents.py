"""Faults of ours that the shell reports: each is noted as an incident, and its number goes to whoever hears of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from mlzoo.errors import InternalError
from mlzoo.events import types as ev

if TYPE_CHECKING:
    from mlzoo.core.draft import Draft
    from mlzoo.errors import Failure
    from mlzoo.events.commands import Command


def numbered(draft: Draft, command: Command, failure: Failure) -> Failure:
    """Return a failure as it was reported; one that is a fault of ours is noted, and carries the number of that."""
    if failure.code != InternalError.code or "incident" in failure.data:
        return failure
    draft.say(ev.IncidentNoted(command=type(command).__name__, error=failure.message))
    return attrs.evolve(failure, data={**failure.data, "incident": draft.first_seq})
