"""What a disk refuses, or who leaves in the middle, leaves something owed, and that is not forgotten."""

import errno
from pathlib import Path

import pytest
import trio
from log_driver import DIRECTORY, append_end, open_log, read_all

from mlzoo.errors import LogUnusable, StorageFailed
from mlzoo.events.answers import KeptAnswer, KeptAnswers, sealed
from mlzoo.events.blobs import Blobs
from mlzoo.simulation.disk import DiskFaults, SimulatedDisk
from mlzoo.simulation.world import simulated_world


class BreaksOff(SimulatedDisk):
    """A disk whose next sync of a directory is broken off, if told so: before anything is durable."""

    def __init__(self):
        super().__init__()
        self.scope = None

    async def sync_dir(self, path):
        if self.scope is not None:
            self.scope.cancel()
            await trio.lowlevel.checkpoint()
        await super().sync_dir(path)


async def break_off(disk, sync_removed):
    """Begin to sync what was removed, and leave in the middle."""
    with trio.CancelScope() as disk.scope:
        await sync_removed()
    assert disk.scope.cancelled_caught
    disk.scope = None


async def test_that_expired_copies_have_gone_is_synced_by_the_next_one_where_a_sync_was_broken_off():
    disk, directory = BreaksOff(), Path("/log/keys")
    answers = KeptAnswers(disk, directory)
    await answers.put([sealed(KeptAnswer(request="req-1", accepted_seq=1, ended_at_ms=1, pieces=[], result="x"))])
    answers.expire(5)
    await break_off(disk, answers.sync_removed)
    assert disk.durable_files[str(directory)], "a power cut would bring it back"
    await answers.sync_removed()
    assert disk.durable_files[str(directory)] == {}


async def test_that_large_values_have_gone_is_synced_by_the_next_one_where_a_sync_was_broken_off():
    disk = BreaksOff()
    blobs = Blobs(disk, simulated_world(1, disk).ids, Path("/log/blobs"))
    path = blobs.path(name := await blobs.put(b"vectors"))
    blobs.remove(name)
    await break_off(disk, blobs.sync_removed)
    assert disk.durable_files[str(path.parent)], "a power cut would bring it back"
    await blobs.sync_removed()
    assert disk.durable_files[str(path.parent)] == {}


async def test_a_large_value_that_goes_while_the_removal_of_another_is_synced_is_synced_as_well():
    disk = SimulatedDisk()
    blobs = Blobs(disk, simulated_world(1, disk).ids, Path("/log/blobs"))
    names = [await blobs.put(b"vectors"), await blobs.put(b"vectors")]
    sync_dir = disk.sync_dir

    async def synced_and_then(path):
        await sync_dir(path)
        if len(names) == 2:
            blobs.remove(names.pop())  # By another task, before this one hears of the sync.

    disk.sync_dir = synced_and_then
    blobs.remove(names[0])
    await blobs.sync_removed()
    assert disk.durable_files[str(blobs.path(names[0]).parent)] == {}, "a power cut would bring it back"


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOSPC])
async def test_a_torn_segment_that_cannot_be_put_in_place_anew_is_cut_where_it_lies(monkeypatch, number):
    disk = SimulatedDisk()
    log = await open_log(simulated_world(1, disk))
    group = append_end(log, 1)
    await log.close()
    (name,) = disk.names(DIRECTORY / "segments")
    path = DIRECTORY / "segments" / name
    whole = disk.read(path)
    await disk.replace(path, whole + b"half of a rec")
    replace, refused = disk.replace, []

    async def refuse(where, data):
        if where == path:
            refused.append(data)
            raise OSError(number, "somebody has it open")
        await replace(where, data)

    monkeypatch.setattr(disk, "replace", refuse)
    again = await open_log(simulated_world(2, disk))
    assert refused == [whole]
    assert again.repaired != ()
    assert read_all(again) == [group]
    assert disk.read(path) == disk.files[str(path.parent)][name].durable == whole
    await again.close()


async def test_a_torn_segment_that_the_disk_fails_to_write_is_left_as_it_is(monkeypatch):
    disk = SimulatedDisk()
    log = await open_log(simulated_world(1, disk))
    append_end(log, 1)
    await log.close()
    (name,) = disk.names(DIRECTORY / "segments")
    torn = disk.read(DIRECTORY / "segments" / name) + b"half of a rec"
    await disk.replace(DIRECTORY / "segments" / name, torn)

    async def fail(_path, _data):
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(disk, "replace", fail)
    with pytest.raises(LogUnusable, match="input/output error"):
        await open_log(simulated_world(2, disk))
    assert disk.read(DIRECTORY / "segments" / name) == torn


@pytest.mark.parametrize("given_up", [False, True], ids=["waits", "waits and is cancelled then"])
async def test_who_waits_for_a_sync_that_fails_begins_no_other_whatever_has_become_of_who_waits(
    autojump_clock, given_up
):
    disk = SimulatedDisk()
    log = await open_log(simulated_world(1, disk))
    append_end(log, 1)
    log.commit()
    synced, syncs = log.synced, disk.syncs
    disk.faults = DiskFaults(fail_sync=syncs, sync_s=1.0)
    async with trio.open_nursery() as nursery:

        async def flush():
            with pytest.raises(StorageFailed):
                await log._durability.flush(seals=True)
            if given_up:
                nursery.cancel_scope.cancel()

        nursery.start_soon(flush)
        nursery.start_soon(flush)
    assert disk.syncs == syncs + 1
    assert log.synced == synced < log.written
    await log.close()
