"""Forgetting over the wire: what was said is gone from every file, and who asks for it hears that."""

import trio.testing
from sidecar_life import LOG

from mlzoo.actors.keys import FILED_AT_ONCE
from mlzoo.events.codec import encode_group
from mlzoo.events.commands import ReportStep
from mlzoo.events.records import Group
from mlzoo.events.segments import Segments
from mlzoo.events.types import RequestStreamed

SECRET = "xyzzy"


def say(sidecar, prompt, **params):
    message = {"role": "user", "content": prompt}
    return sidecar.host.send("chat", {"model": "toy", "messages": [message], **params})


def files_with(lives, word):
    files = [(name, file) for names in lives.disk.files.values() for name, file in names.items()]
    assert files
    return [name for name, file in files if word.encode() in file.data]


async def test_a_forgotten_request_is_in_no_file_and_its_events_stay(lives, autojump_clock):
    async with lives.begin() as sidecar:
        result = await sidecar.host.result(say(sidecar, f"{SECRET} hello", stream=True))
        await sidecar.host.result(say(sidecar, "another"))
        before = await sidecar.host.call("events.read", {"request": result["id"]})
        assert files_with(lives, SECRET)
        answer = await sidecar.host.call("forget", {"request": result["id"]})
        assert answer["request"] == result["id"]
        assert answer["groups"] > 1
        assert files_with(lives, SECRET) == []
        after = await sidecar.host.call("events.read", {"request": result["id"]})
        kept = [[{**event, "text": None} for event in found["events"]] for found in (before, after)]
        assert kept[0] == kept[1]
        assert after["events"][0]["text"] == {"gone": "forgotten"}
        assert files_with(lives, "another")
    async with lives.begin() as sidecar:
        assert (await sidecar.host.call("forget", {"request": result["id"]}))["groups"] == answer["groups"]


async def test_workers_are_told_to_forget_once_the_request_has_ended_there(lives, autojump_clock):
    async with lives.begin() as sidecar:
        sidecar.workshop.answer = None
        say(sidecar, SECRET, key="k")
        worker = await sidecar.worker()
        await worker.asked(SECRET)
        await sidecar.host.call("forget", {"key": "k"})
        assert [type(frame).__name__ for frame in worker.told[-2:]] == ["Abandon", "Forget"]


async def test_a_forgotten_key_is_expired_and_never_runs_again(lives, autojump_clock):
    async with lives.begin() as sidecar:
        await sidecar.host.result(say(sidecar, f"{SECRET} hello", key=f"key {SECRET}"))
        await sidecar.host.result(say(sidecar, f"{SECRET} hello", key=f"key {SECRET}"))
        await sidecar.host.error(say(sidecar, f"{SECRET} other", key=f"key {SECRET}"))
        await sidecar.host.call("forget", {"key": f"key {SECRET}"})
        assert files_with(lives, SECRET) == []
        for _ in range(2):
            error = await sidecar.host.error(sidecar.host.send("resume", {"key": f"key {SECRET}"}))
            assert (error["code"], error["data"]["type"]) == (1013, "expired")
            assert error["data"]["reason"] == "forgotten"
        worker = await sidecar.worker()
        assert len([frame for frame in worker.told if type(frame).__name__ == "Generate"]) == 1


async def test_a_retry_after_forgetting_brings_no_word_back_in_this_life_or_another(lives, autojump_clock):
    async with lives.begin() as sidecar:
        await sidecar.host.result(say(sidecar, f"{SECRET} hello", key=f"key {SECRET}"))
        await sidecar.host.call("forget", {"key": f"key {SECRET}"})
        await come_again(sidecar)
        assert files_with(lives, SECRET) == []
    async with lives.begin() as sidecar:
        await come_again(sidecar)
    assert files_with(lives, SECRET) == []


