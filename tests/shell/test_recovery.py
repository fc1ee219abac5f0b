"""Recovery: a keyed request goes on after its worker or its sidecar died, from its last recorded token."""

import hashlib
from contextlib import asynccontextmanager

import attrs
import pytest
from sidecar_life import LOG

from mlzoo import frames


@asynccontextmanager
async def killed(lives):
    """A life that ends by kill -9: what was written stays, also what was not synced yet, and nobody holds the log."""
    async with lives.begin(leave=False) as sidecar:
        yield sidecar
    lives.disk = lives.disk.copy()


def say(sidecar, prompt, key="k", **params):
    return sidecar.chat(prompt, stream=True, key=key, **params)


def pieces(host, call):
    return [(p["seq"], p["delta"]["content"]) for p in host.notifications("stream") if p["request"] == call]


def goes_on(worker):
    """The frame with which a request was handed to a worker again, once it was."""
    return worker.until(lambda: next((f for f in worker.told if getattr(f, "resume", None)), None))


def completed(sidecar):
    return [r["data"] for r in sidecar.watch.groups(durable=False) if r["type"] == "RequestCompleted"]


async def interrupted(sidecar, *said, prompt="tell me", **params):
    """Have a worker say some of an answer, and the host hear it; return the host's call, and who was asked for what."""
    sidecar.workshop.answer = None
    call = say(sidecar, prompt, **params)
    worker = await sidecar.worker(len(sidecar.workshop.workers))
    request = await worker.asked(prompt)
    worker.generate(request, *said, finish=None)
    heard = len([piece for piece in said if piece])
    await sidecar.host.until(lambda: len(pieces(sidecar.host, call)) == heard)
    await sidecar.host.until(lambda: sidecar.state.requests[request].completion_tokens == len(said))
    return call, worker, request


async def test_who_has_heard_nothing_is_told_of_no_piece_when_the_worker_dies(lives, autojump_clock):
    async with lives.begin() as sidecar:
        call, worker, _ = await interrupted(sidecar)
        worker.end(-9)
        error = await sidecar.host.error(call)
        assert (error["code"], error["data"]["resumable"]) == (1008, True)
        assert not {"seq", "partial"} & error["data"].keys()


@pytest.mark.parametrize(("determinism", "resume"), [("exact", "exact"), ("fast", "prefill")])
async def test_a_stream_goes_on_after_its_worker_died_and_the_host_resumed_it(
    lives, autojump_clock, determinism, resume
):
    async with lives.begin() as sidecar:
        call, worker, request = await interrupted(sidecar, "once ", "", "upon ", determinism=determinism)
        worker.end(-9)
        error = await sidecar.host.error(call)
        told = {name: error["data"][name] for name in ("partial", "seq", "resumable")}
        assert (error["code"], told) == (1008, {"partial": "once upon ", "seq": 1, "resumable": True})
        resumed = sidecar.host.send("resume", {"key": "k", "after": 1})
        second = await sidecar.worker(1)
        frame = await goes_on(second)
        assert (frame.resume, frame.tokens, frame.said) == (resume, (7, 7, 7), "once upon ")
        second.generate(request, "a ", "time", begins=False)
        result = await sidecar.host.result(resumed)
        assert (result["message"]["content"], result["resumed"]) == ("once upon a time", resume)
        assert result["usage"] == {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8, "cached_tokens": 0}
        assert pieces(sidecar.host, resumed) == [(2, "a "), (3, "time")]
        [end] = completed(sidecar)
        assert end["digest"] == hashlib.sha256(b"once upon a time").hexdigest()


