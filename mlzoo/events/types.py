"""What happened: the outputs of the core. State is a fold of these, and every answer to a host is a view of them.

Events hold structure only; where one brings text to a host, it points into the text of its own group's command.
Several events are instructions as well: the shell carries out what they say once they are written. The docstring
says so with the word "instructs". An event that is TRANSIENT is written at once and synced with the next group that
must be; every other takes in work, ends it or changes state, and nobody hears of it before it is durable. The schema
rules are those of ``mlzoo.events.commands``. One that is TERMINAL is the last of its request.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import attrs

from mlzoo.errors import Failure
from mlzoo.events.commands import Bounds, Caller, DeviceFacts, ModelFacts, Priority
from mlzoo.frames import FinishReason

CallKind = Literal[
    "chat", "complete", "embed", "tokenize", "detokenize", "load", "unload", "pull", "remove", "shutdown"
]


# ------------------------------------------------------------------------------------------------ requests


@attrs.frozen(kw_only=True)
class RequestAccepted:
    """A call that takes time is in; exactly one terminal event of the same request follows."""

    request: str
    caller: Caller | None
    kind: CallKind
    model: ModelFacts | None = None
    stream: bool = False
    normalize: bool = True
    seed: int | None = None
    deadline_at_ms: int | None = None
    priority: Priority = "interactive"
    require_device: str | None = None
    size_bytes: int = 0


@attrs.frozen(kw_only=True)
class RequestRefused:
    """Terminal: turned away at the door; nothing was started."""

    TERMINAL: ClassVar[bool] = True

    request: str
    caller: Caller
    failure: Failure


@attrs.frozen(kw_only=True)
class RequestDispatched:
    """Instructs: hand the request to the worker of this device."""

    TRANSIENT: ClassVar[bool] = True

    request: str
    device: str


@attrs.frozen(kw_only=True)
class RequestStreamed:
    """Text of a request: item ``row`` of the group's text. seq is None where nothing can be shown yet."""

    TRANSIENT: ClassVar[bool] = True

    request: str
    row: int
    tokens: int
    seq: int | None
    prompt_tokens: int | None = None
    cached_tokens: int = 0


@attrs.frozen(kw_only=True)
class WorkAbandoned:
    """Instructs: the worker of this device is to stop working on the request."""

    TRANSIENT: ClassVar[bool] = True

    request: str
    device: str


@attrs.frozen(kw_only=True)
class Timing:
    """Where a request's time went, in milliseconds of the log's clock."""

    queue_ms: int
    ttft_ms: int
    total_ms: int


@attrs.frozen(kw_only=True)
class RequestCompleted:
    """Terminal: an answer is whole. digest is the SHA-256 of its text, which the deltas concatenate to."""

    TERMINAL: ClassVar[bool] = True

    request: str
    device: str
    finish_reason: FinishReason | None
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    timing: Timing
    digest: str = ""
    degraded: str | None = None
    count: int = 0
    dimensions: int = 0
    blob: str | None = None


@attrs.frozen(kw_only=True)
class RequestReplied:
    """Terminal: a call other than inference is answered."""

    TERMINAL: ClassVar[bool] = True

    request: str
    caller: Caller | None
    result: dict[str, Any]


@attrs.frozen(kw_only=True)
class RequestCancelled:
    """Terminal: the host wanted it so."""

    TERMINAL: ClassVar[bool] = True

    request: str


@attrs.frozen(kw_only=True)
class RequestFailed:
    """Terminal: it cannot be finished, and the failure says why."""

    TERMINAL: ClassVar[bool] = True

    request: str
    caller: Caller | None
    failure: Failure


# ------------------------------------------------------------------------------------------------ models and workers


@attrs.frozen(kw_only=True)
class PlacementAsked:
    """Instructs: probe the devices, this model needs a place."""

    model: ModelFacts


@attrs.frozen(kw_only=True)
class ModelLoadStarted:
    """Instructs: have the worker of this device load the model."""

    model: str
    device: str
    memory_bytes: int
    degraded: str | None = None


