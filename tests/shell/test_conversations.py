"""Conversations over the wire: what a model reads of them and what hosts are told, across deaths of the sidecar."""

import trio
import trio.testing
from test_recovery import killed

from mlzoo import frames


def told(worker):
    """The messages of each request that a worker was given, shortly."""
    return [
        [(message["role"], message["content"]) for message in frame.messages]
        for frame in worker.told
        if isinstance(frame, frames.Generate)
    ]


def said(shown):
    return [(message["role"], message["content"]) for message in shown["messages"]]


async def turn(sidecar, prompt, conversation="talk", **params):
    return await sidecar.host.result(sidecar.chat(prompt, conversation=conversation, **params))


async def get(sidecar, conversation="talk", **params):
    return await sidecar.host.call("conversations.get", {"conversation": conversation, **params})


TWO = [("user", "one"), ("assistant", "one"), ("user", "two"), ("assistant", "two")]


async def test_a_turn_is_read_behind_all_turns_before_it(lives, autojump_clock):
    async with lives.begin() as sidecar:
        assert (await turn(sidecar, "one"))["conversation"] == "talk"
        await turn(sidecar, "two")
        await turn(sidecar, "three")
        worker = await sidecar.worker()
        assert told(worker) == [[("user", "one")], [*TWO[:2], ("user", "two")], [*TWO, ("user", "three")]]
        frame = [frame for frame in worker.told if isinstance(frame, frames.Generate)][-1]
        assert (frame.leading, frame.turns) == (0, (2, 2))
        shown = await get(sidecar)
        assert said(shown) == [*TWO, ("user", "three"), ("assistant", "three")]
        seqs = [message["log_seq"] for message in shown["messages"]]
        assert seqs == sorted(set(seqs))


async def test_a_conversation_outlives_the_sidecar_and_each_message_keeps_its_place(lives, autojump_clock):
    async with killed(lives) as sidecar:
        await turn(sidecar, "one")
        await turn(sidecar, "two")
        before = await get(sidecar)
    async with lives.begin() as sidecar:
        assert await get(sidecar) == before
        await turn(sidecar, "three")
        assert told(await sidecar.worker()) == [[*TWO, ("user", "three")]]


async def test_when_a_conversation_was_is_told_alike_after_a_night_without_the_sidecar(lives, autojump_clock):
    async def times(sidecar):
        found = (await sidecar.host.call("conversations.list"))["conversations"]
        return {each["conversation"]: (each["created_ms"], each["updated_ms"]) for each in found}

    async with lives.begin() as sidecar:
        await turn(sidecar, "one")
        before = await times(sidecar)
        created_ms, updated_ms = before["talk"]
        assert [message["time_ms"] for message in (await get(sidecar))["messages"]] == [created_ms, updated_ms]
    await trio.sleep(8 * 3600)  # The log's clock stands still meanwhile.
    async with lives.begin() as sidecar:
        assert await times(sidecar) == before
        await turn(sidecar, "two", "later")
        assert (await times(sidecar))["later"][0] - updated_ms > 8 * 3_600_000 - 1


async def test_new_gives_a_name_that_no_other_has(lives, autojump_clock):
    async with lives.begin() as sidecar:
        one, two = [(await turn(sidecar, "one", "new"))["conversation"] for _ in range(2)]
        assert one != two
        assert one.startswith("conv-")
        await turn(sidecar, "two", one)
        found = (await sidecar.host.call("conversations.list"))["conversations"]
        assert [(each["conversation"], each["turns"], each["running"]) for each in found] == [
            (one, 2, False),
            (two, 1, False),
        ]
        assert found[0]["updated_ms"] >= found[0]["created_ms"] > 0


async def test_a_second_turn_waits_and_reads_what_the_first_one_said(lives, autojump_clock):
    async with lives.begin() as sidecar:
        sidecar.workshop.answer = None
        first = sidecar.chat("one", conversation="talk")
        worker = await sidecar.worker()
        request = await worker.asked("one")
        second = sidecar.chat("two", conversation="talk")
        other = sidecar.chat("other")
        await worker.asked("other")
        assert worker.find("two") is None
        listed = (await sidecar.host.call("conversations.list"))["conversations"]
        assert listed == []
        assert said(await get(sidecar)) == []
        worker.generate(request, "answer")
        await sidecar.host.result(first)
        again = await worker.asked("two")
        assert told(worker)[-1] == [("user", "one"), ("assistant", "answer"), ("user", "two")]
        worker.generate(again, "yes")
        worker.generate(await worker.asked("other"), "yes")
        await sidecar.host.result(second)
        await sidecar.host.result(other)


