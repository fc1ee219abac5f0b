import errno
from pathlib import Path
from random import Random

import pytest
import trio

from mlzoo.simulation.disk import OUTCOMES, DiskFaults, SimulatedDisk
from mlzoo.simulation.world import simulated_world

HOME = Path("/state")


async def made(*, faults=None):
    disk = SimulatedDisk(faults)
    await disk.make_dir(HOME)
    return disk


async def durable_file(disk, data=b"durable"):
    file = disk.open_append(HOME / "file")
    file.write(data)
    await disk.sync(file)
    await disk.sync_dir(HOME)
    return file


@pytest.mark.parametrize("outcome", OUTCOMES)
async def test_no_crash_takes_what_was_synced(autojump_clock, outcome):
    disk = await made()
    file = await durable_file(disk)
    file.write(b" and more")
    file.write(b" and more")
    for seed in range(20):
        assert disk.crashed(Random(seed), outcome).read(HOME / "file").startswith(b"durable")


async def test_what_a_crash_leaves_of_an_unsynced_write_is_one_of_many_things(autojump_clock):
    disk = await made()
    file = await durable_file(disk)
    file.write(b"12345678")
    left = {outcome: disk.crashed(Random(1), outcome).read(HOME / "file") for outcome in OUTCOMES}
    assert left["kept"] == b"durable12345678"
    assert left["lost"] == b"durable"
    assert len(left["torn"]) < 15
    assert len(left["zeroed"]) == len(left["garbled"]) == 15
    assert left["zeroed"].endswith(b"\0")
    assert left["garbled"] != left["kept"]


async def test_a_later_write_may_reach_the_disk_without_an_earlier_one(autojump_clock):
    disk = await made()
    file = await durable_file(disk)
    file.write(b"aaaa")
    file.write(b"bbbb")
    left = {disk.crashed(Random(seed), "reordered").read(HOME / "file") for seed in range(30)}
    assert left == {b"durable", b"durableaaaa", b"durable\0\0\0\0bbbb", b"durableaaaabbbb"}


async def test_a_write_during_a_sync_is_not_synced_by_it(autojump_clock):
    disk = await made(faults=DiskFaults(sync_s=1.0))
    file = await durable_file(disk)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(disk.sync, file)
        await trio.testing.wait_all_tasks_blocked()
        file.write(b"late")
    assert disk.crashed(Random(1), "lost").read(HOME / "file") == b"durable"


async def test_a_name_is_durable_only_after_its_directory_was_synced(autojump_clock):
    disk = await made()
    file = disk.open_append(HOME / "new")
    file.write(b"x")
    await disk.sync(file)
    found = {tuple(disk.crashed(Random(seed)).names(HOME)) for seed in range(20)}
    assert found == {(), ("new",)}
    await disk.sync_dir(HOME)
    assert {tuple(disk.crashed(Random(seed)).names(HOME)) for seed in range(20)} == {("new",)}


async def test_a_removed_file_may_come_back(autojump_clock):
    disk = await made()
    await durable_file(disk)
    disk.remove(HOME / "file")
    assert disk.names(HOME) == []
    assert {tuple(disk.crashed(Random(seed)).names(HOME)) for seed in range(20)} == {(), ("file",)}


async def test_a_replaced_file_is_whole_and_durable_at_once(autojump_clock):
    disk = await made()
    await disk.replace(HOME / "file", b"one")
    await disk.replace(HOME / "file", b"two")
    assert {disk.crashed(Random(seed)).read(HOME / "file") for seed in range(20)} == {b"two"}


async def test_a_file_that_a_full_disk_does_not_take_is_there_in_part_until_it_is_removed(autojump_clock):
    disk = await made(faults=DiskFaults(capacity_bytes=10))
    await disk.replace(HOME / "file", b"as it was")
    steps = []
    disk.on_step = lambda step: steps.append((step, disk.sizes(HOME)))
    with pytest.raises(OSError, match="no space") as caught:
        await disk.replace(HOME / "file", b"something")
    assert caught.value.errno == errno.ENOSPC
    assert steps == [("write", {"file": 9, "file.new": 1}), ("remove", {"file": 9})]
    assert {disk.crashed(Random(seed)).read(HOME / "file") for seed in range(20)} == {b"as it was"}


@pytest.mark.parametrize(
    ("faults", "number"),
    [
        (DiskFaults(capacity_bytes=10), errno.ENOSPC),
        (DiskFaults(file_limit_bytes=10), errno.EFBIG),
        (DiskFaults(fail_write=1), errno.EIO),
    ],
    ids=["full", "file too large", "error"],
)
async def test_a_write_that_fails_leaves_a_part_of_it(autojump_clock, faults, number):
    disk = await made(faults=faults)
    file = await durable_file(disk)
    with pytest.raises(OSError, match="came short") as caught:
        file.write(b"123456")
    assert caught.value.errno == number
    assert disk.read(HOME / "file") == b"durable123"


async def test_what_a_failed_sync_lost_reads_well_and_is_gone_after_a_crash(autojump_clock):
    disk = await made(faults=DiskFaults(fail_sync=1))
    file = await durable_file(disk)
    file.write(b"lost")
    with pytest.raises(OSError, match="sync failed"):
        await disk.sync(file)
    await disk.sync(file)  # a retry is told that all is well
    assert disk.read(HOME / "file") == b"durablelost"
    assert disk.crashed(Random(1), "kept").read(HOME / "file") == b"durable"


async def test_a_copy_of_a_disk_goes_its_own_way(autojump_clock):
    disk = await made()
    file = await durable_file(disk)
    copy = disk.copy()
    file.write(b"!")
    assert copy.read(HOME / "file") == b"durable"


def test_the_same_seed_gives_the_same_world():
    def drawn(seed):
        world = simulated_world(seed)
        return [world.ids.new("req"), world.ids.new("req"), world.seeds.new()]

    assert drawn(1) == drawn(1)
    assert len(set(map(str, drawn(1)))) == 3
    assert drawn(1) != drawn(2)


async def test_the_wall_clock_jumps_and_awake_time_does_not(autojump_clock):
    clock = simulated_world(1).clock
    before = clock.awake_ms(), clock.wall_ms()
    clock.jump_wall(-5000)
    await trio.sleep(1)
    assert (clock.awake_ms() - before[0], clock.wall_ms() - before[1]) == (1000, -4000)
