"""What happened: the outputs of the core. State is a fold of these, and every answer to a host is a view of them.

Events hold structure only; where one brings text to a host, it points into the text of its own group's command.
Several events are instructions as well: the shell carries out what they say once they are written. The docstring
says so with the word "instructs". An event that is TRANSIENT is written at once and synced with the next group that
must be; every other takes in work, ends it or changes state, and nobody hears of it before it is durable. The schema
rules are those of ``mlzoo.events.commands``. One that is TERMINAL is the last of its request. What happens to models
and workers is in ``mlzoo.events.machine`` and belongs to this module's names all the same.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import attrs

from mlzoo.errors import Failure
from mlzoo.events.commands import Bounds, Caller, Candidate, Determinism, ModelFacts, Priority
from mlzoo.events.conversations import ConversationEvent
from mlzoo.events.facts import History
from mlzoo.events.fitting import FitEnded, FitEpochEnded, FitEvent, FitStarted, FitStop
from mlzoo.events.machine import (
    DevicesSeen,
    ModelEvent,
    ModelExplained,
    ModelFailed,
    ModelLoadStarted,
    ModelPinned,
    ModelReady,
    ModelUnloadAsked,
    ModelUnloaded,
    ModelUnloadStarted,
    PlacementAsked,
    ProviderFaulted,
    ProviderRecovered,
    PullAbandoned,
    PullEnded,
    PullStarted,
    RemoveEnded,
    RemoveStarted,
    WorkerRetired,
    WorkerWentDown,
    WorkerWentUp,
)
from mlzoo.frames import FinishReason, Resumption

CallKind = Literal[
    "chat", "complete", "embed", "tokenize", "detokenize", "load", "unload", "pull", "remove", "shutdown", "predict"
]
Suspension = Literal["worker", "sidecar", "drain"]


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
    key: str = ""
    params_digest: str = ""
    determinism: Determinism = "fast"
    ephemeral: bool = False
    max_tokens: int | None = None  # this and the next are told where replicas are chosen by them
    prefixes: tuple[str, ...] = ()
    conversation: str = ""
    persona: str = ""
    chain: tuple[Candidate, ...] = ()
    adapter: str = ""


@attrs.frozen(kw_only=True)
class RequestAttached:
    """Terminal of this call: what it hears is the story of another request, which its key names.

    The target was accepted at from_seq, and ended at upto_seq, unless it lives. The host has heard its pieces up to
    ``after``; where it does not stream, it hears the end alone.
    """

    TERMINAL: ClassVar[bool] = True
    TRANSIENT: ClassVar[bool] = True

    request: str
    caller: Caller
    target: str
    from_seq: int
    upto_seq: int | None = None
    after: int = -1
    stream: bool = False


@attrs.frozen(kw_only=True)
class RequestRefused:
    """Terminal: turned away at the door; nothing was started."""

    TERMINAL: ClassVar[bool] = True

    request: str
    caller: Caller
    failure: Failure


@attrs.frozen(kw_only=True)
class RequestDispatched:
    """Instructs: hand the request to the worker of this device; resume says how it goes on where it was suspended.

    A turn of a conversation has the history that it had when it was first dispatched, whatever has come since.
    """

    TRANSIENT: ClassVar[bool] = True

    request: str
    device: str
    resume: Resumption | None = None
    history: History | None = None
    model: str = ""  # where it is another one than was asked first


@attrs.frozen(kw_only=True)
class RequestRerouted:
    """The model that was to answer cannot, as failure says: the next of the chain is asked, as nothing was said yet."""

    request: str
    model: ModelFacts
    failure: Failure


@attrs.frozen(kw_only=True)
class RequestSuspended:
    """The worker or the sidecar died under a request that goes on after its last recorded token, once it can.

    It ends nothing but the responses of the connections that wait for it: they hear 1008, and may resume. reason says
    what was lost: the worker, the sidecar in the midst of it, or the sidecar in order, when a drain was too short.
    """

    request: str
    reason: Suspension = "worker"


@attrs.frozen(kw_only=True, slots=False)  # It is made for each token: with slots that takes longer.
class RequestStreamed:
    """Text of a request: item ``row`` of the group's text. seq is None where nothing can be shown yet."""

    TRANSIENT: ClassVar[bool] = True

    request: str
    row: int
    tokens: int
    seq: int | None
    prompt_tokens: int | None = None
    cached_tokens: int = 0
    completion_tokens: int | None = None  # of the whole request so far; None: tokens are added up
    truncated: int = 0  # turns of its history that were left out, said with prompt_tokens


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
    resumed: Resumption | None = None
    truncated: int = 0  # turns of its history that were not read as they were said; texts that were cut, of embeddings
    summarised: int = 0  # of those, the ones that a summary stood for


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


# ------------------------------------------------------------------------------------------------ the sidecar


@attrs.frozen(kw_only=True)
class SidecarStarted:
    """A sidecar has taken up this log; workers and loaded models of an earlier one are gone."""

    version: str
    bounds: Bounds
    time_ms: int = 0


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
class KeysFiled:
    """The state needs the keys of requests that ended up to a log_seq no more: the log's index of keys has them."""

    upto_seq: int


@attrs.frozen(kw_only=True)
class IncidentNoted:
    """A fault of ours, contained: its place in the log is the incident's number."""

    command: str
    error: str


Event = (
    RequestAccepted
    | RequestAttached
    | RequestRefused
    | RequestDispatched
    | RequestRerouted
    | RequestSuspended
    | RequestStreamed
    | WorkAbandoned
    | RequestCompleted
    | RequestReplied
    | RequestCancelled
    | RequestFailed
    | PlacementAsked
    | ModelEvent
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
    | KeysFiled
    | IncidentNoted
    | FitEvent
    | ConversationEvent
    | ProviderFaulted
    | ProviderRecovered
)

__all__ = [
    "CallKind",
    "DevicesSeen",
    "DrainStarted",
    "Event",
    "FitEnded",
    "FitEpochEnded",
    "FitStarted",
    "FitStop",
    "IncidentNoted",
    "KeysFiled",
    "ModelEvent",
    "ModelExplained",
    "ModelFailed",
    "ModelLoadStarted",
    "ModelPinned",
    "ModelReady",
    "ModelUnloadAsked",
    "ModelUnloadStarted",
    "ModelUnloaded",
    "PlacementAsked",
    "ProviderFaulted",
    "ProviderRecovered",
    "PullAbandoned",
    "PullEnded",
    "PullStarted",
    "RemoveEnded",
    "RemoveStarted",
    "RequestAccepted",
    "RequestAttached",
    "RequestCancelled",
    "RequestCompleted",
    "RequestDispatched",
    "RequestFailed",
    "RequestRefused",
    "RequestReplied",
    "RequestRerouted",
    "RequestStreamed",
    "RequestSuspended",
    "Resumption",
    "SidecarStarted",
    "SidecarStopped",
    "StorageChanged",
    "Suspension",
    "Timing",
    "WorkAbandoned",
    "WorkerRetired",
    "WorkerWentDown",
    "WorkerWentUp",
]
