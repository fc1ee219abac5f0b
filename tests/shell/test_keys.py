"""Keys: what runs under one runs once, and whoever names it hears all of it, from any connection and any life."""

import attrs
import orjson
import pytest
import trio.testing
from sidecar_life import LOG

from mlzoo import frames
from mlzoo.actors.keys import FILED_AT_ONCE
from mlzoo.events.repair import repair
from mlzoo.events.segments import Segments
from mlzoo.simulation.world import simulated_world


def say(sidecar, prompt, host=None, **params):
    """Send a chat from a host, the first one if none is named."""
    message = {"role": "user", "content": prompt}
    return (host or sidecar.host).send("chat", {"model": "toy", "messages": [message], **params})


def pieces(host, call):
    return [(p["seq"], p["delta"]["content"]) for p in host.notifications("stream") if p["request"] == call]


async def test_the_same_request_under_the_same_key_runs_once_and_gives_the_same_answer(lives, autojump_clock):
    async with lives.begin() as sidecar:
        first = await sidecar.host.result(say(sidecar, "well hello", key="k1"))
        again = await sidecar.host.result(say(sidecar, "well hello", key="k1"))
        assert again == first
        other = await sidecar.host.result(say(sidecar, "well hello", key="k2"))
        assert other["id"] != first["id"]
        worker = await sidecar.worker()
        assert len([frame for frame in worker.told if type(frame).__name__ == "Generate"]) == 2


async def test_who_asks_again_may_stream_or_not_and_be_in_more_or_less_of_a_hurry(lives, autojump_clock):
    async with lives.begin() as sidecar:
        first = await sidecar.host.result(say(sidecar, "well hello", key="k", _meta={"n": 1}))
        again = say(sidecar, "well hello", key="k", stream=True, priority="batch", deadline_ms=5, _meta={"n": 2})
        assert await sidecar.host.result(again) == first
        assert pieces(sidecar.host, again) == [(0, "well "), (1, "hello")]
        assert pieces(sidecar.host, again - 1) == []


@pytest.mark.parametrize("change", [{"max_tokens": 3}, {"temperature": 0.5}, {"stop": "x"}, {"determinism": "exact"}])
async def test_other_params_under_a_key_are_refused_while_it_runs_and_afterwards(lives, autojump_clock, change):
    async with lives.begin() as sidecar:
        sidecar.workshop.answer = None
        running = say(sidecar, "hello", key="k")
        worker = await sidecar.worker()
        request = await worker.asked("hello")
        for _ in range(2):
            error = await sidecar.host.error(say(sidecar, "hello", key="k", **change))
            assert (error["code"], error["data"]["path"]) == (-32602, "key")
            worker.generate(request, "hi")
            await sidecar.host.result(running)


async def test_a_key_of_one_method_is_not_that_of_another(lives, autojump_clock):
    async with lives.begin() as sidecar:
        await sidecar.host.call("complete", {"model": "toy", "prompt": "x", "key": "k"})
        error = await sidecar.host.refused("embed", {"model": "vec", "input": "x", "key": "k"})
        assert (error["code"], error["data"]["path"]) == (-32602, "key")


async def test_an_embedding_is_kept_under_its_key_too(lives, autojump_clock):
    async with lives.begin() as sidecar:
        asked = {"model": "vec", "input": ["a", "bcd"], "key": "k"}
        first = await sidecar.host.call("embed", asked)
        assert await sidecar.host.call("embed", asked) == first
        assert await sidecar.host.call("resume", {"key": "k"}) == first


async def test_a_second_connection_hears_what_was_said_and_then_what_comes(lives, autojump_clock):
    async with lives.begin() as sidecar:
        sidecar.workshop.answer = None
        first = say(sidecar, "tell me", key="k", stream=True)
        worker = await sidecar.worker()
        request = await worker.asked("tell me")
        worker.generate(request, "a", "b", "c", finish=None)
        await sidecar.host.streamed(first, 3)
        client = sidecar.connect()
        again = say(sidecar, "tell me", client, key="k", stream=True)
        resumed = client.send("resume", {"key": "k", "after": 1})
        silent = say(sidecar, "tell me", client, key="k")
        await client.until(lambda: len(pieces(client, again)) == 3 and len(pieces(client, resumed)) == 1)
        worker.generate(request, "d", "e")
        result = await sidecar.host.result(first)
        for call in (again, resumed, silent):
            assert await client.result(call) == result
        assert result["message"]["content"] == "abcde"
        told = list(enumerate("abcde"))
        assert pieces(client, again) == told
        assert pieces(client, resumed) == told[2:]
        assert pieces(client, silent) == []
        client.close()


