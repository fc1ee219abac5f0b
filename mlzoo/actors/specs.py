"""What a supervisor is told and what it tells: specifications, states and events, all of them values.

The terms are those of Erlang/OTP's ``supervisor`` (stdlib reference manual, "Supervision Principles"). Knows nothing of
how it is done (``supervisor.py``).
"""

from __future__ import annotations

from typing import Any, Generic, Literal, TypeAlias, TypeVar

import attrs

from mlzoo.actors.mailbox import Mailbox
from mlzoo.actors.runtime import Actor

M = TypeVar("M")

Restart: TypeAlias = Literal["permanent", "transient", "temporary"]
Strategy: TypeAlias = Literal["one_for_one", "one_for_all", "rest_for_one"]
State: TypeAlias = Literal["waiting", "starting", "running", "backoff", "stopping", "stopped", "failed"]


@attrs.frozen
class Intensity:
    """How many restarts, of all children together, are too many: more than ``restarts`` within ``within_s`` seconds."""

    restarts: int = attrs.field(default=5, validator=attrs.validators.ge(0))
    within_s: float = attrs.field(default=60.0, validator=attrs.validators.gt(0))


@attrs.frozen
class Backoff:
    """How long a supervisor waits before the n-th restart of a child within its intensity's time.

    ``min(most_s, first_s * factor ** (n - 1))``, of which a random half may be taken off ("equal jitter": Brooker,
    "Exponential Backoff And Jitter", AWS Architecture Blog, 2015), so that many do not come back at one moment.
    """

    first_s: float = attrs.field(default=0.1, validator=attrs.validators.ge(0))
    most_s: float = attrs.field(default=10.0, validator=attrs.validators.ge(0))
    factor: float = attrs.field(default=2.0, validator=attrs.validators.ge(1))


@attrs.frozen
class ChildSpec(Generic[M]):
    """One actor under a supervisor; it has the name of its mailbox.

    Attributes:
        mailbox: where its messages come from; it outlives the instances.
        actor: makes a new instance each time it is called.
        restart: ``permanent`` is always restarted, ``transient`` only after a crash, ``temporary`` never.
        shutdown_s: how long it may take to end once it is told to, in seconds, before it is cancelled; 0: at once.
    """

    mailbox: Mailbox[M]
    actor: Actor[M]
    restart: Restart = attrs.field(default="permanent", kw_only=True)
    shutdown_s: float = attrs.field(default=5.0, kw_only=True, validator=attrs.validators.ge(0))

    @property
    def name(self) -> str:
        """The mailbox's name."""
        return self.mailbox.name


def _names_are_unique(spec: SupervisorSpec, _attribute: object, children: tuple[AnyChild, ...]) -> None:
    names = [child.name for child in children]
    if len(set(names)) != len(names):
        raise ValueError(f"two children of {spec.name} have the same name: {sorted(names)}")


@attrs.frozen
class SupervisorSpec:
    """A supervisor, itself a child like any other where it stands among the children of another one.

    Attributes:
        name: its own.
        children: in the order in which they start; each starts when the one before it is ready.
        strategy: whom a crash restarts: the child, all children, or the child and those that start after it.
        intensity: when restarting is given up.
        backoff: how long to wait before a restart.
        restart: as a child; see ChildSpec.
        shutdown_s: as a child, for all of its children together; see ChildSpec.
    """

    name: str
    children: tuple[AnyChild, ...] = attrs.field(validator=_names_are_unique)
    strategy: Strategy = attrs.field(default="one_for_one", kw_only=True)
    intensity: Intensity = attrs.field(default=Intensity(), kw_only=True)
    backoff: Backoff = attrs.field(default=Backoff(), kw_only=True)
    restart: Restart = attrs.field(default="permanent", kw_only=True)
    shutdown_s: float = attrs.field(default=30.0, kw_only=True, validator=attrs.validators.ge(0))


AnyChild: TypeAlias = ChildSpec[Any] | SupervisorSpec


@attrs.frozen
class ChildStatus:
    """How a child is, for people.

    Attributes:
        name: with the names of the supervisors above it, the outermost left out: ``workers/cuda:0``.
        state: ``failed`` is an end for good after a crash, ``stopped`` any other.
        restarts: how often it was started again.
        depth: messages in its mailbox; 0 for a supervisor.
        failure: the type of its last crash.
    """

    name: str
    state: State
    restarts: int
    depth: int
    failure: str | None


@attrs.frozen
class ChildStarted:
    """A child is ready; for the first time where ``restarts`` is 0."""

    name: str
    restarts: int


@attrs.frozen
class ChildCrashed:
    """An instance crashed; ``error`` has the traceback."""

    name: str
    error: Exception


@attrs.frozen
class ChildRestarting:
    """A child will be started again after ``delay_s`` seconds."""

    name: str
    delay_s: float


@attrs.frozen
class ChildStopped:
    """An instance ended that did not crash; ``cancelled`` where it did not end within its ``shutdown_s``."""

    name: str
    cancelled: bool


SupervisorEvent: TypeAlias = ChildStarted | ChildCrashed | ChildRestarting | ChildStopped
