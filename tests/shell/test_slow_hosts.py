"""Hosts that read slowly, not at all, or not any more: nothing is lost, nothing is doubled, nothing piles up."""

from collections import Counter

import attrs
import orjson
import pytest
import trio

from mlzoo import frames
from mlzoo.actors.outbox import BATCHES_BYTES
from mlzoo.transport.stream import SEND_BYTES
from mlzoo.views import HELD_BYTES

FLOOD = 20_000
KIB, MIB = 1 << 10, 1 << 20
PING = {"jsonrpc": "2.0", "method": "ping"}


async def heard(sidecar):
    """Wait until the sidecar has dealt with all that was sent to it."""
    await trio.testing.wait_all_tasks_blocked()


def pings(host, count, chunk=FLOOD):
    """Send pings, so many in a chunk, and return their ids."""
    ids = list(range(10_000, 10_000 + count))
    host.methods |= dict.fromkeys(ids, "ping")
    for start in range(0, count, chunk):
        part = ids[start : start + chunk]
        host.feed(b"".join(b'{"jsonrpc":"2.0","id":%d,"method":"ping"}\n' % number for number in part))
    return ids


async def test_pings_of_a_host_that_does_not_read_are_recorded_and_answered_once_it_does(lives, autojump_clock):
    async with lives.begin() as sidecar:
        sidecar.host.on_line = None
        sidecar.host.stop_reading()
        ids = pings(sidecar.host, FLOOD)
        await heard(sidecar)
        assert [a["rpc"] for a in sidecar.watch.asides()] == ids
        assert sidecar.host.most_waiting_bytes < 2 * SEND_BYTES + FLOOD * 40
        sidecar.host.read_on()
        await sidecar.host.until(lambda: len(sidecar.host.messages) >= FLOOD)
        assert [m["id"] for m in sidecar.host.messages] == ids


async def test_replies_go_on_in_their_order_while_a_host_reads_now_and_then(lives, autojump_clock):
    async with lives.begin() as sidecar:
        sidecar.host.on_line = None
        ids = []
        for burst in range(20):
            sidecar.host.stop_reading()
            ids += [sidecar.host.send("ping") for _ in range(1000)]
            await heard(sidecar)
            if burst % 3:
                sidecar.host.read_on()
        sidecar.host.read_on()
        await sidecar.host.until(lambda: len(sidecar.host.messages) >= len(ids))
        assert sorted(m["id"] for m in sidecar.host.messages) == ids


async def test_a_batch_among_replies_that_had_to_wait_is_answered_once(lives, autojump_clock):
    async with lives.begin() as sidecar:
        sidecar.host.stop_reading()
        sidecar.host.on_line = None
        first = pings(sidecar.host, FLOOD)
        await heard(sidecar)
        chunk = [sidecar.host.request("ping", id=1), [sidecar.host.request("ping", id=2)]]
        chunk += [sidecar.host.request("ping", id=3), [sidecar.host.request("ping", id=4)]]
        sidecar.host.feed(b"".join(orjson.dumps(line) + b"\n" for line in chunk))
        await heard(sidecar)
        sidecar.host.read_on()
        await sidecar.host.until(lambda: len(sidecar.host.messages) >= FLOOD + 4)
        answers = [a for m in sidecar.host.messages for a in (m if isinstance(m, list) else [m])]
        assert Counter(a["id"] for a in answers) == Counter([*first, 1, 2, 3, 4])


async def test_a_batch_in_the_very_chunk_that_finds_no_room_is_answered_once(lives, autojump_clock):
    async with lives.begin() as sidecar:
        sidecar.host.on_line = None
        sidecar.host.stop_reading()
        sidecar.host._waiting += b"\n" * SEND_BYTES  # the pipe is full
        chunk = [sidecar.host.request("ping", id=1), [sidecar.host.request("ping", id=2)]]
        chunk += [sidecar.host.request("ping", id=3)]
        sidecar.host.feed(b"".join(orjson.dumps(line) + b"\n" for line in chunk))
        await heard(sidecar)
        sidecar.host._waiting.clear()
        sidecar.host.read_on()
        await sidecar.host.until(lambda: len(sidecar.host.messages) >= 3)
        await sidecar.host.call("metrics")
        for id_ in (1, 2, 3):
            assert len(sidecar.host.responses(id_)) == 1, id_


