"""Every crash of a small life of a log: at each thing that changes the disk, with each thing POSIX lets happen."""

from random import Random

import attrs
import pytest
import trio
from log_driver import append_end, append_tokens, bind, open_log, read_all, wait_synced

from mlzoo.simulation.disk import OUTCOMES, SimulatedDisk
from mlzoo.simulation.world import simulated_world


@attrs.frozen
class Moment:
    """A disk at one step, and what the log had promised by then."""

    step: str
    disk: SimulatedDisk
    synced: int
    oldest: int


async def live(disk, *, durability="disk", seed=7):
    """Live a small life on a disk; return what was appended, and the disk after each step of it."""
    log = None
    moments = []

    def note(step):
        promised = (log.synced, log.oldest_seq) if log is not None else (0, 1)
        moments.append(Moment(step, disk.copy(), *promised))

    disk.on_step = note
    log = await open_log(simulated_world(seed, disk), durability=durability, segment_bytes=1200, budget_bytes=6000)
    bind(log)
    random, groups, ended = Random(seed), [], 0
    async with trio.open_nursery() as nursery:
        await nursery.start(log.run_flusher)
        for number in range(24):
            groups += [append_tokens(log, number) for _ in range(random.randrange(1, 4))]
            if random.random() < 0.7:
                groups.append(append_end(log, number))
                ended = log.last_seq
            log.aside("con-1", "ping", number)
            log.commit_asides()
            log.commit()
            if random.random() < 0.6:
                await wait_synced(log, ended)
            if random.random() < 0.3:
                await log.put_blob(bytes(20))
        nursery.cancel_scope.cancel()
    await log.close()
    disk.on_step = None
    return groups, moments


async def check(disk, groups, synced):
    """Recover, and check what a log promises: whole groups, in order, none that was synced missing."""
    log = await open_log(simulated_world(99, disk))
    found = read_all(log)
    if found:
        start = groups.index(found[0])
        assert found == groups[start : start + len(found)]
    assert log.last_seq >= synced
    state, after = log.base_state(), list(log.replay())
    folded = 0 if state is None else state["last_seq"]
    assert folded == (after[0].first_seq - 1 if after else log.last_seq)
    assert after == [group for group in found if group.first_seq > folded]
    seen = list(log.read_asides("con-1", 1))
    assert [aside.aside_seq for aside in seen] == [aside.rpc + 1 for aside in seen]
    await log.close()
    return log


@pytest.mark.parametrize("outcome", [*OUTCOMES, None], ids=str)
async def test_no_crash_loses_what_was_synced_or_leaves_half_a_group(outcome, autojump_clock):
    groups, moments = await live(SimulatedDisk())
    assert {moment.step for moment in moments} >= {"write", "sync", "sync_dir", "create", "remove", "replace"}
    for number, moment in enumerate(moments):
        for draw in range(2 if outcome is None else 1):
            crashed = moment.disk.crashed(Random(f"{number} {draw}"), outcome)
            log = await check(crashed, groups, moment.synced)
            again = await check(crashed, groups, moment.synced)
            assert (again.last_seq, again.id, again.repaired) == (log.last_seq, log.id, ())


async def test_a_crash_in_the_middle_of_recovery_is_recovered_from(autojump_clock):
    groups, moments = await live(SimulatedDisk())
    for number, moment in enumerate(moments[::3]):
        random = Random(number)
        disk = moment.disk.crashed(random)
        within = []
        disk.on_step = lambda step, disk=disk, within=within: within.append(disk.copy())
        log = await open_log(simulated_world(5, disk))
        disk.on_step = None
        for copy in within:
            again = await check(copy.crashed(random), groups, moment.synced)
            assert again.last_seq == log.last_seq


async def test_what_a_recovered_log_shows_survives_the_next_crash(autojump_clock):
    groups, moments = await live(SimulatedDisk())
    for number, moment in enumerate(moments[::2]):
        # The process died, the page cache did not: what is read may be durable nowhere.
        disk = moment.disk.copy()
        log = await open_log(simulated_world(5, disk))
        assert log.synced == log.last_seq
        await check(disk.crashed(Random(number)), groups, log.synced)


async def test_the_death_of_the_process_alone_loses_nothing_that_was_written(autojump_clock):
    groups, moments = await live(SimulatedDisk(), durability="process")
    for moment in moments:
        log = await check(moment.disk.copy(), groups, moment.synced)
        assert log.repaired == () or moment.step == "create"


async def test_a_log_lives_on_through_many_crashes(autojump_clock):
    disk, groups, promised, random = SimulatedDisk(), [], 0, Random(3)
    for number in range(80):
        log = await open_log(simulated_world(number, disk), segment_bytes=900)
        bind(log)
        assert log.last_seq >= promised
        groups = [group for group in groups if group.last_seq <= log.last_seq]
        assert read_all(log) == groups
        moments = []

        def note(step, disk=disk, log=log, moments=moments):
            moments.append((disk.copy(), log.synced))

        disk.on_step = note
        for step in range(6):
            groups.append(append_end(log, number * 10 + step))
            log.commit()
        async with trio.open_nursery() as nursery:
            await nursery.start(log.run_flusher)
            await wait_synced(log, log.last_seq)
            nursery.cancel_scope.cancel()
        disk, promised = random.choice(moments)
        disk = disk.crashed(random)
