import orjson
import pytest
import trio
from log_driver import DIRECTORY, append_end, append_tokens, bind, open_log, read_all, wait_synced

from mlzoo.errors import LogUnusable, NotFound, OutOfRange, StorageFailed
from mlzoo.events.commands import ReportAnswer, Strike
from mlzoo.events.types import RequestCancelled
from mlzoo.simulation.disk import DiskFaults


async def test_a_new_log_is_empty_and_has_an_id_of_its_own(world, disk):
    log = await open_log(world)
    assert log.id.startswith("log-")
    assert (log.oldest_seq, log.last_seq, log.base_state(), list(log.replay()), log.repaired) == (1, 0, None, [], ())
    assert orjson.loads(disk.read(DIRECTORY / "log.json"))["format"] == 1


async def test_what_was_committed_is_there_after_a_restart(world):
    log = await open_log(world)
    groups = [append_tokens(log, 1), append_end(log, 2)]
    log.commit()
    await log.close()
    again = await open_log(world)
    assert (again.id, again.last_seq, again.clock_ms, again.synced) == (log.id, 5, 2, 5)
    assert list(again.replay()) == groups == read_all(again)


async def test_numbers_go_on_after_a_restart(world):
    log = await open_log(world)
    append_end(log, 1)
    log.commit()
    await log.close()
    again = await open_log(world)
    assert append_end(again, 2).first_seq == 4


async def test_what_was_not_committed_is_not_written(world):
    log = await open_log(world)
    append_end(log, 1)
    assert (log.last_seq, log.written, read_all(log)) == (3, 0, [])


async def test_a_command_that_is_no_json_leaves_the_log_as_it_was(world):
    log = await open_log(world)
    with pytest.raises(TypeError):
        log.append(Strike(), [], {"text": object()}, at_ms=1)
    assert append_end(log, 2).first_seq == 1


# ------------------------------------------------------------------------------------------------ durability


async def test_an_end_is_shown_once_it_is_synced_and_a_token_once_it_is_written(world, nursery, autojump_clock):
    log = await open_log(world)
    await nursery.start(log.run_flusher)
    token, end = append_tokens(log, 1), append_end(log, 2)
    assert not log.is_shown(token)
    log.commit()
    assert log.is_shown(token)
    assert not log.is_shown(end)
    await wait_synced(log, end.last_seq)
    assert log.is_shown(end)


async def test_tokens_alone_ask_for_no_sync(world, disk, nursery, autojump_clock):
    log = await open_log(world)
    await nursery.start(log.run_flusher)
    before = disk.syncs
    append_tokens(log, 1)
    log.commit()
    await trio.testing.wait_all_tasks_blocked()
    assert (disk.syncs, log.synced) == (before, 0)


async def test_one_sync_serves_all_that_was_written_meanwhile(world, disk, nursery, autojump_clock):
    disk.faults.sync_s = 1.0
    log = await open_log(world)
    before = disk.syncs
    await nursery.start(log.run_flusher)

    async def client(number):
        group = append_end(log, number)
        log.commit()
        await wait_synced(log, group.last_seq)

    async with trio.open_nursery() as clients:
        for number in range(32):
            clients.start_soon(client, number)
    assert disk.syncs - before <= 2


async def test_with_process_durability_nothing_is_ever_synced(world, disk, nursery):
    log = await open_log(world, durability="process", segment_bytes=1000)
    bind(log)
    await nursery.start(log.run_flusher)
    for number in range(20):
        group = append_end(log, number)
        assert not log.is_shown(group)
        log.commit()
        assert log.is_shown(group)
        await wait_synced(log, group.last_seq)
    await trio.testing.wait_all_tasks_blocked()
    assert disk.syncs == 0


async def test_progress_is_told_when_written_and_when_synced(world, nursery, autojump_clock):
    log = await open_log(world)
    await nursery.start(log.run_flusher)
    seen = []
    log.on_progress.append(lambda: seen.append((log.written, log.synced)))
    append_end(log, 1)
    log.commit()
    await wait_synced(log, 3)
    assert seen == [(3, 0), (3, 3)]


