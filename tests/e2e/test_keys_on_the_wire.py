"""Keys with the real process: an answer outlives kill -9, and is the same to the last bit."""

import os
import signal
import sys

import pytest
from real_process import hosting, is_whole, story, user

from mlzoo.client import RemoteError, SidecarDied

pytestmark = [
    pytest.mark.weights,
    pytest.mark.skipif(sys.platform == "win32", reason="signals"),
    pytest.mark.usefixtures("weights"),
]

SHORT = {"messages": user("What is the capital of France?"), "max_tokens": 12, "key": "paris"}
VECTOR = {"input": ["a short text", "another one"], "key": "vectors"}


async def heard(answer):
    return [(answer.seq, delta["content"]) async for delta in answer], await answer.result()


def test_what_ran_under_a_key_is_told_again_by_the_sidecar_after_a_kill(log):
    async def first_life(client):
        async with client.stream("chat", SHORT) as answer:
            chat = await heard(answer)
        vector = await client.call("embed", VECTOR)
        os.kill(client.pid, signal.SIGKILL)
        with pytest.raises(SidecarDied):
            await client.call("ping")
        return chat, vector

    async def second_life(client):
        async with client.stream("chat", SHORT) as answer:
            chat = await heard(answer)
        async with client.resume("paris", after=0) as answer:
            rest = await heard(answer)
        with pytest.raises(RemoteError) as other:
            await client.call("chat", {**SHORT, "max_tokens": 3})
        with pytest.raises(RemoteError) as unknown:
            await client.call("resume", {"key": "rome"})
        return chat, rest, await client.call("embed", VECTOR), other.value, unknown.value

    with hosting(log) as host:
        (pieces, result), vector = host.run(first_life)
    with hosting(log) as host:
        chat, rest, again, other, unknown = host.run(second_life)
    assert "Paris" in result["message"]["content"]
    assert chat == (pieces, result)
    assert rest == (pieces[1:], result)
    assert again == vector
    assert (other.code, other.data["path"]) == (-32602, "key")
    assert (unknown.code, unknown.data["id"]) == (1012, "rome")
    assert is_whole(log)
    types = [record["type"] for record in story(log) if "log_seq" in record]
    assert types.count("RequestAccepted") == 2
    assert types.count("RequestAttached") == 3
    assert types.count("WorkerWentUp") == 1, "the second life needed no model"
