"""The state of the sidecar as values, and the fold that makes it of events.

Knows nothing of how a decision comes about (``mlzoo.core.decide``). Every value is frozen; the dictionaries are
copied, never changed, so that whoever holds a state holds it for ever.
"""

from __future__ import annotations

from typing import Literal

import attrs

from mlzoo.adapter_facts import AdapterFacts
from mlzoo.errors import Failure
from mlzoo.events import types as ev
from mlzoo.events.commands import Bounds, Caller, Candidate, Determinism, DeviceFacts, KeyFacts, ModelFacts, Priority
from mlzoo.events.facts import History

RequestPhase = Literal["queued", "running", "suspended"]
CALLS: frozenset[ev.CallKind] = frozenset({"load", "unload", "pull", "remove", "shutdown"})  # all but inference
ModelPhase = Literal["available", "placing", "loading", "ready", "unloading", "failed"]

BATCH_YIELDS_MS = 30_000  # interactive requests that come so much later than one of a batch still go before it


@attrs.frozen(kw_only=True)
class RequestState:
    """A request between its acceptance and its terminal event."""

    id: str
    caller: Caller | None
    kind: ev.CallKind
    model: ModelFacts | None
    phase: RequestPhase
    priority: Priority
    require_device: str | None
    size_bytes: int
    accepted_seq: int
    accepted_at_ms: int
    deadline_at_ms: int | None
    device: str | None = None
    started_at_ms: int = 0
    first_token_at_ms: int | None = None
    next_seq: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    key: str = ""
    params_digest: str = ""
    determinism: Determinism = "fast"
    ephemeral: bool = False
    fingerprint: str = ""  # of the model when the request first ran; another one cannot continue it exactly
    losses: int = 0  # of its worker, one after the other, without a token in between
    max_tokens: int | None = None
    prefixes: tuple[str, ...] = ()
    resumed: ev.Resumption | None = None  # the weakest way in which it was continued so far
    conversation: str = ""
    persona: str = ""
    history: History | None = None  # of the conversation, once it has been dispatched
    truncated: int = 0
    chain: tuple[Candidate, ...] = ()  # who may answer in the place of the model, in this order
    is_rerouted: bool = False
    adapter: str = ""  # of the model; empty: the model as it is
    asked_ms: int = 0  # wall clock, when it was accepted; 0: not known


@attrs.frozen(kw_only=True)
class ModelState:
    """A model that somebody has asked for since the sidecar started; or one of its replicas."""

    facts: ModelFacts
    phase: ModelPhase
    device: str | None = None
    memory_bytes: int = 0
    slots: int = 1
    context: int = 0
    pinned: bool = False
    unload_asked: bool = False
    last_used_ms: int = 0
    loaded_at_ms: int | None = None
    degraded: str | None = None
    failure: Failure | None = None
    dtype: str = ""
    architecture: str = ""
    batching: str = ""
    why: tuple[str, ...] = ()
    fingerprint: str = ""
    fingerprints: tuple[str, ...] = ()  # of further ways in which it goes on with what has begun in one of them
    replica: int = 0
    measured_bytes: int = 0  # the most that it took when it was loaded last; 0: not known
    prefixes: tuple[str, ...] = ()  # beginnings of the latest requests that it had last, of all replicas
    labels: tuple[str, ...] = ()  # that a custom model tells apart
    adapters: tuple[AdapterFacts, ...] = ()


@attrs.frozen(kw_only=True)
class WorkerState:
    """The worker process of a device."""

    up: bool = False
    retiring: bool = False
    pid: int = 0
    crashes: int = 0
    began_bytes: int = 0  # held by its process before it had loaded anything; 0: not known
    held_bytes: int = 0  # held by it once nothing was loaded on it any more; 0: not known


@attrs.frozen(kw_only=True)
class FitState:
    """The training run whose process has this log: how far it is, what was best, and what ends it."""

    run: str
    name: str
    falls: bool
    epochs: int
    patience: int
    better_by: float
    epoch: int
    best_epoch: int
    best: float | None


@attrs.frozen(kw_only=True)
class ConversationState:
    """A conversation: where its turns are, and about how much text they have. The text itself is in the log alone."""

    history: History
    turns: int
    size_bytes: int
    created_at_ms: int
    updated_at_ms: int
    updated_seq: int
    persona: str = ""
    created_ms: int = 0  # wall clock, as the next; 0: not known, as an older version wrote it
    updated_ms: int = 0


@attrs.frozen(kw_only=True)
class ProviderState:
    """A provider that has failed, and has not answered since."""

    faults: int = 0
    open_until_ms: int | None = None
    probe: str = ""  # the last request that tried it since it is left alone


@attrs.frozen(kw_only=True)
class PersonaState:
    """A persona that a host described: the command whose text has it, and about how long that is."""

    base_seq: int
    size_bytes: int


NO_BOUNDS = Bounds(max_queued=0, max_running=0, queued_bytes=0, drain_ms=0)


@attrs.frozen(kw_only=True)
class State:
    """Everything that decisions depend on. Its size is that of the work in flight, not of the log."""

    bounds: Bounds = NO_BOUNDS
    requests: dict[str, RequestState] = attrs.field(factory=dict)
    models: dict[str, ModelState] = attrs.field(factory=dict)
    workers: dict[str, WorkerState] = attrs.field(factory=dict)
    pulls: dict[str, str] = attrs.field(factory=dict)  # model -> which of its pulls is going on
    devices: tuple[DeviceFacts, ...] = ()
    mean_run_ms: float = 0.0
    drain_until_ms: int | None = None
    storage_low: bool = False
    stopped: bool = False
    keys: dict[str, KeyFacts] = attrs.field(factory=dict)  # that ended, and are not in the log's index of keys yet
    fit: FitState | None = None
    conversations: dict[str, ConversationState] = attrs.field(factory=dict)
    providers: dict[str, ProviderState] = attrs.field(factory=dict)
    personas: dict[str, PersonaState] = attrs.field(factory=dict)  # that hosts described; configured ones are not here
    wall_ahead_ms: int | None = None  # of the log's clock, when the sidecar started; None: it did not say


