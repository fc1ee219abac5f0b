"""Forks own a copy of what was said; what is deleted is in no file; what is old is carried on when the log is full."""

import attrs
import pytest
import trio.testing
from test_conversations import TWO, get, said, told, turn
from test_forget_calls import files_with
from test_recovery import killed

SECRET = "xyzzy"


async def fork(sidecar, at, into=None, conversation="talk"):
    params = {"conversation": conversation, "at": at}
    return await sidecar.host.call("conversations.fork", params if into is None else {**params, "into": into})


async def two_turns(sidecar):
    """Have two turns, and return the log_seqs of their four messages."""
    await turn(sidecar, "one")
    await turn(sidecar, "two")
    return [message["log_seq"] for message in (await get(sidecar))["messages"]]


async def test_a_fork_has_what_was_said_up_to_an_answer_or_before_a_question(lives, autojump_clock):
    async with lives.begin() as sidecar:
        places = await two_turns(sidecar)
        for at, count in zip(places, (0, 2, 2, 4), strict=True):
            forked = await fork(sidecar, at)
            assert forked["turns"] == count // 2
            shown = await get(sidecar, forked["conversation"])
            assert said(shown) == TWO[:count]
            assert said(await get(sidecar, at=at)) == TWO[:count]
            assert [message["log_seq"] for message in shown["messages"]] == places[:count]


async def test_a_fork_goes_its_own_way_and_is_forked_again_at_the_places_of_the_first(lives, autojump_clock):
    async with killed(lives) as sidecar:
        places = await two_turns(sidecar)
        await fork(sidecar, places[1], "side")
        await turn(sidecar, "three", "side")
        again = await fork(sidecar, places[1], "again", "side")
        assert again == {"conversation": "again", "turns": 1}
    async with lives.begin() as sidecar:
        await turn(sidecar, "four", "side")
        [asked] = told(await sidecar.worker())
        assert asked == [*TWO[:2], ("user", "three"), ("assistant", "three"), ("user", "four")]
        assert said(await get(sidecar)) == TWO
        assert said(await get(sidecar, "again")) == TWO[:2]


@pytest.mark.parametrize("into", ["talk", "side", "under way"])
async def test_a_fork_takes_no_name_that_is_taken(lives, autojump_clock, into):
    async with lives.begin() as sidecar:
        places = await two_turns(sidecar)
        await fork(sidecar, places[1], "side")
        sidecar.workshop.answer = None
        call = sidecar.chat("hello", conversation="under way")
        worker = await sidecar.worker()
        request = await worker.asked("hello")
        params = {"conversation": "talk", "at": places[1], "into": into}
        error = await sidecar.host.refused("conversations.fork", params)
        assert (error["code"], error["data"]["path"]) == (-32602, "into")
        worker.generate(request, "yes")
        await sidecar.host.result(call)


async def test_a_deleted_conversation_is_in_no_file_and_its_fork_stays(lives, autojump_clock):
    async with lives.begin() as sidecar:
        await turn(sidecar, "one")
        await turn(sidecar, f"{SECRET} two", key="k")
        await turn(sidecar, f"{SECRET} other", "another")
        places = [message["log_seq"] for message in (await get(sidecar))["messages"]]
        await fork(sidecar, places[1], "side")
        await turn(sidecar, f"{SECRET} aside", "side")
        sidecar.workshop.answer = None
        worker = await sidecar.worker()
        call = sidecar.chat(f"{SECRET} running", conversation="talk", stream=True)
        worker.generate(await worker.asked(f"{SECRET} running"), SECRET, finish=None)
        await sidecar.host.streamed(call, 1)
        waiting = sidecar.chat(f"{SECRET} waiting", conversation="talk")
        sidecar.workshop.answer = None
        for name in ("another", "side"):
            assert (await sidecar.host.call("conversations.delete", {"conversation": name}))["groups"] > 0
        assert files_with(lives, SECRET)
        answer = await sidecar.host.call("forget", {"conversation": "talk"})
        assert answer["conversation"] == "talk"
        assert files_with(lives, SECRET) == []
        for each in (call, waiting):
            assert (await sidecar.host.error(each))["code"] == -32800
        assert (await sidecar.host.call("conversations.list"))["conversations"] == []
        assert (await sidecar.host.refused("conversations.get", {"conversation": "talk"}))["code"] == 1012
        assert type(worker.told[-1]).__name__ == "Forget"
    async with lives.begin() as sidecar:
        assert (await sidecar.host.call("conversations.delete", {"conversation": "talk"}))["groups"] == answer["groups"]
        await turn(sidecar, "anew")
        assert told(await sidecar.worker()) == [[("user", "anew")]]


