"""Random lives of a log alone: the core decides what random commands lead to, and the log writes and syncs it.

Gives each moment at which a crash would leave something else, with what the log had promised by then, and the state
after each group. Some lives end in order, so that what they say of their end is there in the next. Knows nothing of
hosts and workers.
"""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import attrs
import trio

from mlzoo.actors.ledger import Ledger, recover
from mlzoo.config.schema import LogConfig
from mlzoo.core.decide import decide
from mlzoo.core.state import State
from mlzoo.events import closed
from mlzoo.events import commands as cmd
from mlzoo.events.keys import KeyIndex
from mlzoo.events.log import Log
from mlzoo.simulation import schedule
from mlzoo.simulation.crash_states import FileThen, files_of
from mlzoo.simulation.disk import DiskFaults, SimulatedDisk
from mlzoo.simulation.world import simulated_world

LOG = Path("/log")
GROUPS, ASIDES = str(LOG / "segments"), str(LOG / "asides")
GIB = 1 << 30
_BOUNDS = cmd.Bounds(max_queued=8, max_running=4, queued_bytes=10_000, drain_ms=1000)
_MODEL = cmd.ModelFacts(name="toy", kind="chat", memory_bytes=100, slots=4)
_CPU = cmd.DeviceFacts(name="cpu", kind="cpu", memory_total_bytes=GIB, memory_free_bytes=GIB)


def small_log(**settings: Any) -> LogConfig:
    """Return settings of a log with segments that a few groups fill, which no configuration may ask for."""
    with attrs.validators.disabled():
        return LogConfig(**settings)


@attrs.frozen
class Moment:
    """Something has changed what a crash would leave."""

    step: str
    groups: tuple[FileThen, ...]
    asides: tuple[FileThen, ...]
    promised_seq: int
    closed: bytes | None  # what the last orderly end said, as soon as that may be there


@attrs.frozen
class History:
    """All that became of one log in one life.

    Attributes:
        moments: Each change of the disk.
        states: The folded state after each group, by its last log_seq, and before the first.
        settings: What the log was opened with.
        disk: What it ended on.
    """

    seed: str
    moments: tuple[Moment, ...]
    states: dict[int, State]
    settings: LogConfig
    disk: SimulatedDisk


def histories(seed: int, lives: int = 2) -> list[History]:
    """Return a few lives of one log, each but the first on what a crash at the end left of the one before."""
    random = Random(f"{seed} histories")
    disk, found = SimulatedDisk(), []
    for life in range(lives):
        disk.faults = DiskFaults(sync_s=random.choice((0.0, 0.002, 0.02)))
        found.append(schedule.run(seed, _live, f"{seed}.{life}", disk))
        disk = found[-1].disk.crashed(random)
    return found


async def _live(seed: str, disk: SimulatedDisk) -> History:
    random = Random(seed)
    world = simulated_world(random.randrange(1 << 30), disk)
    segment_bytes, budget_bytes = random.choice((1500, 4000, 1 << 20)), random.choice((1 << 30, 1 << 30, 20_000))
    settings = small_log(segment_bytes=segment_bytes, asides_segment_bytes=600, budget_bytes=budget_bytes)
    log = await Log.open(LOG, world, settings, version="0")
    ledger = Ledger(log, recover(log), world.clock, KeyIndex(disk, LOG / "keys"))
    log.bind_state(ledger.snapshot, ledger.needed_from)
    states = {log.last_seq: ledger.state}
    moments: list[Moment] = []

    def note(step: str) -> None:
        end = disk.files[str(LOG)].get(closed.FILE)
        said = bytes(end.data) if end is not None else None
        moments.append(Moment(step, files_of(disk, GROUPS), files_of(disk, ASIDES), log.synced, said))

    note("open")
    disk.on_step = note
    async with trio.open_nursery() as nursery:
        await nursery.start(log.run_flusher)
        _append(ledger, cmd.Start(version="0", core_version=1, bounds=_BOUNDS), None, states)
        for number in range(random.randrange(4, 24)):
            for _ in range(random.choice((1, 1, 2, 4))):
                _append(ledger, *_command(random, ledger.state, f"{seed} {number}"), states)
            if random.random() < 0.4:
                log.aside("con-1", "ping", number)
                log.commit_asides()
            log.commit()
            await trio.sleep(random.choice((0, 0, 0.001, 0.01)))
        nursery.cancel_scope.cancel()
    if Random(f"{seed} end").random() < 0.6:  # Draws of its own, so that a seed that found something still does.
        await log.close()
    disk.on_step = None
    return History(seed, tuple(moments), states, settings, disk)


def _append(ledger: Ledger, command: cmd.Command, text: Any, states: dict[int, State]) -> None:
    at_ms = ledger.now_ms()
    events, state = decide(ledger.state, command, ledger.log.last_seq + 1, at_ms)
    if events:
        ledger.log.append(command, events, text, at_ms)
        ledger.state = states[ledger.log.last_seq] = state


def _command(random: Random, state: State, name: str) -> tuple[cmd.Command, Any]:
    """Draw what is asked or reported next, out of what can be."""
    for model in state.models.values():
        if model.phase == "placing":
            return cmd.ReportDevices(model=model.facts.name, devices=(_CPU,)), None
        if model.phase == "loading":
            loaded = cmd.ReportLoaded(model=model.facts.name, device="cpu", memory_bytes=100, context=64, slots=4)
            return loaded, None
    running = [request.id for request in state.requests.values() if request.phase == "running"]
    choice = random.random()
    if running and choice < 0.6:
        rows = [_row(random, request) for request in running if random.random() < 0.7]
        text = [{"content": "x" * row.size_bytes, "tokens": [7]} for row in rows]
        return cmd.ReportStep(device="cpu", rows=tuple(rows)), text
    if running and choice < 0.7:
        caller = cmd.Caller(connection="con-1", rpc=f"cancel {name}")
        return cmd.Cancel(request=f"req-c {name}", caller=caller, target=random.choice(running)), None
    if choice < 0.8:
        caller = cmd.Caller(connection="con-1", rpc=name)
        submit = cmd.Submit(request=f"req {name}", caller=caller, method="chat", model=_MODEL, stream=True)
        return submit, {"messages": [{"role": "user", "content": "é" * random.randrange(40)}]}
    if choice < 0.85:
        return cmd.ReportWorkerLost(device="cpu", reason="was ended by signal 9"), None
    return cmd.ReportStorage(low=not state.storage_low), None


def _row(random: Random, request: str) -> cmd.RowFacts:
    ended = random.random() < 0.2
    size_bytes = random.randrange(30)
    return cmd.RowFacts(
        request=request,
        tokens=1,
        size_bytes=size_bytes,
        prompt_tokens=3,
        finish_reason="stop" if ended else None,
        digest="d" * 64 if ended else "",
    )
