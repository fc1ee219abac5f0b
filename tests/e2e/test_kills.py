"""kill -9 in mid-sentence: the sentence goes on, no piece missing or doubled, and equal to the uninterrupted one."""

import os
import signal
import sys

import pytest
from real_process import hosting, is_whole, user

from mlzoo.client import RemoteError, SidecarDied

pytestmark = [
    pytest.mark.weights,
    pytest.mark.skipif(sys.platform == "win32", reason="signals"),
    pytest.mark.usefixtures("weights"),
]

SAMPLED = {"temperature": 0.8, "top_p": 0.95, "seed": 7, "max_tokens": 20, "determinism": "exact"}
TELL = {"messages": user("Tell me about the sea, and about 魚."), **SAMPLED}
WITH_OWN_KERNELS = "model.compile=auto"  # Steps are not compiled for exact requests: nothing goes on in the background.


async def whole(client):
    return await client.call("chat", TELL)


async def worker_pid(client):
    events = await client.call("events.read", {"types": ["WorkerWentUp"]})
    return events["events"][-1]["data"]["pid"]


async def read_on(answer, pieces):
    async for delta in answer:
        pieces.append(delta["content"])
    return await answer.result()


async def begin(client, pieces, victim):
    """Hear some pieces, kill, and hear what comes of it."""
    async with client.stream("chat", {**TELL, "key": "story"}) as answer:
        while len(pieces) < 6:
            pieces.append((await anext(answer))["content"])
        os.kill(await victim(client), signal.SIGKILL)
        with pytest.raises((RemoteError, SidecarDied)) as caught:
            await read_on(answer, pieces)
    return caught.value


async def resume(client, pieces):
    async with client.stream("resume", {"key": "story", "after": len(pieces) - 1}) as answer:
        return await read_on(answer, pieces)


def check(result, pieces, reference):
    assert (result["resumed"], "resumed" in reference) == ("exact", False)
    assert result["message"] == reference["message"]
    assert result["usage"] == reference["usage"]
    assert "".join(pieces) == reference["message"]["content"]


def test_a_sentence_goes_on_after_the_sidecar_was_killed(log):
    async def sidecar(client):
        return client.pid

    pieces = []
    with hosting(log, WITH_OWN_KERNELS) as host:
        reference = host.run(whole)
        error = host.run(begin, pieces, sidecar)
        assert isinstance(error, SidecarDied)
    with hosting(log, WITH_OWN_KERNELS) as host:
        result = host.run(resume, pieces)
    check(result, pieces, reference)
    assert is_whole(log)


def test_a_sentence_goes_on_after_only_its_worker_was_killed(log):
    pieces = []
    with hosting(log, WITH_OWN_KERNELS) as host:
        reference = host.run(whole)
        error = host.run(begin, pieces, worker_pid)
        assert (error.code, error.data["resumable"]) == (1008, True)
        assert error.data["partial"] == "".join(pieces)
        check(host.run(resume, pieces), pieces, reference)
    assert is_whole(log)
