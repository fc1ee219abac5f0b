"""A log that was closed in order says up to where it was durable: what is missing up to there was taken by no crash."""

import pytest
from log_driver import DIRECTORY, append_end, append_tokens, bind, open_log, read_all, wait_synced

from mlzoo.errors import LogUnusable
from mlzoo.events import closed, framing, story
from mlzoo.events.repair import repair
from mlzoo.events.segments import Segments
from mlzoo.simulation.disk import DiskFaults
from mlzoo.simulation.world import simulated_world

SEGMENTS, ASIDES = DIRECTORY / "segments", DIRECTORY / "asides"
ONLY = SEGMENTS / f"{1:020d}.ndjson"


async def lived(world, number=0, *, groups=10, closes=True, **settings):
    """Live a life in which hardly anything is synced before its end; return the last log_seq."""
    log = await open_log(world, **settings)
    bind(log)
    for place in range(groups):
        append_tokens(log, number + place)
        log.commit()
    log.aside("con-1", "ping", number)
    log.commit_asides()
    if closes:
        await log.close()
    return log.last_seq


async def refused(world):
    """Open a log that must be refused and left as it is; return the error."""
    before = {path: dict(names) for path, names in world.disk.copy().files.items()}
    with pytest.raises(LogUnusable) as caught:
        await open_log(world)
    after = world.disk.files
    assert {path: {n: i.data for n, i in names.items()} for path, names in after.items()} == {
        path: {n: i.data for n, i in names.items()} for path, names in before.items()
    }
    assert caught.value.data["reason"] == "damaged"
    assert f"mlzoo log repair {DIRECTORY}" in caught.value.data["remedy"]
    return caught.value


def verified(world):
    return story.verify(world, DIRECTORY)


async def test_one_bit_anywhere_in_a_closed_log_is_damage_and_nothing_is_cut(world, disk):
    await lived(world)
    size = len(disk.read(ONLY))
    for offset in range(0, size, 7):
        disk.corrupt(ONLY, offset)
        await refused(simulated_world(2, disk))
        found = verified(world)
        assert found.faults
        assert not found.torn
        disk.corrupt(ONLY, offset)
    assert verified(world).faults == ()


@pytest.mark.parametrize("lost_bytes", [1, 50, 700])
async def test_so_is_an_end_that_is_gone(world, disk, lost_bytes):
    await lived(world)
    await disk.truncate(ONLY, len(disk.read(ONLY)) - lost_bytes)
    await refused(simulated_world(2, disk))
    assert verified(world).faults
    assert not verified(world).torn


async def test_so_is_an_end_that_is_gone_up_to_a_group_so_that_all_there_is_is_whole(world, disk):
    last_seq = await lived(world)
    data = disk.read(ONLY)
    end = framing.scan(data, 1).last_offset
    group = data.rindex(b'{"crc"', 0, end)  # A group has two records here.
    await disk.truncate(ONLY, group)
    error = await refused(simulated_world(2, disk))
    what = (
        f"it had whole records up to {last_seq} when it was last closed, and only those up to {last_seq - 2} are there"
    )
    assert what in error.message
    assert verified(world).faults == (f"the log has lost records: {what}",)


async def test_so_is_the_last_segment_that_is_gone_and_so_are_all(world, disk):
    await lived(world, segment_bytes=1200)
    *_, last = Segments(disk, SEGMENTS).firsts
    disk.remove(SEGMENTS / f"{last:020d}.ndjson")
    assert f"and only those up to {last - 1} are there" in (await refused(simulated_world(2, disk))).message
    for first in Segments(disk, SEGMENTS).firsts:
        disk.remove(SEGMENTS / f"{first:020d}.ndjson")
    assert "there is none of them" in (await refused(simulated_world(2, disk))).message
    assert verified(world).faults


async def test_a_log_without_segments_that_was_never_closed_is_known_by_its_asides(world, disk):
    await lived(world, closes=False)
    disk.remove(ONLY)
    world = simulated_world(2, disk.copy())
    assert "it has asides" in (await refused(world)).message
    assert "it has asides" in verified(world).faults[0]


async def test_another_end_of_the_same_length_is_found_out(world, disk):
    await lived(world)
    other = simulated_world(3)
    await lived(other, number=5)
    await disk.replace(ONLY, other.disk.read(ONLY))
    assert "another one" in (await refused(simulated_world(2, disk))).message
    assert verified(world).faults


async def test_a_note_that_is_damaged_is_no_note(world, disk):
    await lived(world)
    disk.corrupt(DIRECTORY / closed.FILE, 60)
    assert closed.FILE in (await refused(simulated_world(2, disk))).data["segment"]
    assert verified(world).faults == (f"{closed.FILE}: not what was written",)
    await repair(world, DIRECTORY)
    assert verified(world).faults == ()


