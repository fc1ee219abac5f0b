"""A shell for the core that obeys its instructions late, out of step and now and then not at all.

Everything it does is drawn from one ``random.Random``: hosts that ask and take back, probes, pulls, and for each
device a worker process with an inbox and an outbox that may crash at any moment.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import attrs
from core_driver import Core, row, start

from mlzoo import errors
from mlzoo.core.state import model_of, name_of_replica, next_strike_ms
from mlzoo.events import commands as cmd
from mlzoo.events import types as ev

if TYPE_CHECKING:
    from random import Random

BOUNDS = cmd.Bounds(max_queued=6, max_running=5, queued_bytes=400, drain_ms=3000, key_ms=6000)
MODELS = [
    cmd.ModelFacts(
        name=f"m{number}",
        kind="embed" if number == 3 else "chat",
        memory_bytes=size,
        slots=slots,
        keep_alive_ms=keep_alive_ms,
    )
    for number, (size, slots, keep_alive_ms) in enumerate([(20, 1, 2000), (35, 3, 0), (50, 2, 5000), (45, 4, 900)])
]
FINGERPRINTS = ("f1", "f1", "f1", "f2", "")  # of what computes; a model's may change with each load
MEMORY_BYTES = {"cuda:0": 60, "cpu": 90}
BROKEN = errors.ModelLoadFailed("The weights are damaged.").failure()
TOO_LONG = errors.ContextLengthExceeded("The prompt is too long.").failure()


class Worker:
    """The supervised worker process of one device. Instructions that come while it leaves are its successor's."""

    def __init__(self, name: str, random: Random) -> None:
        self.name = name
        self.random = random
        self.outbox: deque[cmd.Command] = deque()
        self.alive = False
        self._begin()

    def _begin(self) -> None:
        self.inbox: deque[ev.Event] = deque()
        self.later: deque[ev.Event] = deque()
        self.models: dict[str, cmd.ModelFacts] = {}
        self.rows: dict[str, cmd.ModelFacts] = {}
        self.leaving = False
        self.void = False
        self.up = False

    def instruct(self, event: ev.Event) -> None:
        if self.leaving:
            self.later.append(event)
            return
        self.alive = True
        self.leaving = isinstance(event, ev.WorkerRetired)
        self.inbox.append(event)

    @property
    def used_bytes(self) -> int:
        return sum(m.memory_bytes for m in self.models.values())

    @property
    def busy(self) -> bool:
        return bool(self.alive and (not self.up or self.inbox or self.rows))

    def die(self) -> None:
        """End at once: what it had said may still arrive, what it was told is lost; its end is the last report."""
        told, later = self.leaving, self.later
        stopped = self.random.random() < 0.1  # by a supervisor: in order, yet not because the core said so
        if not told and self.random.random() < 0.5:
            self.outbox.clear()
        self.outbox.append(cmd.ReportWorkerLost(device=self.name, reason="gone", expected=told or stopped))
        self._begin()
        self.void = not told
        self.later = later if told else deque()
        self.leaving = True  # until the core knows of the end, what it says is for the successor
        self.alive = False

    def deliver(self) -> cmd.Command:
        command = self.outbox.popleft()
        if isinstance(command, cmd.ReportWorkerLost):
            # An instruction that crossed the news of a crash is void: the core ends what it was about.
            later = deque() if self.void else self.later
            self._begin()
            self.inbox = later
            self.alive = bool(later)
        return command

    def work(self, facts_of: dict[str, cmd.ModelFacts], kinds: dict[str, str]) -> None:
        if not self.up:
            self.up = True
            self.outbox.append(cmd.ReportWorkerUp(device=self.name, pid=1, threads=1, versions={}))
        elif self.inbox and (not self.rows or self.random.random() < 0.6):
            self._obey(self.inbox.popleft(), facts_of)
        elif self.rows:
            self._step(kinds)

    def _obey(self, event: ev.Event, facts_of: dict[str, cmd.ModelFacts]) -> None:
        match event:
            case ev.ModelLoadStarted():
                self._load(facts_of[model_of(event.model)])
            case ev.ModelUnloadStarted():
                model = model_of(event.model)
                del self.models[model]
                self.outbox.append(cmd.ReportUnloaded(model=model, device=self.name))
            case ev.RequestDispatched():
                facts = facts_of[event.request]
                assert facts.name in self.models, "work for a model that this worker does not hold"
                self.rows[event.request] = facts
                assert sum(m.name == facts.name for m in self.rows.values()) <= facts.slots, "more rows than slots"
            case ev.WorkAbandoned():
                self.rows.pop(event.request, None)
            case ev.WorkerRetired():
                assert not self.models, "a worker that holds a model was told to leave"
                self.die()

    def _load(self, facts: cmd.ModelFacts) -> None:
        if self.random.random() < 0.15:
            self.outbox.append(cmd.ReportLoadFailed(model=facts.name, device=self.name, failure=BROKEN))
            return
        self.models[facts.name] = facts
        assert self.used_bytes <= MEMORY_BYTES[self.name], "more was placed on a device than it holds"
        self.outbox.append(
            cmd.ReportLoaded(
                model=facts.name,
                device=self.name,
                memory_bytes=facts.memory_bytes,
                context=9,
                slots=facts.slots,
                fingerprint=self.random.choice(FINGERPRINTS),
            )
        )

    def _step(self, kinds: dict[str, str]) -> None:
        whole = [r for r in self.rows if kinds[r] == "embed"]
        if whole or self.random.random() < 0.1:
            request = (whole or list(self.rows))[0]
            del self.rows[request]
            failed = self.random.random() < 0.2 or not whole
            self.outbox.append(
                cmd.ReportFailure(request=request, failure=TOO_LONG) if failed else cmd.ReportAnswer(request=request)
            )
            return
        rows = []
        for request in list(self.rows):
            ends = self.random.random() < 0.2
            rows.append(row(request, "stop" if ends else None, size_bytes=self.random.choice((0, 3))))
            if ends:
                del self.rows[request]
        self.outbox.append(cmd.ReportStep(device=self.name, rows=tuple(rows)))


