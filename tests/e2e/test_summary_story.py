"""A conversation that outgrows its model's context, on real weights: summarised, killed, run again, and forgotten."""

import os
import signal
import sys

import pytest
from real_process import hosting, is_whole, user
from test_conversation_story import holds, mlzoo

from mlzoo.client import SidecarDied

pytestmark = [
    pytest.mark.weights,
    pytest.mark.skipif(sys.platform == "win32", reason="signals"),
    pytest.mark.usefixtures("weights"),
]

BOUNDS = {"conversation": "talk", "max_tokens": 24, "temperature": 0, "determinism": "exact"}
PERSONA = {"name": "gardener", "system": "You are a gardener.", "truncation": {"policy": "summarise"}}
PLANTS = ("roses", "ferns", "apple trees", "tulips", "moss", "beans", "oaks", "mint", "ivy", "wheat", "plums", "hops")


async def talk(client):
    """Go on until the oldest turns do not fit any more."""
    await client.call("personas.put", PERSONA)
    for plant in PLANTS:
        turn = {**BOUNDS, "messages": user(f"My name is Ada. What do {plant} need in a dry and sunny garden?")}
        result = await client.call("chat", {**turn, "persona": "gardener"})
        if "truncated" in result:
            return result, await client.call("conversations.get", {"conversation": "talk"})
    raise AssertionError("the context holds all of it")


async def killed_in_the_middle(client):
    turn = {**BOUNDS, "messages": user("And in the shade?"), "key": "next"}
    async with client.stream("chat", turn) as answer:
        await anext(answer)
        os.kill(client.pid, signal.SIGKILL)
        with pytest.raises(SidecarDied):
            await answer.result()


async def go_on(client, before):
    result = await client.call("resume", {"key": "next"})
    shown = await client.call("conversations.get", {"conversation": "talk"})
    assert result["resumed"] == "exact"
    assert result["truncated"]["turns"] >= before["summary"]["turns"]
    assert shown["messages"][: len(before["messages"])] == before["messages"]
    return shown


async def delete(client):
    await client.call("conversations.delete", {"conversation": "talk"})


def test_a_long_conversation_is_summarised_once_killed_run_again_and_forgotten(log, tmp_path):
    with hosting(log, "model.context=320") as host:
        result, before = host.run(talk)
        summary = before["summary"]
        assert result["truncated"] == {"turns": summary["turns"], "summarised": summary["turns"]}
        assert len(summary["content"]) > 20
        assert summary["upto"] in [message["log_seq"] for message in before["messages"]]
        host.run(killed_in_the_middle)
    with hosting(log, "model.context=320") as host:
        shown = host.run(go_on, before)
    assert is_whole(log)
    made = [line for line in mlzoo("log", "cat", log).stdout.splitlines() if "ConversationSummarised" in line]
    assert len(made) == (1 if shown["summary"] == summary else 2)
    exported = mlzoo("log", "export", log, "-o", tmp_path / "recording.ndjson")
    assert exported.returncode == 0, exported.stderr
    for command in ("check", "rerun"):
        done = mlzoo("replay", command, tmp_path / "recording.ndjson")
        assert done.returncode == 0, done.stdout + done.stderr
    words = shown["summary"]["content"].split("\n")[0][:40]
    assert holds(log, words)
    with hosting(log, "model.context=320") as host:
        host.run(delete)
    assert holds(log, words) == []
    assert is_whole(log)
