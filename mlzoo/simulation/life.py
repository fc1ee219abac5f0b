"""One life of a whole sidecar: the real app in a simulated world, watched at each step, until its end or its crash.

Every change of the disk and everything that is let go of to a host is a step: the evidence is brought up to date and
the invariants that see it are checked. A crash is the moment in which the world stops being looked at: the disk is
copied as it is, and whatever the dying run does to it afterwards never happened.
"""

from __future__ import annotations

import math
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any

import attrs
import orjson
import trio

import mlzoo.app
from mlzoo.simulation import faults, invariants, steps
from mlzoo.simulation.answers import UNKNOWN, UNRECORDABLE
from mlzoo.simulation.cloud import Cloud
from mlzoo.simulation.evidence import Heard
from mlzoo.simulation.histories import LOG
from mlzoo.simulation.hosts import Host, stays_s
from mlzoo.simulation.machines import config_of, devices_of
from mlzoo.simulation.mirror import Mirror
from mlzoo.simulation.pipe import Pipe
from mlzoo.simulation.workers import RAISED, WorkerShop
from mlzoo.simulation.world import SimulatedClock, simulated_world
from mlzoo.transport.stderr import StderrLog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mlzoo.devices import Device
    from mlzoo.simulation.disk import SimulatedDisk, Step
    from mlzoo.simulation.evidence import Evidence
    from mlzoo.simulation.plans import CrashPoint, LifePlan

# A worker's fault; a frame that is none, too; and where the disk fails, the process is on its way out.
FAULTS_OF_OTHERS = (RAISED, "BrokenFrame", "StorageFailed")
POINTS: dict[str, CrashPoint] = {"write": "append", "sync": "fsync", "sync_dir": "fsync"}


@attrs.frozen
class Violation:
    """An invariant that did not hold."""

    invariant: str
    life: int
    step: str
    what: str


