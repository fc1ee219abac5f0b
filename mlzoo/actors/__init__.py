"""Typed, supervised actors on trio; usable without the rest of mlzoo. The manual is docs/actors.md.

The names of supervision are imported when one is first asked for: a sidecar answers its first line without them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlzoo.actors.failures import (
    ActorCrashed,
    ActorError,
    ActorGone,
    DeadlinePassed,
    MailboxFull,
    RestartIntensityExceeded,
)
from mlzoo.actors.mailbox import Backpressure, DeadLetter, DeadLetters, Down, Mailbox, Ref, Refuse
from mlzoo.actors.reply import Reply
from mlzoo.actors.runtime import Actor, Inbox, run

if TYPE_CHECKING:
    from mlzoo.actors.specs import (
        Backoff,
        ChildCrashed,
        ChildRestarting,
        ChildSpec,
        ChildStarted,
        ChildStatus,
        ChildStopped,
        Intensity,
        SupervisorEvent,
        SupervisorSpec,
    )
    from mlzoo.actors.supervisor import Supervisor

__all__ = [
    "Actor",
    "ActorCrashed",
    "ActorError",
    "ActorGone",
    "Backoff",
    "Backpressure",
    "ChildCrashed",
    "ChildRestarting",
    "ChildSpec",
    "ChildStarted",
    "ChildStatus",
    "ChildStopped",
    "DeadLetter",
    "DeadLetters",
    "DeadlinePassed",
    "Down",
    "Inbox",
    "Intensity",
    "Mailbox",
    "MailboxFull",
    "Ref",
    "Refuse",
    "Reply",
    "RestartIntensityExceeded",
    "Supervisor",
    "SupervisorEvent",
    "SupervisorSpec",
    "run",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    from mlzoo.actors import specs, supervisor  # noqa: PLC0415 (that is the point)

    found = globals()[name] = getattr(supervisor if name == "Supervisor" else specs, name)
    return found
