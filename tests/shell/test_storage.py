"""A disk that fails, a log that cannot be used, and sidecars that follow one another on one log."""

import random

import attrs
import pytest
import trio
from sidecar_life import LOG

from mlzoo.app import EXIT_STORAGE_FAILED
from mlzoo.events.log import Log
from mlzoo.simulation.disk import SimulatedDisk
from mlzoo.simulation.world import simulated_world

ENOSPC, EIO_WRITE, EIO_SYNC = "the disk is full", "a write fails", "a sync fails"


def break_disk(disk, how):
    match how:
        case "the disk is full":
            disk.faults.capacity_bytes = disk.used_bytes()
        case "a write fails":
            disk.faults.fail_write = disk.writes
        case "a sync fails":
            disk.faults.fail_sync = disk.syncs


async def running(sidecar):
    sidecar.workshop.answer = None
    chat = sidecar.chat("x", stream=True)
    worker = await sidecar.worker()
    [request] = await worker.given()
    await sidecar.synced()
    return chat, worker, request


@pytest.mark.parametrize("how", [ENOSPC, EIO_WRITE, EIO_SYNC])
async def test_when_the_disk_fails_who_waits_is_told_and_the_sidecar_leaves_with_3(lives, autojump_clock, how):
    async with lives.begin() as sidecar:
        chat, worker, request = await running(sidecar)
        break_disk(lives.disk, how)
        worker.generate(request, "lost", " words")
        error = await sidecar.host.error(chat)
        assert (error["code"], error["data"]["reason"]) == (1014, "failed")
        await sidecar.ended.wait()
    assert sidecar.status == EXIT_STORAGE_FAILED


@pytest.mark.parametrize("how", [ENOSPC, EIO_WRITE])
async def test_a_disk_that_fails_at_a_ping_fails_everything_in_flight_too(lives, autojump_clock, how):
    async with lives.begin() as sidecar:
        chat, _, _ = await running(sidecar)
        break_disk(lives.disk, how)
        sidecar.host.batch(sidecar.host.request("ping", id=71), sidecar.host.request("ping", id=72))
        ping = sidecar.host.send("ping")
        for id_ in (ping, 71, 72, chat):
            assert (await sidecar.host.error(id_))["code"] == 1014
        await sidecar.ended.wait()
    assert sidecar.status == EXIT_STORAGE_FAILED


async def test_every_moment_at_which_a_disk_can_fail_ends_in_order(lives, autojump_clock):
    """Whichever write or sync it is: every call that was sent is answered or the host sees the end, and no hang."""
    for fault in ("fail_write", "fail_sync"):
        for number in range(3, 24):
            lives.disk = SimulatedDisk()
            lives.disk.faults = attrs.evolve(lives.disk.faults, **{fault: number})
            async with lives.begin() as sidecar:
                ids = [sidecar.host.send("ping"), sidecar.chat("a"), sidecar.chat("b", stream=True)]
                ids += [sidecar.host.send("embed", {"input": "abc"}), sidecar.host.send("status")]
                await trio.testing.wait_all_tasks_blocked()
                sidecar.host.send("ping")  # The sidecar may have left by now.
                await trio.sleep(1)
                await sidecar.leave()
            if sidecar.services.unusable is None and sidecar.services.log.failed is not None:
                assert sidecar.status == EXIT_STORAGE_FAILED, (fault, number)
            for id_ in ids:
                assert len(sidecar.host.responses(id_)) == 1, (fault, number, id_)


@pytest.mark.parametrize("reason", ["locked", "damaged", "unwritable"])
async def test_a_log_that_cannot_be_used_leaves_a_sidecar_that_says_why(lives, autojump_clock, reason):
    async with lives.begin() as sidecar:
        await sidecar.host.result(sidecar.chat("x"))
    if reason == "locked":
        await Log.open(LOG, simulated_world(5, lives.disk), lives.log, version="0")
    elif reason == "damaged":
        [name] = lives.disk.sizes(LOG / "segments")
        lives.disk.corrupt(LOG / "segments" / name, 400)
    else:
        lives.disk = SimulatedDisk()
        lives.disk.faults.capacity_bytes = 0
    async with lives.begin() as sidecar:
        sidecar.host.on_line = None  # Nothing can be recorded.
        client = {"name": "test", "version": "1"}
        agreed = await sidecar.host.call("initialize", {"protocol_version": "1", "client": client})
        assert "log" not in agreed
        assert await sidecar.host.call("ping") == {}
        assert (await sidecar.host.call("status"))["log"]["unusable"]["reason"] == reason
        for method, params in (("metrics", None), ("events.read", None), ("models.list", None), ("devices.list", None)):
            error = await sidecar.host.refused(method, params)
            assert (error["code"], error["data"]["reason"]) == (1015, reason)
        assert (await sidecar.host.error(sidecar.chat("x")))["code"] == 1015
        sidecar.host.notify("cancel", {"request": 1})
        assert await sidecar.host.call("shutdown") == {}
        await sidecar.ended.wait()
    assert sidecar.status == 0


