"""The state machine of a model: available, placing, loading, ready, unloading, failed.

Loads are single-flight: whoever wants a model that is on its way waits for it. Placement is by memory as probed at
that moment; what was used least recently makes room. Nothing here knows how a device or a worker is spoken to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from mlzoo import errors
from mlzoo.core import requests
from mlzoo.core.incidents import numbered
from mlzoo.core.placement import Evict, NoRoom, Place, Unusable, Wait, beside, choose, needed_by
from mlzoo.core.recycling import memory_comes_back
from mlzoo.core.replicas import ALIVE, key_of, replica_at, replicas_of, siblings
from mlzoo.core.state import calls_on, idle_models, waiting_on
from mlzoo.events import commands as cmd
from mlzoo.events import types as ev

if TYPE_CHECKING:
    from mlzoo.core.draft import Draft
    from mlzoo.core.state import ModelState, RequestState
    from mlzoo.errors import Failure
    from mlzoo.events.commands import DeviceFacts

KINDS: dict[type, ev.CallKind] = {
    cmd.LoadModel: "load",
    cmd.UnloadModel: "unload",
    cmd.PullModel: "pull",
    cmd.RemoveModel: "remove",
}


def ask(draft: Draft, command: cmd.LoadModel | cmd.UnloadModel | cmd.PullModel | cmd.RemoveModel) -> None:
    """Take in a host's call about a model."""
    refusal = requests.call_refused(draft.state, KINDS[type(command)])
    if refusal is not None:
        draft.say(ev.RequestRefused(request=command.request, caller=command.caller, failure=refusal))
        return
    name = command.model.name
    model = draft.state.models.get(name)
    in_use = [replica for replica in replicas_of(draft.state, name) if replica.phase in ALIVE]
    match command:
        case cmd.LoadModel():
            _accept(draft, command, device=command.device)
            for replica in range(0 if in_use else command.model.replicas):
                draft.say(ev.PlacementAsked(model=command.model, replica=replica))
            if command.pin:
                draft.say(ev.ModelPinned(model=name, pinned=True))
        case cmd.UnloadModel():
            if not in_use:
                reply = {"model": name, "state": "available"}
                draft.say(ev.RequestReplied(request=command.request, caller=command.caller, result=reply))
                return
            _accept(draft, command)
            if model is not None and model.pinned:
                draft.say(ev.ModelPinned(model=name, pinned=False))
            for held in in_use:
                if held.phase != "unloading":
                    draft.say(ev.ModelUnloadAsked(model=key_of(held)))
        case cmd.PullModel():
            pulling = calls_on(draft.state, name, "pull")
            _accept(draft, command)
            if not pulling:
                draft.say(ev.PullStarted(model=name, accept_license=command.accept_license, pull=command.request))
        case cmd.RemoveModel():
            if in_use:
                busy = errors.Unsupported(
                    f"Model {name} is {in_use[0].phase}: call models.unload before models.remove.",
                    feature="removing a model that is in use",
                    model=name,
                ).failure()
                draft.say(ev.RequestRefused(request=command.request, caller=command.caller, failure=busy))
                return
            removing = calls_on(draft.state, name, "remove")
            _accept(draft, command)
            if not removing:
                draft.say(ev.RemoveStarted(model=name))
        case _:
            assert_never(command)


def _accept(
    draft: Draft,
    command: cmd.LoadModel | cmd.UnloadModel | cmd.PullModel | cmd.RemoveModel,
    device: str | None = None,
) -> None:
    draft.say(
        ev.RequestAccepted(
            request=command.request,
            caller=command.caller,
            kind=KINDS[type(command)],
            model=command.model,
            require_device=device,
        )
    )


