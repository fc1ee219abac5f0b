"""Drives the pure core as the engine does, and checks after every command what must always hold.

A ``Core`` keeps what the engine keeps: the state, the log's next number, the groups. ``tell`` decides one command.
"""

from __future__ import annotations

from typing import Any

from mlzoo import errors
from mlzoo.core.apply import Folding, apply_group, fold
from mlzoo.core.decide import decide
from mlzoo.core.draft import Draft
from mlzoo.core.schedule import settle
from mlzoo.core.state import State, next_strike_ms
from mlzoo.events import commands as cmd
from mlzoo.events import types as ev
from mlzoo.events.records import Group, request_of

BOUNDS = cmd.Bounds(max_queued=8, max_running=4, queued_bytes=1000, drain_ms=5000)
CHAT = cmd.ModelFacts(name="chatty", kind="chat", memory_bytes=40, slots=2, keep_alive_ms=60_000)
EMBED = cmd.ModelFacts(name="minnie", kind="embed", memory_bytes=30, slots=2, keep_alive_ms=60_000)
OTHER = cmd.ModelFacts(name="other", kind="chat", memory_bytes=40, slots=1, keep_alive_ms=60_000)
CALLS = {"load", "unload", "pull", "remove"}
TERMINAL = (
    ev.RequestAttached,
    ev.RequestRefused,
    ev.RequestCompleted,
    ev.RequestReplied,
    ev.RequestCancelled,
    ev.RequestFailed,
)


def start(bounds: cmd.Bounds = BOUNDS) -> cmd.Start:
    return cmd.Start(version="1", core_version=1, bounds=bounds)


def device(name: str, free_bytes: int, **more: Any) -> cmd.DeviceFacts:
    kind = name.partition(":")[0]
    return cmd.DeviceFacts(name=name, kind=kind, memory_total_bytes=100, memory_free_bytes=free_bytes, **more)


