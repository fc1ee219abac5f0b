import pytest
from log_driver import DIRECTORY, append_end, append_tokens, bind, open_log

from mlzoo.errors import Failure, LogUnusable, NotFound, OutOfRange

# ------------------------------------------------------------------------------------------------ reading


@pytest.mark.parametrize("tail_bytes", [0, 1000, 1 << 20])
async def test_the_groups_of_a_request_are_read_from_memory_or_disk_alike(world, tail_bytes):
    log = await open_log(world, tail_bytes=tail_bytes, durability="process")
    mine, others = [], []
    for number in range(30):
        others.append(append_tokens(log, number, request="req-b"))
        mine.append(append_tokens(log, number))
        log.commit()
    assert list(log.groups_of("req-a", 0)) == mine
    assert list(log.groups_of("req-a", mine[9].last_seq)) == mine[10:]
    assert list(log.groups_of("req-b", 0)) == others


async def test_a_forgotten_request_is_still_found_on_disk(world):
    log = await open_log(world)
    groups = [append_tokens(log, number) for number in range(3)]
    other = append_end(log, 9, request="req-b")
    log.commit()
    log.forget_index("req-a")
    assert list(log.groups_of("req-a", groups[0].last_seq)) == [*groups[1:], other], "who reads leaves out the others"
    log.cut_index("req-a")
    groups += [append_tokens(log, number) for number in range(3, 6)]
    append_end(log, 10, request="req-b")
    log.commit()
    assert list(log.groups_of("req-a", groups[0].last_seq)) == [*groups[1:3], other, *groups[3:]]
    assert list(log.groups_of("req-a", groups[4].last_seq)) == groups[5:]


async def test_groups_that_are_appended_while_reading_are_read_too(world):
    log = await open_log(world)
    first = append_tokens(log, 0)
    reading = log.groups_of("req-a", 0)
    assert next(reading) == first
    assert next(log.groups_of("req-a", first.last_seq), None) is None
    second = append_tokens(log, 1)
    assert list(reading) == [second]


@pytest.mark.parametrize("tail_bytes", [0, 500, 1 << 20])
async def test_reading_by_place_gives_the_groups_that_end_after_it(world, tail_bytes):
    log = await open_log(world, tail_bytes=tail_bytes)
    groups = [append_end(log, number) for number in range(5)]
    log.commit()
    assert log.read(0, 2) == groups[:2]
    assert log.read(4, 10) == groups[1:]  # 4 is in the middle of the second
    assert log.read(15, 10) == []
    with pytest.raises(OutOfRange) as caught:
        log.read(16, 10)
    assert caught.value.failure().data["type"] == "ahead"


async def test_reading_by_place_gives_nothing_that_is_not_written(world):
    log = await open_log(world)
    written = append_end(log, 0)
    log.commit()
    append_end(log, 1)
    assert log.read(0, 10) == [written]


async def test_a_record_that_decayed_is_not_given_out(world, disk):
    log = await open_log(world, tail_bytes=0)
    for number in range(3):
        append_tokens(log, number)
    log.commit()
    (name,) = disk.names(DIRECTORY / "segments")
    disk.corrupt(DIRECTORY / "segments" / name, disk.sizes(DIRECTORY / "segments")[name] - 50)
    with pytest.raises(LogUnusable):
        list(log.groups_of("req-a", 0))


async def test_damage_behind_what_is_wanted_of_a_request_keeps_nobody_from_reading_it(world, disk):
    log = await open_log(world, tail_bytes=0)
    wanted = [append_end(log, number, "req-a") for number in range(2)]
    for number in range(5):
        append_end(log, number, "req-z")
    log.commit()
    (name,) = disk.names(DIRECTORY / "segments")
    disk.corrupt(DIRECTORY / "segments" / name, disk.sizes(DIRECTORY / "segments")[name] - 50)
    assert list(log.groups_of("req-a", 0)) == wanted
    with pytest.raises(LogUnusable):
        list(log.groups_of("req-z", 0))