def place(draft: Draft, command: cmd.ReportDevices) -> None:
    """Choose a device for a model from what was just probed, make room on it, or say why there is none."""
    draft.say(ev.DevicesSeen(devices=command.devices))
    model = draft.state.models.get(command.model)
    if model is None or model.phase != "placing":
        return
    serving = any(other.phase in {"loading", "ready"} for other in siblings(draft.state, model))
    if not (waiting_on(draft.state, model.facts.name) or model.pinned or serving):
        _memory_is_back(draft, command.model, "")  # Who wanted it has gone: nothing is loaded or evicted for nobody.
        return
    if memory_comes_back(draft.state):
        return  # More of it than the devices show: it is placed again as soon as that is so.
    choice = _choose(draft, model, command.devices)
    match choice:
        case Place():
            draft.say(
                ev.ModelLoadStarted(
                    model=command.model,
                    device=choice.device,
                    memory_bytes=needed_by(draft.state, model.facts),
                    degraded=choice.degraded,
                )
            )
        case Evict():
            device = draft.state.models[choice.victim].device or ""
            draft.say(ev.ModelUnloadStarted(model=choice.victim, device=device, reason="evicted"))
        case Wait():
            pass  # it is placed again as soon as that memory is back
        case NoRoom() | Unusable():
            _give_up(draft, command.model, choice.failure)
        case _:
            assert_never(choice)


def _choose(
    draft: Draft, model: ModelState, devices: tuple[DeviceFacts, ...]
) -> Place | Evict | Wait | NoRoom | Unusable:
    """Choose for all who wait. A device that one of them requires and that cannot be had is that one's failure."""
    taken = {other.device for other in siblings(draft.state, model) if other.device is not None}
    if taken:
        waiting = waiting_on(draft.state, model.facts.name)
        required = next((r.require_device for r in waiting if r.require_device not in {None, *taken}), None)
        return beside(draft.state, model, devices, taken, required)
    while True:
        waiting = waiting_on(draft.state, model.facts.name)
        required = next((r.require_device for r in waiting if r.require_device is not None), None)
        choice = choose(draft.state, model.facts, devices, required)
        if not isinstance(choice, NoRoom | Unusable) or all(r.require_device == required for r in waiting):
            return choice
        for request in waiting:
            if request.require_device == required:
                requests.give_up(draft, request, choice.failure)


def loaded(draft: Draft, command: cmd.ReportLoaded) -> None:
    """A worker has the model; or says again what was chosen for it, as that has changed."""
    model = replica_at(draft.state, command.model, command.device)
    if model is None or model.phase not in {"loading", "ready"} or model.device != command.device:
        return
    if model.phase == "ready":
        if model.why != command.why:
            draft.say(ev.ModelExplained(model=key_of(model), why=command.why))
        return
    draft.say(
        ev.ModelReady(
            model=key_of(model),
            device=command.device,
            memory_bytes=command.memory_bytes,
            context=command.context,
            slots=command.slots,
            dtype=command.dtype,
            architecture=command.architecture,
            batching=command.batching,
            fingerprint=command.fingerprint,
            peak_bytes=command.peak_bytes,
            why=command.why,
            labels=command.labels,
            adapters=command.adapters,
            fingerprints=command.fingerprints,
        )
    )


def load_failed(draft: Draft, command: cmd.ReportLoadFailed) -> None:
    """A worker could not load the model; or, where no device is named, none could be looked for."""
    model = replica_at(draft.state, command.model, command.device or None)
    if model is not None and model.phase in {"placing", "loading"} and command.device == (model.device or ""):
        _give_up(draft, key_of(model), numbered(draft, command, command.failure))


def _give_up(draft: Draft, key: str, failure: Failure) -> None:
    """The model cannot be had now: whoever waits for it hears why; the next request tries again.

    As long as there is another replica of it, they wait for that one, unless they need the device of this one.
    """
    model = draft.state.models[key]
    draft.say(ev.ModelFailed(model=key, failure=failure))
    for request in _whose_hope_it_was(draft, model):
        requests.give_up(draft, request, failure)
    _answer_unloads(draft, model.facts.name, "failed")


def _whose_hope_it_was(draft: Draft, model: ModelState) -> list[RequestState]:
    """Return those who wait for a replica that failed, and whom no other one can help."""
    waiting = waiting_on(draft.state, model.facts.name)
    if not siblings(draft.state, model):
        return waiting
    return [request for request in waiting if model.device is not None and request.require_device == model.device]


def unloaded(draft: Draft, command: cmd.ReportUnloaded) -> None:
    """A worker has dropped the model."""
    model = replica_at(draft.state, command.model, command.device)
    if model is not None and model.phase == "unloading" and model.device == command.device:
        _memory_is_back(draft, key_of(model), command.device, command.held_bytes)


def _memory_is_back(draft: Draft, key: str, device: str, held_bytes: int = 0) -> None:
    """Answer who asked for a model's memory, and try again to place what waits for room."""
    draft.say(ev.ModelUnloaded(model=key, device=device, held_bytes=held_bytes))
    _answer_unloads(draft, draft.state.models[key].facts.name, "available")
    _place_again(draft)


