"""Ephemeral requests: who asks hears everything, and no file ever has a word of it."""

import attrs
import pytest

SECRET = "xyzzy"


@pytest.fixture
def watched(lives):
    """Return lives of which every change of the disk is looked at."""
    seen = []

    def look(step):
        seen.extend(
            step for names in lives.disk.files.values() for file in names.values() if SECRET.encode() in file.data
        )

    lives.disk.on_step = look
    yield lives
    assert seen == []


def chat(sidecar, prompt, **params):
    message = {"role": "user", "content": prompt}
    return sidecar.host.send("chat", {"model": "toy", "messages": [message], "retention": "ephemeral", **params})


async def test_the_text_of_an_ephemeral_chat_never_reaches_the_disk(watched, autojump_clock):
    async with watched.begin() as sidecar:
        call = chat(sidecar, f"{SECRET} hello", stream=True, logprobs=True, key=f"a {SECRET}", stop=f"{SECRET}{SECRET}")
        result = await sidecar.host.result(call)
        assert result["message"]["content"] == f"{SECRET} hello"
        assert "".join(delta["content"] for delta in sidecar.host.stream(call)) == f"{SECRET} hello"
        events = (await sidecar.host.call("events.read", {"request": result["id"]}))["events"]
        assert [event["type"] for event in events][-1] == "RequestCompleted"


async def test_a_worker_knows_what_it_may_not_keep(watched, autojump_clock):
    async with watched.begin() as sidecar:
        await sidecar.host.result(chat(sidecar, f"{SECRET} hello"))
        await sidecar.host.call("complete", {"model": "toy", "prompt": "open"})
        told = [frame for frame in (await sidecar.worker()).told if type(frame).__name__ == "Generate"]
        assert [frame.ephemeral for frame in told] == [True, False]


async def test_the_log_says_what_is_not_kept(watched, autojump_clock):
    async with watched.begin() as sidecar:
        await sidecar.host.result(chat(sidecar, f"{SECRET} hello"))
    async with watched.begin() as sidecar:
        events = (await sidecar.host.call("events.read"))["events"]
        texts = {event["type"]: event["text"] for event in events if event.get("text")}
        assert texts["Submit"] == {"gone": "ephemeral"}
        assert texts["ReportStep"] == [{"gone": "ephemeral"}]


async def test_neither_does_that_of_a_completion_or_its_partial_text(watched, autojump_clock):
    async with watched.begin() as sidecar:
        params = {"model": "toy", "prompt": f"{SECRET} x", "retention": "ephemeral"}
        assert (await sidecar.host.call("complete", params))["text"] == f"{SECRET} x"
        sidecar.workshop.answer = None
        call = chat(sidecar, f"{SECRET} cancelled", stream=True)
        worker = await sidecar.worker()
        request = await worker.asked(f"{SECRET} cancelled")
        worker.generate(request, f"{SECRET} ", "more", finish=None)
        await sidecar.host.call("cancel", {"request": call})
        error = await sidecar.host.error(call)
        assert error["code"] == -32800
        worker.generate(request, f"{SECRET} too late")
        await sidecar.host.call("ping")


async def test_neither_do_the_vectors_of_an_embedding(lives, autojump_clock):
    async with lives.begin() as sidecar:
        text = "a text of 27 characters    "
        result = await sidecar.host.call("embed", {"model": "vec", "input": text, "retention": "ephemeral"})
        assert result["embeddings"] == [[27.0, 0.5]]
        files = [(name, bytes(file.data)) for names in lives.disk.files.values() for name, file in names.items()]
        assert [name for name, data in files if b"27.0" in data or text.encode() in data or name.endswith(".bin")] == []


async def test_under_a_key_it_is_heard_again_while_memory_has_it_and_then_is_expired(watched, autojump_clock):
    async with watched.begin() as sidecar:
        first = await sidecar.host.result(chat(sidecar, f"{SECRET} hello", key="k"))
        assert await sidecar.host.result(chat(sidecar, f"{SECRET} hello", key="k")) == first
    async with watched.begin() as sidecar:
        error = await sidecar.host.error(sidecar.host.send("resume", {"key": "k"}))
        assert (error["code"], error["data"]["type"]) == (1013, "expired")


async def test_a_host_that_reads_after_memory_has_let_go_hears_that_it_is_gone(watched, autojump_clock):
    watched.log = attrs.evolve(watched.log, tail_bytes=0)
    async with watched.begin() as sidecar:
        error = await sidecar.host.error(chat(sidecar, f"{SECRET} hello"))
        assert (error["code"], error["data"]["type"]) == (1013, "expired")


async def test_what_is_forgotten_beside_an_ephemeral_stream_leaves_that_alone(watched, autojump_clock):
    async with watched.begin() as sidecar:
        other = await sidecar.host.result(sidecar.chat("an answer to keep"))
        result = await sidecar.host.result(chat(sidecar, f"{SECRET} hello", key="k"))
        await sidecar.host.call("forget", {"request": other["id"]})
        assert await sidecar.host.result(chat(sidecar, f"{SECRET} hello", key="k")) == result
        await sidecar.host.call("forget", {"key": "k"})
        error = await sidecar.host.error(chat(sidecar, f"{SECRET} hello", key="k"))
        assert error["code"] == 1013


async def test_the_words_of_the_key_of_what_runs_reach_no_disk_either_when_it_is_resumed_or_cancelled(
    watched, autojump_clock
):
    async with watched.begin() as sidecar:
        sidecar.workshop.answer = None
        running = chat(sidecar, f"{SECRET} hello", key=f"a {SECRET}", stream=True)
        worker = await sidecar.worker()
        worker.generate(await worker.asked(f"{SECRET} hello"), "so far", finish=None)
        await sidecar.host.streamed(running, 1)
        heard = sidecar.host.send("resume", {"key": f"a {SECRET}"})
        await sidecar.host.streamed(heard, 1)
        assert await sidecar.host.call("cancel", {"key": f"a {SECRET}"}) == {"cancelled": True}
        for call in (running, heard):
            assert (await sidecar.host.error(call))["code"] == -32800


async def test_what_was_killed_in_the_middle_cannot_go_on_and_its_key_is_expired(watched, autojump_clock):
    async with watched.begin(leave=False) as sidecar:
        sidecar.workshop.answer = None
        running = chat(sidecar, f"{SECRET} hello", key="k", stream=True)
        worker = await sidecar.worker()
        worker.generate(await worker.asked(f"{SECRET} hello"), "so far", finish=None)
        await sidecar.host.streamed(running, 1)
    look, watched.disk = watched.disk.on_step, watched.disk.copy()
    watched.disk.on_step = look
    async with watched.begin() as sidecar:
        for _ in range(2):
            error = await sidecar.host.refused("resume", {"key": "k"})
            assert (error["code"], error["data"]["type"]) == (1013, "expired")
        assert (await sidecar.host.error(chat(sidecar, f"{SECRET} hello", key="k", stream=True)))["code"] == 1013
        told = [type(frame).__name__ for worker in sidecar.workshop.workers for frame in worker.told]
        assert "Generate" not in told
