"""Requests side by side: streams, cancellation, deadlines, and what a full house says."""

import pytest
import trio
import trio.testing

from mlzoo import frames


@pytest.fixture
def by_hand(lives):
    """Sidecars whose workers answer when the test says so."""

    class ByHand:
        @staticmethod
        async def chats(sidecar, count, **params):
            sidecar.workshop.answer = None
            ids = [sidecar.chat(f"prompt {n}", stream=True, **params) for n in range(count)]
            worker = await sidecar.worker()
            return ids, worker, [await worker.asked(f"prompt {n}") for n in range(count)]

    return ByHand


async def test_eight_chats_stream_at_once_and_each_hears_its_own(lives, autojump_clock, by_hand):
    async with lives.begin() as sidecar:
        ids, worker, requests = await by_hand.chats(sidecar, 8)
        for step in range(5):
            finish = "stop" if step == 4 else None
            rows = [worker.row(r, f"{n}.{step} ", finish, first=step == 0) for n, r in enumerate(requests)]
            worker.say(frames.Stepped(rows=tuple(rows)))
        for n, chat in enumerate(ids):
            result = await sidecar.host.result(chat)
            assert result["message"]["content"] == "".join(f"{n}.{step} " for step in range(5))
            assert "".join(d["content"] for d in sidecar.host.stream(chat)) == result["message"]["content"]


async def test_what_a_slow_disk_has_not_synced_is_not_said(lives, autojump_clock, by_hand):
    lives.disk.faults.sync_s = 3.0
    async with lives.begin() as sidecar:
        [chat], worker, [request] = await by_hand.chats(sidecar, 1)
        await sidecar.synced()  # that the request is in
        began = trio.current_time()
        worker.generate(request, "a", "b", "c")
        assert len(await sidecar.host.streamed(chat, 2)) >= 2
        assert trio.current_time() == began, "tokens in between wait for no sync"
        await sidecar.host.result(chat)
        assert trio.current_time() >= began + 3.0, "the end was said before it was durable"


async def test_one_of_eight_is_cancelled_and_the_others_go_on(lives, autojump_clock, by_hand):
    async with lives.begin() as sidecar:
        ids, worker, requests = await by_hand.chats(sidecar, 8)
        for request in requests:
            worker.generate(request, "so ", "far", finish=None)
        await sidecar.host.streamed(ids[3], 2)
        assert await sidecar.host.call("cancel", {"request": ids[3]}) == {"cancelled": True}
        error = await sidecar.host.error(ids[3])
        assert (error["code"], error["data"]["partial"]) == (-32800, "so far")
        await worker.until(lambda: requests[3] not in worker.running)
        for request in (*requests[:3], *requests[4:]):
            worker.generate(request, "!")
        for chat in (*ids[:3], *ids[4:]):
            assert (await sidecar.host.result(chat))["message"]["content"] == "so far!"


async def test_a_cancel_notification_ends_a_request_and_is_not_answered(lives, autojump_clock, by_hand):
    async with lives.begin() as sidecar:
        [chat], _, _ = await by_hand.chats(sidecar, 1)
        before = len(sidecar.host.messages)
        sidecar.host.notify("cancel", {"request": chat})
        assert (await sidecar.host.error(chat))["code"] == -32800
        await sidecar.host.call("ping")
        assert len(sidecar.host.messages) == before + 2


async def test_rows_that_come_after_a_cancel_are_dropped(lives, autojump_clock, by_hand):
    async with lives.begin() as sidecar:
        [chat], worker, [request] = await by_hand.chats(sidecar, 1)
        worker.generate(request, "a", finish=None)
        await sidecar.host.streamed(chat, 1)
        sidecar.host.notify("cancel", {"request": chat})
        await sidecar.host.error(chat)
        worker.generate(request, "late", "r")
        again = sidecar.chat("again")
        worker.generate(await worker.asked("again"), "in time")
        await sidecar.host.result(again)
        assert [d["content"] for d in sidecar.host.stream(chat)] == ["a"]


async def test_embeddings_that_come_after_a_cancel_leave_nothing_on_the_disk(lives, autojump_clock):
    async with lives.begin() as sidecar:
        sidecar.workshop.answer = None
        embed = sidecar.host.send("embed", {"model": "vec", "input": ["a"]})
        worker = await sidecar.worker()
        [request] = await worker.given()
        await sidecar.host.call("cancel", {"request": embed})
        worker.say(frames.Embedded(request=request, vectors="[[0.0,0.0]]", count=1, dimensions=2, prompt_tokens=1))
        await trio.testing.wait_all_tasks_blocked()
        assert [name for name in sidecar.disk.files if "/blobs" in name and sidecar.disk.files[name]] == []