async def test_a_turn_that_was_interrupted_goes_on_with_the_history_that_it_had(lives, autojump_clock):
    async with killed(lives) as sidecar:
        await turn(sidecar, "one")
        sidecar.workshop.answer = None
        sidecar.chat("tell me", conversation="talk", key="k", stream=True)
        worker = await sidecar.worker()
        request = await worker.asked("tell me")
        worker.generate(request, "once ", finish=None)
        await sidecar.host.until(lambda: sidecar.state.requests[request].completion_tokens == 1)
        sidecar.chat("and then", conversation="talk", key="next")
        await trio.testing.wait_all_tasks_blocked()
        assert len(sidecar.state.requests) == 2
    async with lives.begin() as sidecar:
        sidecar.workshop.answer = None
        worker = await sidecar.worker()
        frame = await worker.until(lambda: next((f for f in worker.told if getattr(f, "resume", None)), None))
        assert (frame.said, frame.turns) == ("once ", (2,))
        assert told(worker) == [[*TWO[:2], ("user", "tell me")]]
        worker.generate(request, "upon a time", begins=False)
        await worker.asked("and then")
        assert told(worker)[-1][2:] == [("user", "tell me"), ("assistant", "once upon a time"), ("user", "and then")]
        worker.generate(await worker.asked("and then"), "no more")
        await sidecar.host.call("resume", {"key": "next"})


async def test_a_cancelled_turn_is_told_with_its_flag_and_a_failed_one_is_not_told(lives, autojump_clock):
    async with lives.begin() as sidecar:
        await turn(sidecar, "one")
        sidecar.workshop.answer = None
        worker = await sidecar.worker()
        call = sidecar.chat("tell me", conversation="talk", stream=True)
        request = await worker.asked("tell me")
        worker.generate(request, "half an ", finish=None)
        await sidecar.host.streamed(call, 1)
        sidecar.host.notify("cancel", {"request": call})
        await sidecar.host.error(call)
        call = sidecar.chat("late", conversation="talk", deadline_ms=50)
        worker.generate(await worker.asked("late"), "too ", finish=None)
        assert (await sidecar.host.error(call))["code"] == 1002
        shown = await get(sidecar)
        assert said(shown) == [*TWO[:2], ("user", "tell me"), ("assistant", "half an ")]
        assert [message.get("cancelled") for message in shown["messages"]] == [None, None, True, True]
        assert shown["messages"][-1]["request"] == request


async def test_an_ephemeral_turn_reads_and_leaves_nothing(lives, autojump_clock):
    async with lives.begin() as sidecar:
        await turn(sidecar, "one")
        await turn(sidecar, "secret", retention="ephemeral")
        await turn(sidecar, "two")
        worker = await sidecar.worker()
        assert told(worker)[1:] == [[*TWO[:2], ("user", "secret")], [*TWO[:2], ("user", "two")]]
        assert said(await get(sidecar)) == TWO


async def test_a_system_prompt_of_the_host_comes_first_and_stays_in_the_history(lives, autojump_clock):
    async with lives.begin() as sidecar:
        messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "one"}]
        await sidecar.host.call("chat", {"messages": messages, "conversation": "talk"})
        await turn(sidecar, "two")
        assert told(await sidecar.worker())[1] == [("system", "be brief"), *TWO[:2], ("user", "two")]


async def test_a_key_gives_the_turn_that_it_gave_and_no_second_one(lives, autojump_clock):
    async with lives.begin() as sidecar:
        first = await turn(sidecar, "one", "new", key="k")
        assert await turn(sidecar, "one", "new", key="k") == first
        assert len((await sidecar.host.call("conversations.list"))["conversations"]) == 1


async def test_a_forgotten_turn_leaves_its_place_and_no_text(lives, autojump_clock):
    async with lives.begin() as sidecar:
        first = await turn(sidecar, "one")
        await turn(sidecar, "two")
        await sidecar.host.call("forget", {"request": first["id"]})
        shown = await get(sidecar)
        assert said(shown) == [("user", ""), ("assistant", ""), *TWO[2:]]
        assert [message.get("gone") for message in shown["messages"]] == ["forgotten", "forgotten", None, None]
        await turn(sidecar, "three")
        assert told(await sidecar.worker())[-1] == [*TWO[2:], ("user", "three")]


async def test_what_is_unknown_is_said_to_be_so(lives, autojump_clock):
    async with lives.begin() as sidecar:
        await turn(sidecar, "one")
        for method in ("conversations.get", "conversations.delete"):
            error = await sidecar.host.error(sidecar.host.send(method, {"conversation": "nothing"}))
            assert (error["code"], error["data"]["what"], error["data"]["id"]) == (1012, "conversation", "nothing")
        place = {"conversation": "talk", "at": 1}
        error = await sidecar.host.error(sidecar.host.send("conversations.get", place))
        assert (error["code"], error["data"]["what"]) == (1012, "place")
        ahead = {"conversation": "talk", "at": 10**6}
        error = await sidecar.host.error(sidecar.host.send("conversations.fork", ahead))
        assert (error["code"], error["data"]["type"]) == (1013, "ahead")


async def test_a_host_that_reads_late_is_told_of_its_conversation_all_the_same(lives, autojump_clock):
    async with lives.begin() as sidecar:
        await turn(sidecar, "one " + "x" * 100_000)
        sidecar.host.stop_reading()
        calls = [sidecar.host.send("conversations.get", {"conversation": "talk"}) for _ in range(40)]
        await sidecar.host.until(lambda: sidecar.host._waiting)
        await trio.testing.wait_all_tasks_blocked()
        sidecar.host.read_on()
        for call in calls:
            assert len((await sidecar.host.result(call))["messages"]) == 2
