"""What can go wrong between actors. Each docstring says whose fault it is.

Knows nothing of mailboxes or supervisors; these are only the names of what they report.
"""

from __future__ import annotations


class ActorError(Exception):
    """Anything that the runtime itself reports. An error that an actor answers with is raised as it is."""


class MailboxFull(ActorError):
    """The load's fault: the mailbox holds as much as it may, and this message was not put in."""


class ActorGone(ActorError):
    """Nobody's fault, usually: the actor has ended for good, and this ask will never be answered."""


class ActorCrashed(ActorError):
    """The actor's fault: the instance that had taken this ask ended before it answered.

    ``__cause__`` is the exception that it crashed with; None where it returned or was stopped for a restart.
    The ask is not repeated: it may be what crashed the actor.
    """


class DeadlinePassed(ActorError):
    """The deadline's fault: no answer came before it. The actor may still have done what it was asked."""


class RestartIntensityExceeded(ActorError):
    """A child's fault: it was restarted more often than its supervisor allows, so restarting does not help.

    ``__cause__`` is the exception of the last crash; None where a permanent child kept returning.
    """
