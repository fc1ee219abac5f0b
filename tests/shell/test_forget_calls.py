"""Forgetting over the wire: what was said is gone from every file, and who asks for it hears that."""

from mlzoo.actors.keys import FILED_AT_ONCE

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
        worker = await sidecar.worker()
        assert len([frame for frame in worker.told if type(frame).__name__ == "Generate"]) == 1


async def test_a_key_that_is_filed_is_forgotten_too(lives, autojump_clock):
    async with lives.begin() as sidecar:
        for number in range(FILED_AT_ONCE + 1):
            await sidecar.host.result(say(sidecar, f"{SECRET} {number}", key=f"k{number}"))
        await sidecar.host.call("forget", {"key": "k0"})
        assert files_with(lives, f'{SECRET} 0"') == []
        assert files_with(lives, f'{SECRET} 1"')


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
        assert (await sidecar.host.refused("forget", {"request": "req-none"}))["data"]["what"] == "request"
        assert (await sidecar.host.refused("forget", {"key": f"{SECRET} none"}))["data"]["what"] == "key"
        assert (await sidecar.host.refused("forget", {"conversation": SECRET}))["code"] == 1010
        assert (await sidecar.host.refused("forget", {}))["code"] == -32602
        assert (await sidecar.host.refused("forget", {"request": "r", "key": "k"}))["code"] == -32602
        assert files_with(lives, SECRET) == []