async def test_batches_of_a_host_that_does_not_read_are_not_piled_up(lives, autojump_clock):
    async with lives.begin() as sidecar:
        sidecar.host.on_line = None
        sidecar.host.stop_reading()
        for batch in range(300):
            sidecar.host.batch(*(sidecar.host.request("status", id=1000 * batch + n) for n in range(50)))
            await heard(sidecar)
        connection = next(iter(sidecar.services.connections.values()))
        held_bytes = sum(map(len, connection.outbox._whole))
        assert held_bytes < 2 * BATCHES_BYTES, "batches are held in memory"
        sidecar.host.read_on()
        await sidecar.host.until(lambda: len(sidecar.host.messages) == 300)
        refused = [m for m in sidecar.host.messages if isinstance(m, dict)]
        assert refused
        assert {(m["id"], m["error"]["code"]) for m in refused} == {(None, 1001)}


async def test_a_stream_waits_on_disk_for_a_host_that_does_not_read(lives, autojump_clock):
    async with lives.begin() as sidecar:
        sidecar.workshop.answer = None
        chat = sidecar.chat("x", stream=True)
        worker = await sidecar.worker()
        [request] = await worker.given()
        sidecar.host.on_line = None
        sidecar.host.stop_reading()
        pieces = [f"{number:0100}" for number in range(8000)]
        worker.generate(request, *pieces)
        await heard(sidecar)
        assert sidecar.state.requests == {}, "the request does not wait for its reader"
        assert sidecar.host.most_waiting_bytes < 2 * SEND_BYTES
        sidecar.host.read_on()
        result = await sidecar.host.result(chat)
        assert [d["content"] for d in sidecar.host.stream(chat)] == pieces
        assert result["message"]["content"] == "".join(pieces)


@pytest.mark.parametrize("finish", ["stop", None], ids=["answered", "cancelled"])
async def test_long_answers_that_are_read_late_are_not_held_in_memory_side_by_side(lives, autojump_clock, finish):
    async with lives.begin() as sidecar:
        sidecar.workshop.answer = None
        chats = [sidecar.chat("x", stream=True) for _ in range(3)]
        worker = await sidecar.worker()
        requests = await worker.given(len(chats))
        sidecar.host.on_line = None
        sidecar.host.stop_reading()
        pieces = [f"{number:0100}" for number in range(8000)]
        for request in requests:
            worker.generate(request, *pieces, finish=finish)
        await heard(sidecar)
        if finish is None:
            for chat in chats:
                sidecar.host.send("cancel", {"request": chat})
            await heard(sidecar)
        [connection] = sidecar.services.connections.values()
        held_bytes = []

        def look(_line):
            views = [cursor.view for cursor in connection.outbox.cursors._cursors.values()]
            held_bytes.append(sum(len(piece) for view in views for piece in view._said._content))

        sidecar.host.on_line = look
        sidecar.host.read_on()
        await sidecar.host.until(lambda: all(sidecar.host.responses(chat) for chat in chats))
        for chat in chats:
            [answer] = sidecar.host.responses(chat)
            text = answer["result"]["message"]["content"] if finish else answer["error"]["data"]["partial"]
            assert text == "".join(pieces)
            assert [d["content"] for d in sidecar.host.stream(chat)] == pieces
        assert max(held_bytes) < 800_000 + 2 * HELD_BYTES, "one is gathered, the others are not held"


async def test_a_flood_of_pings_that_is_read_slowly_does_not_starve_a_stream(lives, autojump_clock):
    async with lives.begin() as sidecar:
        sidecar.workshop.answer = None
        sidecar.host.on_line = None
        chat = sidecar.chat("x", stream=True)
        worker = await sidecar.worker()
        [request] = await worker.given()
        sidecar.host.stop_reading()
        pings(sidecar.host, FLOOD)
        await heard(sidecar)
        worker.generate(request, "all", " of it")
        await heard(sidecar)
        for round_ in range(20):
            for number in range(1000):
                sidecar.host.send("status", id=100_000 + 1000 * round_ + number)
            await heard(sidecar)
            sidecar.host.read_on()
            sidecar.host.stop_reading()
            await heard(sidecar)
            if sidecar.host.responses(chat):
                break
        assert sidecar.host.responses(chat)
        sidecar.host.read_on()