class Core:
    """The engine's part of the core's life: one command after another."""

    def __init__(self, bounds: cmd.Bounds | None = BOUNDS) -> None:
        self.state = State()
        self.groups: list[Group] = []
        self.events: list[ev.Event] = []
        self.at_ms = 1_000
        self.seq = 1
        self.ledger = Ledger()
        self.calls = 0
        if bounds is not None:
            self.tell(start(bounds))

    def tell(self, command: cmd.Command) -> tuple[ev.Event, ...]:
        """Decide one command and check everything that must hold."""
        was = repr(self.state)
        events, state = decide(self.state, command, self.seq, self.at_ms)
        assert repr(self.state) == was, "decide changed its input"
        assert decide(self.state, command, self.seq, self.at_ms) == (events, state), "decide is no function"
        group = Group(first_seq=self.seq, at_ms=self.at_ms, time_ms=0, command=command, events=events)
        folded = apply_group(self.state, group)
        assert folded == state, "the fold of what was recorded is not the live state"
        assert list(folded.requests) == list(state.requests), "the fold has another order of turns"
        self.groups.append(group)
        self.events.extend(events)
        self.seq = group.last_seq + 1
        self.state = state
        self.ledger.enter(group, state)
        self._is_settled()
        self._strike_makes_progress()
        return events

    def _is_settled(self) -> None:
        draft = Draft(Folding(self.state), self.seq, self.at_ms)
        settle(draft)
        assert not draft.events, f"something was possible and not done: {draft.events}"

    def _strike_makes_progress(self) -> None:
        due_ms = next_strike_ms(self.state)
        if due_ms is None:
            return
        at_ms = max(due_ms, self.at_ms)
        events, state = decide(self.state, cmd.Strike(), self.seq, at_ms)
        assert events, "a strike that was due changed nothing"
        next_ms = next_strike_ms(state)
        assert next_ms is None or next_ms > at_ms, "a strike left work that was due"

    def check_replay(self) -> None:
        """The whole log again: the same decisions, and the same state by the fold alone."""
        state = State()
        for group in self.groups:
            events, state = decide(state, group.command, group.first_seq, group.at_ms)
            assert events == group.events
        assert repr(state) == repr(self.state) == repr(fold(State(), self.groups))

    def pass_time(self, by_ms: int) -> tuple[ev.Event, ...]:
        """Let time pass, with a Strike at each moment that the state waits for."""
        until_ms = self.at_ms + by_ms
        events: tuple[ev.Event, ...] = ()
        while (due_ms := next_strike_ms(self.state)) is not None and due_ms <= until_ms:
            self.at_ms = max(self.at_ms, due_ms)
            events += self.tell(cmd.Strike())
        self.at_ms = until_ms
        return events

    # ---------------------------------------------------------------- what hosts say

    def caller(self, connection: str = "c1") -> cmd.Caller:
        self.calls += 1
        return cmd.Caller(connection=connection, rpc=self.calls)

    def chat(
        self, request: str, model: cmd.ModelFacts = CHAT, connection: str = "c1", **more: Any
    ) -> tuple[ev.Event, ...]:
        caller = self.caller(connection)
        return self.tell(cmd.Submit(request=request, caller=caller, method="chat", model=model, **more))

    def cancel(self, target: str | None, **more: Any) -> tuple[ev.Event, ...]:
        caller = self.caller()
        return self.tell(cmd.Cancel(request=f"cancel-{caller.rpc}", caller=caller, target=target, **more))

    def load(self, request: str, model: cmd.ModelFacts = CHAT, **more: Any) -> tuple[ev.Event, ...]:
        return self.tell(cmd.LoadModel(request=request, caller=self.caller(), model=model, **more))

    def unload(self, request: str, model: cmd.ModelFacts = CHAT) -> tuple[ev.Event, ...]:
        return self.tell(cmd.UnloadModel(request=request, caller=self.caller(), model=model))

    def pull(self, request: str, model: cmd.ModelFacts = CHAT) -> tuple[ev.Event, ...]:
        return self.tell(cmd.PullModel(request=request, caller=self.caller(), model=model))

    def remove(self, request: str, model: cmd.ModelFacts = CHAT) -> tuple[ev.Event, ...]:
        return self.tell(cmd.RemoveModel(request=request, caller=self.caller(), model=model))

    def shut_down(self, request: str = "bye") -> tuple[ev.Event, ...]:
        return self.tell(cmd.Shutdown(request=request, caller=self.caller(), reason="asked"))

    # ---------------------------------------------------------------- what the shell reports

    def devices(self, *devices: cmd.DeviceFacts, model: cmd.ModelFacts = CHAT) -> tuple[ev.Event, ...]:
        return self.tell(cmd.ReportDevices(model=model.name, devices=devices or (device("cpu", 100),)))

    def worker_up(self, name: str = "cpu") -> tuple[ev.Event, ...]:
        return self.tell(cmd.ReportWorkerUp(device=name, pid=7, threads=1, versions={}))

    def loaded(self, model: cmd.ModelFacts = CHAT, on: str = "cpu", fingerprint: str = "") -> tuple[ev.Event, ...]:
        return self.tell(
            cmd.ReportLoaded(
                model=model.name,
                device=on,
                memory_bytes=model.memory_bytes,
                context=64,
                slots=model.slots,
                fingerprint=fingerprint,
            )
        )

    def ready(self, model: cmd.ModelFacts = CHAT, on: str = "cpu", fingerprint: str = "") -> tuple[ev.Event, ...]:
        """Bring a model that somebody waits for to readiness."""
        self.devices(device(on, 100), model=model)
        if not (on in self.state.workers and self.state.workers[on].up):
            self.worker_up(on)
        return self.loaded(model, on, fingerprint)

    def step(self, *rows: cmd.RowFacts, on: str = "cpu") -> tuple[ev.Event, ...]:
        return self.tell(cmd.ReportStep(device=on, rows=rows))

    def unloaded(self, model: cmd.ModelFacts = CHAT, on: str = "cpu") -> tuple[ev.Event, ...]:
        return self.tell(cmd.ReportUnloaded(model=model.name, device=on))

    def lost(self, name: str = "cpu", *, expected: bool = False) -> tuple[ev.Event, ...]:
        return self.tell(cmd.ReportWorkerLost(device=name, reason="signal 9", expected=expected))


def row(request: str, finish_reason: Any = None, size_bytes: int = 3, **more: Any) -> cmd.RowFacts:
    return cmd.RowFacts(request=request, tokens=1, size_bytes=size_bytes, finish_reason=finish_reason, **more)


