"""The fold: ``apply(state, event, seq, at_ms) -> state``.

Decides nothing and refuses nothing: an event has happened, and this is what is so afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, assert_never

import attrs

from mlzoo.core import providers
from mlzoo.core.history import conversation_changes, persona_changes, summarised, with_turn
from mlzoo.core.replicas import fingerprint_of, key_of, replica_at, with_prefixes
from mlzoo.core.state import FitState, ModelState, RequestState, State, WorkerState, name_of_replica, wall_ms
from mlzoo.core.streams import Counts, counted
from mlzoo.events import conversations as talk
from mlzoo.events import types as ev
from mlzoo.events.commands import KeyFacts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlzoo.events.records import Group
    from mlzoo.events.types import Event

T = TypeVar("T")
NEW = State()
OF_A_LIFE = ("models", "workers", "pulls", "devices", "drain_until_ms", "storage_low", "stopped", "providers")
RECENT_WEIGHT = 0.2  # of the newest request in the mean running time that retry_after_ms is reckoned from


class Folding:
    """A state in the making, event by event; pieces of streams are counted until something else happens."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._counts: dict[str, Counts] = {}

    @property
    def state(self) -> State:
        """The state after all events so far."""
        if self._counts:
            self._state = counted(self._state, self._counts)
            self._counts.clear()
        return self._state

    def counts(self, request: str) -> Counts | None:
        """Return the numbers of a request as they are now, or None where there is no such request."""
        found = self._counts.get(request)
        if found is None and request in self._state.requests:
            found = self._counts[request] = Counts(self._state.requests[request])
        return found

    def add(self, group: Group) -> None:
        """Fold the next group."""
        counts, at_ms = self._counts, group.at_ms
        for seq, event in enumerate(group.events, start=group.first_seq + 1):
            if type(event) is ev.RequestStreamed and event.request in counts:
                counts[event.request].add(event, at_ms)  # as below: a call less for each piece
            else:
                self.take(event, seq, at_ms)

    def take(self, event: Event, seq: int, at_ms: int) -> None:
        """Fold the next event."""
        if type(event) is not ev.RequestStreamed:
            self._state = apply(self.state, event, seq, at_ms)
            return
        found = self._counts.get(event.request)
        if found is None:
            found = self._counts[event.request] = Counts(self._state.requests[event.request])
        found.add(event, at_ms)


def apply_group(state: State, group: Group) -> State:
    """Fold one recorded group."""
    return fold(state, (group,))


def fold(state: State, groups: Iterable[Group]) -> State:
    """Fold recorded groups in their order."""
    folding = Folding(state)
    for group in groups:
        folding.add(group)
    return folding.state


def apply(state: State, event: Event, seq: int, at_ms: int) -> State:
    """Return the state after an event with log_seq ``seq`` at ``at_ms`` of the log's clock."""
    match event:
        case ev.RequestStreamed():  # by far the most frequent
            return _request_streams(state, event, at_ms)
        case ev.RequestAccepted() | ev.RequestDispatched() | ev.RequestSuspended() | ev.RequestRerouted():
            return _request_goes_on(state, event, seq, at_ms)
        case ev.RequestCompleted():
            return _request_ends(_with_run_time(state, event.timing), event.request, seq, at_ms, event)
        case ev.RequestCancelled() | ev.RequestReplied() | ev.RequestFailed():
            return _request_ends(state, event.request, seq, at_ms, event)
        case (
            ev.PlacementAsked()
            | ev.ModelLoadStarted()
            | ev.ModelReady()
            | ev.ModelExplained()
            | ev.ModelFailed()
            | ev.ModelPinned()
            | ev.ModelUnloadAsked()
            | ev.ModelUnloadStarted()
            | ev.ModelUnloaded()
        ):
            return _model_changes(state, event, at_ms)
        case ev.WorkerWentUp() | ev.WorkerWentDown() | ev.WorkerRetired():
            return _worker_changes(state, event)
        case ev.DevicesSeen():
            return attrs.evolve(state, devices=event.devices)
        case ev.SidecarStarted():
            # Requests stay: the decision that starts a sidecar ends or continues each of them by an event of its own.
            ahead_ms = event.time_ms - at_ms if event.time_ms else None
            of_a_life = {name: getattr(NEW, name) for name in OF_A_LIFE}
            return attrs.evolve(state, bounds=event.bounds, wall_ahead_ms=ahead_ms, **of_a_life)
        case ev.DrainStarted():
            return attrs.evolve(state, drain_until_ms=event.until_ms)
        case ev.SidecarStopped():
            return attrs.evolve(state, stopped=True)
        case ev.PullStarted():
            return attrs.evolve(state, pulls=_with(state.pulls, event.model, event.pull))
        case ev.PullAbandoned() | ev.PullEnded():
            return attrs.evolve(state, pulls=_without(state.pulls, event.model))
        case ev.StorageChanged():
            return attrs.evolve(state, storage_low=event.low)
        case ev.FitStarted() | ev.FitEpochEnded() | ev.FitEnded():
            return attrs.evolve(state, fit=_fit_goes_on(state.fit, event))
        case ev.KeysFiled():
            return attrs.evolve(state, keys={k: f for k, f in state.keys.items() if f.ended_seq > event.upto_seq})
        case talk.ConversationCarried() | talk.ConversationForked() | talk.ConversationDropped():
            return conversation_changes(state, event, seq, at_ms)
        case talk.ConversationSummarised():
            return summarised(state, event, seq)
        case ev.ProviderFaulted():
            return providers.faulted(state, event)
        case ev.ProviderRecovered():
            return providers.recovered(state, event.provider)
        case talk.PersonaPut() | talk.PersonaDropped():
            return persona_changes(state, event)
        case (
            ev.RequestRefused()
            | ev.RequestAttached()
            | ev.WorkAbandoned()
            | ev.RemoveStarted()
            | ev.RemoveEnded()
            | ev.IncidentNoted()
        ):
            return state
        case _:
            assert_never(event)


