"""Faults of our own, planted: each is contained, told and numbered, and everybody else goes on."""

import fake_worker
import orjson
import pytest
import trio

import mlzoo.actors.engine
from mlzoo import frames
from mlzoo.events import commands as cmd


def chats(sidecar, *prompts):
    """Send chats in one chunk, so that they are decided together."""
    ids = []
    lines = []
    for prompt in prompts:
        ids.append(len(sidecar.host.methods) + 500)
        params = {"model": "toy", "messages": [{"role": "user", "content": prompt}]}
        lines.append(orjson.dumps(sidecar.host.request("chat", params, ids[-1])))
    sidecar.host.feed(b"\n".join(lines) + b"\n")
    return ids


@pytest.fixture
def acting_fails(monkeypatch):
    """The engine cannot make a frame of what was asked with the prompt "cursed"."""
    made = mlzoo.actors.engine.frame_of

    def frame_of(submit, text, rerouted=""):
        if text["messages"][-1]["content"] == "cursed":
            raise ValueError("cannot be carried out")
        return made(submit, text, rerouted)

    monkeypatch.setattr(mlzoo.actors.engine, "frame_of", frame_of)


@pytest.fixture
def deciding_fails(monkeypatch):
    """The core cannot decide about one kind of command, whichever the test names."""
    decide = mlzoo.actors.engine.decide
    failing = set()

    def failing_decide(state, command, first_seq, at_ms):
        if type(command) in failing:
            raise KeyError("a bug")
        return decide(state, command, first_seq, at_ms)

    monkeypatch.setattr(mlzoo.actors.engine, "decide", failing_decide)
    return failing


@pytest.mark.usefixtures("acting_fails")
async def test_an_engine_that_crashes_as_it_acts_loses_that_request_alone(lives, autojump_clock):
    async with lives.begin() as sidecar:
        await sidecar.host.call("models.load", {"model": "toy"})
        ids = chats(sidecar, "a", "cursed", "b", "cursed", "c")
        for id_, prompt in zip(ids, ("a", None, "b", None, "c"), strict=True):
            if prompt is not None:
                assert (await sidecar.host.result(id_))["message"]["content"] == prompt
            else:
                error = await sidecar.host.error(id_)
                assert error["code"] == -32603
                noted = await sidecar.host.call("events.read", {"types": ["IncidentNoted"]})
                assert error["data"]["incident"] + 1 in {event["log_seq"] for event in noted["events"]}
        [engine] = [a for a in (await sidecar.host.call("status"))["actors"] if a["name"] == "engine"]
        assert engine["restarts"] >= 1


async def test_what_cannot_be_decided_is_an_incident_and_the_next_call_works(lives, autojump_clock, deciding_fails):
    async with lives.begin() as sidecar:
        deciding_fails.add(cmd.Submit)
        error = await sidecar.host.error(sidecar.chat("x"))
        assert error["code"] == -32603
        [noted] = (await sidecar.host.call("events.read", {"types": ["IncidentNoted"]}))["events"]
        assert noted["data"] == {"command": "Submit", "error": "KeyError"}
        assert noted["log_seq"] == error["data"]["incident"] + 1
        assert "a bug" in sidecar.stderr_text()
        deciding_fails.clear()
        await sidecar.host.result(sidecar.chat("x"))


async def test_a_report_that_cannot_be_decided_ends_its_request(lives, autojump_clock, deciding_fails):
    async with lives.begin() as sidecar:
        deciding_fails.add(cmd.ReportStep)
        assert (await sidecar.host.error(sidecar.chat("x")))["code"] == -32603
        deciding_fails.clear()
        await sidecar.host.result(sidecar.chat("x"))


async def test_a_persona_is_told_though_the_engine_crashed_before_it_had_written_it(
    lives, autojump_clock, deciding_fails
):
    async with lives.begin() as sidecar:
        await sidecar.host.result(sidecar.chat("x"))
        written = sidecar.services.log.written
        deciding_fails.update({cmd.Cancel, cmd.ReportIncident})
        clerk = {"name": "clerk", "system": "be brief"}
        put, cancel = sidecar.host.request("personas.put", clerk, 500), {"jsonrpc": "2.0", "method": "cancel"}
        cancel["params"] = {"request": 999}
        sidecar.host.feed(orjson.dumps(put) + b"\n" + orjson.dumps(cancel) + b"\n")  # They are decided together.
        while "clerk" not in sidecar.state.personas:
            await trio.lowlevel.checkpoint()
        assert sidecar.services.log.written == written
        assert await sidecar.host.call("personas.get", {"name": "clerk"}) == {**clerk, "source": "host"}
        assert sidecar.services.log.written == sidecar.services.log.last_seq
        deciding_fails.clear()
        assert await sidecar.host.result(500) == {"name": "clerk"}


