"""The state machine of a request: refused at the door, or accepted, queued, running and ended exactly once.

A request under a key does not end with its worker or its sidecar: it is suspended, and goes on where it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from mlzoo import errors
from mlzoo.core import breaker, keys, routing
from mlzoo.core.incidents import numbered
from mlzoo.core.replicas import replica_at, replicas_of
from mlzoo.core.room import full
from mlzoo.core.state import CALLS, calls_on, drain_is_over, is_remote, waits
from mlzoo.core.suspects import MOST_LOSSES, is_suspect
from mlzoo.events import conversations as talk
from mlzoo.events import types as ev

if TYPE_CHECKING:
    from mlzoo.core.draft import Draft
    from mlzoo.core.state import RequestState, State
    from mlzoo.errors import Failure
    from mlzoo.events import commands as cmd
    from mlzoo.events.facts import SummaryFacts

MIN_RETRY_MS = 100
FIRST_GUESS_MS = 1000.0  # of the time that a request runs, while none has been measured


def submit(draft: Draft, command: cmd.Submit) -> None:
    """Refuse at the door, accept, or show what its key stands for already."""
    if command.key and keys.reuse(draft, command):
        return
    others = any(candidate.refused is None for candidate in command.chain)
    refusal = command.refused or (None if others else command.unfit) or _refusal(draft.state, command, draft.at_ms)
    if refusal is not None:
        draft.say(ev.RequestRefused(request=command.request, caller=command.caller, failure=refusal))
        return
    deadline_at_ms = None if command.deadline_ms is None else draft.at_ms + command.deadline_ms
    draft.say(
        ev.RequestAccepted(
            request=command.request,
            caller=command.caller,
            kind=command.method,
            model=command.model,
            stream=command.stream,
            normalize=command.normalize,
            seed=command.sampling.seed if command.sampling else None,
            deadline_at_ms=deadline_at_ms,
            priority=command.priority,
            require_device=command.require_device,
            size_bytes=command.size_bytes,
            key=command.key,
            params_digest=command.params_digest if command.key else "",
            determinism=command.determinism,
            ephemeral=command.ephemeral,
            max_tokens=command.max_tokens if command.model.replicas > 1 else None,
            prefixes=command.prefixes,
            conversation=command.conversation,
            persona=command.persona,
            chain=command.chain,
            adapter=command.adapter,
        )
    )
    if command.unfit is not None:
        give_up(draft, draft.state.requests[command.request], command.unfit)


def _refusal(state: State, command: cmd.Submit, at_ms: int) -> Failure | None:
    closed = door_closed(state)
    if closed is not None:
        return closed
    if command.conversation and not command.ephemeral:
        no_room = full(state, command.conversation, command.size_bytes)
        if no_room is not None:
            return no_room
    bounds = state.bounds
    if command.size_bytes > bounds.queued_bytes:  # it would not fit into an empty queue either
        return errors.TooLarge(
            f"The request has {command.size_bytes} bytes, {bounds.queued_bytes} are allowed: send less at once.",
            limit=bounds.queued_bytes,
            got=command.size_bytes,
        ).failure()
    queued = sum(waits(r) and r.kind not in CALLS for r in state.requests.values())
    retry_ms = round(_run_ms(state, command.model, at_ms) * (queued + 1) / _slots(state, command.model))
    if queued >= bounds.max_queued:
        return _overloaded("requests", queued, bounds.max_queued, retry_ms)
    held_bytes = sum(r.size_bytes for r in state.requests.values())
    if held_bytes + command.size_bytes > bounds.queued_bytes:
        return _overloaded("bytes", held_bytes, bounds.queued_bytes, retry_ms)
    return None


def _run_ms(state: State, model: cmd.ModelFacts, at_ms: int) -> float:
    """Return how long a request of a model runs: as the latest did, of all models and kinds.

    It is no less than those of this model have run by now: short ones, or those of others, do not promise too much.
    """
    running = [r for r in state.requests.values() if r.phase == "running" and r.model and r.model.name == model.name]
    so_far_ms = sum(at_ms - r.started_at_ms for r in running) / max(1, len(running))
    return max(so_far_ms, state.mean_run_ms or FIRST_GUESS_MS)


def _slots(state: State, model: cmd.ModelFacts) -> int:
    """Return how many requests of a model run together: where it is loaded, as many as there was memory for."""
    loaded = sum(found.slots for found in replicas_of(state, model.name) if found.phase == "ready")
    return max(1, min(loaded or model.slots * model.replicas, state.bounds.max_running))


def call_refused(state: State, kind: ev.CallKind) -> Failure | None:
    """Return why a call about a model is not taken in, or None. What frees space is let in while the disk is low."""
    frees = kind in {"unload", "remove"} and state.drain_until_ms is None
    return (None if frees else door_closed(state)) or _too_many(state, CALLS - {"shutdown"})


def _too_many(state: State, kinds: frozenset[ev.CallKind]) -> Failure | None:
    waiting = sum(r.kind in kinds for r in state.requests.values())
    if waiting < state.bounds.max_queued:
        return None
    return _overloaded("calls", waiting, state.bounds.max_queued, round(FIRST_GUESS_MS))


def _overloaded(unit: str, queued: int, limit: int, retry_ms: int) -> Failure:
    retry_ms = max(MIN_RETRY_MS, retry_ms)
    return errors.Overloaded(
        f"{queued} {unit} are held already and {limit} are allowed; try again in {retry_ms} ms.",
        retry_after_ms=retry_ms,
        queued=queued,
        limit=limit,
        unit=unit,
    ).failure()


def door_closed(state: State) -> Failure | None:
    """Return why nothing new is taken in at all, or None."""
    if state.drain_until_ms is not None:
        return errors.ShuttingDown("The sidecar is shutting down and takes no new work.").failure()
    if state.storage_low:
        return errors.StorageFailed(
            "The disk of the log is nearly full: free some space; what runs is finished.",
            reason="disk_low",
            retryable=True,
        ).failure()
    return None


def step(draft: Draft, command: cmd.ReportStep) -> None:
    """Take in one step of a worker's batch. A row of a request that has ended meanwhile is dropped."""
    for row, facts in enumerate(command.rows):
        counts = draft.counts(facts.request)
        if counts is None or counts.request.phase != "running":
            continue
        if facts.summary is not None:
            _summarise(draft, counts.request, row, facts, facts.summary)
            continue
        shows = facts.size_bytes > 0 or facts.logprobs > 0 or facts.tool_calls > 0 or facts.reasoning_bytes > 0
        piece = ev.RequestStreamed(
            request=facts.request,
            row=row,
            tokens=facts.tokens,
            seq=counts.next_seq if shows else None,
            prompt_tokens=facts.prompt_tokens,
            cached_tokens=facts.cached_tokens,
            completion_tokens=facts.completion_tokens,
            truncated=facts.truncated,
        )
        draft.stream(piece, counts)
        if facts.finish_reason is not None:
            _complete(draft, facts)


