"""Summaries in the place of turns that do not fit: what a model reads, what hosts hear, and what becomes of them."""

import attrs
from fake_worker import echo
from test_conversations import TWO, get, said, turn
from test_forget_calls import files_with
from test_forks_and_forgetting import fill
from test_recovery import killed

from mlzoo import frames
from mlzoo.events.history import SUMMARY_WANTED

WORD = "xyzzy"
SHORT = [("user", SUMMARY_WANTED), ("assistant", WORD)]
PERSONA = {"name": "clerk", "truncation": {"policy": "summarise"}}


def asked(worker):
    return [frame for frame in worker.told if isinstance(frame, frames.Generate)]


def made(frame, cut=None, left_out=0, text=WORD):
    """What a worker makes of the first turns of a request's history, as it says it."""
    last = len(frame.turns) if cut is None else cut
    summary = frames.Summary(
        text=text,
        turns=frame.numbers[last - 1],
        left_out=frame.left_out + left_out,
        of=frame.names[left_out:last],
    )
    return frames.Stepped(rows=(frames.Row(request=frame.request, content="", tokens=(), summary=summary),))


async def begin(sidecar, *prompts):
    await sidecar.host.call("personas.put", PERSONA)
    for prompt in prompts:
        await turn(sidecar, prompt, persona="clerk")


async def summarised(sidecar, prompt, text=WORD, **params):
    """A turn whose history does not fit: all of it is summarised, and the turn answered."""
    sidecar.workshop.answer = None
    call = sidecar.chat(prompt, conversation="talk", **params)
    worker = await sidecar.worker()
    request = await worker.asked(prompt)
    worker.say(made(asked(worker)[-1], text=text))
    worker.generate(request, prompt)
    return await sidecar.host.result(call)


async def next_turn(sidecar, prompt):
    """A turn whose history fits; what the worker was asked for it."""
    sidecar.workshop.answer = None
    call = sidecar.chat(prompt, conversation="talk")
    worker = await sidecar.worker()
    worker.generate(await worker.asked(prompt), prompt)
    await sidecar.host.result(call)
    return asked(worker)[-1]


def read(frame):
    return [(message["role"], message["content"]) for message in frame.messages]


async def test_a_worker_is_told_which_turns_it_may_summarise(lives, autojump_clock):
    async with lives.begin() as sidecar:
        await begin(sidecar, "one", "two", "three")
        frame = asked(await sidecar.worker())[-1]
        assert (frame.truncation.policy, frame.turns, frame.numbers) == ("summarise", (2, 2), (1, 2))
        assert len(set(frame.names)) == 2
        assert frame.asks == SUMMARY_WANTED


async def test_a_summary_is_read_in_the_place_of_its_turns_from_then_on_and_it_is_told(lives, autojump_clock):
    async with lives.begin() as sidecar:
        await begin(sidecar, "one", "two")
        assert (await summarised(sidecar, "three"))["truncated"] == {"turns": 2, "summarised": 2}
        frame = await next_turn(sidecar, "four")
        assert read(frame) == [*SHORT, ("user", "three"), ("assistant", "three"), ("user", "four")]
        assert (frame.leading, frame.summary, frame.turns, frame.numbers) == (2, 2, (2,), (3,))
        shown = await get(sidecar)
        assert said(shown)[:4] == TWO
        summary = shown["summary"]
        assert (summary["content"], summary["turns"]) == (WORD, 2)
        assert summary["upto"] == shown["messages"][3]["log_seq"]
        assert summary["request"] == shown["messages"][4]["request"]
        before = await get(sidecar, at=shown["messages"][3]["log_seq"])
        assert "summary" not in before
        assert (await get(sidecar, at=shown["messages"][5]["log_seq"]))["summary"] == summary