async def test_cancelling_what_is_unknown_or_over_is_no_error(lives, autojump_clock):
    async with lives.begin() as sidecar:
        chat = sidecar.chat("x")
        await sidecar.host.result(chat)
        assert await sidecar.host.call("cancel", {"request": chat}) == {"cancelled": False}
        assert await sidecar.host.call("cancel", {"request": 999}) == {"cancelled": False}
        sidecar.host.notify("cancel", {"request": 999})
        sidecar.host.notify("cancel", {"wrong": 1})
        assert await sidecar.host.call("ping") == {}


async def test_a_request_that_waits_for_its_model_can_be_cancelled(lives, autojump_clock):
    async with lives.begin() as sidecar:
        sidecar.workshop.loads = "later"
        chat = sidecar.chat("x")
        await sidecar.worker()
        assert await sidecar.host.call("cancel", {"request": chat}) == {"cancelled": True}
        error = await sidecar.host.error(chat)
        assert error["code"] == -32800


async def test_a_deadline_ends_a_request_with_what_was_said_so_far(lives, autojump_clock, by_hand):
    async with lives.begin() as sidecar:
        [chat], worker, [request] = await by_hand.chats(sidecar, 1, deadline_ms=5000)
        began = trio.current_time()
        worker.generate(request, "half", finish=None)
        error = await sidecar.host.error(chat)
        assert (error["code"], error["data"]["partial"]) == (1002, "half")
        assert 5.0 <= trio.current_time() - began < 5.1
        await worker.until(lambda: not worker.running)


async def test_an_idle_model_is_unloaded_its_worker_leaves_and_the_next_chat_starts_another(lives, autojump_clock):
    async with lives.begin() as sidecar:
        await sidecar.host.result(sidecar.chat("x"))
        worker = await sidecar.worker()
        await worker.ended()
        assert trio.current_time() >= 60.0
        assert frames.Unload(model="toy") in worker.told
        assert worker.status == 0
        await sidecar.host.result(sidecar.chat("y"))
        assert len(sidecar.workshop.workers) == 2


async def test_what_does_not_fit_into_the_queue_is_refused_at_the_door(lives, autojump_clock, by_hand):
    lives.limit(max_queued=2, max_running=1)
    async with lives.begin() as sidecar:
        sidecar.workshop.answer = None
        first = sidecar.chat("prompt 0")
        worker = await sidecar.worker()
        await worker.given()
        queued = [sidecar.chat(f"prompt {n}") for n in (1, 2)]
        error = await sidecar.host.error(sidecar.chat("one too many"))
        assert error["code"] == 1001
        assert (error["data"]["queued"], error["data"]["limit"]) == (2, 2)
        assert error["data"]["retry_after_ms"] > 0
        for n, chat in enumerate((first, *queued)):
            worker.generate(await worker.asked(f"prompt {n}"), "done")
            await sidecar.host.result(chat)


async def test_an_id_that_is_in_flight_is_refused_and_the_first_goes_on(lives, autojump_clock, by_hand):
    async with lives.begin() as sidecar:
        [chat], worker, [request] = await by_hand.chats(sidecar, 1)
        sidecar.host.send("ping", id=chat)
        await sidecar.host.until(lambda: sidecar.host.responses(chat))
        [refused] = sidecar.host.responses(chat)
        assert refused["error"]["code"] == -32600
        sidecar.host.methods[chat] = "chat"
        worker.generate(request, "still here")
        await sidecar.host.until(lambda: len(sidecar.host.responses(chat)) == 2)
        assert sidecar.host.responses(chat)[1]["result"]["message"]["content"] == "still here"


async def test_a_load_tells_those_who_wait_how_far_it_is(lives, autojump_clock):
    async with lives.begin() as sidecar:
        sidecar.workshop.loads = "later"
        chat = sidecar.chat("x")
        worker = await sidecar.worker()
        await worker.until(lambda: worker.told)
        worker.say(frames.LoadProgress(model="toy", stage="weights", done=5, total=10))
        await sidecar.host.until(lambda: len(sidecar.host.notifications("progress")) == 3)
        told = sidecar.host.notifications("progress")
        assert [(p["stage"], p["done"]) for p in told] == [("start", 0), ("start", 1), ("weights", 5)]
        assert all((p["request"], p["model"]) == (chat, "toy") for p in told)
        assert told[0]["message"] == "starting the worker process of cpu"
        worker.loaded("toy")
        await sidecar.host.result(chat)