def wall_ms(state: State, at_ms: int) -> int:
    """Return the wall clock's time at a moment of the log's clock in this life, for people; 0 where it is not known."""
    return 0 if state.wall_ahead_ms is None else state.wall_ahead_ms + at_ms


def waits(request: RequestState) -> bool:
    """Whether a request waits for its turn: for its first one, or for the next one after it was suspended."""
    return request.phase in {"queued", "suspended"}


def device_of(provider: str) -> str:
    """Return what stands for a provider where devices stand: no device's own name begins so."""
    return f"api:{provider}"


def is_remote(request: RequestState) -> bool:
    """Whether a provider elsewhere is to answer."""
    return request.model is not None and request.model.provider != "local"


def waiting_on_provider(state: State, provider: str) -> list[RequestState]:
    """Return those who wait for a provider to take them, in the order of their turn."""
    there = [r for r in state.requests.values() if waits(r) and r.model and r.model.provider == provider]
    later = later_turns(state)
    return sorted((r for r in there if r.id not in later), key=_turn)


def waiting_on(state: State, model: str) -> list[RequestState]:
    """Return those who wait for a model to be ready, in the order of their turn.

    Who waits for an earlier turn of the same conversation does not wait for a model yet.
    """
    later = later_turns(state)
    waiting = (r for r in state.requests.values() if waits(r) and _wants(r) == model and r.id not in later)
    return sorted(waiting, key=_turn)


def later_turns(state: State) -> set[str]:
    """Return the requests before which another turn of their conversation has come that lives, suspended or not."""
    first: dict[str, str] = {}
    for request in state.requests.values():  # in the order of their acceptance
        if request.conversation:
            first.setdefault(request.conversation, request.id)
    return (
        {r.id for r in state.requests.values() if r.conversation and first[r.conversation] != r.id} if first else set()
    )


def _turn(request: RequestState) -> tuple[bool, int]:
    """Return what decides whose turn it is: as nothing that comes later goes first for ever, nobody starves.

    A request that has begun had its turn already, and lost its worker: it goes on first. There are never more of those
    than have run together.
    """
    yields_ms = BATCH_YIELDS_MS if request.priority == "batch" else 0
    return not request.started_at_ms, request.accepted_at_ms + yields_ms


def calls_on(state: State, model: str, kind: ev.CallKind) -> list[RequestState]:
    """Return the calls of one kind about a model, in the order of their arrival."""
    return [r for r in state.requests.values() if r.kind == kind and r.model and r.model.name == model]


def _wants(request: RequestState) -> str | None:
    """Return the model that a request wants to be ready; a pull, say, is about a model that it does not want."""
    return request.model.name if request.model and request.kind not in {"unload", "pull", "remove"} else None


def running_on(state: State, model: str, device: str | None) -> list[RequestState]:
    """Return the requests that the worker of a device has taken up for a model."""
    running = [r for r in state.requests.values() if r.phase == "running" and r.device == device]
    return [r for r in running if r.model and r.model.name == model]


def name_of_replica(model: str, replica: int) -> str:
    """Return the name under which a replica of a model stands in the state: no model's own name has a number sign."""
    return f"{model}#{replica}" if replica else model


def model_of(name: str) -> str:
    """Return the model that a replica is one of."""
    return name.partition("#")[0]


def next_strike_ms(state: State) -> int | None:
    """Return the moment of the log's clock at which a Strike is due, or None where nothing waits for the clock."""
    moments = [r.deadline_at_ms for r in state.requests.values() if r.deadline_at_ms is not None]
    if state.drain_until_ms is not None and not state.stopped:
        moments.append(state.drain_until_ms)
    moments += [m.last_used_ms + m.facts.keep_alive_ms for m in idle_models(state)]
    return min(moments, default=None)


def idle_models(state: State) -> list[ModelState]:
    """Return the ready models that nobody pinned, runs or waits for, least recently used first."""
    wanted = {_wants(r) for r in state.requests.values()}
    pinned = {m.facts.name for m in state.models.values() if m.pinned}
    idle = [m for m in state.models.values() if m.phase == "ready" and m.facts.name not in wanted | pinned]
    return sorted(idle, key=lambda m: m.last_used_ms)


def drain_is_over(state: State, at_ms: int) -> bool:
    """Whether the sidecar leaves with what is suspended, instead of waiting for it."""
    return state.drain_until_ms is not None and state.drain_until_ms <= at_ms


def needed_from(state: State) -> int | None:
    """Return the lowest log_seq that a live request still needs, or None where none lives."""
    return min(map(_needed_by, state.requests.values()), default=None)


def _needed_by(request: RequestState) -> int:
    """Return the first record that a request is read from: its acceptance, or the history that it was begun with."""
    from_seq = None if request.history is None else request.history.from_seq
    return request.accepted_seq if from_seq is None else from_seq


def under_key(state: State, key: str) -> RequestState | None:
    """Return the live request that runs under a key, or None."""
    return next((r for r in state.requests.values() if r.key == key), None) if key else None
