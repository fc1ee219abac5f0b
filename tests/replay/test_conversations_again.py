"""Sessions with personas and conversations, run again by the sidecar's own code."""

import trio
from running_again import run_again
from test_conversations import get, turn
from test_personas import PIRATE
from test_pipelined_names import chat, results
from test_summaries import begin, next_turn, summarised

from mlzoo.replay.export import Part


async def test_what_was_said_of_names_in_one_piece_of_input_holds_again(lives, recorded, autojump_clock):
    async with lives.begin() as sidecar:
        await turn(sidecar, "one")
        place = (await get(sidecar))["messages"][-1]["log_seq"]
        await results(
            sidecar,
            ("personas.put", PIRATE),
            chat("ahoy", persona="pirate", conversation="ship"),
            ("conversations.fork", {"conversation": "talk", "at": place, "into": "side"}),
            chat("two", conversation="side"),
            ("personas.put", {"name": "pirate", "system": "whisper"}),
            chat("psst", persona="pirate"),
            ("personas.get", {"name": "pirate"}),
        )
        await trio.sleep(0.01)
        await get(sidecar, "side")
        await sidecar.host.call("conversations.list")
    found = run_again(recorded(), lives.config())
    assert found.holds, "\n".join(found.told())


async def test_a_summary_is_made_again(lives, recorded, autojump_clock):
    async with lives.begin() as sidecar:
        await begin(sidecar, "one", "two")
        await summarised(sidecar, "three")
        await next_turn(sidecar, "four")
        await trio.sleep(0.01)
        assert (await get(sidecar))["summary"]["turns"] == 2
    found = run_again(recorded(), lives.config())
    assert found.holds, "\n".join(found.told())


async def test_turns_before_one_that_is_forgotten_are_run_again(lives, recorded, autojump_clock):
    async with lives.begin() as sidecar:
        await turn(sidecar, "one")
        await turn(sidecar, "two")
        three = await turn(sidecar, "three")
        await turn(sidecar, "four")
        await sidecar.host.call("forget", {"request": three["id"]})
    found = run_again(recorded(part=Part(conversation="talk")), lives.config())
    assert found.holds, "\n".join(found.told())
    assert found.told()[-1] == "2 calls run again, 2 the same, 2 lines not run: all as recorded"


async def test_a_conversation_alone_brings_along_what_its_host_had_said_of_its_persona(lives, recorded, autojump_clock):
    async with lives.begin() as sidecar:
        await results(
            sidecar,
            ("personas.put", {"name": "other", "system": "nobody asks for this one"}),
            ("personas.put", PIRATE),
            chat("ahoy", persona="pirate", conversation="ship"),
            ("personas.put", {"name": "pirate", "system": "whisper"}),
            chat("psst", persona="pirate", conversation="ship"),
            chat("one", conversation="shore"),
        )
    alone = recorded(part=Part(conversation="ship"))
    methods = [line["method"] for line in alone.wire("con-1") if "method" in line and "id" in line]
    assert methods == ["personas.put", "chat", "personas.put", "chat"]
    found = run_again(alone, lives.config())
    assert found.holds, "\n".join(found.told())