async def test_a_call_that_came_before_the_damage_was_found_is_answered(lives, autojump_clock):
    """A start verifies the end of a long segment only; the rest is read once the first lines are answered."""
    async with lives.begin() as sidecar:
        for _ in range(8):
            await sidecar.host.result(sidecar.chat("x" * 100_000))
    [name] = lives.disk.sizes(LOG / "segments")
    lives.disk.corrupt(LOG / "segments" / name, 1000)
    async with lives.begin() as sidecar:
        chat = sidecar.chat("x")
        sidecar.host.batch(
            sidecar.host.request("ping", id=77), sidecar.host.request("models.unload", {"model": "toy"}, id=78)
        )
        assert (await sidecar.host.error(chat))["code"] == 1015
        assert await sidecar.host.result(77) == {}
        assert (await sidecar.host.error(78))["code"] == 1015
        assert (await sidecar.host.call("status"))["log"]["unusable"]["reason"] == "damaged"
    assert sidecar.status == 0


@pytest.mark.parametrize("ends", ["stdin", "shutdown"])
async def test_an_end_that_was_asked_for_before_the_damage_was_found_comes(lives, autojump_clock, ends):
    async with lives.begin() as sidecar:
        for _ in range(8):
            await sidecar.host.result(sidecar.chat("x" * 100_000))
    [name] = lives.disk.sizes(LOG / "segments")
    lives.disk.corrupt(LOG / "segments" / name, 1000)
    async with lives.begin() as sidecar:
        chat = sidecar.chat("x")
        if ends == "stdin":
            sidecar.host.close()
        else:
            sidecar.host.send("shutdown")
        assert (await sidecar.host.error(chat))["code"] == 1015
        await sidecar.ended.wait()
    assert sidecar.status == 0


async def test_an_unusable_log_and_the_end_of_stdin_make_an_orderly_end(lives, autojump_clock):
    await Log.open(LOG, simulated_world(5, lives.disk), lives.log, version="0")
    async with lives.begin() as sidecar:
        sidecar.host.on_line = None
        ping = sidecar.host.send("ping")
        sidecar.host.close()
        assert await sidecar.host.result(ping) == {}
    assert sidecar.status == 0


async def test_what_ran_when_a_sidecar_died_is_ended_by_the_next_one(lives, autojump_clock):
    async with lives.begin(leave=False) as sidecar:
        _, worker, request = await running(sidecar)
        worker.generate(request, "half", finish=None)
        await sidecar.host.streamed(1, 1)
    lives.disk = lives.disk.crashed(random.Random(1), "kept")
    async with lives.begin() as sidecar:
        await sidecar.host.result(sidecar.chat("next"))
        failed = (await sidecar.host.call("events.read", {"request": request}))["events"]
        assert [event["type"] for event in failed][-1] == "RequestFailed"
        assert failed[-1]["data"]["failure"]["code"] == 1008


@pytest.mark.parametrize("outcome", ["kept", "lost", "torn", "garbled"])
async def test_the_state_after_a_crash_is_that_of_what_was_promised(lives, autojump_clock, outcome):
    async with lives.begin(leave=False) as sidecar:
        done = sidecar.chat("done")
        await sidecar.host.result(done)
        await sidecar.host.call("models.load", {"model": "toy", "pin": True})
        promised = sidecar.watch.groups(durable=True)
    lives.disk = lives.disk.crashed(random.Random(2), outcome)
    async with lives.begin() as sidecar:
        await sidecar.host.call("ping")
        await sidecar.host.result(sidecar.chat("again"))
        found = sidecar.watch.groups(durable=True)
        assert found[: len(promised)] == promised


async def test_segments_roll_over_under_load_and_the_next_sidecar_folds_the_same_state(lives, autojump_clock):
    lives.log = attrs.evolve(lives.log, segment_bytes=64 * 1024)
    for _ in range(2):
        async with lives.begin() as sidecar:
            sidecar.host.on_line = None  # It reads the whole log for each line.
            for _ in range(20):
                ids = [sidecar.chat("word " * 40, stream=True) for _ in range(8)]
                for id_ in ids:
                    await sidecar.host.result(id_)
    assert len(lives.disk.sizes(LOG / "segments")) > 3


async def test_asides_roll_over_while_a_host_lags_and_none_is_lost(lives, autojump_clock):
    lives.log = attrs.evolve(lives.log, asides_segment_bytes=64 * 1024)
    async with lives.begin() as sidecar:
        sidecar.host.on_line = None
        sidecar.host.stop_reading()
        for number in range(3000):
            sidecar.host.send("status", id=number + 1)
        await trio.testing.wait_all_tasks_blocked()
        sidecar.host.read_on()
        await sidecar.host.until(lambda: len(sidecar.host.messages) == 3000)
        assert [m["id"] for m in sidecar.host.messages] == list(range(1, 3001))
    assert len(lives.disk.sizes(LOG / "asides")) > 3