async def test_repair_says_what_is_missing_gives_a_new_id_and_the_log_goes_on(world, disk):
    await lived(world)
    whole = disk.read(ONLY)
    disk.corrupt(ONLY, len(whole) // 2)
    before = verified(world)
    lost = await repair(world, DIRECTORY)
    assert any("it had whole records up to 20 when it was last closed" in sentence for sentence in lost)
    log = await open_log(simulated_world(2, disk))
    assert (log.id != before.id, log.repaired) == (True, ())
    assert read_all(log)[-1].last_seq == log.last_seq == before.last_seq
    await log.close()
    assert verified(world).faults == ()


async def test_repair_lets_a_log_whose_segments_are_gone_begin_anew(world, disk):
    await lived(world)
    disk.remove(ONLY)
    assert any("there is none of them" in sentence for sentence in await repair(world, DIRECTORY))
    assert await repair(world, DIRECTORY) == ()
    assert await lived(simulated_world(2, disk)) == 20


async def test_what_was_said_at_an_end_holds_in_later_lives_which_a_crash_may_cut(world, disk):
    last_seq = await lived(world)
    await lived(simulated_world(2, disk), 100, closes=False)
    torn = disk.copy()
    await torn.truncate(ONLY, len(torn.read(ONLY)) - 3)
    log = await open_log(simulated_world(3, torn))
    assert log.last_seq > last_seq
    assert len(log.repaired) == 1
    disk.corrupt(ONLY, 500)
    await refused(simulated_world(3, disk.copy()))


async def test_of_what_was_never_called_durable_whole_records_behind_the_cut_are_kept_beside_it(world, disk):
    await lived(world, closes=False)
    disk = disk.copy()
    disk.corrupt(ONLY, 900)
    damaged = disk.read(ONLY)
    (fault,) = verified(simulated_world(2, disk)).faults
    log = await open_log(simulated_world(2, disk))
    (kept,) = [name for name in disk.names(SEGMENTS) if ".cut-" in name]
    at = int(kept.rpartition("-")[2])
    assert disk.read(SEGMENTS / kept) == damaged[at:]
    assert fault.endswith(f"the next start cuts there, and keeps what it cuts in segments/{kept}")
    (said,) = log.repaired
    assert said.endswith(f"whole records among them lie in segments/{kept}")
    await log.close()
    assert verified(simulated_world(2, disk)).faults == ()


async def test_so_is_a_whole_segment_that_lost_its_beginning(world, disk):
    await lived(world, closes=False, segment_bytes=1200)
    disk = disk.copy()
    *_, last = Segments(disk, SEGMENTS).firsts
    path = SEGMENTS / f"{last:020d}.ndjson"
    disk.corrupt(path, 50)
    data = disk.read(path)
    log = await open_log(simulated_world(2, disk))
    assert log.last_seq == last - 1
    assert disk.read(path.with_name(f"{path.name}.cut-0")) == data
    assert "whole records among them lie in" in log.repaired[0]


async def test_what_was_kept_once_is_not_overwritten_by_what_is_cut_at_the_same_place_later(world, disk):
    kept = []
    await lived(world, groups=2, closes=False)
    for number in (100, 200):
        whole = len(disk.read(ONLY))
        disk = disk.copy()
        await lived(simulated_world(2, disk), number, closes=False)
        disk = disk.copy()
        disk.corrupt(ONLY, whole + 10)
        kept.append(disk.read(ONLY)[whole:])
        await open_log(simulated_world(2, disk))
    assert sorted(disk.read(SEGMENTS / name) for name in disk.names(SEGMENTS) if ".cut-" in name) == sorted(kept)


async def test_what_was_cut_from_a_segment_goes_when_retention_drops_that(world, disk, nursery, autojump_clock):
    log = await open_log(world, segment_bytes=1500, budget_bytes=6000)
    bind(log)
    cut = ONLY.with_name(f"{ONLY.name}.cut-400")
    await disk.replace(cut, b"what was cut")
    await nursery.start(log.run_flusher)
    for number in range(100):
        group = append_end(log, number)
        log.commit()
        await wait_synced(log, group.last_seq)
    assert log.oldest_seq > 1
    await log.close()
    assert cut.name not in disk.names(SEGMENTS)


async def test_a_log_that_never_syncs_says_nothing_that_a_power_cut_could_make_untrue(world, disk):
    await lived(world, durability="process")
    assert closed.read(disk, DIRECTORY) is closed.NEVER


async def test_a_full_disk_keeps_no_log_from_being_closed(world, disk):
    log = await open_log(world)
    append_end(log, 1)
    log.commit()
    disk.faults = DiskFaults(capacity_bytes=disk.used_bytes() + 10)
    await log.close()
    disk.faults = DiskFaults()
    assert log.failed is None
    assert closed.read(disk, DIRECTORY) is closed.NEVER
    assert (await open_log(simulated_world(2, disk))).last_seq == log.last_seq
