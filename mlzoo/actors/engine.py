"""The engine: takes commands, has the core decide, writes the log, carries out what was decided. In that order.

It is the only caller of ``decide`` and the only writer of the main log. It waits for nobody but its mailbox and the
clock: what it sends goes into mailboxes that are sized for all the work that the core lets in, so that no cycle of
bounded queues can close. Knows nothing of hosts: answers are read from the log (``mlzoo.actors.outbox``).
"""

from __future__ import annotations

import math
import traceback
from typing import TYPE_CHECKING

import attrs
import trio

from mlzoo.actors.ephemeral import kept_text
from mlzoo.actors.ledger import Decided
from mlzoo.actors.messages import AbandonPull, GoOn, LoadOn, Order, Probe, Pull, Remove, Send
from mlzoo.actors.work import frame_of
from mlzoo.core.decide import decide
from mlzoo.core.state import WorkerState, model_of, name_of_replica, next_strike_ms
from mlzoo.errors import StorageFailed
from mlzoo.events import commands as cmd
from mlzoo.events import types as ev
from mlzoo.events.records import request_of
from mlzoo.frames import Abandon, Leave, Unload

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mlzoo.actors.ledger import Ledger
    from mlzoo.actors.mailbox import Ref
    from mlzoo.actors.messages import EngineMessage, RegistryMessage, WorkerMessage
    from mlzoo.actors.runtime import Inbox
    from mlzoo.events.records import Group
    from mlzoo.events.types import Event
    from mlzoo.frames import ToWorker

DISK_EVERY_MS = 1000  # the room on the disk is looked at no more often
BATCH = 64  # commands that share one write