async def test_a_second_summary_extends_the_first_and_stands_for_all_turns_before_it(lives, autojump_clock):
    async with lives.begin() as sidecar:
        await begin(sidecar, "one", "two")
        await summarised(sidecar, "three")
        result = await summarised(sidecar, "four", text="shorter")
        assert result["truncated"] == {"turns": 3, "summarised": 3}
        frame = await next_turn(sidecar, "five")
        assert read(frame)[1:] == [
            ("assistant", "shorter"),
            ("user", "four"),
            ("assistant", "four"),
            ("user", "five"),
        ]


async def test_what_did_not_fit_into_a_summary_either_is_told_apart(lives, autojump_clock):
    async with lives.begin() as sidecar:
        await begin(sidecar, "one", "two", "three")
        sidecar.workshop.answer = None
        call = sidecar.chat("four", conversation="talk")
        worker = await sidecar.worker()
        request = await worker.asked("four")
        worker.say(made(asked(worker)[-1], cut=2, left_out=1))
        worker.say(frames.Stepped(rows=(attrs.evolve(worker.row(request, "four", "stop", first=True), truncated=1),)))
        assert (await sidecar.host.result(call))["truncated"] == {"turns": 3, "summarised": 1}
        assert (await get(sidecar))["summary"]["turns"] == 1
        assert (await next_turn(sidecar, "five")).left_out == 1


async def test_a_summary_outlives_a_kill_in_the_middle_of_its_turn_and_is_made_once(lives, autojump_clock):
    async with killed(lives) as sidecar:
        await begin(sidecar, "one", "two")
        sidecar.workshop.answer = None
        sidecar.chat("three", conversation="talk", key="k", stream=True)
        worker = await sidecar.worker()
        request = await worker.asked("three")
        worker.say(made(asked(worker)[-1]))
        worker.generate(request, "thr", finish=None)
        await sidecar.host.until(lambda: sidecar.state.requests[request].completion_tokens == 1)
    async with lives.begin() as sidecar:
        sidecar.workshop.answer = None
        worker = await sidecar.worker()
        frame = await worker.until(lambda: next((f for f in worker.told if getattr(f, "resume", None)), None))
        assert (frame.said, read(frame)) == ("thr", [*SHORT, ("user", "three")])
        worker.generate(request, "ee", begins=False)
        result = await sidecar.host.call("resume", {"key": "k"})
        assert (result["message"]["content"], result["truncated"]) == ("three", {"turns": 2, "summarised": 2})
        assert (await get(sidecar))["summary"]["content"] == WORD


async def test_a_summary_stays_where_its_turn_fails(lives, autojump_clock):
    async with lives.begin() as sidecar:
        await begin(sidecar, "one", "two")
        sidecar.workshop.answer = None
        call = sidecar.chat("three", conversation="talk")
        worker = await sidecar.worker()
        request = await worker.asked("three")
        worker.say(made(asked(worker)[-1]))
        worker.say(frames.WorkFailed(request=request, code=1005, message="no memory is left"))
        assert (await sidecar.host.error(call))["code"] == 1005
        assert read(await next_turn(sidecar, "four")) == [*SHORT, ("user", "four")]


async def test_an_ephemeral_turn_leaves_no_summary(lives, autojump_clock):
    async with lives.begin() as sidecar:
        await begin(sidecar, "one", "two")
        result = await summarised(sidecar, "hush", retention="ephemeral")
        assert result["truncated"] == {"turns": 2, "summarised": 2}
        assert files_with(lives, WORD) == []
        assert "summary" not in await get(sidecar)
        assert read(await next_turn(sidecar, "three")) == [*TWO, ("user", "three")]