async def come_again(sidecar):
    """Come with a forgotten key in all ways there are, as a host does that has not heard of the forgetting."""
    error = await sidecar.host.error(say(sidecar, f"{SECRET} hello", key=f"key {SECRET}"))
    assert (error["code"], error["data"]["reason"]) == (1013, "forgotten")
    assert (await sidecar.host.error(say(sidecar, f"{SECRET} other", key=f"key {SECRET}")))["code"] == -32602
    assert (await sidecar.host.refused("resume", {"key": f"key {SECRET}"}))["code"] == 1013
    assert await sidecar.host.call("cancel", {"key": f"key {SECRET}"}) == {"cancelled": False}


async def test_nor_does_a_retry_that_comes_while_it_is_being_forgotten(lives, autojump_clock):
    async with lives.begin() as sidecar:
        await sidecar.host.result(say(sidecar, f"{SECRET} hello", key="k"))
        lives.disk.faults.replace_s = 5.0
        forgotten = sidecar.host.send("forget", {"key": "k"})
        await sidecar.sleep_h(1 / 3600)
        again = say(sidecar, f"{SECRET} hello", key="k")
        await sidecar.host.result(forgotten)
        lives.disk.faults.replace_s = 0.0
        await sidecar.host.response(again)
        assert files_with(lives, SECRET) == []


async def test_nor_does_one_that_comes_after_something_else_was_to_be_forgotten_meanwhile(lives, autojump_clock):
    async with lives.begin() as sidecar:
        other = await sidecar.host.result(say(sidecar, "another"))
        await sidecar.host.result(say(sidecar, f"{SECRET} hello", key="k"))
        lives.disk.faults.replace_s = 5.0
        forgotten = sidecar.host.send("forget", {"key": "k"})
        await sidecar.sleep_h(1 / 3600)
        also = sidecar.host.send("forget", {"request": other["id"]})
        await sidecar.sleep_h(1 / 3600)
        again = say(sidecar, f"{SECRET} hello", key="k")
        await sidecar.host.result(forgotten)
        assert files_with(lives, SECRET) == []
        await sidecar.host.result(also)
        await sidecar.host.response(again)
        assert files_with(lives, SECRET) == files_with(lives, "another") == []


async def test_nor_does_one_whose_key_is_filed(lives, autojump_clock):
    async with lives.begin() as sidecar:
        for number in range(FILED_AT_ONCE + 1):
            await sidecar.host.result(say(sidecar, f"{SECRET} {number}", key=f"k{number}"))
        await sidecar.host.call("forget", {"key": "k0"})
        before = len(files_with(lives, f'{SECRET} 0"'))
        assert (await sidecar.host.error(say(sidecar, f"{SECRET} 0", key="k0")))["code"] == 1013
        assert len(files_with(lives, f'{SECRET} 0"')) == before == 0
        assert await sidecar.host.result(say(sidecar, f"{SECRET} 1", key="k1")), "others are answered"


async def test_a_key_that_is_filed_is_forgotten_too(lives, autojump_clock):
    async with lives.begin() as sidecar:
        for number in range(FILED_AT_ONCE + 1):
            await sidecar.host.result(say(sidecar, f"{SECRET} {number}", key=f"k{number}"))
        await sidecar.host.call("forget", {"key": "k0"})
        assert files_with(lives, f'{SECRET} 0"') == []
        assert files_with(lives, f'{SECRET} 1"')


async def test_a_call_that_heard_of_a_running_request_is_forgotten_by_ending_and_forgetting_that(lives, autojump_clock):
    async with lives.begin() as sidecar:
        sidecar.workshop.answer = None
        running = say(sidecar, f"{SECRET} hello", key="k", stream=True)
        worker = await sidecar.worker()
        worker.generate(await worker.asked(f"{SECRET} hello"), f"{SECRET} ", "more", finish=None)
        heard = say(sidecar, f"{SECRET} hello", key="k", stream=True)
        await sidecar.host.streamed(heard, 2)
        events = (await sidecar.host.call("events.read", {"types": ["RequestAttached"]}))["events"]
        [attached] = [event["data"] for event in events]
        forgotten = await sidecar.host.call("forget", {"request": attached["request"]})
        assert forgotten["request"] == attached["target"]
        for call in (running, heard):
            assert (await sidecar.host.error(call))["code"] == -32800
        assert files_with(lives, SECRET) == []
        again = await sidecar.host.call("forget", {"request": attached["request"]})
        assert again["request"] == attached["target"], "what has ended is found in the log"


