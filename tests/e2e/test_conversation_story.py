"""A conversation with a persona, on real weights: killed, forked, exported, replayed without a model, and deleted."""

import json
import os
import signal
import subprocess
import sys

import pytest
from real_process import hosting, is_whole, user

from mlzoo.client import SidecarDied
from mlzoo.events import recording

pytestmark = [
    pytest.mark.weights,
    pytest.mark.skipif(sys.platform == "win32", reason="signals"),
    pytest.mark.usefixtures("weights"),
]

SECRET = "xyzzyplugh"
BOUNDS = {"conversation": "talk", "max_tokens": 12, "temperature": 0, "determinism": "exact"}
PERSONA = {"name": "gardener", "system": f"You are a gardener called {SECRET}.", "greeting": "Good day."}


async def begin(client):
    await client.call("personas.put", PERSONA)
    await client.call("chat", {**BOUNDS, "messages": user("What grows in the shade?"), "persona": "gardener"})
    return await client.call("conversations.get", {"conversation": "talk"})


async def killed_in_the_middle(client):
    turn = {**BOUNDS, "messages": user(f"And {SECRET} in the sun?"), "key": "second"}
    async with client.stream("chat", turn) as answer:
        await anext(answer)
        os.kill(client.pid, signal.SIGKILL)
        with pytest.raises(SidecarDied):
            await answer.result()


async def go_on(client, before):
    assert await client.call("conversations.get", {"conversation": "talk"}) == before
    second = await client.call("resume", {"key": "second"})
    assert (second["conversation"], second["resumed"]) == ("talk", "exact")
    third = await client.call("chat", {**BOUNDS, "messages": user("Why?")})
    assert third["usage"]["prompt_tokens"] > second["usage"]["prompt_tokens"]
    shown = await client.call("conversations.get", {"conversation": "talk"})
    assert [message["role"] for message in shown["messages"]] == ["assistant", *["user", "assistant"] * 3]
    assert shown["messages"][: len(before["messages"])] == before["messages"]
    place = before["messages"][-1]["log_seq"]
    fork = await client.call("conversations.fork", {"conversation": "talk", "at": place, "into": "side"})
    assert fork == {"conversation": "side", "turns": 1}
    other = await client.call("chat", {**BOUNDS, "conversation": "side", "messages": user("Why?")})
    assert other["usage"]["prompt_tokens"] < third["usage"]["prompt_tokens"]


async def delete(client):
    for name in ("talk", "side"):
        await client.call("conversations.delete", {"conversation": name})
    await client.call("personas.delete", {"name": "gardener"})


def mlzoo(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "mlzoo", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=300
    )


def played(path, connection):
    """Have a recording play the sidecar's part to a host that sends what was recorded; no model, no torch."""
    sent = [line for line in recording.read(path).wire(connection) if "method" in line]
    lines = [
        {"jsonrpc": "2.0", "id": number, "method": line["method"], "params": line.get("params", {})}
        for number, line in enumerate(sent, start=1)
    ]
    command = [sys.executable, "-m", "mlzoo", "replay", "play", str(path), "--connection", connection]
    data = "".join(json.dumps(line) + "\n" for line in lines)
    return subprocess.run(command, input=data, capture_output=True, text=True, check=False, timeout=60)


def holds(directory, word):
    return [path.name for path in directory.rglob("*") if path.is_file() and word.encode() in path.read_bytes()]


def test_a_conversation_with_a_persona_lives_through_a_kill_is_forked_replayed_and_deleted(log, tmp_path):
    with hosting(log) as host:
        before = host.run(begin)
        host.run(killed_in_the_middle)
    with hosting(log) as host:
        host.run(go_on, before)
    assert is_whole(log)
    for arguments in ((), ("--conversation", "talk")):
        exported_to = tmp_path / f"recording{len(arguments)}.ndjson"
        exported = mlzoo("log", "export", log, "-o", exported_to, *arguments)
        assert exported.returncode == 0, exported.stderr
    whole = tmp_path / "recording0.ndjson"
    for command in ("check", "rerun"):
        done = mlzoo("replay", command, whole)
        assert done.returncode == 0, done.stdout + done.stderr
    heard = played(whole, "con-2")
    assert heard.returncode == 0, heard.stderr
    assert holds(log, SECRET)
    with hosting(log) as host:
        host.run(delete)
    assert holds(log, SECRET) == []
    assert is_whole(log)
