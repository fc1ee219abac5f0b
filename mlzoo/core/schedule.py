"""What follows: after each decision, whatever has become possible is done.

A slot that is free is filled, a model that somebody waits for is placed, one that is to go and is idle goes, a worker
that holds nothing leaves, and a sidecar that is done stops. The state machines beside this file say what happened and
leave what follows to this one place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlzoo import errors
from mlzoo.core import requests
from mlzoo.core.state import drain_is_over, running_on, waiting_on, waits
from mlzoo.events import types as ev

if TYPE_CHECKING:
    from mlzoo.core.draft import Draft
    from mlzoo.core.state import ModelState, RequestState
    from mlzoo.errors import Failure

IN_MEMORY = {"loading", "ready", "unloading"}


def settle(draft: Draft) -> None:
    """Do all that can be done now."""
    requests.end_drain(draft)
    _serve_those_who_wait(draft)
    _unload_what_is_to_go(draft)
    _retire_empty_workers(draft)
    _leave_when_done(draft)


def _serve_those_who_wait(draft: Draft) -> None:
    if drain_is_over(draft.state, draft.at_ms):
        return  # What has a key waits for the next sidecar.
    waiting_for = [r.model for r in draft.state.requests.values() if waits(r) and r.model is not None]
    for facts in {facts.name: facts for facts in waiting_for}.values():
        waiting = waiting_on(draft.state, facts.name)
        if not waiting:
            continue
        model = draft.state.models.get(facts.name)
        if model is None or model.phase in {"available", "failed"}:
            draft.say(ev.PlacementAsked(model=facts))
        elif model.phase == "ready" and not model.unload_asked:
            _serve(draft, model, waiting)


def _serve(draft: Draft, model: ModelState, waiting: list[RequestState]) -> None:
    name, device = model.facts.name, model.device or ""
    running = sum(r.phase == "running" for r in draft.state.requests.values())
    free = min(model.slots - len(running_on(draft.state, name)), draft.state.bounds.max_running - running)
    for request in waiting:
        if request.require_device not in {None, device}:
            requests.fail(draft, request.id, _elsewhere(name, device, request.require_device))
        elif request.kind == "load":
            reply = {"model": name, "state": "ready", "device": device, "bytes": model.memory_bytes}
            if model.degraded is not None:
                reply["degraded"] = model.degraded
            draft.say(ev.RequestReplied(request=request.id, caller=request.caller, result=reply))
        elif request.determinism == "exact" and not model.fingerprint:
            requests.fail(draft, request.id, _inexact(name, device))
        elif free > 0:
            free -= 1
            draft.say(ev.RequestDispatched(request=request.id, device=device, resume=_resumption(request, model)))


def _resumption(request: RequestState, model: ModelState) -> ev.Resumption | None:
    """Return how a request goes on where it was; None: it begins, and nothing was said of it before.

    To decode again what was recorded takes as long as it did at first, and is to the bit what it was, as long as all
    that the bits depend on is the same. To read it as a part of the prompt is fast, and rounds in another way.
    """
    if request.completion_tokens == 0:
        return None
    may_be_exact = request.determinism == "exact" and request.resumed != "prefill"
    return "exact" if may_be_exact and request.fingerprint == model.fingerprint else "prefill"


def _inexact(name: str, device: str) -> Failure:
    return errors.Unsupported(
        f"Model {name} on {device} does not compute the same in every company (models.info says why): "
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
        if model.phase == "ready" and model.unload_asked and not running_on(draft.state, name):
            draft.say(ev.ModelUnloadStarted(model=name, device=model.device or "", reason="asked"))


def _retire_empty_workers(draft: Draft) -> None:
    models = draft.state.models.values()
    if any(model.phase == "placing" for model in models):
        return  # It may be about to land on the very worker that would leave.
    for device, worker in tuple(draft.state.workers.items()):
        holds = any(model.device == device and model.phase in IN_MEMORY for model in models)
        if worker.up and not worker.retiring and not holds:
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