async def test_what_the_disk_does_not_let_be_forgotten_is_said_at_once(lives, autojump_clock):
    async with lives.begin(leave=False) as sidecar:
        sidecar.workshop.answer = None
        say(sidecar, f"{SECRET} hello", key="k")
        worker = await sidecar.worker()
        await worker.asked(f"{SECRET} hello")
        await sidecar.synced()
        lives.disk.faults.fail_write = lives.disk.writes
        error = await sidecar.host.refused("forget", {"key": "k"})
        assert (error["code"], error["data"]["reason"]) == (1014, "failed")


async def test_a_log_that_cannot_be_folded_is_said_to_who_waits_to_have_something_forgotten(lives, autojump_clock):
    async with lives.begin() as sidecar:
        await sidecar.host.result(say(sidecar, "hello"))
    segments = Segments(lives.disk, LOG / "segments")
    path, seq = segments.path(segments.firsts[-1]), sidecar.services.log.last_seq + 1
    stray = RequestStreamed(request="req-nobody", row=0, tokens=1, seq=0)
    step = Group(first_seq=seq, at_ms=1, time_ms=1, command=ReportStep(device="cpu", rows=()), events=(stray,))
    await lives.disk.replace(path, lives.disk.read(path) + encode_group(step, 0))
    async with lives.begin(leave=False) as sidecar:
        sidecar.held_probe = trio.Event()
        asked = sidecar.host.send("forget", {"request": "req-a"})
        await trio.testing.wait_all_tasks_blocked()
        sidecar.held_probe.set()
        assert (await sidecar.host.error(asked))["data"]["reason"] == "inconsistent"


async def test_what_was_left_suspended_is_not_waited_for_by_a_sidecar_that_leaves(lives, autojump_clock):
    async with lives.begin() as sidecar:
        sidecar.workshop.answer = None
        say(sidecar, f"{SECRET} hello", key="k")
        worker = await sidecar.worker()
        await worker.asked(f"{SECRET} hello")
        sidecar.host.stop_reading()
        sidecar.host.send("ping")
        sidecar.host.send("shutdown")
        await sidecar.sleep_h(7 / 3600)
        assert sidecar.state.stopped
        asked = sidecar.host.send("forget", {"key": "k"})
        await trio.testing.wait_all_tasks_blocked()
        sidecar.host.read_on()
        assert (await sidecar.host.error(asked))["code"] == 1009
        await sidecar.ended.wait()
    async with lives.begin() as sidecar:
        await sidecar.host.call("forget", {"key": "k"})
        assert files_with(lives, SECRET) == []


async def test_what_runs_is_cancelled_and_then_forgotten(lives, autojump_clock):
    async with lives.begin() as sidecar:
        sidecar.workshop.answer = None
        running = say(sidecar, f"{SECRET} hello", key="k", stream=True)
        worker = await sidecar.worker()
        worker.generate(await worker.asked(f"{SECRET} hello"), f"{SECRET} ", "more", finish=None)
        forgotten = await sidecar.host.call("forget", {"key": "k"})
        assert (await sidecar.host.error(running))["code"] == -32800
        assert files_with(lives, SECRET) == []
        assert forgotten["groups"] > 0


async def test_what_is_not_there_cannot_be_forgotten(lives, autojump_clock):
    async with lives.begin() as sidecar:
        error = await sidecar.host.refused("forget", {"request": f"{SECRET} none"})
        assert (error["code"], error["data"]["what"]) == (1012, "request")
        assert (await sidecar.host.refused("forget", {"key": f"{SECRET} none"}))["data"]["what"] == "key"
        assert (await sidecar.host.refused("forget", {"conversation": SECRET}))["code"] == 1012
        assert (await sidecar.host.refused("forget", {}))["code"] == -32602
        assert (await sidecar.host.refused("forget", {"request": "r", "key": "k"}))["code"] == -32602
        assert files_with(lives, SECRET) == []