# ------------------------------------------------------------------------------------------------ failing disks


async def test_a_full_disk_is_final_and_what_was_written_before_is_kept(world, disk):
    log = await open_log(world)
    append_end(log, 1)
    log.commit()
    disk.faults = DiskFaults(capacity_bytes=sum(sum(disk.sizes(made).values()) for made in disk.files) + 100)
    append_end(log, 2)
    with pytest.raises(StorageFailed) as caught:
        log.commit()
    assert caught.value.data["reason"] == "failed"
    assert caught.value.message.endswith("make room on that disk, then start again")
    assert log.written == 3
    for use in (log.commit, log.commit_asides, lambda: append_end(log, 3), lambda: log.aside("c", "ping", 1)):
        with pytest.raises(StorageFailed):
            use()
    await log.close()
    disk.faults = DiskFaults()
    again = await open_log(world)
    assert again.last_seq == 3
    assert len(again.repaired) == 1


@pytest.mark.parametrize(
    "fault", [{"fail_write": 0}, {"file_limit_bytes": 700}], ids=["an error in the middle of a write", "EFBIG"]
)
async def test_half_a_write_is_cut_at_the_next_start(world, disk, fault):
    log = await open_log(world)
    append_end(log, 1)
    log.commit()
    disk.writes, disk.faults = 0, DiskFaults(**fault)
    append_end(log, 2)
    with pytest.raises(StorageFailed):
        log.commit()
    await log.close()
    disk.faults = DiskFaults()
    again = await open_log(world)
    assert (again.last_seq, [group.first_seq for group in read_all(again)]) == (3, [1])


async def test_a_failed_sync_ends_the_flusher_and_everyone_who_waits(world, disk, autojump_clock):
    log = await open_log(world)
    disk.syncs, disk.faults = 0, DiskFaults(fail_sync=0)
    group = append_end(log, 1)
    log.commit()
    ended = []

    async def wait():
        with pytest.raises(StorageFailed):
            await wait_synced(log, group.last_seq)
        ended.append("waiter")

    with pytest.RaisesGroup(StorageFailed):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await log.run_flusher()
    # The failure cancelled the waiter, or had woken it before; nobody waits on.
    assert log.synced == 0
    assert not log.is_shown(group)
    with pytest.raises(StorageFailed):
        log.commit()
    with pytest.raises(StorageFailed):
        await wait_synced(log, group.last_seq)
    await log.close()
    assert disk.syncs == 1


# ------------------------------------------------------------------------------------------------ who may open it


async def test_a_second_writer_is_refused(world):
    log = await open_log(world)
    with pytest.raises(LogUnusable) as caught:
        await open_log(world)
    assert caught.value.data["reason"] == "locked"
    await log.close()
    await open_log(world)


async def test_a_log_of_a_newer_format_is_left_alone(world, disk):
    log = await open_log(world)
    await log.close()
    await disk.replace(DIRECTORY / "log.json", b'{"id":"log-x","format":2}\n')
    for _ in range(2):  # a refusal holds no lock
        with pytest.raises(LogUnusable) as caught:
            await open_log(world)
        assert caught.value.data["reason"] == "newer"


async def test_damage_in_the_middle_makes_the_log_unusable_and_says_where(world, disk):
    log = await open_log(world, durability="process")
    for number in range(3):
        append_end(log, number)
        log.commit()
    await log.close()
    (name,) = disk.names(DIRECTORY / "segments")
    disk.corrupt(DIRECTORY / "segments" / name, 250)
    before = disk.read(DIRECTORY / "segments" / name)
    with pytest.raises(LogUnusable) as caught:
        await open_log(world)
    data = caught.value.data
    assert (data["reason"], data["segment"]) == ("damaged", name)
    assert data["offset"] <= 250
    assert data["remedy"].startswith("mlzoo log repair ")
    assert disk.read(DIRECTORY / "segments" / name) == before


