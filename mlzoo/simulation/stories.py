"""Stories: several lives on one log, told from a plan, with what a crash leaves of the disk between them.

Between two lives the log is recovered as a start would, over bytes alone: what the crash had to leave must be there,
and fold to what the sidecar had in memory.
"""

from __future__ import annotations

from itertools import count
from random import Random
from typing import TYPE_CHECKING

import attrs
import orjson
import trio

from mlzoo.actors.ledger import recover
from mlzoo.core.apply import Folding
from mlzoo.core.state import State
from mlzoo.errors import LogUnusable
from mlzoo.events.log import Log
from mlzoo.simulation import invariants, schedule, steps
from mlzoo.simulation.byte_disk import ByteDisk, at_once
from mlzoo.simulation.disk import SimulatedDisk
from mlzoo.simulation.evidence import Evidence
from mlzoo.simulation.histories import LOG
from mlzoo.simulation.life import Life, Violation
from mlzoo.simulation.machines import config_of
from mlzoo.simulation.mirror import Mirror
from mlzoo.simulation.plans import StoryPlan, draw
from mlzoo.simulation.weights import weights_in_memory
from mlzoo.simulation.world import simulated_world

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlzoo.simulation.byte_disk import Image
    from mlzoo.simulation.plans import LifePlan


@attrs.frozen
class Outcome:
    """What became of a story.

    Attributes:
        trace: A digest of everything that happened; equal traces are equal stories.
    """

    plan: StoryPlan
    violations: tuple[Violation, ...]
    lives: int
    steps: int
    trace: str


def told(seed: int) -> Outcome:
    """Draw a story and tell it."""
    return tell(draw(seed))


def tell(plan: StoryPlan, begins_on: Image = ()) -> Outcome:
    """Tell a story to its end, or to its first violation; begins_on is the log that its first life finds."""
    evidence, disk, ids = Evidence(plan.durability), SimulatedDisk(), count(1)
    for path, data in begins_on:
        disk.put(path, data)
    violations = _between(-1, disk, evidence) if begins_on else []
    lives = steps = 0
    with weights_in_memory():
        for number, life_plan in enumerate(plan.lives):
            seed = f"{plan.seed}.{number}"
            lives += 1
            disk, found, life_steps = _live(number, life_plan, seed, disk, evidence, ids)
            steps += life_steps
            violations += found
            if violations or evidence.storage_failed:
                break
            if not evidence.damaged:
                violations += _between(number, disk, evidence)
    return Outcome(plan, tuple(violations), lives, steps, evidence.trace.hexdigest())


def _live(
    number: int, plan: LifePlan, seed: str, disk: SimulatedDisk, evidence: Evidence, ids: Iterator[int]
) -> tuple[SimulatedDisk, list[Violation], int]:
    """Live one life; return the disk that it left, what was violated, and how many steps were checked."""
    evidence.disk = disk
    evidence.log, evidence.hosts, evidence.spawned, evidence.incidents = evidence.log.begin_again(), [], 0, []
    evidence.began_ms = evidence.began_at_ms = 0
    evidence.said, evidence.shut_down, evidence.drops = {}, False, plan.keep_s is not None
    life = Life(number, plan, seed, disk, evidence, ids)
    instruments = (_TaskSteps(life),) if plan.crash is not None and plan.crash.point == "step" else ()
    try:
        schedule.run(seed, life.live, instruments=instruments)
    except schedule.Deadlock as error:
        life.violations.append(Violation("I9", number, "watchdog", str(error)))
    except Exception as error:  # noqa: BLE001 (whatever it is, a sidecar does not end like that)
        life.violations.append(Violation("I13", number, "the end", f"the sidecar died: {error!r}"))
    left = life.disk
    if life.crashed_on is not None:
        left = life.crashed_on
        left = left.crashed(Random(f"{seed} crash")) if life.power_lost else left.copy()
    left.faults = type(left.faults)()
    return left, life.violations, life.steps


def _between(number: int, disk: SimulatedDisk, evidence: Evidence) -> list[Violation]:
    """Recover the log as the next start will, and look at what it finds."""
    image: Image = tuple(
        sorted(
            (f"{path}/{name}", bytes(inode.data)) for path, names in disk.files.items() for name, inode in names.items()
        )
    )
    evidence.disk = disk
    bytes_disk = ByteDisk(image)
    evidence.log = evidence.log.begin_again()
    oldest_seq, last_seq, state, whole, again = 1, 0, None, None, True
    faults: tuple[str, ...] = ()
    try:
        log = _opened(bytes_disk, evidence)
        oldest_seq, last_seq, state = log.oldest_seq, log.last_seq, recover(log)
        settled = bytes_disk.image()
        again = _opened(bytes_disk, evidence).last_seq == last_seq and bytes_disk.image() == settled
        recovered = SimulatedDisk()
        for path, data in settled:
            recovered.put(path, data)
        Mirror(recovered, evidence).read_all()
        whole = _folded_whole(evidence) if oldest_seq == 1 else None
    except LogUnusable as error:
        faults = (f"a crash alone made the log unusable: {error.message}",)
    except orjson.JSONDecodeError as error:
        faults = (f"recovery left a record that is none: {error}",)
    evidence.log.lose(last_seq)
    left = [record.line for record in evidence.log.groups]
    step = steps.Recovered(oldest_seq, last_seq, state, whole, again, faults)
    evidence.note("recovered", last_seq)
    found = [Violation(name, number, "Recovered", what) for name, what in invariants.violated(step, evidence)]
    evidence.kept = left
    evidence.states = {seq: live for seq, live in evidence.states.items() if seq <= last_seq}
    return found


def _opened(disk: ByteDisk, evidence: Evidence) -> Log:
    world = attrs.evolve(simulated_world(0), disk=disk, clock=_NoTime())
    return at_once(Log.open(LOG, world, config_of(evidence.durability).log, version="0"))


def _folded_whole(evidence: Evidence) -> State:
    """Return the state that all records lead to, as they were read without the log's own code.

    What was folded before, byte for byte, leads where it led then: the fold goes on from there.
    """
    records, (lines, state) = evidence.log.groups, evidence.folded
    if [record.line for record in records[: len(lines)]] != lines:
        lines, state = [], State()
    folding = Folding(state)
    for record in records[len(lines) :]:
        if record.data["kind"] == "event":
            folding.take(evidence.event(record), record.data["log_seq"], record.data["at_ms"])
    evidence.folded = [record.line for record in records], folding.state
    return folding.state


class _TaskSteps(trio.abc.Instrument):
    """Counts the steps of tasks, where a crash comes after one."""

    def __init__(self, life: Life) -> None:
        self._life = life

    def before_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002 - each is one
        self._life.count("step")


class _NoTime:
    """Nothing that is asked for here bears a time."""

    def awake_ms(self) -> int:
        return 0

    def wall_ms(self) -> int:
        return 0
