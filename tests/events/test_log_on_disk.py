"""The log on the file system of this machine: what a simulated disk cannot prove."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import trio
import trio.testing
from log_driver import append_end, append_tokens, bind, open_log, read_all, wait_synced

from mlzoo.errors import LogUnusable, StorageFailed
from mlzoo.world import RealDisk, real_world

HERE = Path(__file__).parent

CHILD = """
import resource, sys, trio
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from log_driver import append_end, append_tokens, bind, open_log, wait_synced
from mlzoo.world import real_world

async def main():
    log = await open_log(real_world(), Path(sys.argv[1]), segment_bytes=20_000, durability=sys.argv[3])
    bind(log)
    async with trio.open_nursery() as nursery:
        await nursery.start(log.run_flusher)
        for number in range(1_000_000):
            append_tokens(log, number)
            group = append_end(log, number)
            log.aside("con-1", "ping", number)
            log.commit_asides()
            log.commit()
            if sys.argv[3] == "disk":
                await wait_synced(log, group.last_seq)
            print(group.last_seq, flush=True)
            await trio.lowlevel.checkpoint()

trio.run(main)
"""


def child(path, durability):
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, path, HERE, durability],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(HERE.parent.parent)},
    )


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX's")
@pytest.mark.parametrize("durability", ["process", "disk"])
async def test_nothing_that_was_acknowledged_dies_with_the_process(tmp_path, durability):
    acknowledged = 0
    for _ in range(3):
        with child(tmp_path / "log", durability) as process:
            for _ in range(200):
                acknowledged = int(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
            for line in process.stdout:
                if line.endswith("\n"):
                    acknowledged = int(line)
        log = await open_log(real_world(), tmp_path / "log")
        assert log.last_seq >= acknowledged
        seqs = [group.first_seq for group in read_all(log)]
        assert seqs == [place for start in range(1, log.last_seq, 5) for place in (start, start + 2)][: len(seqs)]
        await log.close()


async def test_a_second_process_is_refused_while_the_first_holds_the_lock(tmp_path):
    with child(tmp_path / "log", "process") as process:
        process.stdout.readline()
        with pytest.raises(LogUnusable) as caught:
            await open_log(real_world(), tmp_path / "log")
        assert caught.value.data["reason"] == "locked"
        process.kill()
        process.stdout.read()
    await (await open_log(real_world(), tmp_path / "log")).close()


@pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX's")
async def test_the_log_is_its_owners_alone(tmp_path):
    log = await open_log(real_world(), tmp_path / "state" / "log")
    append_end(log, 1)
    log.aside("con-1", "ping", 1)
    await log.put_blob(b"x")
    await log.close()
    for path in [tmp_path / "state" / "log", *(tmp_path / "state" / "log").rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


async def test_a_file_in_the_place_of_the_directory_makes_it_unwritable(tmp_path):
    (tmp_path / "log").write_text("something else")
    with pytest.raises(LogUnusable) as caught:
        await open_log(real_world(), tmp_path / "log")
    assert caught.value.data["reason"] == "unwritable"


@pytest.mark.skipif(sys.platform == "win32", reason="RLIMIT_FSIZE is POSIX's")
async def test_a_limit_on_file_sizes_ends_the_log_and_the_next_start_cuts_the_half_write(tmp_path):
    import resource

    log = await open_log(real_world(), tmp_path / "log", durability="process")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))

    def append_until_it_fails():
        while True:
            append_end(log, 0)
            log.commit()

    try:
        with pytest.raises(StorageFailed):
            append_until_it_fails()
        with pytest.raises(StorageFailed):
            append_end(log, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    await log.close()
    assert next((tmp_path / "log" / "segments").iterdir()).stat().st_size == 10_000
    again = await open_log(real_world(), tmp_path / "log")
    assert again.last_seq == log.written > 0
    assert len(again.repaired) == 1
    await again.close()


async def test_segments_begin_one_another_on_a_real_disk_too(tmp_path, nursery):
    log = await open_log(real_world(), tmp_path / "log", segment_bytes=2000, budget_bytes=20_000)
    bind(log)
    await nursery.start(log.run_flusher)
    for number in range(200):
        append_tokens(log, number)
        group = append_end(log, number)
        log.commit()
        await wait_synced(log, group.last_seq)
    nursery.cancel_scope.cancel()
    with trio.CancelScope(shield=True):
        await log.close()
        again = await open_log(real_world(), tmp_path / "log")
        assert 1 < again.oldest_seq < again.last_seq == 1000
        groups = read_all(again)
        assert [group.first_seq for group in groups[1:]] == [group.last_seq + 1 for group in groups[:-1]]
        await again.close()


async def test_the_real_disk_does_what_its_protocol_says(tmp_path):
    disk = RealDisk()
    directory = tmp_path / "a" / "b"
    assert (disk.names(directory), disk.sizes(directory)) == ([], {})
    await disk.make_dir(directory)
    await disk.make_dir(directory)
    file = disk.open_append(directory / "file")
    file.write(b"hello ")
    await disk.sync(file)
    await disk.sync_dir(directory)
    file.close()
    file = disk.open_append(directory / "file")
    file.write(b"world")
    assert file.size_bytes() == 11
    file.close()
    assert disk.read(directory / "file", 6) == b"world"
    assert disk.read(directory / "file", 0, 5) == b"hello"
    await disk.truncate(directory / "file", 5)
    await disk.replace(directory / "other", b"xyz")
    await disk.replace(directory / "other", b"x")
    assert disk.sizes(directory) == {"file": 5, "other": 1}
    assert disk.names(directory.parent) == ["b"]
    disk.remove(directory / "file")
    disk.remove(directory / "file")
    assert disk.names(directory) == ["other"]
    lock = disk.lock(directory / "lock")
    assert lock is not None
    assert disk.lock(directory / "lock") is None
    lock.release()
    again = disk.lock(directory / "lock")
    assert again is not None
    again.release()
    assert disk.free_bytes(directory) > 0


@pytest.mark.skipif(sys.platform == "win32", reason="RLIMIT_FSIZE is POSIX's")
async def test_a_file_that_the_disk_would_not_take_whole_leaves_nothing_behind(tmp_path):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        await RealDisk().replace(tmp_path / "kept", b"as it was")
        with pytest.raises(OSError, match="too large"):
            await RealDisk().replace(tmp_path / "kept", bytes(20_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept").read_bytes() == b"as it was"


async def test_what_a_crash_left_of_asides_that_were_to_be_put_in_their_place_goes_at_the_start(tmp_path):
    log = await open_log(real_world(), tmp_path / "log")
    log.aside("con-1", "ping", 1)
    log.commit_asides()
    await log.close()
    [segment] = (tmp_path / "log" / "asides").iterdir()
    beginning = segment.with_name(f"{segment.name}.new")
    beginning.write_bytes(b"half of it")
    again = await open_log(real_world(), tmp_path / "log")
    assert not beginning.exists()
    await again.close()


@pytest.mark.parametrize("what", ["sync", "sync_dir", "replace", "truncate", "make_dir"])
async def test_a_disk_that_hangs_is_waited_for_also_by_who_leaves_until_that_is_bounded(tmp_path, monkeypatch, what):
    began, ended, left = threading.Event(), threading.Event(), []

    def hang(*_args):
        began.set()
        ended.wait()

    monkeypatch.setattr(f"mlzoo.world._{what}", hang)
    disk = RealDisk()
    file = disk.open_append(tmp_path / "file")
    of = {"sync": (file,), "replace": (tmp_path / "file", b"data"), "truncate": (tmp_path / "file", 0)}

    async def work(scope):
        with scope, pytest.raises(OSError, match="the disk did not answer within 0 s"):
            await getattr(disk, what)(*of.get(what, (tmp_path,)))
        left.append(what)

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work, scope := trio.CancelScope())
            await trio.to_thread.run_sync(began.wait)
            scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            assert left == []
            disk.bound(0)
    finally:
        ended.set()
        file.close()