async def test_damage_far_from_the_end_is_found_by_replay(world, disk):
    log = await open_log(world)
    for number in range(2000):
        append_end(log, number)
    log.commit()
    await log.close()
    (name,) = disk.names(DIRECTORY / "segments")
    log = await open_log(world, durability="process")
    for number in range(3):
        append_end(log, number)
        log.commit()
    await log.close()
    disk.corrupt(DIRECTORY / "segments" / name, 5000)
    # 256 KiB of the end are verified, and say whether the rest was synced; here only a part of them does.
    with pytest.raises(LogUnusable) as caught:
        list((await open_log(world)).replay())
    assert caught.value.data["reason"] == "damaged"


# ------------------------------------------------------------------------------------------------ segments


async def roll(log, count, first=0):
    groups = []
    for number in range(first, first + count):
        groups.append(append_end(log, number))
        log.commit()
        await wait_synced(log, log.last_seq)
    return groups


async def test_a_full_segment_is_followed_by_one_that_begins_with_the_state(world, disk, nursery, autojump_clock):
    log = await open_log(world, segment_bytes=1500)
    bind(log)
    await nursery.start(log.run_flusher)
    groups = await roll(log, 20)
    await log.close()
    names = disk.names(DIRECTORY / "segments")
    assert len(names) > 3
    again = await open_log(world)
    assert again.base_state() == {"last_seq": int(names[-1].split(".")[0]) - 1}
    replayed = list(again.replay())
    assert replayed == groups[len(groups) - len(replayed) :]
    assert read_all(again) == groups


async def test_no_second_segment_is_begun_before_there_is_a_state_for_it(world, disk):
    log = await open_log(world, segment_bytes=1500)
    for number in range(20):
        append_end(log, number)
        log.commit()
    assert len(disk.names(DIRECTORY / "segments")) == 1


async def test_a_budget_drops_asides_first_and_then_the_oldest_groups(world, disk, nursery, autojump_clock):
    log = await open_log(world, segment_bytes=1500, asides_segment_bytes=1000, budget_bytes=8000)
    bind(log)
    await nursery.start(log.run_flusher)
    for number in range(40):
        log.aside("c", "ping", number)
        log.commit_asides()
    asides_before = len(disk.names(DIRECTORY / "asides"))
    await roll(log, 8)
    assert log.oldest_seq == 1
    assert len(disk.names(DIRECTORY / "asides")) < asides_before
    groups = await roll(log, 60, first=8)
    await trio.testing.wait_all_tasks_blocked()
    assert log.size_bytes() < 8000 + 3000
    assert log.oldest_seq > 1
    assert read_all(log)[-1] == groups[-1]
    with pytest.raises(OutOfRange) as caught:
        log.read(0, 10)
    assert caught.value.data["oldest"] == log.oldest_seq
    await log.close()
    assert (await open_log(world)).oldest_seq == log.oldest_seq


async def test_what_a_live_request_needs_is_kept_over_the_budget(world, nursery, autojump_clock):
    log = await open_log(world, segment_bytes=1500, budget_bytes=4000)
    log.bind_state(dict, lambda: 5)
    await nursery.start(log.run_flusher)
    groups = await roll(log, 60)
    assert read_all(log) == groups


async def test_blobs_go_with_the_segment_that_names_them(world, disk, nursery, autojump_clock):
    log = await open_log(world, segment_bytes=1500, budget_bytes=8000)
    bind(log)
    await nursery.start(log.run_flusher)
    names = []
    for number in range(60):
        names.append(await log.put_blob(b"x" * 100))
        answer, end = ReportAnswer(request=f"r{number}", blob=names[-1]), RequestCancelled(request=f"r{number}")
        log.append(answer, [end], None, at_ms=1)
        log.commit()
        await wait_synced(log, log.last_seq)
    await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(NotFound):
        log.get_blob(names[0])
    assert log.get_blob(names[-1]) == b"x" * 100
    named = {group.command.blob for group in read_all(log)}
    there = {
        name.removesuffix(".bin")
        for made in disk.names(DIRECTORY / "blobs")
        for name in disk.names(DIRECTORY / "blobs" / made)
    }
    assert there == named
