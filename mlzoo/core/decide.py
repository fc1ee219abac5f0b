"""The decision: ``decide(state, command, first_seq, at_ms) -> (events, state)``.

Reads one command against the state and says everything that follows from it, in order. Knows no text, no device
library and no connection; the story of each kind of thing is told in ``requests`` and ``models`` beside this file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from mlzoo import errors
from mlzoo.core import conversations, fitting, keys, models, personas, requests
from mlzoo.core.apply import Folding
from mlzoo.core.draft import Draft
from mlzoo.core.schedule import settle
from mlzoo.events import commands as cmd
from mlzoo.events import conversations as talk
from mlzoo.events import types as ev

if TYPE_CHECKING:
    from mlzoo.core.state import State
    from mlzoo.events.commands import Command
    from mlzoo.events.types import Event


def decide(state: State, command: Command, first_seq: int, at_ms: int) -> tuple[tuple[Event, ...], State]:
    """Return the events that a command leads to, and the state after them.

    ``first_seq`` is the log_seq that the command itself will have; its events take the numbers after it.
    """
    folding = Folding(state)
    return decide_next(folding, command, first_seq, at_ms), folding.state


def decide_next(folding: Folding, command: Command, first_seq: int, at_ms: int) -> tuple[Event, ...]:
    """Return the events that a command leads to, and fold them: the same for who decides one after another."""
    draft = Draft(folding, first_seq, at_ms)
    _decide(draft, command)
    if not draft.only_streams:
        settle(draft)
    return tuple(draft.events)


def _decide(draft: Draft, command: Command) -> None:
    match command:
        case cmd.ReportStep():  # by far the most frequent
            requests.step(draft, command)
        case cmd.Submit():
            requests.submit(draft, command)
        case cmd.Resume():
            keys.resume(draft, command)
        case cmd.Cancel():
            requests.cancel(draft, command)
        case cmd.ReportAnswer():
            requests.answer(draft, command)
        case cmd.ReportFailure():
            requests.failed(draft, command)
        case cmd.HostGone():
            requests.host_gone(draft, command)
        case cmd.Shutdown():
            requests.shut_down(draft, command)
        case cmd.Strike():
            strike(draft)
        case cmd.LoadModel() | cmd.UnloadModel() | cmd.PullModel() | cmd.RemoveModel():
            models.ask(draft, command)
        case cmd.ReportDevices():
            models.place(draft, command)
        case cmd.ReportLoaded():
            models.loaded(draft, command)
        case cmd.ReportLoadFailed():
            models.load_failed(draft, command)
        case cmd.ReportUnloaded():
            models.unloaded(draft, command)
        case cmd.ReportPullEnded():
            models.pull_ended(draft, command)
        case cmd.ReportRemoved():
            models.removed(draft, command)
        case cmd.ReportWorkerUp():
            draft.say(ev.WorkerWentUp(device=command.device, pid=command.pid, held_bytes=command.held_bytes))
        case cmd.ReportWorkerLost():
            models.worker_lost(draft, command)
        case cmd.Start():
            start(draft, command)
        case cmd.ReportStorage():
            if command.low != draft.state.storage_low:
                draft.say(ev.StorageChanged(low=command.low))
        case cmd.ReportKeysFiled():
            keys.filed(draft, command)
        case cmd.ReportIncident():
            incident(draft, command)
        case cmd.BeginFit():
            fitting.begin(draft, command)
        case cmd.ReportFitEpoch():
            fitting.epoch(draft, command)
        case cmd.EndFit():
            fitting.end(draft, command)
        case talk.CarryConversation() | talk.ForkConversation() | talk.DropConversation():
            conversations.decide(draft, command)
        case talk.PutPersona() | talk.CarryPersona() | talk.DropPersona():
            personas.decide(draft, command)
        case _:
            assert_never(command)


def strike(draft: Draft) -> None:
    """Do what the clock has made due."""
    requests.strike(draft)
    requests.end_drain(draft)
    models.strike(draft)


def start(draft: Draft, command: cmd.Start) -> None:
    """Take up a log: what an earlier sidecar left running has lost its connection and its worker.

    What it left suspended is so still; what has a key and waited or ran, goes on in this life; all else ends.
    """
    orphans = tuple(draft.state.requests.values())
    why = "The sidecar ended while this request was running; send it again."
    if draft.state.drain_until_ms is not None:
        drain_s = draft.state.bounds.drain_ms / 1000
        why = f"The sidecar was ended while this had {drain_s:g} s (limits.drain_s) to finish; send it again."
    draft.say(ev.SidecarStarted(version=command.version, bounds=command.bounds, time_ms=command.time_ms))
    for request in orphans:
        if request.phase != "suspended":
            requests.suspend(draft, request, "sidecar", requests.interrupted(request, why))


def incident(draft: Draft, command: cmd.ReportIncident) -> None:
    """Contain a fault of ours: note it, and end the request that it was about."""
    draft.say(ev.IncidentNoted(command=command.command, error=command.error))
    if command.request is None:
        return
    failure = errors.InternalError(
        "mlzoo made an error; the incident stands in the log under this number.", incident=draft.first_seq
    ).failure()
    live = draft.state.requests.get(command.request)
    if live is not None:
        requests.withdraw(draft, live)
        requests.fail(draft, command.request, failure)
    elif command.caller is not None:
        draft.say(ev.RequestFailed(request=command.request, caller=command.caller, failure=failure))
