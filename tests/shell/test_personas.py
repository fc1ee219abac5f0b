"""Personas over the wire: configured or described by hosts, applied to requests, carried on, and gone when deleted."""

import attrs
import pytest
from test_conversations import get, said, told, turn
from test_forget_calls import files_with
from test_forks_and_forgetting import fill
from test_recovery import killed
from test_storage import break_disk

from mlzoo import frames
from mlzoo.config.schema import PersonaEntry, SamplingDefaults, TruncationPolicy

SECRET = "xyzzy"
PIRATE = {
    "name": "pirate",
    "system": f"talk like a pirate, {SECRET}",
    "model": "toy",
    "sampling": {"temperature": 0.25},
    "greeting": "ahoy",
    "truncation": {"policy": "keep_last", "turns": 2},
}


@pytest.fixture
def lives(lives, monkeypatch):
    """Sidecars with a configured persona of the same name."""
    clerk = PersonaEntry(
        name="pirate",
        system="talk like a clerk",
        sampling=SamplingDefaults(top_k=7),
        truncation=TruncationPolicy(policy="none"),
    )
    plain = lives.config
    more = {"personas": {"pirate": clerk}, "broken_personas": {"torn": "torn.yaml: system: expected a string, got 3"}}
    monkeypatch.setattr(lives, "config", lambda: attrs.evolve(plain(), **more))
    return lives


def asked(worker):
    return [frame for frame in worker.told if isinstance(frame, frames.Generate)]


async def put(sidecar, **more):
    return await sidecar.host.call("personas.put", PIRATE | more)


async def test_a_persona_says_who_answers_and_how_where_the_request_is_silent(lives, autojump_clock):
    async with lives.begin() as sidecar:
        assert await put(sidecar) == {"name": "pirate"}
        await turn(sidecar, "one", persona="pirate")
        await turn(sidecar, "two", temperature=0.5)  # the conversation's persona still holds
        await sidecar.host.result(sidecar.chat("alone", persona="pirate"))
        first, second, alone = asked(await sidecar.worker())
        system, greeting = ("system", PIRATE["system"]), ("assistant", "ahoy")
        assert told(await sidecar.worker()) == [
            [system, greeting, ("user", "one")],
            [system, greeting, ("user", "one"), ("assistant", "one"), ("user", "two")],
            [system, ("user", "alone")],
        ]
        assert [frame.sampling.temperature for frame in (first, second, alone)] == [0.25, 0.5, 0.25]
        assert [(frame.truncation.policy, frame.truncation.keep_last) for frame in (first, second)] == [
            ("keep_last", 2)
        ] * 2
        assert (second.leading, second.turns) == (1, (3,))
        shown = await get(sidecar)
        assert (said(shown)[0], shown["persona"]) == (greeting, "pirate")


async def test_a_system_prompt_of_the_host_goes_before_that_of_the_persona(lives, autojump_clock):
    async with lives.begin() as sidecar:
        messages = [{"role": "system", "content": "mine"}, {"role": "user", "content": "one"}]
        await sidecar.host.call("chat", {"messages": messages, "persona": "pirate"})
        assert told(await sidecar.worker()) == [[("system", "mine"), ("user", "one")]]


async def test_a_description_survives_and_hides_the_configured_one_until_it_is_deleted(lives, autojump_clock):
    async with killed(lives) as sidecar:
        assert await sidecar.host.call("personas.get", {"name": "pirate"}) == {
            "name": "pirate",
            "system": "talk like a clerk",
            "sampling": {"top_k": 7},
            "truncation": {"policy": "none", "turns": 0},
            "source": "configuration",
        }
        await put(sidecar)
    async with lives.begin() as sidecar:
        assert await sidecar.host.call("personas.get", {"name": "pirate"}) == {**PIRATE, "source": "host"}
        found = await sidecar.host.call("personas.list")
        assert found["personas"] == [{"name": "pirate", "source": "host"}]
        assert found["broken"] == [{"name": "torn", "error": "torn.yaml: system: expected a string, got 3"}]
        assert files_with(lives, SECRET)
        assert (await sidecar.host.call("personas.delete", {"name": "pirate"}))["groups"] == 1
        assert files_with(lives, SECRET) == []
        assert (await sidecar.host.call("personas.get", {"name": "pirate"}))["source"] == "configuration"
        assert (await sidecar.host.call("status"))["personas"] == 1


