"""A recorded session is run again: the sidecar's own code, in this process, gets what it got then.

With recorded model output the worker processes, the weights and the devices are those of the recording, the disk is in
memory, and time is virtual: each input comes when it came, in the recorded order, also with what the clock had decided
in the same millisecond, and once everything before it has been done. With real weights all of that is real, and a line
of a host's is sent once as much has been heard as had been when it was sent.

Knows what was said and heard; what of it differs is for ``comparing`` to say.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import trio
import trio.testing

import mlzoo.app
from mlzoo.config import Config
from mlzoo.core.state import device_of
from mlzoo.events.recording import Line
from mlzoo.providers.opening import open_provider
from mlzoo.replay.inputs import Said
from mlzoo.replay.recorded_model import NOT_STARTED, RecordedWorker, death_of, devices_of, frame_of
from mlzoo.replay.recorded_provider import RecordedProvider
from mlzoo.replay.stand_ins import Drawn, DrawnSeeds, Heard, Host, Silent
from mlzoo.simulation.disk import SimulatedDisk
from mlzoo.world import World

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlzoo.config.schema import ProviderEntry
    from mlzoo.devices import Device
    from mlzoo.events.recording import Recording
    from mlzoo.providers.secrets import Secrets
    from mlzoo.replay.inputs import Life, Reported
    from mlzoo.simulation.pipe import Pipe

PATIENCE_S = 60.0  # of virtual time, that the sidecar may be later than it was
DAY_MS = 24 * 3600 * 1000
WORKERS_OWN = frozenset({"ReportWorkerUp", "ReportWorkerLost", "ReportLoaded", "ReportLoadFailed"})
"""What happens to workers for the sake of whoever is first."""
LOADS = ("ModelReady", "ModelFailed")  # what a load comes to; a model that is ready may be told of again
NOT_AGAIN = frozenset({"models.pull", "models.remove"})
"""Methods that change the machine and not only the log."""


@attrs.frozen(kw_only=True)
class Stage:
    """Where a session is run again.

    Attributes:
        is_real: with real weights, processes and time.
        is_part: whether calls are missing for which workers were started and models loaded.
        refuse: says why a line of a host's cannot be sent again; None where it can.
        prepare: called once a life has begun, with its sidecar; what it raises ends the run.
    """

    config: Config
    world: World
    log: Path
    refuse: Callable[[Line], str | None]
    is_real: bool = False
    timeout_s: float = PATIENCE_S
    is_part: bool = False
    prepare: Callable[[mlzoo.app.Sidecar], Awaitable[None]] | None = None


class Again:
    """A session, run again.

    Attributes:
        heard: what was heard: connection and number of the line -> that.
        skipped: which lines were not sent, and why.
        unplaced: what of the recorded model's answers nobody waited for, by their kinds.
        world: the one around the latest life.
    """

    def __init__(self, found: Recording, stage: Stage, left_out: Mapping[tuple[str, int], str]) -> None:
        self.found = found
        self.stage = stage
        self.hosts: dict[str, Host] = {}
        self.skipped: dict[tuple[str, int], str] = dict(left_out)
        self.unplaced: dict[str, list[str]] = {}
        self.stderr = Silent()
        self.drawn = Drawn(stage.world.ids, stage.world.seeds)
        self.news = trio.Event()
        self.lives = 0
        self.requests: set[str | None] = set()
        self.world = attrs.evolve(stage.world, ids=self.drawn, seeds=DrawnSeeds(self.drawn))
        answered = {(line["sidecar"], line.get("for")): line["result"] for line in found.lines if "result" in line}
        self._answers = answered

    async def run(self, lives: tuple[Life, ...]) -> None:
        """Run all lives."""
        self.requests = {item.request for life in lives for item in life.inputs if isinstance(item, Said)}
        bounds = next((life.bounds for life in lives if life.bounds is not None), None)
        for life in lives:
            self.lives += 1
            bounds = life.bounds or bounds
            await _Living(self, life, self.world, limited(self.stage.config, bounds)).live()
            if life.crashed and isinstance(self.world.disk, SimulatedDisk):
                self.world = attrs.evolve(self.world, disk=self.world.disk.copy())

    def heard(self) -> dict[tuple[str, int], Heard]:
        """Return what was heard of each line that was sent."""
        return {(name, number): heard for name, host in self.hosts.items() for number, heard in host.heard.items()}

    def host(self, name: str) -> Host:
        """Return a connection by name."""
        if name not in self.hosts:
            self.hosts[name] = Host(self.notify)
        return self.hosts[name]

    def notify(self) -> None:
        """Wake who waits for something to happen."""
        self.news.set()
        self.news = trio.Event()

    def named(self, item: Said) -> str | None:
        """Return the name that a fork got, if that is what a line asked for."""
        result = self._answers.get((item.connection, item.line.get("n")))
        is_fork = item.line.get("method") == "conversations.fork"
        return result["conversation"] if is_fork and isinstance(result, dict) else None

    def vectors(self, life: Life) -> dict[str, Any]:
        """Return the embeddings of each request, or ``{outputs}``; a recording has them on the wire alone."""
        found = {}
        for item in life.inputs:
            if isinstance(item, Said) and item.request is not None and "n" in item.line:
                result = self._answers.get((item.connection, item.line["n"]))
                if isinstance(result, dict) and "embeddings" in result:
                    found[item.request] = result["embeddings"]
                elif isinstance(result, dict) and "outputs" in result:
                    found[item.request] = {"outputs": result["outputs"]}
        return found

    def expected_before(self, item: Said | None, connections: set[str]) -> dict[tuple[str, int], tuple[int, bool]]:
        """Return how many pieces, and whether the answer, of each call had been heard when a line was sent."""
        expected: dict[tuple[str, int], tuple[int, bool]] = {}
        for line in self.found.lines:
            if item is not None and line is item.line:
                break
            if line.get("sidecar") in connections and "for" in line:
                key = (line["sidecar"], line["for"])
                count, is_answered = expected.get(key, (0, False))
                is_end = "result" in line or "error" in line
                expected[key] = (count + ("stream" in line), is_answered or is_end)
        return expected


class _Living:
    """One life."""

    def __init__(self, again: Again, life: Life, world: World, config: Config) -> None:
        self._again = again
        self._life = life
        self._stage = again.stage
        self._connections = {item.connection for item in life.inputs if isinstance(item, Said)}
        self._open: set[str] = set()
        self._vectors = again.vectors(life)
        self._reports = deque(item for item in life.inputs if not isinstance(item, Said))
        self._probes = deque(life.probes)
        self._workers: list[RecordedWorker | RecordedProvider] = []
        self._done = 0  # inputs
        self._scope = trio.CancelScope()
        self._began_s = trio.current_time()
        is_real = self._stage.is_real
        self._app = mlzoo.app.Sidecar(
            config,
            world,
            stderr=again.stderr,
            spawn=None if is_real else self._spawn,
            probe=mlzoo.app.probe_devices if is_real else self._probe,
            connect=open_provider if is_real else self._connect,
        )

    async def live(self) -> None:
        """Live to the end, or to where it crashed."""
        again = self._again
        stdio = self._life.stdio
        if stdio is not None:
            again.drawn.names["con"] = stdio
            self._open.add(stdio)
        pipe = Host(again.notify).pipe if stdio is None else again.host(stdio).pipe
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell, nursery, pipe)
            with self._scope:
                await self._app.live(pipe, log=self._stage.log)
            nursery.cancel_scope.cancel()

    async def _tell(self, nursery: trio.Nursery, stdio: Pipe) -> None:
        pause_s = 0.001 if self._stage.is_real else 0  # Else all deadlines would be later than they were.
        while getattr(self._app, "_services", None) is None:  # noqa: ASYNC110 - nothing tells of it
            await trio.sleep(pause_s)  # The log is being opened.
        if self._stage.prepare is not None:
            await self._stage.prepare(self._app)
        for number, item in enumerate(self._life.inputs):
            self._done = number
            await self._turn_of(item)
            if isinstance(item, Said):
                await self._say(item, nursery)
            else:
                await self._report(item)
        await self._turn_of(None)
        if not self._stage.is_real:  # What it decided by the clock alone is to happen again too, and no more than that.
            more_ms = 1 if self._life.ends_by_clock or not self._life.crashed else -0.5
            await trio.sleep_until(self._began_s + (self._life.took_ms + more_ms) / 1000)
            await trio.testing.wait_all_tasks_blocked()
        if self._life.crashed:
            self._scope.cancel()
            return
        for name in self._open:
            self._again.host(name).pipe.end_input()
        stdio.end_input()

    async def _turn_of(self, item: Said | Reported | None) -> None:
        """Wait until it is an input's turn, or, for None, for all that is left to be heard."""
        if not self._stage.is_real:
            if item is not None:
                await trio.sleep_until(self._began_s + self._moment_ms(item) / 1000)
            await trio.testing.wait_all_tasks_blocked()
            return
        if item is not None and not isinstance(item, Said):
            return
        expected = self._again.expected_before(item, self._connections)
        with trio.move_on_after(self._stage.timeout_s) as waited:
            while not all(self._is_heard(key, *what) for key, what in expected.items()):
                await self._again.news.wait()
        if waited.cancelled_caught:
            line = "the end" if item is None else f"{item.connection} line {item.line['n']}"
            late = f"what was heard before {line} did not come within {self._stage.timeout_s:.0f} s"
            self._again.unplaced.setdefault("late", []).append(late)

    def _moment_ms(self, item: Said | Reported) -> float:
        """Return when an input comes, before or after what the clock has decided in its millisecond, as it was then.

        A deadline lies whole milliseconds after the input that set it. So each input comes further from the full
        millisecond than all before it: so it stays on its side of all deadlines that those set.
        """
        aside_ms = 0.05 + 0.4 * self._done / len(self._life.inputs)
        return item.at_ms + (aside_ms if item.after_clock else -aside_ms)

    def _is_heard(self, key: tuple[str, int], pieces: int, is_answered: bool) -> bool:
        heard = self._again.host(key[0]).heard.get(key[1])
        if heard is None or heard.answer is not None:
            return True
        return not is_answered and len(heard.pieces) >= pieces

    async def _say(self, item: Said, nursery: trio.Nursery) -> None:
        again = self._again
        host = again.host(item.connection)
        if item.request is not None:
            again.drawn.names["req"] = item.request
        again.drawn.seed = item.seed
        fresh = item.conversation or again.named(item)
        if fresh is not None:
            again.drawn.names["conv"] = fresh
        if item.connection not in self._open:
            self._open.add(item.connection)
            again.drawn.names["con"] = item.connection
            nursery.start_soon(self._app._serve_client, host.pipe)  # noqa: SLF001 - what the socket calls
        if "eof" in item.line:
            host.pipe.end_input()
            return
        reason = self._stage.refuse(item.line)
        if reason is not None:
            again.skipped[item.connection, item.line["n"]] = reason
            again.drawn.names.pop("req", None)
            return
        host.say(item.line)
        if self._stage.is_real and item.request is not None:
            with trio.move_on_after(PATIENCE_S):
                while "req" in again.drawn.names and host.heard[item.line["n"]].answer is None:  # noqa: ASYNC110
                    await trio.sleep(0.001)  # The next line's id must not be taken for this one.

    # ------------------------------------------------------------------------------------------ the model's part

    async def _probe(self) -> tuple[Device, ...]:
        await trio.lowlevel.checkpoint()
        models = self._again.found.header.get("models", {})
        names = dict.fromkeys(facts.get("device", "cpu") for facts in models.values()) or ["cpu"]
        probe = self._probes.popleft() if len(self._probes) > 1 else next(iter(self._probes), None)
        return devices_of(probe, names)

    async def _spawn(self, device: str) -> RecordedWorker:
        await trio.lowlevel.checkpoint()
        coming = [report for report in self._reports if report.data.get("device") == device]
        first = next((report for report in coming if report.command in ("ReportWorkerUp", "ReportLoadFailed")), None)
        if first is not None and _is_not_started(first):
            self._reports.remove(first)
            raise OSError(first.data["failure"].get("data", {}).get("reason", ""))
        loads = {report.data["model"] for report in coming if not {*report.events}.isdisjoint(LOADS)}
        models: Mapping[str, Line] = self._again.found.header.get("models", {})
        if self._life.bounds is not None and self._again.found.header.get("folds", True):
            models = {}  # Every load of this life is in the recording; one that is not came to nothing.
        facts = {name: known for name, known in models.items() if name not in loads}
        says_up = first is None or first.command != "ReportWorkerUp"
        worker = RecordedWorker(device, facts, self._again.notify, says_up=says_up)
        self._workers.append(worker)
        self._again.notify()
        return worker

    def _connect(self, entry: ProviderEntry, _secrets: Secrets) -> RecordedProvider:
        provider = RecordedProvider(device_of(entry.name), self._again.notify)
        self._workers.append(provider)
        return provider

    async def _report(self, item: Reported) -> None:
        if item not in self._reports:
            return  # It has been said as the failure of a start.
        self._reports.remove(item)
        if item.command == "Shutdown":
            await self._app._shut_down(item.data["reason"])  # noqa: SLF001 - what a signal calls
            return
        if self._stage.is_real or item.data.get("expected"):
            return
        data = item.data
        if item.command == "ReportWorkerLost":
            worker = await self._worker(data["device"], None, item)
            if worker is not None:
                worker.end(death_of(data["reason"]))
            return
        if item.command == "ReportStep":
            await self._step(item)
            return
        asked = ("load", data["model"]) if "model" in data else ("work", data["request"]) if "request" in data else None
        if asked is not None and asked[0] == "work" and asked[1] not in self._again.requests:
            return
        worker = await self._worker(data.get("device"), asked, item)
        frame = frame_of(item, self._vectors)
        if worker is not None and frame is not None:
            if asked is not None and item.command == "ReportLoadFailed":
                worker.asked.discard(asked)  # The next load of this model is answered when it is asked for.
            worker.say(frame)

    async def _step(self, item: Reported) -> None:
        """Say the rows of a step that are of this recording, each to who waits for it."""
        rows, texts = item.data["rows"], item.text or [None] * len(item.data["rows"])
        said: dict[RecordedWorker | RecordedProvider, list[tuple[Line, Line | None]]] = {}
        for row, text in zip(rows, texts, strict=True):
            if row["request"] not in self._again.requests:
                continue  # Of a request that is no part of this.
            worker = await self._worker(item.data["device"], ("work", row["request"]), item)
            if worker is not None:
                said.setdefault(worker, []).append((row, text))
        for worker, pairs in said.items():
            part = attrs.evolve(
                item, data={**item.data, "rows": [row for row, _ in pairs]}, text=[text for _, text in pairs]
            )
            frame = frame_of(part, {})
            if frame is not None:
                worker.say(frame)

    async def _worker(
        self, device: str | None, asked: tuple[str, str] | None, item: Reported
    ) -> RecordedWorker | RecordedProvider | None:
        """Return the living worker that was asked for this; None, and a note of it, where there is none."""
        is_unasked = self._stage.is_part and item.command in WORKERS_OWN
        with trio.move_on_after(0 if is_unasked else PATIENCE_S):
            while True:
                for worker in reversed(self._workers):
                    is_its = device in (None, worker.device) and (asked is None or asked in worker.asked)
                    if is_its and worker.status is None:
                        return worker
                await self._again.news.wait()
        if is_unasked:
            return None
        what = "" if asked is None else f" of {asked[1]}"
        lost = f"log_seq {item.seq}, {item.command}{what}: no worker was asked for it this time"
        self._again.unplaced.setdefault(item.command, []).append(lost)
        return None


def _is_not_started(report: Reported) -> bool:
    return report.command == "ReportLoadFailed" and report.data["failure"]["message"].startswith(NOT_STARTED)


def limited(config: Config, bounds: Line | None) -> Config:
    """Return a configuration with the limits that a life had; of an unknown life, with those of its own."""
    limits = attrs.evolve(config.limits, disk_reserve_bytes=0)
    if bounds is not None:
        limits = attrs.evolve(
            limits,
            max_queued=bounds["max_queued"],
            max_running=bounds["max_running"],
            drain_s=bounds["drain_ms"] / 1000,
            key_days=(bounds.get("key_ms") or 7 * DAY_MS) / DAY_MS,
        )
        for name in ("max_conversations", "conversation_bytes"):
            if bounds.get(name):
                limits = attrs.evolve(limits, **{name: bounds[name]})
    return attrs.evolve(config, limits=limits)