async def test_the_next_sidecar_goes_on_by_itself_and_the_host_hears_each_piece_once(lives, autojump_clock):
    async with killed(lives) as sidecar:
        call, _, request = await interrupted(sidecar, "once ", "upon ", determinism="exact")
        heard = pieces(sidecar.host, call)
    async with lives.begin() as sidecar:
        sidecar.workshop.answer = None
        worker = await sidecar.worker()
        frame = await goes_on(worker)
        assert (frame.request, frame.resume, frame.tokens, frame.said) == (request, "exact", (7, 7), "once upon ")
        assert frame.messages == ({"role": "user", "content": "tell me"},)
        worker.generate(request, "a ", finish=None, begins=False)
        resumed = sidecar.host.send("resume", {"key": "k", "after": heard[-1][0]})
        await sidecar.host.until(lambda: pieces(sidecar.host, resumed))
        worker.generate(request, "time", begins=False)
        result = await sidecar.host.result(resumed)
        assert heard + pieces(sidecar.host, resumed) == list(enumerate(["once ", "upon ", "a ", "time"]))
        assert (result["message"]["content"], result["resumed"]) == ("once upon a time", "exact")


async def test_other_kernels_in_the_next_life_make_it_a_prefill_and_the_result_says_so(lives, autojump_clock):
    async with killed(lives) as sidecar:
        await interrupted(sidecar, "a", determinism="exact")
    async with lives.begin() as sidecar:
        sidecar.workshop.fingerprint = "other kernels"
        resumed = sidecar.host.send("resume", {"key": "k"})
        assert (await goes_on(await sidecar.worker())).resume == "prefill"
        assert (await sidecar.host.result(resumed))["resumed"] == "prefill"


async def test_several_rows_of_one_step_go_on_with_their_own_tokens_alone(lives, autojump_clock):
    async with killed(lives) as sidecar:
        sidecar.workshop.answer = None
        for name in ("a", "b", "unkeyed"):
            sidecar.chat(name, stream=True, **({} if name == "unkeyed" else {"key": name}))
        worker = await sidecar.worker()
        names = {name: await worker.asked(name) for name in ("a", "b", "unkeyed")}
        for step in range(3):
            rows = [
                frames.Row(request=request, content=f"{name}{step}", tokens=(ord(name[0]), step))
                for name, request in names.items()
            ]
            worker.say(frames.Stepped(rows=tuple(rows)))
        await sidecar.host.until(lambda: sidecar.state.requests[names["b"]].completion_tokens == 6)
    async with lives.begin() as sidecar:
        sidecar.workshop.answer = None
        worker = await sidecar.worker()
        await worker.given(2)
        told = {frame.request: (frame.tokens, frame.said) for frame in worker.running.values()}
        assert told == {
            names[name]: ((ord(name), 0, ord(name), 1, ord(name), 2), f"{name}0{name}1{name}2") for name in ("a", "b")
        }
        calls = [sidecar.host.send("resume", {"key": name}) for name in ("a", "b")]
        for request in list(worker.running):
            worker.generate(request, "end", begins=False)
        contents = [(await sidecar.host.result(call))["message"]["content"] for call in calls]
        assert contents == ["a0a1a2end", "b0b1b2end"]


async def test_what_lies_in_earlier_segments_of_the_log_is_found(lives, autojump_clock):
    lives.log = attrs.evolve(lives.log, segment_bytes=64 * 1024)
    said = [f"{number} " for number in range(30)]
    async with killed(lives) as sidecar:
        _, worker, request = await interrupted(sidecar, *said[:10])
        for part in (said[10:20], said[20:]):
            other = sidecar.chat("other")
            asked = await worker.until(lambda: next((r for r in worker.running if r != request), None))
            worker.generate(asked, *["x" * 1000] * 100)
            await sidecar.host.result(other)
            worker.generate(request, *part, finish=None, begins=False)
        await sidecar.host.until(lambda: sidecar.state.requests[request].completion_tokens == 30)
        assert len(lives.disk.names(LOG / "segments")) > 3
    async with lives.begin() as sidecar:
        sidecar.workshop.answer = None
        worker = await sidecar.worker()
        frame = await goes_on(worker)
        assert (frame.said, len(frame.tokens)) == ("".join(said), 30)
        worker.generate(request, "end", begins=False)
        resumed = sidecar.host.send("resume", {"key": "k"})
        assert (await sidecar.host.result(resumed))["message"]["content"] == "".join([*said, "end"])
        assert [seq for seq, _ in pieces(sidecar.host, resumed)] == list(range(31))