def _fit_goes_on(fit: FitState | None, event: ev.FitStarted | ev.FitEpochEnded | ev.FitEnded) -> FitState | None:
    match event:
        case ev.FitStarted():
            return FitState(**{field.name: getattr(event, field.name) for field in attrs.fields(FitState)})
        case ev.FitEpochEnded():
            assert fit is not None
            if event.is_best:
                return attrs.evolve(fit, epoch=event.epoch, best_epoch=event.epoch, best=event.value)
            return attrs.evolve(fit, epoch=event.epoch)
        case ev.FitEnded():
            return None
        case _:
            assert_never(event)


def _with(mapping: dict[str, T], key: str, value: T) -> dict[str, T]:
    copy = mapping.copy()
    copy[key] = value
    return copy


def _without(mapping: dict[str, T], key: str) -> dict[str, T]:
    copy = mapping.copy()
    copy.pop(key, None)
    return copy


def _request_streams(state: State, event: ev.RequestStreamed, at_ms: int) -> State:
    counts = Counts(state.requests[event.request])
    counts.add(event, at_ms)
    return counted(state, {event.request: counts})


def _request_goes_on(
    state: State,
    event: ev.RequestAccepted | ev.RequestDispatched | ev.RequestSuspended | ev.RequestRerouted,
    seq: int,
    at_ms: int,
) -> State:
    match event:
        case ev.RequestAccepted():
            request = RequestState(
                id=event.request,
                caller=event.caller,
                kind=event.kind,
                model=event.model,
                phase="queued",
                priority=event.priority,
                require_device=event.require_device,
                size_bytes=event.size_bytes,
                accepted_seq=seq,
                accepted_at_ms=at_ms,
                asked_ms=wall_ms(state, at_ms),
                deadline_at_ms=event.deadline_at_ms,
                key=event.key,
                params_digest=event.params_digest,
                determinism=event.determinism,
                ephemeral=event.ephemeral,
                max_tokens=event.max_tokens,
                prefixes=event.prefixes,
                conversation=event.conversation,
                persona=event.persona,
                chain=event.chain,
                adapter=event.adapter,
            )
        case ev.RequestDispatched():
            request = _dispatched(state, event, at_ms)
            if request.prefixes:
                state = with_prefixes(state, request)
            state = providers.probed(state, request)
        case ev.RequestSuspended():
            was = state.requests[event.request]
            losses = was.losses + (event.reason == "worker")
            request = attrs.evolve(was, phase="suspended", device=None, losses=losses)
        case ev.RequestRerouted():
            request = providers.rerouted(state.requests[event.request], event)
        case _:
            assert_never(event)
    return attrs.evolve(state, requests=_with(state.requests, event.request, request))


def _with_run_time(state: State, timing: ev.Timing) -> State:
    run_ms = timing.total_ms - timing.queue_ms
    mean_ms = state.mean_run_ms or run_ms
    return attrs.evolve(state, mean_run_ms=mean_ms + RECENT_WEIGHT * (run_ms - mean_ms))


def _dispatched(state: State, event: ev.RequestDispatched, at_ms: int) -> RequestState:
    """Return a request that runs: from its beginning, or from where it was, as well as its weakest continuation."""
    was = state.requests[event.request]
    model = replica_at(state, was.model.name, event.device) if was.model else None
    begins = event.resume is None
    return attrs.evolve(
        was,
        phase="running",
        device=event.device,
        started_at_ms=was.started_at_ms or at_ms,
        history=event.history,
        fingerprint=fingerprint_of(model, was.adapter) if begins and model is not None else was.fingerprint,
        resumed=was.resumed if was.resumed == "prefill" or begins else event.resume,
    )


