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
from mlzoo.replay.comparing import all_part, verdicts
from mlzoo.replay.export import Part
from mlzoo.replay.inputs import Said, lives_of
from mlzoo.replay.leaving_out import AFTER, KILLED, runnable
from mlzoo.replay.rerun import rerun
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


async def test_what_was_forgotten_or_never_kept_is_left_out_with_what_depends_on_it(lives, recorded, autojump_clock):
    async with lives.begin() as sidecar:
        host = sidecar.host
        await host.result(sidecar.chat("hush", stream=True, key="mine"))
        await host.result(sidecar.chat("hush", stream=True, retention="ephemeral"))
        await host.result(host.send("resume", {"key": "mine"}))
        kept = await host.result(sidecar.chat("kept", stream=True))
        await host.call("forget", {"key": "mine"})
    found = run_again(recorded(), lives.config())
    assert found.holds, "\n".join(found.told())
    assert found.told() == [
        "not run again: con-1 line 1: its text is forgotten, and not in the recording",
        "not run again: con-1 line 2: its text is ephemeral, and not in the recording",
        "not run again: con-1 line 3: its text is forgotten, and not in the recording",
        "not run again: con-1 line 5: what it made forgotten is not run again",
        "1 calls run again, 1 the same, 4 lines not run: all as recorded",
    ]
    assert kept["message"]["content"] == "kept"


async def test_what_was_forgotten_while_it_ran_is_left_out_and_the_others_are_run(lives, recorded, autojump_clock):
    async with lives.begin() as sidecar:
        host = sidecar.host
        sidecar.workshop.answer = None
        sidecar.chat("hush", stream=True, key="mine")
        worker = await sidecar.worker()
        await worker.given()
        await host.call("forget", {"key": "mine"})
        kept = sidecar.chat("kept", stream=True)
        [request] = await worker.given()
        worker.generate(request, "kept")
        await host.result(kept)
    found = run_again(recorded(), lives.config())
    assert found.holds, "\n".join(found.told())
    assert found.told()[-1] == "1 calls run again, 1 the same, 3 lines not run: all as recorded"


async def test_where_nothing_can_be_run_that_is_said_before_anything_is(lives, recorded, autojump_clock):
    async with lives.begin() as sidecar:
        await sidecar.host.result(sidecar.chat("hush", retention="ephemeral"))
    with pytest.raises(ConfigError, match="con-1 line 1: its text is ephemeral, and not in the recording"):
        run_again(recorded(), lives.config())


async def test_a_span_and_the_connection_of_a_resume_are_run_as_far_as_they_can_be(lives, recorded, autojump_clock):
    async with lives.begin() as sidecar:
        sidecar.workshop.answer = None
        first = sidecar.chat("hello", stream=True, key="mine")
        worker = await sidecar.worker()
        request = await worker.asked("hello")
        worker.generate(request, "a", finish=None)
        await sidecar.host.streamed(first, 1)
        client = sidecar.connect()
        resumed = client.send("resume", {"key": "mine"})
        await client.streamed(resumed, 1)
        _, connection = sidecar.services.connections
        other = sidecar.chat("other", stream=True)
        worker.generate(await worker.asked("other"), "b")
        worker.generate(request, "c")
        for host, call in ((sidecar.host, first), (sidecar.host, other), (client, resumed)):
            await host.response(call)
    with pytest.raises(ConfigError, match="line 1: what it goes on with is not in the recording"):
        run_again(recorded(part=Part(connection=connection)), lives.config())
    groups = list(recorded().groups())
    begin = next(group["group"] for group in groups if group["command"][0] == "Resume")
    span = recorded(part=Part(span=(begin, groups[-1]["group"])))
    assert [line["method"] for line in span.lines if "method" in line] == ["resume", "chat"]
    found = run_again(span, lives.config())
    assert found.holds, "\n".join(found.told())
    assert "1 calls run again, 1 the same, 1 lines not run: all as recorded" in found.told()


async def test_a_span_in_which_a_ready_model_is_told_of_again_is_run_as_any_other(lives, recorded, autojump_clock):
    async with lives.begin() as sidecar:
        await sidecar.host.result(sidecar.chat("one"))
        await sidecar.host.result(sidecar.chat("two"))
        worker = await sidecar.worker()
        worker.explained("toy", "its steps are compiled by now")
        await sidecar.host.result(sidecar.chat("three"))
        info = await sidecar.host.call("models.info", {"model": "toy"})
        assert info["why"] == ["its steps are compiled by now"]
    whole = recorded()
    found = run_again(whole, lives.config())
    assert found.holds, "\n".join(found.told())
    groups = list(whole.groups())
    begins = [group["group"] for group in groups if group["command"][0] == "Submit"]
    assert sum(group["command"][0] == "ReportLoaded" for group in groups) == 2
    found = run_again(recorded(part=Part(span=(begins[1], groups[-1]["group"]))), lives.config())
    assert found.holds, "\n".join(found.told())