class Engine:
    """One instance of the engine; what must outlive it is in the ledger.

    Args:
        ledger: log, state and clock.
        registry: carries out what is decided about placement, pulls and removals.
        workers: the worker actor of each device.
        show: called with the groups just written, so that those who read them wake up.
        leave: called once everything has ended.
        report: called with each incident's traceback and number, for the process's own log.
        free_bytes: returns the room on the log's disk.
        reserve_bytes: what must be free for new work to be let in, so that what runs can still be recorded.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        registry: Ref[RegistryMessage],
        workers: Mapping[str, Ref[WorkerMessage]],
        show: Callable[[list[Group]], None],
        leave: Callable[[], None],
        report: Callable[[str, int | None], None],
        free_bytes: Callable[[], int],
        reserve_bytes: int,
    ) -> None:
        self._free_bytes = free_bytes
        self._reserve_bytes = reserve_bytes
        self._disk_seen_ms: int | None = None
        self._ledger = ledger
        self._registry = registry
        self._workers = workers
        self._show = show
        self._leave = leave
        self._report = report

    async def run(self, inbox: Inbox[EngineMessage]) -> None:
        """Decide, write, act, until told to stop."""
        try:
            self._resume()
            while True:
                orders: list[Order] | None = None
                strike_s = self._next_strike_s()
                if strike_s == math.inf:
                    orders = await inbox.receive_batch(BATCH)
                else:
                    with trio.move_on_at(strike_s):
                        orders = await inbox.receive_batch(BATCH)
                if orders == []:
                    return
                self._carry_out(orders or [Order(cmd.Strike())])
        except StorageFailed:
            # That is final: nothing can be decided any more, and trying again would not help. ``app`` has heard of it.
            await inbox.stopping.wait()

    def _next_strike_s(self) -> float:
        at_ms = next_strike_ms(self._ledger.state)
        return math.inf if at_ms is None else self._ledger.awake_at_s(at_ms)

    def _carry_out(self, orders: list[Order]) -> None:
        """Do everything about some orders; what a crash leaves of it is in the ledger, for the next instance."""
        ledger = self._ledger
        if any(isinstance(order.command, cmd.Submit) for order in orders):
            ledger.orders.extend(self._look_at_the_disk())
        ledger.orders.extend(orders)
        while ledger.orders:
            self._decide(ledger.orders.popleft())
        ledger.log.commit()
        unshown, ledger.unshown = ledger.unshown, []
        self._show(unshown)
        while ledger.decided:
            self._act(ledger.decided[0])
            ledger.decided.popleft()

    def _look_at_the_disk(self) -> list[Order]:
        """Return what there is to decide about the room on the log's disk; before work is let in, and not too often."""
        now_ms = self._ledger.now_ms()
        if self._disk_seen_ms is not None and now_ms - self._disk_seen_ms < DISK_EVERY_MS:
            return []
        self._disk_seen_ms = now_ms
        free_bytes = self._free_bytes()
        low = free_bytes < self._reserve_bytes
        return (
            [] if low == self._ledger.state.storage_low else [Order(cmd.ReportStorage(low=low, free_bytes=free_bytes))]
        )

    def _decide(self, order: Order) -> None:
        """Decide a command; one that cannot be decided becomes an incident for each request that it was about.

        What changes nothing (a report that came too late) is not recorded: there is nothing to tell or to fold.
        """
        ledger = self._ledger
        at_ms = ledger.now_ms()
        try:
            if isinstance(order.command, cmd.Submit | cmd.Resume) and order.command.key:
                order = attrs.evolve(order, command=ledger.stamped(order.command))
            events, state = decide(ledger.state, order.command, ledger.log.last_seq + 1, at_ms)
            kept = kept_text(ledger, order.command, order.text)
            group = ledger.log.append(order.command, events, kept, at_ms, told=order.text) if events else None
        except StorageFailed:
            raise
        except Exception as error:
            if isinstance(order.command, cmd.ReportIncident):
                raise  # Even saying so fails: this is for the supervisor.
            self._drop_blob(order.command)
            story = traceback.format_exc()
            for incident in _incidents(order.command, error):
                self._decide(Order(incident, story=story, decided=order.decided))
            return
        if order.decided is not None:
            order.decided.set()
        self._report_incident(order, group)
        if group is None:
            self._drop_blob(order.command)  # It came too late.
            return
        ledger.state = state
        if isinstance(order.command, cmd.Submit) and order.command.request in state.requests:
            ledger.work[order.command.request] = (order.command, order.text)
        ledger.unshown.append(group)
        ledger.decided.append(Decided(group, state.workers))

    def _drop_blob(self, command: cmd.Command) -> None:
        """Drop the large value that came with a command, which no record will name."""
        if isinstance(command, cmd.ReportAnswer) and command.blob is not None:
            self._ledger.log.drop_blob(command.blob)

    def _report_incident(self, order: Order, group: Group | None) -> None:
        """Tell the process's own log of a fault of ours; one that nobody waits for any more has no number."""
        noted = [] if group is None else [event for event in group.events if isinstance(event, ev.IncidentNoted)]
        if noted and group is not None:
            self._report(order.story or f"{noted[0].command}: {noted[0].error}", group.first_seq)
        elif order.story:
            self._report(order.story, None)

    def _resume(self) -> None:
        """Go on where the last instance crashed: the request that it acted for ends, all else is carried out."""
        orders: list[Order] = []
        if self._ledger.acting is not None:
            group = self._ledger.decided[0].group
            request = request_of(group.events[self._ledger.acting])
            if request is not None:
                command = type(group.command).__name__
                orders = [Order(cmd.ReportIncident(command=command, error="acting", request=request))]
            self._ledger.acting += 1
        self._carry_out(orders)

    def _act(self, step: Decided) -> None:
        for index in range(self._ledger.acting or 0, len(step.group.events)):
            self._ledger.acting = index
            self._act_on(step.group.events[index], step.workers)
        self._ledger.acting = None

    def _act_on(self, event: Event, workers: Mapping[str, WorkerState]) -> None:
        match event:
            case ev.RequestDispatched():
                self._dispatch(event, workers)
            case ev.WorkAbandoned():
                self._send(workers, event.device, Abandon(request=event.request))
            case ev.RequestCompleted() | ev.RequestCancelled() | ev.RequestFailed() | ev.RequestReplied():
                self._ledger.work.pop(event.request, None)
            case ev.PlacementAsked():
                self._registry.tell_nowait(Probe(name_of_replica(event.model.name, event.replica)))
            case ev.ModelLoadStarted():
                self._registry.tell_nowait(LoadOn(event.model, event.device, epoch_of(workers, event.device)))
            case ev.ModelUnloadStarted():
                self._send(workers, event.device, Unload(model=model_of(event.model)))
            case ev.WorkerRetired():
                self._send(workers, event.device, Leave())
            case ev.PullStarted():
                self._registry.tell_nowait(Pull(event.model, event.accept_license, event.pull))
            case ev.PullAbandoned():
                self._registry.tell_nowait(AbandonPull(event.pull))
            case ev.RemoveStarted():
                self._registry.tell_nowait(Remove(event.model))
            case ev.SidecarStopped():
                self._leave()
            case _:
                return  # It says what is so; there is nothing to do about it.

    def _dispatch(self, event: ev.RequestDispatched, workers: Mapping[str, WorkerState]) -> None:
        """Have a worker begin a request, or go on with it, unless it has ended since: nobody needs it then."""
        begun = self._ledger.work.get(event.request)
        if event.resume is None and event.history is None and begun is not None:
            self._send(workers, event.device, frame_of(*begun, event.model))
            return
        request = self._ledger.state.requests.get(event.request)
        if request is not None:
            at_hand = begun if event.resume is None else None
            epoch = epoch_of(workers, event.device)
            begun_by = "" if event.resume is None else request.fingerprint
            go_on = GoOn(
                epoch, request.id, request.accepted_seq, event.resume, event.history, at_hand, event.model, begun_by
            )
            self._workers[event.device].tell_nowait(go_on)

    def _send(self, workers: Mapping[str, WorkerState], device: str, frame: ToWorker) -> None:
        self._workers[device].tell_nowait(Send(epoch_of(workers, device), frame))


def epoch_of(workers: Mapping[str, WorkerState], device: str) -> int:
    """Return how many processes of a device had crashed when a decision was made: it was made for the next one."""
    return workers.get(device, WorkerState()).crashes


def _incidents(command: cmd.Command, error: Exception) -> list[cmd.ReportIncident]:
    """Return an incident for each request that a command was about, or one for none."""
    if isinstance(command, cmd.ReportStep):
        requests: list[str | None] = [row.request for row in command.rows]
    else:
        requests = [getattr(command, "request", None)]
    caller = getattr(command, "caller", None)
    name, why = type(command).__name__, type(error).__name__
    return [cmd.ReportIncident(command=name, error=why, request=request, caller=caller) for request in requests]