def _summarise(draft: Draft, request: RequestState, row: int, facts: cmd.RowFacts, summary: SummaryFacts) -> None:
    """Take in what a worker made of turns that are too long for the context of the request that it works on."""
    before = None if request.history is None else request.history.summary
    draft.say(
        talk.ConversationSummarised(
            conversation=request.conversation,
            request=request.id,
            row=row,
            turns=summary.turns,
            size_bytes=facts.size_bytes,
            left_out=summary.left_out,
            of=summary.of,
            after="" if before is None else before.request,
        )
    )


def _complete(draft: Draft, facts: cmd.RowFacts) -> None:
    request = draft.state.requests[facts.request]
    summary = None if request.history is None else request.history.summary
    if request.model is not None:
        breaker.note_answer(draft, request.model)
    draft.say(
        ev.RequestCompleted(
            request=request.id,
            device=request.device or "",
            finish_reason=facts.finish_reason,
            prompt_tokens=request.prompt_tokens,
            completion_tokens=request.completion_tokens,
            cached_tokens=request.cached_tokens,
            timing=_timing(draft, request),
            digest=facts.digest,
            degraded=_degraded(draft.state, request),
            resumed=request.resumed,
            truncated=request.truncated + (0 if summary is None else summary.turns),
            summarised=0 if summary is None else summary.turns - summary.left_out,
        )
    )


def answer(draft: Draft, command: cmd.ReportAnswer) -> None:
    """Take in an embedding, a prediction or tokens: answers that come whole."""
    request = draft.state.requests.get(command.request)
    if request is None or request.phase != "running":
        return
    if request.model is not None:
        breaker.note_answer(draft, request.model)
    draft.say(
        ev.RequestCompleted(
            request=request.id,
            device=request.device or "",
            finish_reason=None,
            prompt_tokens=command.prompt_tokens,
            completion_tokens=0,
            cached_tokens=0,
            timing=_timing(draft, request),
            degraded=_degraded(draft.state, request),
            count=command.count,
            dimensions=command.dimensions,
            blob=command.blob,
            truncated=command.truncated,
        )
    )


def _timing(draft: Draft, request: RequestState) -> ev.Timing:
    first_ms = draft.at_ms if request.first_token_at_ms is None else request.first_token_at_ms
    return ev.Timing(
        queue_ms=request.started_at_ms - request.accepted_at_ms,
        ttft_ms=first_ms - request.accepted_at_ms,
        total_ms=draft.at_ms - request.accepted_at_ms,
    )


def _degraded(state: State, request: RequestState) -> str | None:
    model = replica_at(state, request.model.name, request.device) if request.model else None
    return model.degraded if model else None


def cancel(draft: Draft, command: cmd.Cancel) -> None:
    """End a request because its host wants it so; what is unknown or has ended is no error."""
    request = draft.state.requests.get(command.target) if command.target else None
    if request is None:
        request = keys.live_under(draft.state, command)
    if request is not None:
        withdraw(draft, request)
        draft.say(ev.RequestCancelled(request=request.id))
    if command.caller is not None:
        reply = {"cancelled": request is not None}
        draft.say(ev.RequestReplied(request=command.request, caller=command.caller, result=reply))