class Ledger:
    """What the log says about every request so far, kept apart from the state so that it can contradict it."""

    def __init__(self) -> None:
        self.open: dict[str, int] = {}  # request -> the seq that its stream must have next
        self.ended: set[str] = set()
        self.keyed: set[str] = set()
        self.running: set[str] = set()
        self.spoken: set[str] = set()  # requests of which a token is recorded
        self.bound: dict[str, tuple[str, str]] = {}  # key -> the request that runs under it, for ever, and its params

    def enter(self, group: Group, state: State) -> None:
        if isinstance(group.command, cmd.Submit | cmd.Resume) and group.command.key:
            self._enter_key(group.command, group.events, stopped=state.stopped)
        for event in group.events:
            self._enter_event(event)
        assert list(self.open) == list(state.requests), "the state holds other requests than the log has open"
        self._within_bounds(state)

    def _enter_key(self, command: cmd.Submit | cmd.Resume, events: tuple[ev.Event, ...], *, stopped: bool) -> None:
        """A key is bound once; whoever names it again hears of that request, or why not."""
        [said] = [event for event in events if request_of(event) == command.request][:1]
        bound, params = self.bound.get(command.key, (None, None))
        if isinstance(said, ev.RequestAccepted):
            assert bound is None, f"{said} runs a key twice, after {bound}"
            self.bound[command.key] = (command.request, said.params_digest)
        elif isinstance(said, ev.RequestAttached):
            assert said.target == bound
            assert bound in self.ended or not stopped, f"{said} waits for what this life does not do any more"
            assert isinstance(command, cmd.Resume) or command.params_digest == params
        else:
            assert isinstance(said, ev.RequestRefused)
            if bound is not None and isinstance(command, cmd.Submit) and command.params_digest != params:
                assert said.failure.code == errors.InvalidParams.code
            elif bound is not None and stopped and bound not in self.ended:
                assert said.failure.code == errors.ShuttingDown.code
            elif bound is not None and said.failure.code == errors.LogUnusable.code:
                assert said.failure == command.refused, f"{said} is not what the shell found to be damaged"
            elif bound is not None:
                assert said.failure.code == errors.OutOfRange.code
                assert bound in self.ended or said.failure.data["type"] == "ahead"

    def _enter_event(self, event: ev.Event) -> None:
        request = request_of(event)
        if request is None:
            return
        assert request not in self.ended, f"{event} follows a terminal"
        self._enter_progress(request, event)
        if isinstance(event, ev.RequestAccepted):
            assert request not in self.open, f"{request} was accepted twice"
            self.open[request] = 0
        elif isinstance(event, TERMINAL):
            self.open.pop(request, None)
            self.ended.add(request)
        else:
            assert request in self.open, f"{event} is about a request that was never accepted"
            if isinstance(event, ev.RequestStreamed) and event.seq is not None:
                assert event.seq == self.open[request], f"{event} leaves a gap or repeats"
                self.open[request] += 1

    def _enter_progress(self, request: str, event: ev.Event) -> None:
        match event:
            case ev.RequestAccepted() if event.key:
                self.keyed.add(request)
            case ev.RequestDispatched():
                assert request not in self.running, f"{event} runs already"
                assert (event.resume is not None) == (request in self.spoken), f"{event} forgets or invents what was"
                self.running.add(request)
            case ev.RequestStreamed():
                assert request in self.running, f"{event} does not run"
                self.spoken.update([request] if event.tokens else ())
            case ev.RequestRerouted():
                is_silent = request not in self.spoken and not self.open[request]
                assert is_silent, f"{event} has another model go on with what one began"
                self.running.discard(request)
            case ev.RequestSuspended():
                assert request in self.keyed, f"{event} has no key"
                self.running.discard(request)

    def _within_bounds(self, state: State) -> None:
        live = state.requests.values()
        running = [r for r in live if r.phase == "running"]
        assert len(running) <= state.bounds.max_running
        inference = [r for r in live if r.phase == "queued" and r.kind not in CALLS | {"shutdown"}]
        calls = [r for r in live if r.kind in CALLS]
        assert len(inference) <= state.bounds.max_queued
        assert len(calls) <= state.bounds.max_queued
        assert sum(r.size_bytes for r in live) <= state.bounds.queued_bytes
        for model in state.models.values():
            named = [r for r in running if r.model and r.model.name == model.facts.name]
            replicas = [m for m in state.models.values() if m.facts.name == model.facts.name]
            ready = {m.device for m in replicas if m.phase == "ready"}
            assert all(r.device in ready for r in named), f"{named} run on a model that is {model.phase}"
            assert len([r for r in named if r.device == model.device]) <= model.slots
            held = [m.device for m in replicas if m.device is not None and m.phase in {"loading", "ready", "unloading"}]
            assert len(held) == len(set(held)), f"two replicas are on one device: {held}"