async def test_what_a_fork_copied_stays_when_its_source_is_deleted_and_goes_with_the_request(lives, autojump_clock):
    async with lives.begin() as sidecar:
        first = await turn(sidecar, f"{SECRET} one")
        places = [message["log_seq"] for message in (await get(sidecar))["messages"]]
        await fork(sidecar, places[1], "side")
        await sidecar.host.call("conversations.delete", {"conversation": "talk"})
        assert said(await get(sidecar, "side"))[0] == ("user", f"{SECRET} one")
        await sidecar.host.call("forget", {"request": first["id"]})
        assert files_with(lives, SECRET) == []
        assert [message["gone"] for message in (await get(sidecar, "side"))["messages"]] == ["forgotten", "forgotten"]


async def test_a_delete_that_was_broken_off_is_finished_by_asking_again(lives, autojump_clock):
    async with killed(lives) as sidecar:
        await turn(sidecar, SECRET)
        async with sidecar.services.log.forgetter.lock:
            sidecar.host.send("conversations.delete", {"conversation": "talk"})
            await trio.testing.wait_all_tasks_blocked()
            assert sidecar.state.conversations == {}
        assert sidecar.status is None
    lives.disk = lives.disk.copy()
    async with lives.begin() as sidecar:
        assert (await sidecar.host.call("conversations.delete", {"conversation": "talk"}))["groups"] > 0
        assert files_with(lives, SECRET) == []


# ------------------------------------------------------------------------------------------------ carried on


async def fill(sidecar, count):
    for number in range(count):
        await sidecar.host.result(sidecar.chat(f"{number} " + "filling " * 4000))


async def test_an_old_conversation_is_carried_on_when_its_records_have_to_go(lives, autojump_clock):
    lives.log = attrs.evolve(lives.log, segment_bytes=64 * 1024, asides_segment_bytes=64 * 1024, budget_bytes=1 << 20)
    async with killed(lives) as sidecar:
        await two_turns(sidecar)
        before = await get(sidecar)
        await fill(sidecar, 60)
        assert sidecar.services.log.oldest_seq > before["messages"][-1]["log_seq"]
        assert sidecar.services.log.size_bytes() < 1.2 * (1 << 20)
        assert await get(sidecar) == before
    async with lives.begin() as sidecar:
        assert await get(sidecar) == before
        await turn(sidecar, "three")
        assert told(await sidecar.worker()) == [[*TWO, ("user", "three")]]
        after = await get(sidecar)
        await fill(sidecar, 60)  # it is carried once more, with the turn that came since
        assert await get(sidecar) == after
        assert (await fork(sidecar, before["messages"][1]["log_seq"], "side"))["turns"] == 1


async def test_what_was_carried_on_goes_with_its_conversation_or_its_request(lives, autojump_clock):
    lives.log = attrs.evolve(lives.log, segment_bytes=64 * 1024, asides_segment_bytes=64 * 1024, budget_bytes=1 << 20)
    async with lives.begin() as sidecar:
        first = await turn(sidecar, f"{SECRET} one", key="k")
        await turn(sidecar, "plugh two")
        await turn(sidecar, f"{SECRET} other", "another")
        await fill(sidecar, 60)
        assert files_with(lives, SECRET)
        await sidecar.host.call("forget", {"request": first["id"]})
        await sidecar.host.call("conversations.delete", {"conversation": "another"})
        assert files_with(lives, SECRET) == []
        assert [content for _, content in said(await get(sidecar))] == ["", "", "plugh two", "plugh two"]
        await sidecar.host.call("conversations.delete", {"conversation": "talk"})
        assert files_with(lives, "plugh") == []


async def test_a_conversation_that_cannot_be_read_is_told_of_and_costs_no_other_its_history(lives, autojump_clock):
    lives.log = attrs.evolve(lives.log, segment_bytes=64 * 1024, asides_segment_bytes=64 * 1024, budget_bytes=1 << 20)
    lives.log = attrs.evolve(lives.log, tail_bytes=0)
    async with lives.begin(leave=False) as sidecar:
        await turn(sidecar, "plugh one", "broken")
        [name] = files_with(lives, "plugh")
        await two_turns(sidecar)
        await fill(sidecar, 2)
        files = [names[name] for names in lives.disk.files.values() if name in names]
        [file] = [file for file in files if b"plugh" in file.data]
        file.data[file.data.index(b"plugh")] = ord("P")
        await fill(sidecar, 60)
        assert said(await get(sidecar)) == TWO
        assert (await sidecar.host.refused("conversations.get", {"conversation": "broken"}))["code"] == 1015