class Shell:
    """The hosts, the clock, the probes, the pulls and the workers around one core."""

    def __init__(self, random: Random, replicas: int = 1) -> None:
        self.random = random
        self.models = [attrs.evolve(model, replicas=replicas) for model in MODELS]
        self.core = Core(BOUNDS)
        self.names = 0
        self.facts_of: dict[str, cmd.ModelFacts] = {m.name: m for m in self.models}
        self.kinds: dict[str, str] = {}
        self.keys: list[str] = []  # that some host has used
        self.filed: dict[str, cmd.KeyFacts] = {}  # the log's index of keys, which no crash takes away
        self.reset()

    def reset(self) -> None:
        self.workers = {name: Worker(name, self.random) for name in MEMORY_BYTES}
        self.probes: list[str] = []
        self.store: list[cmd.Command] = []  # what pulls and removals will report
        self.unusable: set[str] = set()

    def tell(self, command: cmd.Command) -> None:
        for event in self.core.tell(command):
            self._carry_out(event)

    def _carry_out(self, event: ev.Event) -> None:
        match event:
            case ev.PlacementAsked():
                self.probes.append(name_of_replica(event.model.name, event.replica))
            case (
                ev.ModelLoadStarted()
                | ev.ModelUnloadStarted()
                | ev.RequestDispatched()
                | ev.WorkAbandoned()
                | ev.WorkerRetired()
            ):
                self.workers[event.device].instruct(event)
            case ev.RequestAccepted() if event.model is not None:
                self.facts_of[event.request] = event.model
                self.kinds[event.request] = event.kind
            case ev.PullStarted():
                failure = errors.PullFailed("offline").failure() if self.random.random() < 0.3 else None
                self.store.append(cmd.ReportPullEnded(model=event.model, pull=event.pull, failure=failure))
            case ev.PullAbandoned() if self.random.random() < 0.7:  # else its end was on its way already
                self.store = [c for c in self.store if not _pull_of(c, event.pull)]
            case ev.RemoveStarted():
                self.store.append(cmd.ReportRemoved(model=event.model))

    # ---------------------------------------------------------------- what may happen next

    def act(self, *, hosts: bool = True, harm: bool = True) -> bool:
        """Let one thing happen, and return whether anything could."""
        actions = [(6, self._host)] if hosts else []
        if self.probes:
            actions.append((4, self._probe))
        if self.store:
            actions.append((2, lambda: self.tell(self._take(self.store))))
        for worker in self.workers.values():
            if worker.outbox:
                actions.append((5, lambda worker=worker: self.tell(worker.deliver())))
            if worker.busy:
                actions.append((8, lambda worker=worker: worker.work(self.facts_of, self.kinds)))
            if harm and worker.alive:
                actions.append((0.4, worker.die))
        if harm:
            actions.append((0.1, self._harm))
        if not actions:
            return False
        [action] = self.random.choices([a for _, a in actions], [w for w, _ in actions])
        action()
        if hosts:
            self._pass_time(self.random.choice((0, 0, 1, 20, 300)))
        return True

    def _pass_time(self, by_ms: int) -> None:
        until_ms = self.core.at_ms + by_ms
        while (due_ms := next_strike_ms(self.core.state)) is not None and due_ms <= until_ms:
            self.core.at_ms = max(self.core.at_ms, due_ms)
            self.tell(cmd.Strike())
        self.core.at_ms = until_ms

    def _take(self, queue: list[cmd.Command]) -> cmd.Command:
        return queue.pop(self.random.randrange(len(queue)))

    def _probe(self) -> None:
        model = self.probes.pop(self.random.randrange(len(self.probes)))
        if self.random.random() < 0.03:
            self.tell(cmd.ReportLoadFailed(model=model, device="", failure=BROKEN))
            return
        devices = tuple(
            cmd.DeviceFacts(
                name=name,
                kind=name.partition(":")[0],
                memory_total_bytes=total,
                memory_free_bytes=total - self.workers[name].used_bytes,
                usable=name not in self.unusable,
                reason="broken" if name in self.unusable else "",
            )
            for name, total in MEMORY_BYTES.items()
        )
        self.tell(cmd.ReportDevices(model=model, devices=devices))

    def _harm(self) -> None:
        match self.random.randrange(6):
            case 0:
                self.reset()
                self.tell(start(BOUNDS))
            case 1:
                self.tell(cmd.HostGone(connection=self.random.choice(("c0", "c1"))))
            case 2:
                self.tell(cmd.ReportStorage(low=not self.core.state.storage_low))
            case 3:
                self.unusable ^= {"cuda:0"}
            case 4:
                about = self.random.choice([*self.core.state.requests, None])
                self.tell(cmd.ReportIncident(command="ReportAnswer", error="KeyError", request=about))
            case 5:
                self.tell(cmd.Shutdown(request=self._name(), caller=self._caller(), reason="asked"))

    def _key(self) -> str:
        """Return a key of a host's choosing: mostly a fresh one, else one that was used before."""
        if not self.keys or self.random.random() < 0.7:
            self.keys.append(f"k{len(self.keys)}")
            return self.keys[-1]
        return self.random.choice(self.keys)

    def _known(self, key: str) -> cmd.KeyFacts | None:
        """Return what the index of keys has of a key that the state does not know."""
        state = self.core.state
        is_live = key in state.keys or any(request.key == key for request in state.requests.values())
        return None if is_live else self.filed.get(key)

    def _name(self) -> str:
        self.names += 1
        return f"q{self.names}"

    def _caller(self) -> cmd.Caller:
        return cmd.Caller(connection=self.random.choice(("c0", "c1")), rpc=self.names)

    def _host(self) -> None:
        request, caller, model = self._name(), self._caller(), self.random.choice(self.models)
        wants = self.random.choices((None, "cpu", "cuda:0", "cuda:9"), (12, 2, 2, 1))[0]
        if self.core.state.stopped:
            self.reset()
            self.tell(start(BOUNDS))
        if self.core.state.keys and self.random.random() < 0.2:
            upto_seq = self.random.choice([facts.ended_seq for facts in self.core.state.keys.values()])
            self.filed |= {key: facts for key, facts in self.core.state.keys.items() if facts.ended_seq <= upto_seq}
            if self.random.random() < 0.9:  # else a crash came in between
                self.tell(cmd.ReportKeysFiled(upto_seq=upto_seq))
        if self.core.state.storage_low:
            self.tell(cmd.ReportStorage(low=False))
        match self.random.randrange(16):
            case 0:
                pin = self.random.random() < 0.2
                self.tell(cmd.LoadModel(request=request, caller=caller, model=model, device=wants, pin=pin))
            case 1:
                self.tell(cmd.UnloadModel(request=request, caller=caller, model=model))
            case 2:
                self.tell(cmd.PullModel(request=request, caller=caller, model=model))
            case 3:
                self.tell(cmd.RemoveModel(request=request, caller=caller, model=model))
            case 4 | 5 | 6:
                target = self.random.choice([*self.core.state.requests, "unknown", None])
                key = "" if target else self._key()
                self.tell(cmd.Cancel(request=request, caller=caller, target=target, key=key))
            case 7:
                key = self._key()
                self.tell(cmd.Resume(request=request, caller=caller, key=key, known=self._known(key)))
            case _:
                key = self._key() if self.random.random() < 0.7 else ""
                self.tell(
                    cmd.Submit(
                        request=request,
                        caller=caller,
                        method="embed" if model.kind == "embed" else self.random.choice(("chat", "complete")),
                        model=model,
                        deadline_ms=self.random.choices((None, 0, 50, 2000), (12, 1, 1, 4))[0],
                        priority=self.random.choice(("interactive", "batch")),
                        require_device=wants,
                        size_bytes=self.random.choices((1, 30, 150, 401), (6, 6, 2, 1))[0],
                        key=key,
                        max_tokens=self.random.choice((None, 5, 500)) if model.replicas > 1 else None,
                        prefixes=self._prefixes() if model.replicas > 1 else (),
                        params_digest=self.random.choices(("p1", "p2"), (6, 1))[0],
                        known=self._known(key),
                        determinism="fast" if model.kind == "embed" else self.random.choice(("fast", "exact", "exact")),
                    )
                )

    def _prefixes(self) -> tuple[str, ...]:
        persona, conversation = self.random.randrange(2), self.random.randrange(3)
        return f"p{persona}", f"p{persona}c{conversation}"

    # ---------------------------------------------------------------- to the end

    def run_to_rest(self) -> None:
        """No more asking, no more harm: everything that was asked must end, then all memory must come back."""
        for _ in range(20_000):
            if self.act(hosts=False, harm=False):
                continue
            due_ms = next_strike_ms(self.core.state)
            if due_ms is None and self.core.state.stopped and self.core.state.requests:
                self.reset()  # What it left suspended is for the next one.
                self.tell(start(BOUNDS))
                continue
            if due_ms is None:
                return
            self.core.at_ms = max(self.core.at_ms, due_ms)
            self.tell(cmd.Strike())
        raise AssertionError("it never comes to rest")


def _pull_of(command: cmd.Command, pull: str) -> bool:
    return isinstance(command, cmd.ReportPullEnded) and command.pull == pull