async def test_a_connection_that_ends_takes_with_it_only_what_has_no_key(lives, autojump_clock):
    async with lives.begin() as sidecar:
        sidecar.workshop.answer = None
        await sidecar.host.call("ping")
        client = sidecar.connect()
        say(sidecar, "keyed", client, key="k", stream=True)
        say(sidecar, "other", client)
        worker = await sidecar.worker()
        keyed, other = await worker.asked("keyed"), await worker.asked("other")
        worker.generate(keyed, "a", "b", finish=None)
        client.close()
        await worker.until(lambda: other not in worker.running)
        worker.generate(keyed, "c")
        resumed = sidecar.host.send("resume", {"key": "k"})
        assert (await sidecar.host.result(resumed))["message"]["content"] == "abc"
        assert pieces(sidecar.host, resumed) == list(enumerate("abc"))


async def test_a_result_is_heard_again_in_a_later_life_also_where_its_model_has_gone(lives, autojump_clock):
    async with lives.begin() as sidecar:
        first = await sidecar.host.result(say(sidecar, "well hello", key="k", stream=True))
    del lives.models["toy"]
    async with lives.begin() as sidecar:
        again = say(sidecar, "well hello", key="k", stream=True)
        assert await sidecar.host.result(again) == first
        resumed = sidecar.host.send("resume", {"key": "k", "after": 0})
        assert await sidecar.host.result(resumed) == first
        assert (pieces(sidecar.host, again), pieces(sidecar.host, resumed)) == (
            [(0, "well "), (1, "hello")],
            [(1, "hello")],
        )
        error = await sidecar.host.error(say(sidecar, "well hello", key="new"))
        assert error["code"] == 1003, "a key that is free asks for a model as ever"
        assert sidecar.workshop.workers == []


async def test_an_end_without_an_answer_is_what_a_key_stands_for_too(lives, autojump_clock):
    async with lives.begin() as sidecar:
        sidecar.workshop.answer = None
        running = say(sidecar, "hello", key="k", stream=True)
        worker = await sidecar.worker()
        worker.generate(await worker.asked("hello"), "so ", "far", finish=None)
        await sidecar.host.streamed(running, 2)
        client = sidecar.connect()
        heard = client.send("resume", {"key": "k"})
        await client.until(lambda: len(pieces(client, heard)) == 2)
        assert await client.call("cancel", {"key": "k"}) == {"cancelled": True}
        assert await client.call("cancel", {"key": "k"}) == {"cancelled": False}
        error = await sidecar.host.error(running)
        assert (error["code"], error["data"]["partial"]) == (-32800, "so far")
        assert await client.error(heard) == error
        assert await sidecar.host.error(say(sidecar, "hello", key="k")) == error
        client.close()


async def test_to_cancel_a_call_that_hears_of_a_request_is_to_cancel_that_request(lives, autojump_clock):
    async with lives.begin() as sidecar:
        sidecar.workshop.answer = None
        running = say(sidecar, "hello", key="k")
        worker = await sidecar.worker()
        worker.generate(await worker.asked("hello"), "a", finish=None)
        client = sidecar.connect()
        heard = client.send("resume", {"key": "k"})
        await client.until(lambda: pieces(client, heard))
        client.notify("cancel", {"request": heard})
        assert (await client.error(heard))["code"] == (await sidecar.host.error(running))["code"] == -32800
        client.close()


@pytest.mark.parametrize("again", ["chat", "resume"])
async def test_a_cancel_may_come_before_the_call_that_it_names_has_been_looked_at(lives, autojump_clock, again):
    async with lives.begin() as sidecar:
        sidecar.workshop.answer = None
        running = say(sidecar, "hello", key="k")
        worker = await sidecar.worker()
        await worker.asked("hello")
        client = sidecar.connect()
        chat = {"model": "toy", "messages": [{"role": "user", "content": "hello"}], "key": "k"}
        call = client.request(again, chat if again == "chat" else {"key": "k"}, "call")
        cancel = client.request("cancel", {"request": "call"}, "cancel")
        client.feed(b"".join(orjson.dumps(line) + b"\n" for line in (call, cancel)))
        assert await client.result("cancel") == {"cancelled": True}
        assert (await client.error("call"))["code"] == (await sidecar.host.error(running))["code"] == -32800
        client.close()