async def test_what_a_view_showed_is_shown_again_to_a_host_that_did_not_take_it(lives, autojump_clock):
    async with lives.begin() as sidecar:
        await sidecar.host.result(sidecar.chat("x"))
        before = await sidecar.host.call("events.read", {"limit": 5})
        sidecar.host.on_line = None
        sidecar.host.stop_reading()
        pings(sidecar.host, FLOOD)
        await heard(sidecar)
        again = sidecar.host.send("events.read", {"limit": 5})
        document = sidecar.host.send("rpc.discover")
        await heard(sidecar)
        sidecar.host.read_on()
        assert await sidecar.host.result(again) == before
        assert (await sidecar.host.result(document))["openrpc"] == "1.3.2"


async def test_a_host_that_closes_its_end_of_stdout_ends_the_sidecar_in_order(lives, autojump_clock):
    async with lives.begin() as sidecar:
        sidecar.workshop.answer = None
        sidecar.chat("x", stream=True)
        worker = await sidecar.worker()
        [request] = await worker.given()
        sidecar.host.break_off()
        worker.generate(request, "into", " the void", finish=None)
        await sidecar.ended.wait()
    assert sidecar.status == 0


async def test_progress_for_a_host_that_has_gone_does_not_crash_the_worker(lives, autojump_clock):
    async with lives.begin() as sidecar:
        sidecar.workshop.loads = "later"
        sidecar.chat("x")
        worker = await sidecar.worker()
        await worker.until(lambda: worker.told)
        sidecar.host.break_off()
        worker.say(frames.LoadProgress(model="toy", stage="load", done=5, total=10))
        await heard(sidecar)
        assert sidecar.state.workers["cpu"].crashes == 0
        assert all(actor.failure is None for actor in sidecar.services.actors())
        await sidecar.ended.wait()
    assert sidecar.status == 0


async def test_at_the_end_of_stdin_what_runs_gets_its_time_to_finish(lives, autojump_clock):
    async with lives.begin() as sidecar:
        sidecar.workshop.answer = None
        chat = sidecar.chat("x")
        worker = await sidecar.worker()
        [request] = await worker.given()
        sidecar.host.close()
        await trio.sleep(lives.limits.drain_s / 2)
        worker.generate(request, "just", " in time")
        assert (await sidecar.host.result(chat))["message"]["content"] == "just in time"


async def test_what_does_not_finish_in_that_time_ends_with_what_was_said(lives, autojump_clock):
    async with lives.begin() as sidecar:
        sidecar.workshop.answer = None
        chat = sidecar.chat("x")
        worker = await sidecar.worker()
        [request] = await worker.given()
        worker.generate(request, "half", finish=None)
        await heard(sidecar)
        sidecar.host.close()
        error = await sidecar.host.error(chat)
        assert (error["code"], error["data"]["partial"]) == (1008, "half")
        await sidecar.ended.wait()
    assert sidecar.status == 0


async def test_calls_that_take_time_are_answered_before_the_sidecar_leaves(lives, autojump_clock):
    async with lives.begin() as sidecar:
        await sidecar.host.result(sidecar.chat("x"))
        sidecar.held_probe = trio.Event()
        devices, events = sidecar.host.send("devices.list"), sidecar.host.send("events.read")
        sidecar.host.close()
        await heard(sidecar)
        sidecar.held_probe.set()
        assert (await sidecar.host.result(devices))["devices"][0]["name"] == "cpu"
        assert (await sidecar.host.result(events))["events"]