@attrs.frozen(kw_only=True)
class ModelReady:
    """A model can work."""

    model: str
    device: str
    memory_bytes: int
    context: int
    slots: int
    dtype: str = ""
    architecture: str = ""
    batching: str = ""
    why: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class ModelFailed:
    """A model could not be placed or loaded; the next request for it tries again."""

    model: str
    failure: Failure


@attrs.frozen(kw_only=True)
class ModelPinned:
    """A model is never unloaded by itself, or may be again."""

    model: str
    pinned: bool


@attrs.frozen(kw_only=True)
class ModelUnloadStarted:
    """Instructs: have the worker drop the model."""

    model: str
    device: str
    reason: Literal["asked", "idle", "evicted"]


@attrs.frozen(kw_only=True)
class ModelUnloadAsked:
    """A model is to be unloaded as soon as what runs on it has ended."""

    model: str


@attrs.frozen(kw_only=True)
class ModelUnloaded:
    """A model holds no memory any more: in order, or because its worker died.

    The device is empty where it had not been given any yet, and nobody waits for it any more.
    """

    model: str
    device: str


@attrs.frozen(kw_only=True)
class DevicesSeen:
    """The devices and their memory, as decisions since then saw them."""

    devices: tuple[DeviceFacts, ...]


@attrs.frozen(kw_only=True)
class WorkerWentUp:
    """A device's worker process answers."""

    device: str
    pid: int


@attrs.frozen(kw_only=True)
class WorkerWentDown:
    """A device's worker process is gone."""

    device: str
    reason: str
    expected: bool


@attrs.frozen(kw_only=True)
class WorkerRetired:
    """Instructs: the worker process has nothing loaded; it is to leave and give its memory back."""

    device: str


@attrs.frozen(kw_only=True)
class PullStarted:
    """Instructs: bring the model's weights."""

    model: str
    accept_license: bool
    pull: str = ""  # which one it is: the id of the request that began it


@attrs.frozen(kw_only=True)
class PullAbandoned:
    """Instructs: nobody waits for this pull any more, end it; what has arrived stays for the next one."""

    model: str
    pull: str = ""


@attrs.frozen(kw_only=True)
class PullEnded:
    """A pull is over."""

    model: str
    failure: Failure | None = None
    pull: str = ""


@attrs.frozen(kw_only=True)
class RemoveStarted:
    """Instructs: remove the model's weights from the store."""

    model: str


@attrs.frozen(kw_only=True)
class RemoveEnded:
    """A removal is over."""

    model: str
    failure: Failure | None = None


# ------------------------------------------------------------------------------------------------ the sidecar


@attrs.frozen(kw_only=True)
class SidecarStarted:
    """A sidecar has taken up this log; workers and loaded models of an earlier one are gone."""

    version: str
    bounds: Bounds


@attrs.frozen(kw_only=True)
class DrainStarted:
    """No new work; what runs has until this moment."""

    until_ms: int


@attrs.frozen(kw_only=True)
class SidecarStopped:
    """Instructs: everything has ended, leave."""


@attrs.frozen(kw_only=True)
class StorageChanged:
    """The disk has come under its reserve, or has room again."""

    low: bool


@attrs.frozen(kw_only=True)
class IncidentNoted:
    """A fault of ours, contained: its place in the log is the incident's number."""

    command: str
    error: str


Event = (
    RequestAccepted
    | RequestRefused
    | RequestDispatched
    | RequestStreamed
    | WorkAbandoned
    | RequestCompleted
    | RequestReplied
    | RequestCancelled
    | RequestFailed
    | PlacementAsked
    | ModelLoadStarted
    | ModelReady
    | ModelFailed
    | ModelPinned
    | ModelUnloadStarted
    | ModelUnloadAsked
    | ModelUnloaded
    | DevicesSeen
    | WorkerWentUp
    | WorkerWentDown
    | WorkerRetired
    | PullStarted
    | PullAbandoned
    | PullEnded
    | RemoveStarted
    | RemoveEnded
    | SidecarStarted
    | DrainStarted
    | SidecarStopped
    | StorageChanged
    | IncidentNoted
)