def _place_again(draft: Draft) -> None:
    """Look for places anew, as there may be room now."""
    for other in tuple(draft.state.models.values()):
        if other.phase == "placing":
            draft.say(ev.PlacementAsked(model=other.facts, replica=other.replica))
        elif other.phase == "failed" and siblings(draft.state, other):
            draft.say(ev.ModelUnloaded(model=key_of(other), device=""))  # There may be room for this replica now.


def _answer_unloads(draft: Draft, name: str, phase: str) -> None:
    """Answer who asked for a model's memory, once no replica of it holds any."""
    if any(replica.phase in ALIVE for replica in replicas_of(draft.state, name)):
        return
    for request in calls_on(draft.state, name, "unload"):
        reply = {"model": name, "state": phase}
        draft.say(ev.RequestReplied(request=request.id, caller=request.caller, result=reply))


def worker_lost(draft: Draft, command: cmd.ReportWorkerLost) -> None:
    """A worker process is gone. What ran on it ends or is suspended, and its models are loaded again on demand.

    One that was told to leave held nothing: a load that was decided since then is for its successor. One that left
    in order for another reason (its supervisor stopped it) is no crash, yet what ran on it is lost all the same.
    """
    worker = draft.state.workers.get(command.device)
    held_nothing = command.expected and worker is not None and worker.retiring
    kept_memory = memory_comes_back(draft.state)
    draft.say(ev.WorkerWentDown(device=command.device, reason=command.reason, expected=command.expected))
    if kept_memory and not memory_comes_back(draft.state):
        _place_again(draft)
    if held_nothing:
        return
    for request in tuple(draft.state.requests.values()):
        if request.phase == "running" and request.device == command.device:
            why = "The worker process died under this request; send it again."
            requests.lose_worker(draft, request, requests.interrupted(request, why))
    for key, model in tuple(draft.state.models.items()):
        name = model.facts.name
        if model.device != command.device:
            continue
        if model.phase == "loading":
            died = errors.ModelLoadFailed(
                f"The worker process died while it loaded {name}: {command.reason}.",
                model=name,
                reason=command.reason,
                retryable=True,
            )
            draft.say(ev.ModelFailed(model=key, failure=died.failure()))
            theirs = _whose_hope_it_was(draft, model)
            for request in theirs:
                requests.lose_worker(draft, request, died.failure())
            if siblings(draft.state, model) and any(request.id in draft.state.requests for request in theirs):
                draft.say(ev.ModelUnloaded(model=key, device=""))  # It is tried again for who goes on.
            _answer_unloads(draft, name, "failed")
        elif model.phase in {"ready", "unloading"}:
            _memory_is_back(draft, key, command.device)


def pull_ended(draft: Draft, command: cmd.ReportPullEnded) -> None:
    """A pull is over: tell everybody who waited for it. One that was abandoned may end late, beside its successor."""
    if draft.state.pulls.get(command.model) != command.pull:
        return
    failure = command.failure and numbered(draft, command, command.failure)
    draft.say(ev.PullEnded(model=command.model, failure=failure, pull=command.pull))
    _tell(draft, "pull", command.model, failure, {"model": command.model, "digest": command.digest})


def removed(draft: Draft, command: cmd.ReportRemoved) -> None:
    """A removal is over."""
    failure = command.failure and numbered(draft, command, command.failure)
    draft.say(ev.RemoveEnded(model=command.model, failure=failure))
    _tell(draft, "remove", command.model, failure, {"model": command.model})


def _tell(draft: Draft, kind: ev.CallKind, name: str, failure: Failure | None, result: cmd.JsonObject) -> None:
    for request in calls_on(draft.state, name, kind):
        if failure is None:
            draft.say(ev.RequestReplied(request=request.id, caller=request.caller, result=result))
        else:
            draft.say(ev.RequestFailed(request=request.id, caller=request.caller, failure=failure))


def strike(draft: Draft) -> None:
    """Unload what nobody has used for as long as its keep_alive says."""
    for model in idle_models(draft.state):
        if model.last_used_ms + model.facts.keep_alive_ms <= draft.at_ms:
            draft.say(ev.ModelUnloadStarted(model=key_of(model), device=model.device or "", reason="idle"))