def failed(draft: Draft, command: cmd.ReportFailure) -> None:
    """Take in that a worker could not do it."""
    request = draft.state.requests.get(command.request)
    if request is None:
        return
    failure = numbered(draft, command, command.failure)
    if request.model is not None:
        breaker.note_fault(draft, request.model, failure)
    if failure.code == errors.Interrupted.code and request.next_seq and "seq" not in failure.data:
        failure = attrs.evolve(failure, data={**failure.data, "seq": request.next_seq - 1})
    give_up(draft, request, failure)


def give_up(draft: Draft, request: RequestState, failure: Failure) -> None:
    """Have the next model of a request's chain answer it in the place of one that cannot; without one, it fails."""
    last = routing.move_on(draft, request, failure)
    if last is not None:
        fail(draft, request.id, last)


def fail(draft: Draft, request_id: str, failure: Failure) -> None:
    """End one request with a failure; its neighbours go on."""
    request = draft.state.requests.get(request_id)
    if request is None:
        return
    draft.say(ev.RequestFailed(request=request.id, caller=request.caller, failure=failure))


def host_gone(draft: Draft, command: cmd.HostGone) -> None:
    """End what a vanished connection had asked for, as nobody hears the answer; who has the key may still come."""
    for request in tuple(draft.state.requests.values()):
        if request.caller is not None and request.caller.connection == command.connection and not request.key:
            withdraw(draft, request)
            fail(draft, request.id, interrupted(request, "The connection that asked for this has ended."))


def shut_down(draft: Draft, command: cmd.Shutdown) -> None:
    """Close the door and give what runs its time."""
    if command.caller is not None:
        refusal = _too_many(draft.state, frozenset({"shutdown"}))  # of the call: the shutdown itself goes on
        if refusal is None:
            draft.say(ev.RequestAccepted(request=command.request, caller=command.caller, kind="shutdown"))
        else:
            draft.say(ev.RequestRefused(request=command.request, caller=command.caller, failure=refusal))
    if draft.state.drain_until_ms is None:
        draft.say(ev.DrainStarted(until_ms=draft.at_ms + draft.state.bounds.drain_ms))


def strike(draft: Draft) -> None:
    """End what has passed its deadline."""
    for request in tuple(draft.state.requests.values()):
        if request.deadline_at_ms is not None and request.deadline_at_ms <= draft.at_ms:
            withdraw(draft, request)
            late = errors.DeadlineExceeded("The deadline passed before the answer was whole; allow more time.")
            fail(draft, request.id, late.failure())


def end_drain(draft: Draft) -> None:
    """End or suspend all that is left when the drain is over."""
    if not drain_is_over(draft.state, draft.at_ms) or draft.state.stopped:
        return
    drain_s = draft.state.bounds.drain_ms / 1000
    why = f"The sidecar shut down, and {drain_s:g} s (limits.drain_s) were too short; send this again."
    told = {event.request for event in draft.events if isinstance(event, ev.RequestSuspended)}
    for request in tuple(draft.state.requests.values()):
        if request.kind != "shutdown" and request.id not in told:
            withdraw(draft, request)
            suspend(draft, request, "drain", interrupted(request, why))


def lose_worker(draft: Draft, request: RequestState, failure: Failure) -> None:
    """Take in that the worker of a request died, or could not load its model without dying; failure ends it, if so."""
    if routing.may_move_on(request, failure):
        give_up(draft, request, failure)
    elif is_suspect(request):
        why = f"The worker process died {MOST_LOSSES} times in a row under this request; it is not tried again."
        fail(draft, request.id, interrupted(request, why, retryable=False))
    else:
        suspend(draft, request, "worker", failure)


def suspend(draft: Draft, request: RequestState, reason: ev.Suspension, failure: Failure) -> None:
    """Have a request that nobody works on any more go on later, where it has a key; else it ends with a failure.

    So does one of which a provider has said something: nobody else can say the rest.

    Who waits for one that is suspended already hears of this as well.
    """
    if request.key and not (is_remote(request) and request.first_token_at_ms is not None):
        draft.say(ev.RequestSuspended(request=request.id, reason=reason))
    else:
        fail(draft, request.id, failure)


def interrupted(request: RequestState, why: str, *, retryable: bool = True) -> Failure:
    """Return the failure of a request whose worker, sidecar or connection went away under it."""
    streamed = {} if request.next_seq == 0 else {"seq": request.next_seq - 1}
    return errors.Interrupted(why, **streamed, resumable=False, retryable=retryable).failure()


def withdraw(draft: Draft, request: RequestState) -> None:
    """Take a request back from where it is being worked on."""
    if request.phase == "running" and request.device is not None:
        draft.say(ev.WorkAbandoned(request=request.id, device=request.device))
    if request.kind == "pull" and request.model is not None:
        name = request.model.name
        if len(calls_on(draft.state, name, "pull")) == 1:
            draft.say(ev.PullAbandoned(model=name, pull=draft.state.pulls.get(name, "")))
