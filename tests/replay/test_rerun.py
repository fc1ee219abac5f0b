"""Recorded sessions, run again by the sidecar's own code with recorded model output."""

from pathlib import Path
from random import Random

import attrs
import orjson
import pytest
import trio
from running_again import run_again
from test_random_lives import Chance

from mlzoo.config import Config
from mlzoo.errors import ConfigError
from mlzoo.events import recording
from mlzoo.replay.comparing import verdicts
from mlzoo.replay.rerun import rerun, rerun_with_weights
from mlzoo.replay.stand_ins import Heard
from mlzoo.replay.weights import WeightsDiffer, compared


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_happened_happens_again(lives, recorded, autojump_clock, seed):
    lives.disk.faults.sync_s = Random(seed).choice((0, 0, 0.2))
    async with lives.begin() as sidecar:
        chance = Chance(sidecar, seed)
        sidecar.workshop.answer = None
        for _ in range(60):
            await chance.act()
        sidecar.host.read_on()
        await sidecar.leave()
    found = run_again(recorded(), lives.config())
    assert found.holds, "\n".join(found.told())
    assert len(found.verdicts) >= 10


async def test_a_model_that_was_on_two_devices_is_on_two_again(lives, recorded, autojump_clock):
    alone = attrs.evolve(lives.config(), models=dict(lives.models))
    lives.models["toy"] = attrs.evolve(lives.models["toy"], replicas=2)
    async with lives.begin() as sidecar:
        sidecar.devices = tuple(attrs.evolve(sidecar.devices[0], name=f"cpu:{number}") for number in range(2))
        await sidecar.host.call("models.load", {"model": "toy"})
        chats = [sidecar.chat(f"hello {number}", stream=True) for number in range(4)]
        results = [await sidecar.host.result(chat) for chat in chats]
        await sidecar.leave()
    assert {result["device"] for result in results} == {"cpu:0", "cpu:1"}
    found = run_again(recorded(), alone)
    assert found.holds, "\n".join(found.told())
    assert len(found.verdicts) == 1 + len(chats)


async def one_shot(lives):
    """A whole life for one chat: the host closes stdin at once, and the sidecar drains."""
    async with lives.begin(leave=False) as sidecar:
        sidecar.workshop.answer = None
        sidecar.chat("hello", stream=True)
        sidecar.host.close()
        worker = await sidecar.worker()
        [request] = await worker.given()
        worker.generate(request, "a", finish=None)
        await trio.sleep(1)
        worker.generate(request, "b")
        await sidecar.ended.wait()


async def test_one_life_after_another_is_run_again(lives, recorded, autojump_clock):
    lives.limit(drain_s=60)
    for _ in range(3):
        await one_shot(lives)
    whole = recorded()
    assert [line["host"] for line in whole.lines if "eof" in line] == ["con-1", "con-2", "con-3"]
    found = run_again(whole, lives.config())
    assert found.told() == ["3 calls run again, 3 the same: all as recorded"]


async def test_an_end_that_is_told_again_in_a_later_life_ends_nothing(lives, recorded, autojump_clock):
    lives.limit(drain_s=60)
    for _ in range(2):
        await one_shot(lives)
    whole = recorded()
    place = next(i for i, line in enumerate(whole.lines) if line.get("host") == "con-2" and "eof" in line)
    again = {**whole.lines[place], "host": "con-1", "n": 3}
    lines = (*whole.lines[:place], again, *whole.lines[place:])
    assert run_again(attrs.evolve(whole, lines=lines), lives.config()).holds


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 4])
async def test_random_lives_that_end_are_run_again(lives, recorded, autojump_clock, seed):
    for life in range(3):
        async with lives.begin() as sidecar:
            chance = Chance(sidecar, seed * 10 + life)
            sidecar.workshop.answer = None
            for _ in range(25):
                await chance.act()
                await trio.sleep(0.01)  # Of what takes several steps in one moment a recording has not each step.
            sidecar.host.read_on()
            await sidecar.leave()
    found = run_again(recorded(), lives.config())
    assert found.holds, "\n".join(found.told())


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 4, 6, 17])
async def test_random_lives_that_are_killed_are_run_again(lives, recorded, autojump_clock, seed):
    for life in range(3):
        async with lives.begin(leave=False) as sidecar:
            await sidecar.host.call("ping")
            chance = Chance(sidecar, seed * 10 + life)
            sidecar.workshop.answer = None
            for _ in range(25):
                await chance.act()
                await trio.sleep(0.01)
        lives.disk = lives.disk.copy()  # Killed: what was written is there, locks are not.
    async with lives.begin() as sidecar:
        await sidecar.host.result(sidecar.chat("still here"))
    found = run_again(recorded(), lives.config())
    assert found.holds, "\n".join(found.told())