async def test_a_fork_has_the_summary_that_there_was_at_its_place(lives, autojump_clock):
    async with lives.begin() as sidecar:
        await begin(sidecar, "one", "two")
        await summarised(sidecar, "three")
        places = [message["log_seq"] for message in (await get(sidecar))["messages"]]
        for into, place in (("early", places[1]), ("before", places[3]), ("asked", places[4]), ("late", places[5])):
            await sidecar.host.call("conversations.fork", {"conversation": "talk", "at": place, "into": into})
            assert (await get(sidecar, into)).get("summary") == (await get(sidecar, at=place)).get("summary")
        for into in ("early", "before", "asked"):
            assert "summary" not in await get(sidecar, into)
        assert (await get(sidecar, "late"))["summary"] == (await get(sidecar))["summary"]
        await sidecar.host.call("conversations.delete", {"conversation": "talk"})
        assert (await get(sidecar, "late"))["summary"]["content"] == WORD
        await sidecar.host.call("conversations.delete", {"conversation": "late"})
        assert files_with(lives, WORD) == []


async def test_a_summary_goes_with_each_of_its_turns_and_so_does_what_extends_it(lives, autojump_clock):
    async with lives.begin() as sidecar:
        await begin(sidecar, "one", "two")
        first = (await get(sidecar))["messages"][0]["request"]
        await summarised(sidecar, "three")
        await summarised(sidecar, "four", text=f"{WORD} and more")
        place = (await get(sidecar))["messages"][-1]["log_seq"]
        await sidecar.host.call("conversations.fork", {"conversation": "talk", "at": place, "into": "side"})
        await sidecar.host.call("forget", {"request": first})
        assert files_with(lives, WORD) == []
        for name in ("talk", "side"):
            assert "summary" not in await get(sidecar, name)
            assert said(await get(sidecar, name))[2:4] == TWO[2:]
        frame = await next_turn(sidecar, "five")
        assert read(frame)[:4] == [*TWO[2:], ("user", "three"), ("assistant", "three")]
        assert frame.numbers == (2, 3, 4)
        await summarised(sidecar, "six", text="again")
        assert (await get(sidecar))["summary"]["content"] == "again"


async def test_a_turn_after_the_summary_may_be_forgotten_alone(lives, autojump_clock):
    async with lives.begin() as sidecar:
        await begin(sidecar, "one", "two")
        await summarised(sidecar, "three")
        await next_turn(sidecar, "four")
        latest = (await get(sidecar))["messages"][-1]["request"]
        await sidecar.host.call("forget", {"request": latest})
        assert (await get(sidecar))["summary"]["content"] == WORD


async def test_a_summary_of_what_is_forgotten_while_it_is_made_is_not_kept(lives, autojump_clock):
    async with lives.begin() as sidecar:
        await begin(sidecar, "one", "two")
        first = (await get(sidecar))["messages"][0]["request"]
        sidecar.workshop.answer = None
        call = sidecar.chat("three", conversation="talk")
        worker = await sidecar.worker()
        request = await worker.asked("three")
        frame = asked(worker)[-1]
        await sidecar.host.call("forget", {"request": first})
        worker.say(made(frame))
        worker.generate(request, "three")
        await sidecar.host.result(call)
        assert files_with(lives, WORD) == []
        assert read(await next_turn(sidecar, "four"))[:2] == TWO[2:]


async def test_a_summary_is_carried_on_with_its_conversation_when_its_record_has_to_go(lives, autojump_clock):
    lives.log = attrs.evolve(lives.log, segment_bytes=64 * 1024, asides_segment_bytes=64 * 1024, budget_bytes=1 << 20)
    async with killed(lives) as sidecar:
        await begin(sidecar, "one", "two")
        await summarised(sidecar, "three")
        place = sidecar.services.log.last_seq
        before = await get(sidecar)
        sidecar.workshop.answer = echo
        await fill(sidecar, 60)
        assert sidecar.services.log.oldest_seq > place
    async with lives.begin() as sidecar:
        assert await get(sidecar) == before
        assert read(await next_turn(sidecar, "four"))[:4] == [*SHORT, ("user", "three"), ("assistant", "three")]
        await sidecar.host.call("forget", {"request": before["messages"][0]["request"]})
        assert files_with(lives, WORD) == []
        assert "summary" not in await get(sidecar)