class Told(StderrLog):
    """What a sidecar tells of itself, kept in a list; nothing that is no surprise is an error."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence

    def log(self, level: str, event: str, **fields: Any) -> None:
        """Keep what nobody should have to read."""
        story = str(fields.get("traceback", fields))
        if event in {"incident", "actor crashed"} and not any(fault in story for fault in FAULTS_OF_OTHERS):
            self.evidence.incidents.append(f"{event}: {story}")
        if event == "host did not read":
            for heard in self.evidence.hosts:
                heard.late = heard.late or heard.reads_since_s >= trio.current_time()
        self.evidence.note(level, event)

    def close(self, timeout_s: float = 1.0) -> bool:  # noqa: ARG002 - nothing is on its way
        """Nothing is on its way."""
        return True


class Life:
    """One sidecar, and what a fault may touch of it.

    Args:
        number: which life of the story this is.
        plan: what happens.
        seed: of the order of tasks, and of what each fault draws.
        disk: what the life before left.
        evidence: what is known of the story.
        ids: of the hosts' calls, unique in the story.
    """

    shop: WorkerShop

    def __init__(
        self, number: int, plan: LifePlan, seed: str, disk: SimulatedDisk, evidence: Evidence, ids: Iterator[int]
    ) -> None:
        self.disk = disk
        self.clock = SimulatedClock()
        self.cloud = Cloud(Random(f"{seed} cloud"))
        self.afterwards: list[Callable[[], None]] = []  # done to the disk once this life has ended
        self.violations: list[Violation] = []
        self.steps = 0
        self.crashed_on: SimulatedDisk | None = None  # the disk as the crash left it
        self.power_lost = False  # by that crash
        self._number = number
        self._plan = plan
        self._seed = seed
        self.evidence = evidence
        evidence.stays_ms = math.ceil(stays_s(plan.hosts[0]) * 1000)
        self._ids = ids
        self._known_seq = orjson.loads(evidence.kept[-1])["log_seq"] if evidence.kept else 0
        self._mirror = Mirror(disk, evidence)
        self._until = -1 if plan.crash is None else plan.crash.after
        self._world = attrs.evolve(simulated_world(0, disk), clock=self.clock, **_draws(seed))
        self._app = mlzoo.app.Sidecar(
            config_of(evidence.durability, small=plan.small_segments, keep_s=plan.keep_s, machine=plan.machine),
            self._world,
            probe=self._probe,
            spawn=self._spawn,
            stderr=Told(evidence),
            connect=lambda _entry, _secrets: self.cloud,
        )
        self._scope = trio.CancelScope()
        self._started = trio.Event()
        self._nursery: trio.Nursery

    async def live(self) -> None:
        """Live to the end, or to the crash."""
        self.disk.on_step = self._on_disk
        self.disk.faults.sync_s = self._plan.sync_s
        with self._scope:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self.shop = WorkerShop(Random(f"{self._seed} workers"), nursery, self._on_spawn, self.evidence)
                for plan in self._plan.faults:
                    nursery.start_soon(self._strike, plan.name, plan.at_s)
                pipe, host = self._host(0)
                nursery.start_soon(host.play)
                others = [partial(self._another_client, number) for number in range(1, len(self._plan.hosts))]
                status = await self._app.live(pipe, log=LOG, beside=others)
                self._ended(status)
                nursery.cancel_scope.cancel()
        self.disk.on_step = None
        if self.crashed_on is None:
            self.evidence.kept = self._mirror.kept(power=False)
            for change in self.afterwards:
                change()
                self.evidence.damaged = True

    def start_another(self) -> None:
        """Start a second sidecar on the same log, which only one of them can write."""
        self._nursery.start_soon(self._another_sidecar)

    # ------------------------------------------------------------------------------------------ who takes part

    def _host(self, number: int) -> tuple[Pipe, Host]:
        plan = self._plan.hosts[number]
        heard = Heard(f"host {self._number}.{number}", first=number == 0)
        self.evidence.hosts.append(heard)
        pipe = Pipe(plan.room_bytes, lambda data: self._on_emit(heard, pipe, data))
        return pipe, Host(plan, pipe, heard, self._ids, self.evidence)

    async def _another_client(self, number: int) -> None:
        """Have another host come in, as over a socket, once the first is served."""
        await self._started.wait()
        pipe, host = self._host(number)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(host.play)
            await self._app._serve_client(pipe)  # noqa: SLF001 - what the socket calls
            nursery.cancel_scope.cancel()

    async def _another_sidecar(self) -> None:
        services = getattr(self._app, "_services", None)
        if services is None or services.unusable is not None:
            return  # The first one does not hold the log.
        said: list[bytes] = []
        pipe = Pipe(1 << 20, said.append)
        config = config_of(self.evidence.durability)
        app = mlzoo.app.Sidecar(config, self._world, probe=self._probe, spawn=self._spawn, stderr=Told(self.evidence))
        pipe.feed(b'{"jsonrpc":"2.0","id":1,"method":"tokenize","params":{"model":"toy","text":"a"}}\n')
        pipe.end_input()
        await app.live(pipe, log=LOG)
        codes = [orjson.loads(data).get("error", {}).get("code") for data in said]
        if codes != [1015] and not self.evidence.storage_failed and not self._app._leaving.is_set():  # noqa: SLF001
            self._violated([("I2", f"a second sidecar on the log answered {codes}")], "two sidecars")

    async def _strike(self, name: str, at_s: float) -> None:
        await trio.sleep(at_s)
        self.evidence.note("fault", name)
        faults.MENU[name](self, Random(f"{self._seed} {name}"))

    async def _probe(self) -> tuple[Device, ...]:
        await trio.lowlevel.checkpoint()
        return devices_of(self._plan.machine, self.shop.living())

    async def _spawn(self, device: str) -> Any:
        return await self.shop(device)

    # ------------------------------------------------------------------------------------------ what is seen

    def _on_disk(self, step: Step) -> None:
        if self.crashed_on is not None:
            return
        if step == "write":
            self._look()
        elif step == "replace":
            for was, now in self._mirror.follow_replaced():
                self._check(steps.Rewritten(was, now))
        self.count(POINTS.get(step))

    def _look(self) -> None:
        evidence = self.evidence
        if not hasattr(self._app, "_services"):
            return  # The log is being recovered; what it holds is known (``stories``).
        evidence.now_ms = self.clock.awake_ms()
        for record in self._mirror.new_groups():
            if record.data["log_seq"] <= self._known_seq:
                continue
            if not evidence.began_ms:
                evidence.began_ms, evidence.began_at_ms = evidence.now_ms or 1, record.data["at_ms"]
                self._started.set()
            evidence.note(record.line)
            self._check(steps.Recorded(record))
        for record in self._mirror.new_asides():
            evidence.note(record.line)

    def _on_emit(self, heard: Heard, pipe: Pipe, data: bytes) -> None:
        if self.crashed_on is not None:
            return
        self.evidence.note(heard.name, data)
        services = self._app._services  # noqa: SLF001 - what is held in memory is inside
        self.evidence.unusable = services.unusable is not None
        connections = services.connections.values()
        held_bytes = sum(len(line) for c in connections for line in c.outbox._whole if not line.startswith(b"["))  # noqa: SLF001
        self._check(steps.Emitted(heard, data, pipe.room_bytes, len(pipe.waiting), held_bytes))
        for line in data.splitlines():
            message = orjson.loads(line)
            for told in message if isinstance(message, list) else [message]:
                self._on_told(heard, told)
        self.count("emit")

    def _on_told(self, heard: Heard, message: dict[str, Any]) -> None:
        if message.get("method") == "stream":
            heard.deltas.setdefault(message["params"]["request"], []).append(message["params"])
        elif message.get("method") == "event":
            params = message["params"]
            heard.read_upto.setdefault(params["subscription"], params["log_seq"] - 1)
            self._check(steps.Told(heard, message))
            heard.read_upto[params["subscription"]] = params["log_seq"]
            return
        elif "method" not in message:
            if message["id"] is None:
                heard.nameless += 1
            heard.answers.setdefault(message["id"], []).append(message)
            asked = heard.asked.get(message["id"]) if message["id"] is not None else None
            code = message.get("error", {}).get("code")
            if asked and "forgets" in asked and "groups" in message.get("result", {}):  # That of a ping has none.
                self.evidence.forget(asked)
            elif asked and "forgets" in asked and code == UNKNOWN:
                self.evidence.not_forgotten(asked)
            if code in UNRECORDABLE:
                self.evidence.storage_failed = True
        self._check(steps.Told(heard, message))

    def _on_spawn(self, device: str) -> None:
        self.evidence.spawned += 1
        self._check(steps.Spawned(device))

    def _ended(self, status: int) -> None:
        services = self._app._services  # noqa: SLF001
        if services.unusable is not None or services.log.failed is not None:
            self.evidence.storage_failed = True
        self._remember_state()
        # What has a key may wait for the next life.
        self._check(steps.Ended(status, sum(not r.key for r in services.state.requests.values())))

    def _remember_state(self) -> None:
        services = getattr(self._app, "_services", None)  # There are none before the log is open.
        if services is not None and services.ledger is not None and not services.ledger.orders:
            self.evidence.states[services.log.last_seq] = services.state

    def _check(self, step: steps.Step) -> None:
        self.steps += 1
        self._violated(invariants.violated(step, self.evidence), type(step).__name__)

    def _violated(self, found: list[tuple[str, str]], step: str) -> None:
        self.violations += [Violation(invariant, self._number, step, what) for invariant, what in found]

    # ------------------------------------------------------------------------------------------ how it crashes

    def count(self, point: CrashPoint | None) -> None:
        """Crash, if this is the moment."""
        crash = self._plan.crash
        if crash is None or point != crash.point or self.crashed_on is not None:
            return
        self._until -= 1
        if self._until < 0:
            self.crash()

    def crash(self) -> None:
        """Stop looking: this is the disk that the next life finds."""
        self.evidence.note("crash")
        self._remember_state()
        assert self._plan.crash is not None
        # A failed sync leaves what reads well and is on no disk: only a restart of the machine shows what that is.
        self.power_lost = self._plan.crash.power or self.disk.is_broken()
        self.evidence.kept = self._mirror.kept(power=self.power_lost)
        self.crashed_on = self.disk.copy()
        self._scope.cancel()


def _draws(seed: str) -> dict[str, Any]:
    world = simulated_world(Random(f"{seed} world").getrandbits(32))
    return {"ids": world.ids, "seeds": world.seeds}