@pytest.mark.parametrize("said_s", [2.9995, 3.0, 3.0005])
async def test_an_answer_falls_on_the_side_of_its_deadline_on_which_it_fell(lives, recorded, autojump_clock, said_s):
    async with lives.begin() as sidecar:
        sidecar.workshop.answer = None
        chat = sidecar.chat("hello", stream=True, deadline_ms=3000)
        worker = await sidecar.worker()
        [request] = await worker.given()
        await trio.sleep_until(said_s)
        worker.generate(request, "late")
        await sidecar.host.response(chat)
    found = run_again(recorded(), lives.config())
    assert found.told() == ["1 calls run again, 1 the same: all as recorded"]


async def test_with_real_weights_a_crash_is_refused_in_one_sentence(lives, recorded, autojump_clock):
    async with lives.begin(leave=False) as sidecar:
        await sidecar.host.result(sidecar.chat("hello"))
    lives.disk = lives.disk.copy()
    async with lives.begin() as sidecar:
        await sidecar.host.result(sidecar.chat("still here"))
    with pytest.raises(ConfigError, match="holds 2 lives, and life 2 began after a crash"):
        rerun_with_weights(recorded(), lives.config(), allow_other=False, timeout_s=1)


CHAT = recording.read(Path(__file__).parent.parent.parent / "replay" / "cancel.ndjson")


def test_a_changed_piece_is_a_difference_with_its_place(config):
    lines = orjson.loads(orjson.dumps(CHAT.lines))
    [piece] = [line for line in lines if line.get("stream", {}).get("seq") == 3]
    piece["stream"]["delta"]["content"] = "?"
    found = rerun(recording.Recording(header=CHAT.header, lines=tuple(lines)), config)
    assert not found.holds
    assert '  stream[3].delta.content: recorded "?", got ":"' in found.told()


def test_what_real_weights_may_say_otherwise_is_told_and_no_fault():
    again = {("con-1", 1): Heard(answer={"error": {"code": -32800, "message": "The request was cancelled."}})}
    was, now = {("con-1", 1): [30, 31, 32]}, {("con-1", 1): [30, 9]}
    [fast] = verdicts(CHAT, again, (was, now))
    assert str(fast.found[0]) == "token 2 of 2 (the 1 before it are equal): recorded 31, got 9"
    assert fast.allowed
    lines = orjson.loads(orjson.dumps(CHAT.lines))
    lines[0]["params"]["determinism"] = "exact"
    [exact] = verdicts(recording.Recording(header=CHAT.header, lines=tuple(lines)), again, (was, now))
    assert exact.found
    assert not exact.allowed


@pytest.mark.parametrize("code", [1002, 1008])
def test_an_end_that_the_clock_made_may_be_another_with_real_weights(code):
    lines = orjson.loads(orjson.dumps(CHAT.lines))
    lines[0]["params"]["determinism"] = "exact"
    [error] = [line["error"] for line in lines if line.get("for") == 1 and "error" in line]
    error["code"] = code
    late = recording.Recording(header=CHAT.header, lines=tuple(lines))
    again = {("con-1", 1): Heard(answer={"result": {"finish_reason": "length"}})}
    was = {("con-1", 1): [30, 31]}
    [verdict] = verdicts(late, again, (was, {("con-1", 1): [30, 31, 32]}))
    assert verdict.found
    assert verdict.allowed.startswith("the recorded end depended on the clock")
    [verdict] = verdicts(late, again, (was, {("con-1", 1): [30, 9, 32]}))
    assert str(verdict.found[0]) == "token 2 of 2 (the 1 before it are equal): recorded 31, got 9"
    assert not verdict.allowed


def test_of_what_nobody_waited_for_the_first_of_each_kind_is_told(config):
    lines = orjson.loads(orjson.dumps(CHAT.lines))
    lines[0]["params"]["max_tokens"] = -1
    found = rerun(recording.Recording(header=CHAT.header, lines=tuple(lines)), config)
    steps = [fault for fault in found.faults if "ReportStep" in fault]
    assert len(steps) == 1
    assert "more of the kind" in steps[0]


def test_other_weights_are_an_error_unless_they_are_allowed():
    with pytest.raises(WeightsDiffer, match="give --allow-other"):
        compared(["model toy had other weights"], allow_other=False)
    assert compared(["model toy had other weights"], allow_other=True) == ["model toy had other weights"]


@pytest.fixture
def config():
    return Config()
