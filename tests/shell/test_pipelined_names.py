"""What a host says of personas and conversations holds for what it sends right after, before it has heard anything."""

import orjson
import pytest
from test_conversations import TWO, get, said, told, turn
from test_personas import PIRATE


def chunk(sidecar, *calls):
    """Send calls in one piece of input, and return their ids."""
    host = sidecar.host
    lines = [host.request(method, params, next(host._ids)) for method, params in calls]
    host.feed(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    return [line["id"] for line in lines]


def chat(prompt, **params):
    return "chat", {"model": "toy", "messages": [{"role": "user", "content": prompt}], **params}


async def results(sidecar, *calls):
    return [await sidecar.host.result(call) for call in chunk(sidecar, *calls)]


async def test_a_persona_answers_right_after_it_was_put(lives, autojump_clock):
    async with lives.begin() as sidecar:
        await results(
            sidecar,
            ("personas.put", PIRATE),
            chat("one", persona="pirate"),
            ("personas.put", {"name": "pirate", "system": "whisper"}),
            chat("two", persona="pirate"),
            ("personas.get", {"name": "pirate"}),
        )
        systems = [messages[0] for messages in told(await sidecar.worker())]
        assert systems == [("system", PIRATE["system"]), ("system", "whisper")]


async def test_a_turn_right_after_another_has_its_persona(lives, autojump_clock):
    async with lives.begin() as sidecar:
        await results(
            sidecar,
            ("personas.put", PIRATE),
            chat("one", conversation="talk", persona="pirate"),
            chat("two", conversation="talk"),
        )
        assert [messages[0] for messages in told(await sidecar.worker())] == [("system", PIRATE["system"])] * 2


async def test_a_deleted_persona_answers_nothing_right_after(lives, autojump_clock):
    async with lives.begin() as sidecar:
        calls = chunk(
            sidecar, ("personas.put", PIRATE), ("personas.delete", {"name": "pirate"}), chat("one", persona="pirate")
        )
        assert (await sidecar.host.error(calls[2]))["data"]["what"] == "persona"
        assert (await sidecar.host.result(calls[1]))["groups"] == 1


async def test_a_fork_is_gone_on_with_right_after_it_was_made(lives, autojump_clock):
    async with lives.begin() as sidecar:
        await turn(sidecar, "one")
        place = (await get(sidecar))["messages"][-1]["log_seq"]
        fork, _, shown = await results(
            sidecar,
            ("conversations.fork", {"conversation": "talk", "at": place, "into": "side"}),
            chat("two", conversation="side"),
            ("conversations.get", {"conversation": "side"}),
        )
        assert fork == {"conversation": "side", "turns": 1}
        assert said(shown)[:2] == TWO[:2]
        assert said(await get(sidecar, "side")) == TWO


@pytest.mark.parametrize("method", ["conversations.delete", "forget"])
async def test_a_turn_right_after_its_conversation_was_deleted_begins_another_one(lives, autojump_clock, method):
    async with lives.begin() as sidecar:
        await turn(sidecar, "one")
        await results(sidecar, (method, {"conversation": "talk"}), chat("two", conversation="talk"))
        assert told(await sidecar.worker())[-1] == [("user", "two")]
        assert said(await get(sidecar)) == [("user", "two"), ("assistant", "two")]


async def test_a_conversation_is_known_right_after_its_first_turn_was_sent(lives, autojump_clock):
    async with lives.begin() as sidecar:
        sidecar.workshop.answer = None
        calls = chunk(
            sidecar,
            chat("one", conversation="talk"),
            ("conversations.get", {"conversation": "talk"}),
            ("conversations.delete", {"conversation": "talk"}),
        )
        assert (await sidecar.host.error(calls[0]))["code"] == -32800
        assert said(await sidecar.host.result(calls[1])) == []
        await sidecar.host.result(calls[2])


async def test_what_was_refused_keeps_nobody_waiting(lives, autojump_clock):
    async with lives.begin() as sidecar:
        calls = chunk(
            sidecar,
            ("conversations.fork", {"conversation": "nothing", "at": 1, "into": "side"}),
            ("personas.put", PIRATE | {"model": "nothing"}),
            ("personas.delete", {"name": "nobody"}),
            chat("one", conversation="talk", persona="nobody"),
            chat("two", conversation="talk"),
        )
        codes = [(await sidecar.host.error(call))["code"] for call in calls[:4]]
        assert codes == [1012, 1003, 1012, 1012]
        await sidecar.host.result(calls[4])


async def test_what_names_nothing_waits_for_no_name(lives, autojump_clock):
    async with lives.begin() as sidecar:
        await turn(sidecar, "one")
        place = (await get(sidecar))["messages"][-1]["log_seq"]
        async with sidecar.services.log.forgetter.lock:  # A fork waits for it.
            fork, alone, side = chunk(
                sidecar,
                ("conversations.fork", {"conversation": "talk", "at": place, "into": "side"}),
                chat("alone"),
                chat("two", conversation="side"),
            )
            await sidecar.host.result(alone)
            assert (await sidecar.worker()).find("two") is None
        assert (await sidecar.host.result(fork))["turns"] == 1
        await sidecar.host.result(side)
        assert told(await sidecar.worker())[-1] == [*TWO[:2], ("user", "two")]
