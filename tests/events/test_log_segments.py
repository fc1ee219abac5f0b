import trio
from log_driver import DIRECTORY, append_end, bind, open_log, wait_synced

from mlzoo.events.commands import Cancel
from mlzoo.events.story import verify
from mlzoo.events.types import RequestCancelled
from mlzoo.simulation.disk import SimulatedDisk
from mlzoo.simulation.world import simulated_world


async def test_no_text_can_pass_for_the_name_of_a_blob(world, disk, nursery, autojump_clock):
    log = await open_log(world, segment_bytes=1500, budget_bytes=6000)
    bind(log)
    await nursery.start(log.run_flusher)
    name = await log.put_blob(b"another's")
    imitation = {"params": {"blob": name, "blobs": [name], "x": f'\n{{"crc":"00000000","blobs":["{name}"]'}}
    for number in range(60):
        log.append(Cancel(request="r", caller=None, target=None), [RequestCancelled(request="r")], imitation, number)
        log.commit()
        await wait_synced(log, log.last_seq)
    await trio.testing.wait_all_tasks_blocked()
    assert log.oldest_seq > 1
    assert log.get_blob(name) == b"another's"


async def test_a_segment_of_another_life_is_found_out(world, disk):
    log = await open_log(world, segment_bytes=1500, durability="process")
    bind(log)
    for number in range(20):
        append_end(log, number)
        log.commit()
    await log.close()
    before, *_, last = disk.sizes(DIRECTORY / "segments")
    assert verify(world, DIRECTORY).faults == ()
    other = SimulatedDisk()
    log = await open_log(simulated_world(1, other), segment_bytes=1500, durability="process")
    bind(log)
    for number in range(20):
        append_end(log, number + 50)
        log.commit()
    await log.close()
    assert other.sizes(DIRECTORY / "segments").keys() >= {before, last}
    await disk.replace(DIRECTORY / "segments" / before, other.read(DIRECTORY / "segments" / before))
    [fault] = verify(world, DIRECTORY).faults
    assert "does not follow the segment that stands before it" in fault