def _request_ends(state: State, request_id: str, seq: int, at_ms: int, end: Event) -> State:
    request = state.requests.get(request_id)
    if request is None:
        return state
    state = attrs.evolve(state, requests=_without(state.requests, request_id))
    if request.conversation and isinstance(end, ev.RequestCompleted | ev.RequestCancelled):
        cancelled = isinstance(end, ev.RequestCancelled)
        state = with_turn(state, request, seq, at_ms, cancelled=cancelled)
    if request.key:
        facts = KeyFacts(
            request=request.id,
            params_digest=request.params_digest,
            accepted_seq=request.accepted_seq,
            ended_seq=seq,
            next_seq=request.next_seq,
            ended_at_ms=at_ms,
        )
        state = attrs.evolve(state, keys=_with(state.keys, request.key, facts))
    model = replica_at(state, request.model.name, request.device) if request.model else None
    if model is None:
        return state
    return _model_is(state, model, last_used_ms=at_ms)


def _model_is(state: State, model: ModelState, **changes: Any) -> State:
    return attrs.evolve(state, models=_with(state.models, key_of(model), attrs.evolve(model, **changes)))


def _worker_changes(state: State, event: ev.WorkerWentUp | ev.WorkerWentDown | ev.WorkerRetired) -> State:
    was = state.workers.get(event.device, WorkerState())
    match event:
        case ev.WorkerWentUp():
            now = WorkerState(up=True, pid=event.pid, crashes=was.crashes, began_bytes=event.held_bytes)
        case ev.WorkerWentDown():
            now = WorkerState(crashes=was.crashes + (not event.expected))
        case ev.WorkerRetired():
            now = attrs.evolve(was, retiring=True)
        case _:
            assert_never(event)
    return _worker_is(state, event.device, now)


def _worker_is(state: State, device: str, worker: WorkerState) -> State:
    return attrs.evolve(state, workers=_with(state.workers, device, worker))


def _placement_asked(state: State, event: ev.PlacementAsked, at_ms: int) -> State:
    name = name_of_replica(event.model.name, event.replica)
    was = state.models.get(name)
    model = ModelState(
        facts=event.model,
        phase="placing",
        replica=event.replica,
        measured_bytes=0 if was is None or was.facts != event.model else was.measured_bytes,
        pinned=was is not None and was.pinned,
        unload_asked=was is not None and was.unload_asked,  # it may have been asked for while it was placed before
        last_used_ms=at_ms,
    )
    return attrs.evolve(state, models=_with(state.models, name, model))


def _model_unloaded(state: State, event: ev.ModelUnloaded) -> State:
    was = state.models[event.model]
    worker = state.workers.get(event.device)
    if worker is not None:
        is_empty = not any(key != event.model and m.device == event.device for key, m in state.models.items())
        worker = attrs.evolve(worker, held_bytes=event.held_bytes if is_empty else 0)
        state = _worker_is(state, event.device, worker)
    fresh = ModelState(
        facts=was.facts,
        phase="available",
        pinned=was.pinned,
        last_used_ms=was.last_used_ms,
        replica=was.replica,
        measured_bytes=was.measured_bytes,
    )
    return attrs.evolve(state, models=_with(state.models, event.model, fresh))


def _model_changes(state: State, event: ev.PlacementAsked | ev.ModelEvent, at_ms: int) -> State:
    if isinstance(event, ev.PlacementAsked):
        return _placement_asked(state, event, at_ms)
    model = state.models[event.model]
    match event:
        case ev.ModelLoadStarted():
            return _model_is(
                state,
                model,
                phase="loading",
                device=event.device,
                memory_bytes=event.memory_bytes,
                degraded=event.degraded,
                failure=None,
            )
        case ev.ModelReady():
            return _model_is(
                state,
                model,
                phase="ready",
                device=event.device,
                memory_bytes=event.memory_bytes,
                measured_bytes=event.peak_bytes,
                slots=event.slots,
                context=event.context,
                loaded_at_ms=at_ms,
                last_used_ms=at_ms,
                dtype=event.dtype,
                architecture=event.architecture,
                batching=event.batching,
                why=event.why,
                labels=event.labels,
                adapters=event.adapters,
                fingerprint=event.fingerprint,
                fingerprints=event.fingerprints,
            )
        case ev.ModelExplained():
            return _model_is(state, model, why=event.why)
        case ev.ModelFailed():
            return _model_is(
                state, model, phase="failed", device=None, memory_bytes=0, unload_asked=False, failure=event.failure
            )
        case ev.ModelPinned():
            return _model_is(state, model, pinned=event.pinned)
        case ev.ModelUnloadAsked():
            return _model_is(state, model, unload_asked=True)
        case ev.ModelUnloadStarted():
            return _model_is(state, model, phase="unloading", unload_asked=False)
        case ev.ModelUnloaded():
            return _model_unloaded(state, event)
        case _:
            assert_never(event)