async def test_a_shutdown_waits_for_calls_that_take_time(lives, autojump_clock):
    async with lives.begin() as sidecar:
        await sidecar.host.call("ping")
        await sidecar.host.result(sidecar.chat("x"))
        sidecar.held_probe = trio.Event()
        devices = sidecar.host.send("devices.list")
        shutdown = sidecar.host.send("shutdown")
        await sidecar.host.result(shutdown)
        sidecar.held_probe.set()
        await sidecar.host.result(devices)
        await sidecar.ended.wait()


async def test_calls_that_take_time_are_bounded(lives, autojump_clock):
    async with lives.begin() as sidecar:
        await sidecar.host.call("ping")
        await sidecar.host.result(sidecar.chat("x"))
        sidecar.held_probe = trio.Event()
        ids = [sidecar.host.send("devices.list") for _ in range(65)]
        assert (await sidecar.host.error(ids[64]))["code"] == 1001
        sidecar.held_probe.set()
        for id_ in ids[:64]:
            await sidecar.host.result(id_)


async def test_a_driver_that_hangs_does_not_keep_the_sidecar(lives, autojump_clock):
    async with lives.begin() as sidecar:
        await sidecar.host.result(sidecar.chat("x"))
        sidecar.held_probe = trio.Event()
        sidecar.host.send("devices.list")
        await heard(sidecar)
    assert sidecar.status == 0


async def test_a_host_whose_answers_fell_out_of_the_budget_is_told_and_closed(lives, autojump_clock):
    lives.log = attrs.evolve(lives.log, asides_segment_bytes=64 * KIB, segment_bytes=64 * KIB, budget_bytes=MIB)
    async with lives.begin() as sidecar:
        sidecar.host.on_line = None
        sidecar.workshop.answer = None
        chat = sidecar.chat("x")
        await sidecar.worker()
        sidecar.host.stop_reading()
        ids = pings(sidecar.host, FLOOD, chunk=500)
        await heard(sidecar)
        sidecar.host.read_on()
        await sidecar.ended.wait()
        answers = [m for m in sidecar.host.messages if "id" in m]
        lost = next(place for place, answer in enumerate(answers) if answer["id"] is None)
        said, last = answers[:lost], answers[lost:]
        assert [m["id"] for m in said] == ids[: len(said)], "what was said before is whole"
        assert [(m["id"], m["error"]["code"]) for m in last] == [(None, 1013), (chat, 1013)]
        assert last[0]["error"]["data"]["oldest"] > len(said)
        assert sidecar.services.log.size_bytes() < MIB + 3 * 64 * KIB


async def test_a_client_that_is_closed_for_reading_too_late_disturbs_no_other(lives, autojump_clock):
    lives.log = attrs.evolve(lives.log, asides_segment_bytes=64 * KIB, segment_bytes=64 * KIB, budget_bytes=MIB)
    async with lives.begin() as sidecar:
        sidecar.host.on_line = None
        assert await sidecar.host.call("ping") == {}
        client = sidecar.connect()
        client.on_line = None
        client.stop_reading()
        pings(client, FLOOD, chunk=500)
        await heard(sidecar)
        client.read_on()
        [told] = await client.until(lambda: [m for m in client.messages if "error" in m])
        assert (told["id"], told["error"]["code"]) == (None, 1013)
        await heard(sidecar)
        assert len(sidecar.services.connections) == 1
        assert await sidecar.host.call("ping") == {}


async def test_a_host_that_is_slow_is_served_from_within_a_budget_that_others_fill(lives, autojump_clock):
    """Its pings are the oldest thing in the log that nobody else needs, and still there when it reads."""
    lives.log = attrs.evolve(lives.log, asides_segment_bytes=64 * KIB, segment_bytes=64 * KIB, budget_bytes=MIB)
    async with lives.begin() as sidecar:
        sidecar.host.on_line = None
        assert await sidecar.host.call("ping") == {}
        client = sidecar.connect()
        client.on_line = None
        client.stop_reading()
        ids = pings(client, 4000, chunk=500)
        await heard(sidecar)
        for _ in range(3):
            chat = sidecar.chat("x" * 300_000)
            await sidecar.host.result(chat)
        assert sidecar.services.log.oldest_seq > 1
        client.read_on()
        await client.until(lambda: len(client.messages) >= len(ids))
        assert [m["id"] for m in client.messages] == ids
