"""Typed, supervised actors on trio; usable without the rest of mlzoo. The manual is docs/actors.md."""

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