async def test_what_had_said_nothing_begins_anew_and_is_not_called_resumed(lives, autojump_clock):
    async with killed(lives) as sidecar:
        sidecar.workshop.answer = None
        say(sidecar, "well hello")
        await (await sidecar.worker()).asked("well hello")
    async with lives.begin() as sidecar:
        result = await sidecar.host.result(sidecar.host.send("resume", {"key": "k"}))
        assert result["message"]["content"] == "well hello"
        assert "resumed" not in result


async def test_an_embedding_under_a_key_is_asked_again(lives, autojump_clock):
    async with killed(lives) as sidecar:
        sidecar.workshop.answer = None
        sidecar.host.send("embed", {"model": "vec", "input": ["a", "bcd"], "key": "k"})
        await (await sidecar.worker()).given()
    async with lives.begin() as sidecar:
        result = await sidecar.host.result(sidecar.host.send("resume", {"key": "k"}))
        assert result["embeddings"] == [[1.0, 0.5], [3.0, 0.5]]


async def test_without_a_key_a_request_ends_with_its_sidecar(lives, autojump_clock):
    async with killed(lives) as sidecar:
        sidecar.workshop.answer = None
        sidecar.chat("hello")
        await (await sidecar.worker()).asked("hello")
    async with lives.begin() as sidecar:
        await sidecar.host.call("models.list")
        await sidecar.host.result(sidecar.chat("y"))
        [failed] = [r["data"] for r in sidecar.watch.groups(durable=False) if r["type"] == "RequestFailed"]
        assert failed["failure"]["code"] == 1008


async def test_at_the_end_of_stdin_a_keyed_request_is_left_for_the_next_sidecar(lives, autojump_clock):
    async with lives.begin() as sidecar:
        call, _, _ = await interrupted(sidecar, "well ", prompt="well hello")
        await sidecar.leave()
        error = await sidecar.host.error(call)
        assert (error["code"], error["data"]["partial"], error["data"]["resumable"]) == (1008, "well ", True)
    assert sidecar.status == 0
    async with lives.begin() as sidecar:
        resumed = sidecar.host.send("resume", {"key": "k", "after": 0})
        assert (await sidecar.host.result(resumed))["message"]["content"] == "well hello"


async def test_who_resumes_and_ends_stdin_at_once_hears_that_it_goes_on_later(lives, autojump_clock):
    async with killed(lives) as sidecar:
        await interrupted(sidecar, "so ")
    async with lives.begin() as sidecar:
        sidecar.workshop.answer = None
        resumed = sidecar.host.send("resume", {"key": "k"})
        await sidecar.leave()
        error = await sidecar.host.error(resumed)
        assert (error["code"], error["data"]["partial"], error["data"]["resumable"]) == (1008, "so ", True)


async def test_what_is_suspended_can_be_cancelled_by_its_key_alone(lives, autojump_clock):
    async with killed(lives) as sidecar:
        await interrupted(sidecar, "so ")
    async with lives.begin() as sidecar:
        sidecar.workshop.loads = "later"
        await sidecar.worker()
        assert (await sidecar.host.call("status"))["requests"]["suspended"] == 1
        assert await sidecar.host.call("cancel", {"key": "k"}) == {"cancelled": True}
        error = await sidecar.host.refused("resume", {"key": "k"})
        assert (error["code"], error["data"]["partial"]) == (-32800, "so ")


