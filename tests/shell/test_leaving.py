"""How a sidecar leaves: in order, within a bound, and never before what is due has been said."""

import pytest
import trio
import trio.testing

from mlzoo.app import EXIT_STORAGE_FAILED, FLUSH_S


@pytest.mark.parametrize("reason", ["signal", "parent"])
async def test_a_signal_or_the_death_of_the_parent_lets_what_runs_finish(lives, autojump_clock, reason):
    async with lives.begin() as sidecar:
        sidecar.workshop.answer = None
        chat = sidecar.chat("x")
        worker = await sidecar.worker()
        [request] = await worker.given()
        await sidecar.app._shut_down(reason)
        assert (await sidecar.host.error(sidecar.chat("late")))["code"] == 1009
        worker.generate(request, "good", "bye")
        assert (await sidecar.host.result(chat))["message"]["content"] == "goodbye"
        await sidecar.ended.wait()
    assert sidecar.status == 0


async def test_a_host_that_does_not_read_holds_a_shutdown_up_for_a_bounded_time(lives, autojump_clock):
    async with lives.begin(leave=False) as sidecar:
        sidecar.host.on_line = None
        await sidecar.host.result(sidecar.chat("x"))
        sidecar.host.stop_reading()
        for number in range(2000):
            sidecar.host.send("status", id=100_000 + number)
        await trio.testing.wait_all_tasks_blocked()
        began = trio.current_time()
        await sidecar.app._shut_down("signal")
        await sidecar.ended.wait()
        assert trio.current_time() - began <= FLUSH_S + 1


async def test_a_host_that_does_not_read_does_not_cost_another_its_answers(lives, autojump_clock):
    async with lives.begin(leave=False) as sidecar:
        sidecar.host.on_line = None
        await sidecar.host.result(sidecar.chat("x"))
        client = sidecar.connect()
        client.on_line = None
        for host in (sidecar.host, client):
            host.stop_reading()
            for number in range(2000):
                host.send("status", id=100_000 + number)
        await trio.testing.wait_all_tasks_blocked()
        await sidecar.app._shut_down("signal")
        await trio.sleep(FLUSH_S / 2)
        client.read_on()
        await client.until(lambda: len(client.messages) == 2000)
        await sidecar.ended.wait()


async def test_a_slow_sync_costs_no_host_the_time_it_has_to_read(lives, autojump_clock):
    async with lives.begin(leave=False) as sidecar:
        await sidecar.host.result(sidecar.chat("x"))
        lives.disk.faults.sync_s = 2 * FLUSH_S
        chat = sidecar.chat("x")
        await trio.testing.wait_all_tasks_blocked()
        await sidecar.app._shut_down("signal")
        await sidecar.host.result(chat)
        await sidecar.ended.wait()


async def test_the_host_that_closed_stdin_reads_as_late_as_it_likes_and_nobody_else_holds_it_up(lives, autojump_clock):
    async with lives.begin(leave=False) as sidecar:
        sidecar.host.on_line = None
        await sidecar.host.result(sidecar.chat("x"))
        client = sidecar.connect()
        client.on_line = None
        for host in (sidecar.host, client):
            host.stop_reading()
            for number in range(2000):
                host.send("status", id=100_000 + number)
        await trio.testing.wait_all_tasks_blocked()
        sidecar.host.close()
        await trio.sleep(100 * FLUSH_S)
        assert not sidecar.ended.is_set()
        began = trio.current_time()
        sidecar.host.read_on()
        await sidecar.ended.wait()
        assert trio.current_time() - began <= FLUSH_S + 1
        assert len(sidecar.host.responses(101_999)) == 1


@pytest.mark.parametrize("works", [True, False], ids=["while work goes on", "while only the disk is waited for"])
async def test_who_asks_twice_for_the_end_gets_it_though_the_disk_hangs(lives, autojump_clock, works):
    async with lives.begin(leave=False) as sidecar:
        await sidecar.host.result(sidecar.chat("x"))
        lives.disk.faults.sync_s = 1e9
        chat = sidecar.chat("x")
        await trio.testing.wait_all_tasks_blocked()
        await sidecar.app._shut_down("signal")
        if works:
            sidecar.app._flushing.insist()
            sidecar.app._leaving.set()
        else:
            await trio.sleep(100 * FLUSH_S)
            assert not sidecar.ended.is_set()
            sidecar.app._flushing.insist()
        began = trio.current_time()
        await sidecar.ended.wait()
        assert trio.current_time() - began <= 2 * FLUSH_S + 1
        assert (await sidecar.host.error(chat))["data"]["reason"] == "failed"
    assert sidecar.status == EXIT_STORAGE_FAILED
    assert "the disk did not answer within 5 s" in sidecar.stderr_text()


async def test_who_asks_twice_for_the_end_gets_it_though_an_embedding_hangs_on_its_way_to_the_disk(
    lives, autojump_clock
):
    async with lives.begin(leave=False) as sidecar:
        await sidecar.host.call("models.load", {"model": "vec"})
        lives.disk.faults.replace_s = 1e9
        embed = sidecar.host.send("embed", {"model": "vec", "input": "x"})
        await trio.sleep(1)
        sidecar.app._leaving.set()
        await trio.sleep(100 * FLUSH_S)
        assert not sidecar.ended.is_set()
        sidecar.app._flushing.insist()
        began = trio.current_time()
        await sidecar.ended.wait()
        assert trio.current_time() - began <= 2 * FLUSH_S + 1
        assert (await sidecar.host.error(embed))["data"]["reason"] == "failed"
    assert sidecar.status == EXIT_STORAGE_FAILED


