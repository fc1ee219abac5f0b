"""The engine: takes commands, has the core decide, writes the log, carries out what was decided. In that order.

It is the only caller of ``decide`` and the only writer of the main log. It waits for nobody but its mailbox and the
clock: what it sends goes into mailboxes that are sized for all the work that the core lets in, so that no cycle of
bounded queues can close. Knows nothing of hosts: answers are read from the log (``mlzoo.actors.outbox``).
"""

from __future__ import annotations

import math
import traceback
from typing import TYPE_CHECKING, assert_never

import trio

from mlzoo.actors.messages import AbandonPull, LoadOn, Order, Probe, Pull, Remove, Send
from mlzoo.core.decide import decide
from mlzoo.core.state import WorkerState, next_strike_ms
from mlzoo.events import commands as cmd
from mlzoo.events import types as ev
from mlzoo.frames import Abandon, Detokenize, Embed, Generate, Leave, Sampling, Tokenize, Unload

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from mlzoo.actors.ledger import Ledger
    from mlzoo.actors.mailbox import Ref
    from mlzoo.actors.messages import EngineMessage, RegistryMessage, WorkerMessage
    from mlzoo.actors.runtime import Inbox
    from mlzoo.events.types import Event, Group
    from mlzoo.frames import ToWorker

BATCH = 64  # commands that share one write


class Engine:
    """One instance of the engine; what must outlive it is in the ledger.

    Args:
        ledger: log, state and clock.
        registry: carries out what is decided about placement, pulls and removals.
        workers: the worker actor of each device.
        show: called with the groups just written, so that those who read them wake up.
        leave: called once everything has ended.
        report: called with each incident's traceback, for the process's own log.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        registry: Ref[RegistryMessage],
        workers: Mapping[str, Ref[WorkerMessage]],
        show: Callable[[list[Group]], None],
        leave: Callable[[], None],
        report: Callable[[str], None],
    ) -> None:
        self._ledger = ledger
        self._registry = registry
        self._workers = workers
        self._show = show
        self._leave = leave
        self._report = report

    async def run(self, inbox: Inbox[EngineMessage]) -> None:
        """Decide, write, act, until told to stop."""
        if self._ledger.start is not None:
            start, self._ledger.start = self._ledger.start, None
            self._carry_out([Order(start)])
        self._resume()
        while True:
            orders: list[Order] = []
            with trio.move_on_at(self._next_strike_s()):
                orders = await inbox.receive_batch(BATCH)
                if not orders:
                    return
            self._carry_out(orders or [Order(cmd.Strike())])

    def _next_strike_s(self) -> float:
        at_ms = next_strike_ms(self._ledger.state)
        return math.inf if at_ms is None else self._ledger.awake_at_s(at_ms)

    def _carry_out(self, orders: list[Order]) -> None:
        groups = [self._decide(order) for order in orders]
        self._ledger.log.commit()
        self._show(groups)
        for group in groups:
            self._act(group)

    def _decide(self, order: Order) -> Group:
        """Decide one command and append it with its events; one that cannot be decided becomes an incident."""
        ledger = self._ledger
        at_ms = ledger.now_ms()
        try:
            events, state = decide(ledger.state, order.command, ledger.log.last_seq + 1, at_ms)
        except Exception as error:  # noqa: BLE001 (contained: it becomes a recorded incident)
            self._report(traceback.format_exc())
            order = Order(_incident(order.command, error))
            events, state = decide(ledger.state, order.command, ledger.log.last_seq + 1, at_ms)
        group = ledger.log.append(order.command, events, order.text, at_ms)
        ledger.state = state
        if isinstance(order.command, cmd.Submit) and order.command.request in state.requests:
            ledger.work[order.command.request] = (order.command, order.text)
        return group

    def _resume(self) -> None:
        """After a crash in the middle of acting: the request that it was about ends, everything else is carried out."""
        acting = self._ledger.acting
        if acting is None:
            return
        self._ledger.acting = None
        group, index = acting
        request = ev.request_of(group.events[index])
        if request is not None:
            incident = cmd.ReportIncident(command=type(group.command).__name__, error="acting", request=request)
            self._carry_out([Order(incident)])
        self._act(group, index + 1)

    def _act(self, group: Group, first: int = 0) -> None:
        for index in range(first, len(group.events)):
            self._ledger.acting = (group, index)
            self._act_on(group.events[index])
        self._ledger.acting = None

    def _act_on(self, event: Event) -> None:
        match event:
            case ev.RequestDispatched():
                self._send(event.device, _frame_of(*self._ledger.work[event.request]))
            case ev.WorkAbandoned():
                self._send(event.device, Abandon(request=event.request))
            case ev.RequestCompleted() | ev.RequestCancelled() | ev.RequestFailed() | ev.RequestReplied():
                self._ledger.work.pop(event.request, None)
            case ev.PlacementAsked():
                self._registry.tell_nowait(Probe(event.model.name))
            case ev.ModelLoadStarted():
                self._registry.tell_nowait(LoadOn(event.model, event.device))
            case ev.ModelUnloadStarted():
                self._send(event.device, Unload(model=event.model))
            case ev.WorkerRetired():
                self._send(event.device, Leave())
            case ev.PullStarted():
                self._registry.tell_nowait(Pull(event.model, event.accept_license))
            case ev.PullAbandoned():
                self._registry.tell_nowait(AbandonPull(event.model))
            case ev.RemoveStarted():
                self._registry.tell_nowait(Remove(event.model))
            case ev.SidecarStopped():
                self._leave()
            case _:
                return  # It says what is so; there is nothing to do about it.

    def _send(self, device: str, frame: ToWorker) -> None:
        epoch = self._ledger.state.workers.get(device, WorkerState()).crashes
        self._workers[device].tell_nowait(Send(epoch, frame))


def _incident(command: cmd.Command, error: Exception) -> cmd.ReportIncident:
    return cmd.ReportIncident(
        command=type(command).__name__,
        error=type(error).__name__,
        request=getattr(command, "request", None),
        caller=getattr(command, "caller", None),
    )


def _frame_of(submit: cmd.Submit, text: Any) -> ToWorker:
    """Return what a worker is told about a request."""
    request, model = submit.request, submit.model.name
    match submit.method:
        case "chat" | "complete":
            return Generate(
                request=request,
                model=model,
                messages=tuple(text["messages"]) if "messages" in text else None,
                prompt=text.get("prompt"),
                sampling=submit.sampling or Sampling(),
                stop=tuple(text.get("stop", ())),
                max_tokens=submit.max_tokens,
            )
        case "embed":
            return Embed(request=request, model=model, texts=tuple(text["texts"]), normalize=submit.normalize)
        case "tokenize":
            messages = tuple(text["messages"]) if "messages" in text else None
            return Tokenize(request=request, model=model, text=text.get("text"), messages=messages)
        case "detokenize":
            return Detokenize(request=request, model=model, tokens=tuple(text["tokens"]))
        case _:
            assert_never(submit.method)