@pytest.mark.parametrize("after_seq", [0, 3, 4])
async def test_a_segment_that_somebody_removed_is_not_read_over(world, disk, after_seq):
    log = await open_log(world, segment_bytes=600, tail_bytes=0)
    bind(log)
    for number in range(20):
        append_end(log, number)
        log.commit()
    await log.close()
    _, gone, behind, *_ = (int(name.partition(".")[0]) for name in sorted(disk.names(DIRECTORY / "segments")))
    assert (gone, behind) == (4, 7)
    disk.remove(DIRECTORY / "segments" / f"{gone:020d}.ndjson")
    again = await open_log(world, tail_bytes=0)
    assert [group.last_seq for group in again.read(0, 1000)] == [gone - 1]  # What stands before it is told.
    with pytest.raises(LogUnusable, match=f"its records {max(gone, after_seq + 1)} to {behind - 1} are missing"):
        again.read(max(after_seq, gone - 1), 1000)
    with pytest.raises(LogUnusable):
        list(again.groups_of("req-a", after_seq))
    assert again.segment_after(max(gone, after_seq + 1)) == behind
    assert again.read(behind - 1, 1000)[-1].last_seq == again.last_seq


async def test_who_reads_while_retention_drops_what_comes_next_is_told_that_it_is_gone(world):
    log = await open_log(world, segment_bytes=600, tail_bytes=0)
    bind(log)
    for number in range(20):
        append_end(log, number)
        log.commit()
    reading = log.reader.after(0)
    first = next(reading)
    for segment in log.reader._segments.firsts[:4]:
        log.reader._segments.forget(segment)
    with pytest.raises(OutOfRange, match=f"what was at {first.last_seq + 1} is gone"):
        next(reading)


async def test_a_segment_that_cannot_be_read_is_said_to_be_by_name(world, disk, monkeypatch):
    log = await open_log(world, tail_bytes=0)
    append_tokens(log, 0)
    log.commit()

    def refused(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(disk, "read", refused)
    with pytest.raises(LogUnusable, match=r"cannot be read: .*Permission denied.*segments"):
        list(log.groups_of("req-a", 0))


# ------------------------------------------------------------------------------------------------ asides and blobs


async def test_asides_are_numbered_apart_and_know_their_place_in_the_story(world):
    log = await open_log(world)
    failure = Failure(1012, "no", {"what": "model"})
    assert log.aside("con-1", "ping", 1, None, {}) == 1
    append_end(log, 1)
    assert log.aside("con-2", "models.load", "x", {"model": "m"}, None, failure) == 2
    log.commit_asides()
    (first,) = log.read_asides("con-1", 1)
    (second,) = log.read_asides("con-2", 1)
    assert [(aside.aside_seq, aside.after_seq) for aside in (first, second)] == [(1, 0), (2, 3)]
    assert (first.method, first.rpc, first.params, first.result, first.failure) == ("ping", 1, None, {}, None)
    assert (second.method, second.rpc, second.params, second.result) == ("models.load", "x", {"model": "m"}, None)
    assert second.failure == failure
    assert list(log.read_asides("con-2", 3)) == []


async def test_asides_are_read_over_many_segments_and_a_restart(world):
    log = await open_log(world, asides_segment_bytes=1000)
    asides = []
    for number in range(50):
        asides.append(log.aside(f"con-{number % 2}", "ping", number, None, {}))
        log.commit_asides()
    assert [aside.aside_seq for aside in log.read_asides("con-1", 6)] == asides[5::2]
    await log.close()
    again = await open_log(world)
    assert [(aside.aside_seq, aside.rpc) for aside in again.read_asides("con-0", 1)] == list(
        zip(asides[::2], range(0, 50, 2), strict=True)
    )
    assert again.aside("con-0", "ping", 1) == 51


async def test_damaged_asides_are_cut_and_kept_beside(world, disk):
    log = await open_log(world)
    for number in range(10):
        log.aside("con-1", "ping", number)
    log.commit_asides()
    await log.close()
    (name,) = disk.names(DIRECTORY / "asides")
    disk.corrupt(DIRECTORY / "asides" / name, 800)
    again = await open_log(world)
    assert len(again.repaired) == 1
    last = max(aside.aside_seq for aside in again.read_asides("con-1", 1))
    assert again.aside("con-1", "ping", 99) == last + 1
    assert len(disk.names(DIRECTORY / "asides")) == 2


async def test_a_blob_is_known_by_its_digest_and_checked_by_it(world, disk):
    log = await open_log(world)
    name = await log.put_blob(b"vectors")
    assert name != await log.put_blob(b"vectors")
    assert log.get_blob(name) == b"vectors"
    disk.corrupt(DIRECTORY / "blobs" / name[:2] / f"{name}.bin", 0)
    with pytest.raises(LogUnusable):
        log.get_blob(name)
    for absent in ("0" * 64 + "-b-0", "../log.json"):
        with pytest.raises(NotFound):
            log.get_blob(absent)