async def killed_amid_two_chats(lives):
    async with lives.begin(leave=False) as sidecar:
        await sidecar.host.result(sidecar.chat("hello"))
        sidecar.workshop.answer = None
        worker = await sidecar.worker()
        cut = sidecar.chat("cut", stream=True, key="mine")
        worker.generate(await worker.asked("cut"), "a", finish=None)
        await sidecar.host.streamed(cut, 1)
    lives.disk = lives.disk.copy()
    async with lives.begin() as sidecar:
        await sidecar.host.result(sidecar.host.send("resume", {"key": "mine"}))
        await sidecar.host.result(sidecar.chat("still here"))


async def test_with_real_weights_what_a_crash_cut_is_left_out_and_the_rest_is_run(lives, recorded, autojump_clock):
    await killed_amid_two_chats(lives)
    whole = recorded()
    part = runnable(whole, is_real=True)
    assert part.reasons == {("con-1", 2): KILLED, ("con-2", 1): AFTER}
    methods = [(line["host"], line["n"], line.get("method")) for line in part.found.lines if "host" in line]
    assert [line for line in methods if line[2]] == [("con-1", 1, "chat"), ("con-2", 2, "chat")]
    first, second = lives_of(part.found)
    assert [item.connection for item in first.inputs if isinstance(item, Said)][:1] == ["con-1"]
    assert [item.connection for item in second.inputs if isinstance(item, Said)][:1] == ["con-2"]
    assert runnable(whole, is_real=False).reasons == {}


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
    was, now = {("con-1", 1): [30, 31, 32, 33, 34, 35]}, {("con-1", 1): [30, 31, 32, 33, 9]}
    [fast] = verdicts(CHAT, again, (was, now))
    assert str(fast.found[0]) == "token 5 of 5 (the 4 before it are equal): recorded 34, got 9"
    assert fast.allowed
    lines = orjson.loads(orjson.dumps(CHAT.lines))
    lines[0]["params"]["determinism"] = "exact"
    [exact] = verdicts(recording.Recording(header=CHAT.header, lines=tuple(lines)), again, (was, now))
    assert exact.found
    assert not exact.allowed


def one_of(temperature, *, calls=1):
    """A recording of chats with determinism fast, each with an answer."""
    lines, result = [], {"message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
    for number in range(1, calls + 1):
        sampling = {"temperature": temperature, "seed": 1}
        data = {"request": f"req-{number}", "caller": {"connection": "con-1", "rpc": number}, "sampling": sampling}
        lines += [
            {"host": "con-1", "n": number, "ms": 0, "id": number, "method": "chat", "params": {}},
            {"sidecar": "con-1", "for": number, "ms": 0, "result": result},
            {"group": number, "at_ms": 0, "ms": 0, "command": ["Submit", 1, data], "events": []},
        ]
    again = {("con-1", number): Heard(answer={"result": result}) for number in range(1, calls + 1)}
    return recording.Recording(header={"recording": 1}, lines=tuple(lines)), again


def test_a_greedy_answer_with_real_weights_must_begin_as_recorded_and_one_that_is_drawn_need_not():
    was, now = {("con-1", 1): [19556, *range(19)]}, {("con-1", 1): [57, *range(19)]}
    for temperature, is_fault in ((0, True), (0.7, False)):
        [verdict] = verdicts(*one_of(temperature), (was, now))
        assert str(verdict.found[0]) == "token 1 of 20 (the 0 before it are equal): recorded 19556, got 57"
        assert bool(verdict.allowed) != is_fault


@pytest.mark.parametrize(("calls", "parting", "said"), [(2, 2, False), (3, 2, False), (3, 3, True)])
def test_where_all_of_several_answers_part_that_is_a_fault_however_late(calls, parting, said):
    found, again = one_of(0, calls=calls)
    was = {("con-1", number): [*range(10)] for number in range(1, calls + 1)}
    now = {**was, **{("con-1", number): [*range(9), 99] for number in range(1, parting + 1)}}
    judged = verdicts(found, again, (was, now))
    assert [bool(verdict.allowed) for verdict in judged] == [True] * parting + [False] * (calls - parting)
    assert (all_part(found, judged) is not None) == said


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