async def test_whoever_wants_the_end_now_does_not_wait_for_the_host_that_closed_stdin(lives, autojump_clock):
    async with lives.begin(leave=False) as sidecar:
        sidecar.host.on_line = None
        sidecar.host.stop_reading()
        for number in range(2000):
            sidecar.host.send("status", id=100_000 + number)
        sidecar.host.close()
        await trio.sleep(100 * FLUSH_S)
        assert not sidecar.ended.is_set()
        began = trio.current_time()
        sidecar.app._flushing.hurry()
        await sidecar.ended.wait()
        assert trio.current_time() - began <= FLUSH_S + 1


async def test_a_client_that_does_not_read_holds_up_the_end_of_stdin_for_a_bounded_time(lives, autojump_clock):
    async with lives.begin(leave=False) as sidecar:
        await sidecar.host.result(sidecar.chat("x"))
        client = sidecar.connect()
        client.on_line = None
        client.stop_reading()
        for number in range(2000):
            client.send("status", id=100_000 + number)
        await trio.testing.wait_all_tasks_blocked()
        began = trio.current_time()
        sidecar.host.close()
        await sidecar.ended.wait()
        assert trio.current_time() - began <= FLUSH_S + 1


async def test_a_worker_that_still_loads_does_not_hold_up_the_end(lives, autojump_clock):
    async with lives.begin() as sidecar:
        sidecar.workshop.loads, sidecar.workshop.stays = "later", True  # It would hear of the end only afterwards.
        chat = sidecar.chat("x")
        worker = await sidecar.worker()
        await worker.until(lambda: worker.told)
        sidecar.host.notify("cancel", {"request": chat})
        await sidecar.host.error(chat)
        began = trio.current_time()
        await sidecar.leave()
        assert trio.current_time() == began
        assert worker.status == -9
    assert sidecar.status == 0
    assert "worker died" not in sidecar.stderr_text()


async def test_devices_that_do_not_answer_at_the_start_leave_a_sidecar_that_says_so(lives, autojump_clock):
    async with lives.begin() as sidecar:
        sidecar.held_probe = trio.Event()
        chat = sidecar.chat("x")
        assert await sidecar.host.call("ping") == {}
        error = await sidecar.host.error(chat)
        assert error["code"] == 1004
        assert "did not answer" in error["message"]
    assert sidecar.status == 0


async def test_devices_that_stop_answering_fail_the_load_and_not_what_is_loaded(lives, autojump_clock):
    async with lives.begin() as sidecar:
        await sidecar.host.result(sidecar.chat("x"))
        sidecar.held_probe = trio.Event()
        assert (await sidecar.host.refused("embed", {"input": "x"}))["code"] == 1004
        await sidecar.host.result(sidecar.chat("x"))


async def test_the_end_of_stdin_at_once_is_an_orderly_life(lives, autojump_clock):
    async with lives.begin() as sidecar:
        sidecar.host.close()
        await sidecar.ended.wait()
    assert sidecar.status == 0


async def test_a_line_without_its_end_is_answered_before_the_sidecar_leaves(lives, autojump_clock):
    async with lives.begin() as sidecar:
        sidecar.host.methods["a"] = "ping"
        sidecar.host.feed(b'{"jsonrpc":"2.0","id":"a","method":"ping"}')
        sidecar.host.close()
        assert await sidecar.host.result("a") == {}


async def test_batches_are_answered_whole_when_their_last_member_has_ended(lives, autojump_clock):
    async with lives.begin() as sidecar:
        sidecar.workshop.answer = None
        request = sidecar.host.request
        message = {"role": "user", "content": "x"}
        sidecar.host.batch(
            request("ping", id=1),
            request("chat", {"model": "toy", "messages": [message], "stream": True}, id=2),
            request("cancel", {"request": 99}),
            request("devices.list", id=3),
            request("nonsense", id=4),
            {"jsonrpc": "2.0"},
            request("events.read", id=5),
        )
        worker = await sidecar.worker()
        [asked] = await worker.given()
        assert all(message["method"] == "progress" for message in sidecar.host.messages)  # of starting and loading
        worker.generate(asked, "in", " a batch")
        await sidecar.host.result(2)
        [answers] = [m for m in sidecar.host.messages if isinstance(m, list)]
        assert sorted(str(answer["id"]) for answer in answers) == ["1", "2", "3", "4", "5", "None"]
        assert [d["content"] for d in sidecar.host.stream(2)] == ["in", " a batch"]


async def test_a_batch_of_notifications_is_not_answered_and_an_empty_one_is_refused(lives, autojump_clock):
    async with lives.begin() as sidecar:
        sidecar.host.batch(sidecar.host.request("ping"), sidecar.host.request("cancel", {"request": 1}))
        sidecar.host.batch()
        await sidecar.host.call("ping")
        assert [m["id"] for m in sidecar.host.messages] == [None, 1]
        assert sidecar.host.messages[0]["error"]["code"] == -32600


async def test_a_batch_in_flight_at_the_end_of_stdin_is_answered(lives, autojump_clock):
    async with lives.begin() as sidecar:
        sidecar.workshop.answer = None
        message = {"role": "user", "content": "x"}
        sidecar.host.batch(
            sidecar.host.request("ping", id=1),
            sidecar.host.request("chat", {"model": "toy", "messages": [message]}, id=2),
        )
        await (await sidecar.worker()).given()
        sidecar.host.close()
        assert (await sidecar.host.error(2))["code"] == 1008
        assert await sidecar.host.result(1) == {}
