"""What follows: after each decision, whatever has become possible is done.

A slot that is free is filled, a model that somebody waits for is placed, one that is to go and is idle goes, a worker
that holds nothing leaves, and a sidecar that is done stops. The state machines beside this file say what happened and
leave what follows to this one place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlzoo import errors
from mlzoo.core import requests
from mlzoo.core.state import running_on, waiting_on
from mlzoo.events import types as ev

if TYPE_CHECKING:
    from mlzoo.core.draft import Draft
    from mlzoo.core.state import ModelState, RequestState
    from mlzoo.errors import Failure

IN_MEMORY = {"loading", "ready", "unloading"}


def settle(draft: Draft) -> None:
    """Do all that can be done now."""
    _serve_those_who_wait(draft)
    _unload_what_is_to_go(draft)
    _retire_empty_workers(draft)
    _leave_when_done(draft)


def _serve_those_who_wait(draft: Draft) -> None:
    queued = [r for r in draft.state.requests.values() if r.phase == "queued" and r.model is not None]
    for facts in {r.model.name: r.model for r in queued if r.model is not None}.values():
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
        elif free > 0:
            free -= 1
            draft.say(ev.RequestDispatched(request=request.id, device=device))


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
    if any(request.kind != "shutdown" for request in left):
        return
    for request in left:
        draft.say(ev.RequestReplied(request=request.id, caller=request.caller, result={}))
    if not draft.state.stopped:
        draft.say(ev.SidecarStopped())