async def test_what_cannot_be_written_as_json_is_an_incident(lives, autojump_clock, monkeypatch):
    async with lives.begin() as sidecar:
        await sidecar.host.call("ping")
        append = sidecar.services.log.append

        def cannot(command, *rest, **more):
            if isinstance(command, cmd.Submit):
                raise TypeError("no JSON")
            return append(command, *rest, **more)

        monkeypatch.setattr(sidecar.services.log, "append", cannot)
        first, second = chats(sidecar, "a", "b")
        assert (await sidecar.host.error(first))["code"] == -32603
        assert (await sidecar.host.error(second))["code"] == -32603
        monkeypatch.undo()
        await sidecar.host.result(sidecar.chat("x"))


async def test_a_method_that_fails_is_answered_with_an_incident_and_no_traceback(lives, autojump_clock, monkeypatch):
    async with lives.begin() as sidecar:
        await sidecar.host.call("ping")
        monkeypatch.setattr("mlzoo.actors.elsewhere.providers", lambda _services: 1 / 0)
        error = await sidecar.host.refused("providers.list")
        assert error["code"] == -32603
        assert "Traceback" not in str(error)
        assert "ZeroDivisionError" in sidecar.stderr_text()
        assert await sidecar.host.call("ping") == {}


async def incident_of(sidecar, error):
    """Return the incident that a host was told of: as the log notes it, and what stderr says under its number."""
    assert error["code"] == -32603
    number = error["data"]["incident"]
    events = (await sidecar.host.call("events.read", {"types": ["IncidentNoted"]}))["events"]
    [noted] = [event["data"] for event in events if event["log_seq"] == number + 1]
    told = [orjson.loads(line) for line in sidecar.stderr_text().splitlines()]
    [story] = [line["traceback"] for line in told if line.get("incident") == number]
    return noted["command"], story


async def test_a_fault_in_a_worker_is_an_incident_with_the_workers_traceback(lives, autojump_clock):
    async with lives.begin() as sidecar:
        sidecar.workshop.answer = lambda worker, frame: worker.say(
            frames.WorkFailed(request=frame.request, code=-32603, message="it broke", story="Traceback: of a toy")
        )
        error = await sidecar.host.error(sidecar.chat("x"))
        assert error["message"] == "it broke"
        assert await incident_of(sidecar, error) == ("ReportFailure", "Traceback: of a toy")


async def test_a_fault_in_a_worker_of_which_nobody_waits_to_hear_is_on_stderr_all_the_same(lives, autojump_clock):
    async with lives.begin() as sidecar:
        sidecar.workshop.answer = None
        chat = sidecar.chat("x")
        worker = await sidecar.worker()
        [request] = await worker.given()
        await sidecar.host.call("cancel", {"request": chat})
        worker.say(frames.WorkFailed(request=request, code=-32603, message="it broke", story="Traceback: too late"))
        sidecar.workshop.answer = fake_worker.echo
        await sidecar.host.result(sidecar.chat("next"))
        assert "Traceback: too late" in sidecar.stderr_text()


async def test_a_fault_in_a_removal_is_an_incident(lives, autojump_clock, monkeypatch):
    async with lives.begin() as sidecar:

        def busy(_store, _entry):
            raise OSError("the file is open")

        monkeypatch.setattr("mlzoo.store.layout.Store.remove", busy)
        error = await sidecar.host.refused("models.remove", {"model": "toy"})
        command, story = await incident_of(sidecar, error)
        assert command == "ReportRemoved"
        assert "in busy" in story


async def test_a_fault_in_the_registry_is_an_incident_for_whoever_waits_for_the_model(lives, autojump_clock):
    async with lives.begin() as sidecar:
        await sidecar.host.call("models.unload", {"model": "toy"})  # It has started.
        sidecar.devices = None  # which looking at the devices never gives
        error = await sidecar.host.error(sidecar.chat("x"))
        command, story = await incident_of(sidecar, error)
        assert command == "ReportLoadFailed"
        assert "TypeError" in story


async def test_the_vectors_of_an_answer_that_cannot_be_decided_do_not_stay(lives, autojump_clock, deciding_fails):
    async with lives.begin() as sidecar:
        await sidecar.host.call("embed", {"model": "vec", "input": "x"})
        kept = [name for names in lives.disk.files.values() for name in names if name.endswith(".bin")]
        assert len(kept) == 1
        deciding_fails.add(cmd.ReportAnswer)
        assert (await sidecar.host.refused("embed", {"model": "vec", "input": "y"}))["code"] == -32603
        assert [name for names in lives.disk.files.values() for name in names if name.endswith(".bin")] == kept
