"""What follows: after each decision, whatever has become possible is done.

A slot that is free is filled, a model that somebody waits for is placed, one that is to go and is idle goes, a worker
that holds nothing leaves, and a sidecar that is done stops. The state machines beside this file say what happened and
leave what follows to this one place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlzoo import errors
from mlzoo.core import breaker, requests
from mlzoo.core.history import history_of
from mlzoo.core.recycling import keeps_memory, kept_bytes
from mlzoo.core.replicas import ALIVE, ON_THE_WAY, fingerprint_of, free_slots, goes_on, pick, replicas_of
from mlzoo.core.state import (
    device_of,
    drain_is_over,
    is_remote,
    name_of_replica,
    running_on,
    waiting_on,
    waiting_on_provider,
    waits,
)
from mlzoo.core.suspects import Company
from mlzoo.events import types as ev

if TYPE_CHECKING:
    from mlzoo.core.draft import Draft
    from mlzoo.core.state import ModelPhase, ModelState, RequestState, State
    from mlzoo.errors import Failure
    from mlzoo.events.commands import ModelFacts
    from mlzoo.events.facts import History

IN_MEMORY = {"loading", "ready", "unloading"}


def settle(draft: Draft) -> None:
    """Do all that can be done now."""
    requests.end_drain(draft)
    _serve_all_who_wait(draft)
    _unload_what_is_to_go(draft)
    _retire_empty_workers(draft)
    _leave_when_done(draft)


def _serve_all_who_wait(draft: Draft) -> None:
    """Serve until nobody's end lets the next turn of its conversation begin, and nobody has to ask another model."""
    said = -1
    while said != len(draft.events):
        said = len(draft.events)
        _serve_those_who_wait(draft)


def _serve_those_who_wait(draft: Draft) -> None:
    if drain_is_over(draft.state, draft.at_ms):
        return  # What has a key waits for the next sidecar.
    if not any(map(waits, draft.state.requests.values())):
        return
    while any(_serve_by(draft, provider) for provider in _providers_wanted(draft.state)):
        pass  # Who could not be served by one may wait for another now.
    waiting_for = [r.model for r in draft.state.requests.values() if waits(r) and r.model and not is_remote(r)]
    company = Company(draft.state.requests.values())
    for facts in {facts.name: facts for facts in waiting_for}.values():
        waiting = waiting_on(draft.state, facts.name)
        if not waiting:
            continue
        found = replicas_of(draft.state, facts.name)
        if not any(model.phase in ALIVE for model in found):
            for replica in range(facts.replicas):
                draft.say(ev.PlacementAsked(model=facts, replica=replica))
            continue
        ready = [model for model in found if model.phase == "ready" and not model.unload_asked]
        if ready:
            others = {model.phase for model in found if model not in ready}
            is_needed = _serve(draft, ready, others, waiting, company)
            _bring_back_replicas(draft, facts, ready, is_needed=is_needed)


def _providers_wanted(state: State) -> list[str]:
    names = [r.model.provider for r in state.requests.values() if waits(r) and r.model and is_remote(r)]
    return list(dict.fromkeys(names))


def _serve_by(draft: Draft, provider: str) -> bool:
    """Hand to a provider as many of those who wait for it as it takes; return whether one of them had to move on."""
    device = device_of(provider)
    running = [r for r in draft.state.requests.values() if r.phase == "running"]
    total, there = len(running), sum(r.device == device for r in running)
    moved = False
    for request in waiting_on_provider(draft.state, provider):
        assert request.model is not None
        refusal = breaker.refusal(draft.state, request.model, draft.at_ms) or _not_by_a_provider(request, provider)
        if refusal is not None:
            moved = True
            requests.give_up(draft, request, refusal)
        elif there < request.model.slots and total < draft.state.bounds.max_running:
            total, there = total + 1, there + 1
            _dispatch(draft, request, device, history_of(draft.state, request))
    return moved


def _dispatch(
    draft: Draft, request: RequestState, device: str, history: History | None, resume: ev.Resumption | None = None
) -> None:
    model = request.model.name if request.model and request.is_rerouted else ""
    draft.say(ev.RequestDispatched(request=request.id, device=device, resume=resume, history=history, model=model))


def _not_by_a_provider(request: RequestState, provider: str) -> Failure | None:
    """Return what of a request no provider can do, or None."""
    name = request.model.name if request.model else ""
    if request.determinism == "exact":
        return errors.Unsupported(
            f"Provider {provider} does not promise the same bits: leave determinism out, or ask a local model.",
            feature="determinism: exact",
            model=name,
        ).failure()
    if request.require_device is not None:
        return errors.Unsupported(
            f"Provider {provider} answers for model {name}, which is on no device: leave require_device out.",
            feature=f"device {request.require_device}",
            model=name,
        ).failure()
    return None


def _bring_back_replicas(draft: Draft, facts: ModelFacts, ready: list[ModelState], *, is_needed: bool) -> None:
    """Place again what was unloaded while it was idle, or lost its worker, once all others have something to do.

    Somebody may need it before: for its device, or for bits that the others do not compute.
    """
    busy = is_needed or all(running_on(draft.state, facts.name, model.device) for model in ready)
    if facts.replicas == 1 or not busy:
        return
    for replica in range(facts.replicas):
        found = draft.state.models.get(name_of_replica(facts.name, replica))
        if found is None or found.phase == "available":
            draft.say(ev.PlacementAsked(model=facts, replica=replica))