async def test_a_later_description_changes_no_earlier_turn(lives, autojump_clock):
    async with lives.begin() as sidecar:
        sidecar.workshop.answer = None
        await put(sidecar)
        call = sidecar.chat("one", persona="pirate", conversation="talk")
        worker = await sidecar.worker()
        request = await worker.asked("one")
        waiting = sidecar.chat("two", conversation="talk", key="k")
        await put(sidecar, system="talk like a parrot", greeting="squawk")
        worker.generate(request, "yes")
        await sidecar.host.result(call)
        again = await worker.asked("two")
        assert told(worker)[1][:2] == [("system", PIRATE["system"]), ("assistant", "ahoy")]
        worker.generate(again, "yes")
        await sidecar.host.result(waiting)
        call = sidecar.chat("three", conversation="talk")
        worker.generate(await worker.asked("three"), "yes")
        await sidecar.host.result(call)
        assert told(worker)[2][:2] == [("system", "talk like a parrot"), ("assistant", "ahoy")]


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"model": "nothing"}, 1003),
        ({"truncation": {"policy": "burn"}}, -32602),
        ({"sampling": {"temperature": -1}}, -32602),
        ({"name": ""}, -32602),
    ],
)
async def test_what_does_not_hold_is_refused(lives, autojump_clock, params, code):
    async with lives.begin() as sidecar:
        assert (await sidecar.host.refused("personas.put", PIRATE | params))["code"] == code
        assert sidecar.state.personas == {}


async def test_who_is_not_there_answers_nothing(lives, autojump_clock):
    async with lives.begin() as sidecar:
        for name in ("nobody", "torn"):
            error = await sidecar.host.error(sidecar.chat("one", persona=name))
            assert (error["code"], error["data"]["what"], error["data"]["id"]) == (1012, "persona", name)
        await put(sidecar, name="gone", greeting=None)
        first = await turn(sidecar, "one", persona="gone", key="k")
        await sidecar.host.call("personas.delete", {"name": "gone"})
        assert (await sidecar.host.error(sidecar.chat("two", conversation="talk")))["code"] == 1012
        assert await turn(sidecar, "one", persona="gone", key="k") == first  # that was answered already


async def test_a_description_is_carried_on_when_its_record_has_to_go(lives, autojump_clock):
    lives.log = attrs.evolve(lives.log, segment_bytes=64 * 1024, asides_segment_bytes=64 * 1024, budget_bytes=1 << 20)
    async with killed(lives) as sidecar:
        await put(sidecar)
        place = sidecar.services.log.last_seq
        await fill(sidecar, 60)
        assert sidecar.services.log.oldest_seq > place
    async with lives.begin() as sidecar:
        assert await sidecar.host.call("personas.get", {"name": "pirate"}) == {**PIRATE, "source": "host"}
        await sidecar.host.call("personas.delete", {"name": "pirate"})
        assert files_with(lives, SECRET) == []


async def test_who_asks_for_a_description_that_the_disk_has_not_taken_hears_that_alone(lives, autojump_clock):
    async with lives.begin() as sidecar:
        await sidecar.host.result(sidecar.chat("zero"))
        await sidecar.synced()
        break_disk(lives.disk, "a write fails")
        ids = [sidecar.host.send("personas.put", PIRATE), sidecar.host.send("personas.get", {"name": "pirate"})]
        ids += [sidecar.chat("one", persona="pirate"), sidecar.chat("two", persona="pirate", key="k")]
        for id_ in ids:
            error = await sidecar.host.error(id_)
            assert (error["code"], error["data"]["reason"]) == (1014, "failed")
        await sidecar.ended.wait()
    assert "pirate" in sidecar.state.personas  # So it was decided.
    assert "incident" not in sidecar.stderr_text()
