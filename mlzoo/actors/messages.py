"""What the sidecar's actors say to each other: one closed union for each actor.

Messages are values; who sends them and what follows is told where the actor is (engine, registry, worker).
"""

from __future__ import annotations

from typing import Any

import attrs
import trio

from mlzoo.events.commands import Command, Submit
from mlzoo.events.facts import History
from mlzoo.frames import Resumption, ToWorker

# ------------------------------------------------------------------------------------------ to the engine


@attrs.frozen
class Order:
    """A command to be decided, with the text that belongs to it.

    ``story`` is the traceback of a fault of ours, for the process's own log; it is neither recorded nor told to hosts.
    ``decided`` is set once it has been, for who cannot go on before.
    """

    command: Command
    text: Any = None
    story: str = ""
    decided: trio.Event | None = None


EngineMessage = Order

# ------------------------------------------------------------------------------------------ to the registry


@attrs.frozen
class Probe:
    """Look at the devices as they are now, for a model that needs a place."""

    model: str


@attrs.frozen
class LoadOn:
    """Have the worker of a device load a model from the store."""

    model: str
    device: str
    epoch: int  # of the worker, as of the decision; see Send


@attrs.frozen
class Pull:
    """Bring a model's weights into the store."""

    model: str
    accept_license: bool
    pull: str  # which one it is; its end says so


@attrs.frozen
class AbandonPull:
    """Nobody waits for this pull any more."""

    pull: str


@attrs.frozen
class Remove:
    """Remove a model's weights from the store."""

    model: str


RegistryMessage = Probe | LoadOn | Pull | AbandonPull | Remove

# ------------------------------------------------------------------------------------------ to a worker


@attrs.frozen
class Send:
    """A frame for the worker process of that epoch; a later process never gets what was meant for a dead one."""

    epoch: int
    frame: ToWorker


@attrs.frozen
class GoOn:
    """Work for the worker process of that epoch that is read from the log; resume is None where it begins.

    A turn of a conversation has a history, which is always read. What was asked of one that begins may be at hand.
    """

    epoch: int
    request: str
    accepted_seq: int
    resume: Resumption | None
    history: History | None = None
    begun: tuple[Submit, Any] | None = None
    model: str = ""  # where it was rerouted to another one
    fingerprint: str = ""  # of the way in which it has begun


WorkerMessage = Send | GoOn

__all__ = [
    "AbandonPull",
    "EngineMessage",
    "GoOn",
    "LoadOn",
    "Order",
    "Probe",
    "Pull",
    "RegistryMessage",
    "Remove",
    "Send",
    "WorkerMessage",
]