async def test_who_resumes_from_nowhere_hears_why(lives, autojump_clock):
    async with lives.begin() as sidecar:
        error = await sidecar.host.refused("resume", {"key": "never used"})
        assert error["code"] == 1012
        assert {name: error["data"][name] for name in ("what", "id")} == {"what": "key", "id": "never used"}
        await sidecar.host.result(say(sidecar, "well hello", key="k"))
        error = await sidecar.host.refused("resume", {"key": "k", "after": 2})
        assert (error["code"], error["data"]["type"], error["data"]["durable"]) == (1013, "ahead", 1)
        error = await sidecar.host.refused("resume", {"key": "k", "after": -2})
        assert (error["code"], error["data"]["path"]) == (-32602, "after")
        resumed = sidecar.host.send("resume", {"key": "k", "after": 1})
        assert (await sidecar.host.result(resumed))["message"]["content"] == "well hello"
        assert pieces(sidecar.host, resumed) == []


async def test_a_refusal_at_the_door_binds_no_key(lives, autojump_clock):
    lives.limit(max_queued=1, max_running=1)
    async with lives.begin() as sidecar:
        sidecar.workshop.answer = None
        running, queued = say(sidecar, "one"), None
        worker = await sidecar.worker()
        one = await worker.asked("one")
        queued = say(sidecar, "two")
        assert (await sidecar.host.error(say(sidecar, "three", key="k")))["code"] == 1001
        assert (await sidecar.host.error(say(sidecar, "three", key="k", temperature=-1)))["code"] == -32602
        worker.generate(one, "1")
        worker.generate(await worker.asked("two"), "2")
        await sidecar.host.result(running)
        await sidecar.host.result(queued)
        other = say(sidecar, "other words", key="k")
        worker.generate(await worker.asked("other words"), "3")
        assert (await sidecar.host.result(other))["message"]["content"] == "3"


async def test_an_old_key_is_expired_and_never_runs_again_however_the_wall_clock_jumps(lives, autojump_clock):
    lives.limit(key_days=0.5)
    async with lives.begin() as sidecar:
        await sidecar.host.result(say(sidecar, "hello", key="k"))
        await sidecar.sleep_h(11)
        sidecar.jump_wall_clock_h(1000)
        await sidecar.host.result(say(sidecar, "hello", key="k"))
        await sidecar.sleep_h(1)
        sidecar.jump_wall_clock_h(-5000)
        for ask in (lambda: say(sidecar, "hello", key="k"), lambda: sidecar.host.send("resume", {"key": "k"})):
            error = await sidecar.host.error(ask())
            assert (error["code"], error["data"]["type"], error["data"]["oldest"]) == (1013, "expired", 2)
        error = await sidecar.host.error(say(sidecar, "other", key="k"))
        assert error["code"] == -32602


async def test_keys_are_filed_so_that_the_state_does_not_grow_and_are_all_found_in_the_next_life(lives, autojump_clock):
    count = FILED_AT_ONCE + 5
    results = {}
    async with lives.begin() as sidecar:
        for number in range(count):
            results[number] = await sidecar.host.result(say(sidecar, f"number {number}", key=f"k{number}"))
            assert len(sidecar.state.keys) < 2 * FILED_AT_ONCE
        assert len(sidecar.state.keys) < FILED_AT_ONCE
        assert await sidecar.host.result(say(sidecar, "number 7", key="k7")) == results[7]
    async with lives.begin() as sidecar:
        for number in (0, 7, FILED_AT_ONCE - 1, count - 1):
            assert await sidecar.host.result(say(sidecar, f"number {number}", key=f"k{number}")) == results[number]
        assert sidecar.workshop.workers == [], "nothing ran again"


