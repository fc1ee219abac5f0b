"""Stories of the whole app: a thousand lives, one trace for each seed, and bugs that they must not survive."""

import os
import subprocess
import sys

import attrs
import pytest
import trio
from planted_bugs import APP_BUGS, ids_come_from_the_machine

from mlzoo.simulation import faults, invariants, plans, schedule
from mlzoo.simulation.shrinking import shrunk
from mlzoo.simulation.stories import tell, told

LIVES = 1000
SEEDS = 400  # within which each planted bug must be found
NAMES = {f"I{number}" for number in range(1, 21)}
ELSEWHERE = {"I15"}  # compares two tellings


def test_every_invariant_holds_in_a_thousand_lives(explored):
    lives = steps = seed = 0
    while lives < LIVES:
        outcome = told(seed)
        assert outcome.violations == (), f"python -m mlzoo.simulation --seed {seed}"
        lives, steps, seed = lives + outcome.lives, steps + outcome.steps, seed + 1
    explored(f"{lives} lives of the whole app in {seed} stories, seeds 0 to {seed - 1}, {steps} checked steps")


@pytest.mark.parametrize("plant", APP_BUGS, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_found(plant, monkeypatch):
    plant(monkeypatch)
    for seed in range(SEEDS):
        if APP_BUGS[plant] & {violation.invariant for violation in told(seed).violations}:
            return
    pytest.fail(f"{plant.__name__} lived through {SEEDS} seeds")


def test_every_invariant_has_a_check_that_can_fail():
    checked = {name for checks in invariants.CHECKS.values() for name in checks}
    assert checked == NAMES - ELSEWHERE
    assert set().union(*APP_BUGS.values()) == checked


def test_the_same_seed_tells_the_same_story():
    assert [told(seed).trace for seed in range(20)] == [told(seed).trace for seed in range(20)]
    assert len({told(seed).trace for seed in range(20)}) == 20


def test_a_source_of_chance_outside_the_world_is_found(monkeypatch):
    ids_come_from_the_machine(monkeypatch)
    assert told(0).trace != told(0).trace


def test_two_processes_with_other_hash_seeds_tell_the_same_story():
    program = "from mlzoo.simulation.stories import told; print([told(seed).trace for seed in range(30)])"

    def traces(hash_seed):
        env = {**os.environ, "PYTHONHASHSEED": hash_seed}
        return subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, check=True).stdout

    assert traces("1") == traces("2")


def test_every_fault_of_the_menu_is_drawn():
    drawn = {fault.name for seed in range(300) for life in plans.draw(seed).lives for fault in life.faults}
    assert drawn == set(faults.MENU)


def test_what_fails_is_told_shorter(monkeypatch):
    malformed = next(plant for plant in APP_BUGS if plant.__name__ == "malformed_lines_are_answered_twice")
    malformed(monkeypatch)
    outcome = next(found for found in map(told, range(SEEDS)) if found.violations)
    shorter = shrunk(outcome)
    assert [v.invariant for v in shorter.violations] == ["I13"]
    [life] = shorter.plan.lives
    [host] = life.hosts
    assert len(host.actions) == 1
    assert life.faults == ()


def test_a_jump_of_the_wall_clock_changes_nothing_but_what_is_told_of_time():
    """The same story with a jump has the same records, but for their time_ms."""
    plan = next(p for p in map(plans.draw, range(100)) if len(p.lives) == 1 and not p.lives[0].faults)
    jumps = (plans.FaultPlan("wall_clock_goes_back", 0.0), plans.FaultPlan("wall_clock_goes_forward", 3.0))
    jumping = attrs.evolve(plan, lives=(attrs.evolve(plan.lives[0], faults=jumps),))
    assert tell(plan).violations == tell(jumping).violations == ()


# ------------------------------------------------------------------------------------------------ the schedule


async def order_of_tasks():
    order = []

    async def note(name):
        for _ in range(3):
            order.append((name, trio.current_time()))
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for name in range(5):
            nursery.start_soon(note, name)
    return order


def test_a_seed_decides_the_order_of_tasks():
    assert schedule.run(1, order_of_tasks) == schedule.run(1, order_of_tasks)
    assert len({str(schedule.run(seed, order_of_tasks)) for seed in range(20)}) > 10


def test_a_deadlock_fails_and_does_not_hang():
    async def wait_for_ever():
        await trio.Event().wait()

    with pytest.raises(schedule.Deadlock):
        schedule.run(1, wait_for_ever)


def test_what_goes_round_for_ever_fails_and_does_not_hang(monkeypatch):
    async def go_round():
        while True:
            await trio.lowlevel.checkpoint()

    monkeypatch.setattr(schedule, "TURNS", 1000)
    with pytest.raises(schedule.Deadlock):
        schedule.run(1, go_round)


def test_what_would_run_in_a_thread_runs_at_once():
    async def in_a_thread():
        before = trio.current_time()
        return await trio.to_thread.run_sync(lambda: 7), trio.current_time() - before

    assert schedule.run(1, in_a_thread) == (7, 0)