def _serve(
    draft: Draft, ready: list[ModelState], others: set[ModelPhase], waiting: list[RequestState], company: Company
) -> bool:
    """Answer those whose turn has come. What another replica may be able to do waits for that one.

    Returns:
        Whether somebody needs one that is not on its way.
    """
    running = sum(r.phase == "running" for r in draft.state.requests.values())
    slots = free_slots(draft.state, ready)
    more_come, more_may_come = bool(others & ON_THE_WAY), bool(others - {"failed"})
    is_needed = False
    for request in waiting:
        there = [model for model in ready if request.require_device in {None, model.device}]
        exact = request.determinism == "exact"
        able = [model for model in there if not exact or fingerprint_of(model, request.adapter)]
        if not able or request.kind == "load":
            waits_on = not able and more_may_come and (not there or request.require_device is None)
            is_needed = is_needed or waits_on
            if not more_come and not waits_on:
                _answer_without_running(draft, request, ready[0], there)
            continue
        free = [model for model in able if slots[model.replica] > 0 and company.admits(request, model.device or "")]
        if free and running < draft.state.bounds.max_running:
            running += 1
            model = pick(draft.state, request, free)
            slots[model.replica] -= 1
            company.join(request, model.device or "")
            resume, history = _resumption(request, model), history_of(draft.state, request)
            _dispatch(draft, request, model.device or "", history, resume)
    return is_needed


def _answer_without_running(draft: Draft, request: RequestState, first: ModelState, there: list[ModelState]) -> None:
    """Say that a model is loaded; or that it is not where, or not such that, the request can run."""
    name, device = first.facts.name, first.device or ""
    if not there:
        requests.give_up(draft, request, _elsewhere(name, device, request.require_device))
    elif request.kind == "load":
        model = there[0]
        reply = {"model": name, "state": "ready", "device": model.device or "", "bytes": model.memory_bytes}
        if model.degraded is not None:
            reply["degraded"] = model.degraded
        draft.say(ev.RequestReplied(request=request.id, caller=request.caller, result=reply))
    else:
        requests.give_up(draft, request, _inexact(name, device, request.adapter))


def _resumption(request: RequestState, model: ModelState) -> ev.Resumption | None:
    """Return how a request goes on where it was; None: it begins, and nothing was said of it before.

    To decode again what was recorded takes as long as it did at first, and is to the bit what it was, as long as all
    that the bits depend on is the same. To read it as a part of the prompt is fast, and rounds in another way.
    """
    if request.completion_tokens == 0:
        return None
    may_be_exact = request.determinism == "exact" and request.resumed != "prefill"
    return "exact" if may_be_exact and goes_on(model, request) else "prefill"


def _inexact(name: str, device: str, adapter: str) -> Failure:
    beside = f" with the adapter {adapter}" if adapter else ""
    return errors.Unsupported(
        f"Model {name} on {device}{beside} does not compute the same in every company (models.info says why): "
        'leave determinism out, or ask for "fast".',
        feature="determinism: exact",
        model=name,
    ).failure()


def _elsewhere(name: str, device: str, wanted: str | None) -> Failure:
    return errors.Unsupported(
        f"Model {name} is loaded on {device}, not on {wanted}: unload it first, or ask for {device}.",
        feature=f"device {wanted}",
        model=name,
    ).failure()


def _unload_what_is_to_go(draft: Draft) -> None:
    for name, model in tuple(draft.state.models.items()):
        running = running_on(draft.state, model.facts.name, model.device)
        if model.phase == "ready" and model.unload_asked and not running:
            draft.say(ev.ModelUnloadStarted(model=name, device=model.device or "", reason="asked"))


def _retire_empty_workers(draft: Draft) -> None:
    """Send away who holds nothing; where a model may be about to come, only who keeps memory of those that are gone."""
    models = draft.state.models.values()
    one_may_come = any(model.phase == "placing" for model in models)
    for device, worker in tuple(draft.state.workers.items()):
        holds = any(model.device == device and model.phase in IN_MEMORY for model in models)
        if not worker.up or worker.retiring or holds:
            continue
        if keeps_memory(worker):
            draft.say(ev.WorkerRetired(device=device, reason="memory", kept_bytes=kept_bytes(worker)))
        elif not one_may_come:
            draft.say(ev.WorkerRetired(device=device))


def _leave_when_done(draft: Draft) -> None:
    if draft.state.drain_until_ms is None:
        return
    left = tuple(draft.state.requests.values())
    stays = drain_is_over(draft.state, draft.at_ms)  # What is suspended by then, the next sidecar goes on with.
    if any(request.kind != "shutdown" and not (stays and request.phase == "suspended") for request in left):
        return
    for request in left:
        if request.kind == "shutdown":
            draft.say(ev.RequestReplied(request=request.id, caller=request.caller, result={}))
    if not draft.state.stopped:
        draft.say(ev.SidecarStopped())