async def test_a_request_whose_model_has_gone_meanwhile_ends_and_nothing_else_does(lives, autojump_clock):
    async with killed(lives) as sidecar:
        await interrupted(sidecar, "so ")
    model = lives.models.pop("toy")
    async with lives.begin() as sidecar:
        error = await sidecar.host.refused("resume", {"key": "k"})
        assert (error["code"], error["data"]["partial"]) == (1003, "so ")
        [registry] = [a for a in (await sidecar.host.call("status"))["actors"] if a["name"] == "registry"]
        assert registry["restarts"] == 0
        assert await sidecar.host.call("embed", {"model": "vec", "input": "x"})
    lives.models["toy"] = model


async def test_a_request_that_kills_each_worker_ends_before_long_and_lets_others_live(lives, autojump_clock):
    async with lives.begin() as sidecar:
        call, worker, _ = await interrupted(sidecar, "so ")
        sidecar.workshop.answer = lambda worker, frame: worker.end(-11) if frame.resume else None
        worker.end(-11)
        error = await sidecar.host.error(call)
        while error["data"]["resumable"]:
            error = await sidecar.host.refused("resume", {"key": "k"})
        assert (error["code"], error["data"]["partial"]) == (1008, "so ")
        assert len(sidecar.workshop.workers) == 3
        sidecar.workshop.answer = None
        chat = sidecar.chat("next")
        worker = await sidecar.worker(3)
        worker.generate(await worker.asked("next"), "fine")
        assert (await sidecar.host.result(chat))["message"]["content"] == "fine"


async def test_exact_is_refused_where_it_cannot_be_promised_and_fast_is_served(lives, autojump_clock):
    async with lives.begin() as sidecar:
        sidecar.workshop.fingerprint = ""
        error = await sidecar.host.error(sidecar.chat("x", determinism="exact"))
        assert (error["code"], error["data"]["feature"]) == (1010, "determinism: exact")
        await sidecar.host.result(sidecar.chat("x"))


async def test_a_request_whose_records_cannot_be_read_ends_alone(lives, autojump_clock):
    lives.log = attrs.evolve(lives.log, segment_bytes=64 * 1024)
    async with killed(lives) as sidecar:
        _, worker, request = await interrupted(sidecar, "a damaged piece")
        other = sidecar.chat("other")
        worker.generate(await worker.asked("other"), *["x" * 1000] * 200)
        await sidecar.host.result(other)
        worker.generate(request, "and on", finish=None, begins=False)
        await sidecar.host.until(lambda: sidecar.state.requests[request].completion_tokens == 2)
    first = LOG / "segments" / min(lives.disk.names(LOG / "segments"))
    lives.disk.corrupt(first, lives.disk.read(first).index(b"a damaged piece"))
    async with lives.begin(leave=False) as sidecar:
        assert (await sidecar.host.refused("resume", {"key": "k"}))["code"] == 1015
        assert (await sidecar.host.result(sidecar.chat("y")))["message"]["content"] == "y"
        assert request not in sidecar.state.requests
        assert len(sidecar.workshop.workers) == 1


async def test_a_request_outlives_as_many_workers_as_it_has_tokens(lives, autojump_clock):
    words = [f"{number} " for number in range(25)]
    heard = []
    async with lives.begin() as sidecar:
        sidecar.workshop.answer = None
        call = say(sidecar, "count", determinism="exact")
        for number, word in enumerate(words):
            worker = await sidecar.worker(number)
            request = await worker.asked("count")
            worker.generate(request, word, finish=None, begins=number == 0)
            worker.end(-9)
            await sidecar.host.error(call)
            heard += pieces(sidecar.host, call)
            call = sidecar.host.send("resume", {"key": "k", "after": heard[-1][0]})
        worker = await sidecar.worker(len(words))
        worker.generate(await worker.asked("count"), "end", begins=False)
        result = await sidecar.host.result(call)
        assert heard + pieces(sidecar.host, call) == list(enumerate([*words, "end"]))
        assert (result["message"]["content"], result["resumed"]) == ("".join([*words, "end"]), "exact")