async def test_a_damaged_index_of_keys_refuses_keys_and_nothing_else(lives, autojump_clock):
    async with lives.begin() as sidecar:
        for number in range(FILED_AT_ONCE):
            await sidecar.host.result(say(sidecar, "x", key=f"k{number}"))
        await trio.testing.wait_all_tasks_blocked()
        assert sidecar.state.keys == {}
    [name] = lives.disk.names(lives.keys)
    lives.disk.corrupt(lives.keys / name, 50)
    async with lives.begin(leave=False) as sidecar:
        keys = [f"k{number}" for number in range(FILED_AT_ONCE)]
        for key in keys:
            call = say(sidecar, "x", key=key)
            await sidecar.host.response(call)
        codes = {sidecar.host.responses(call)[0].get("error", {}).get("code") for call in range(1, len(keys) + 1)}
        assert 1015 in codes
        assert codes <= {1015, None}
        assert (await sidecar.host.result(say(sidecar, "y")))["message"]["content"] == "y"
        assert len([frame for frame in (await sidecar.worker()).told if type(frame).__name__ == "Generate"]) == 1


async def test_what_is_attached_to_in_a_batch_comes_with_the_batch(lives, autojump_clock):
    async with lives.begin() as sidecar:
        first = await sidecar.host.result(say(sidecar, "well hello", key="k"))
        asked = {"model": "toy", "messages": [{"role": "user", "content": "well hello"}], "key": "k"}
        ids = sidecar.host.batch(
            sidecar.host.request("chat", asked, 901), sidecar.host.request("resume", {"key": "k"}, 902)
        )
        assert [await sidecar.host.result(id_) for id_ in ids] == [first, first]


async def test_a_host_that_never_uses_keys_leaves_no_trace_of_any(lives, autojump_clock):
    async with lives.begin() as sidecar:
        for number in range(FILED_AT_ONCE + 3):
            await sidecar.host.result(say(sidecar, f"{number}"))
        assert sidecar.state.keys == {}
        assert lives.disk.names(lives.keys) == []


async def test_all_who_hear_of_a_request_hear_how_far_the_load_is_that_it_waits_for(lives, autojump_clock):
    async with lives.begin() as sidecar:
        sidecar.workshop.loads = "later"
        first = say(sidecar, "x", key="k")
        worker = await sidecar.worker()
        await worker.until(lambda: worker.told)
        client = sidecar.connect()
        heard = client.send("resume", {"key": "k"})
        other = say(sidecar, "y", client)
        await trio.testing.wait_all_tasks_blocked()
        worker.say(frames.LoadProgress(model="toy", stage="weights", done=5, total=10))
        await client.until(lambda: len(client.notifications("progress")) == 2)
        assert {(p["request"], p["stage"], p["done"]) for p in client.notifications("progress")} == {
            (heard, "weights", 5),
            (other, "weights", 5),
        }
        worker.loaded("toy")
        assert await client.result(heard) == await sidecar.host.result(first)
        assert [p["request"] for p in sidecar.host.notifications("progress")][-1:] == [first]
        await client.result(other)
        client.close()


async def test_a_repair_leaves_keys_alone_and_what_was_cut_is_expired_and_never_runs_again(lives, autojump_clock):
    lives.log = attrs.evolve(lives.log, segment_bytes=64 * 1024)
    count, results = FILED_AT_ONCE + 2, {}
    async with lives.begin() as sidecar:
        for number in range(count):
            results[number] = await sidecar.host.result(say(sidecar, f"number {number}", key=f"k{number}"))
    names = {name: lives.disk.read(lives.keys / name) for name in lives.disk.names(lives.keys)}
    assert names
    segments = Segments(lives.disk, LOG / "segments")
    last = segments.firsts[-1]
    lives.disk.corrupt(segments.path(last), segments.sizes[last] // 2)
    lost = await repair(simulated_world(7, lives.disk), LOG)
    assert len(lost) > 1
    assert {name: lives.disk.read(lives.keys / name) for name in lives.disk.names(lives.keys)} == names
    async with lives.begin() as sidecar:
        sidecar.host.on_line = None
        assert await sidecar.host.call("resume", {"key": "k0"}) == results[0]
        for _ in range(2):
            error = await sidecar.host.refused("resume", {"key": f"k{FILED_AT_ONCE - 1}"})
            assert (error["code"], error["data"]["type"]) == (1013, "expired")
            for number in range(30):
                await sidecar.host.result(say(sidecar, f"other {number}"))
        prompts = [frame.messages[0]["content"] for worker in sidecar.workshop.workers for frame in generated(worker)]
        assert f"number {FILED_AT_ONCE - 1}" not in prompts


def generated(worker):
    return [frame for frame in worker.told if type(frame).__name__ == "Generate"]
