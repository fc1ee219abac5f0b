"""Two workers of the CPU, a replica of one model on each, and kill -9 of one of them."""

import hashlib
import os
import signal
import sys

import anyio
import pytest
from real_process import hosting, is_whole, user

from mlzoo.client import RemoteError

pytestmark = [
    pytest.mark.weights,
    pytest.mark.skipif(sys.platform == "win32", reason="signals"),
    pytest.mark.usefixtures("weights"),
]

SAMPLED = {"temperature": 0.8, "seed": 7, "max_tokens": 24, "determinism": "exact"}
SEA = {"messages": user("Tell me about the sea."), **SAMPLED}
SKY = {"messages": user("Tell me about the sky."), **SAMPLED}


async def pid_on(client, device):
    status = await client.call("status", {})
    return next(found["pid"] for found in status["devices"] if found["name"] == device)


async def devices_of(client, key):
    """Return where the request under a key was sent to, one after the other."""
    events = (await client.call("events.read", {"types": ["RequestAccepted", "RequestDispatched"]}))["events"]
    digest = hashlib.sha256(key.encode()).hexdigest()
    [request] = [event["data"]["request"] for event in events if event["data"].get("key") == digest]
    dispatched = [event["data"] for event in events if event["type"] == "RequestDispatched"]
    return [data["device"] for data in dispatched if data["request"] == request]


async def one_of_two_dies(client):
    pieces = {"sea": [], "sky": []}
    ended = {}
    begun = anyio.Event()
    begun_too = anyio.Event()

    async def hear(name, params, event):
        async with client.stream("chat", {**params, "key": name}) as answer:
            async for delta in answer:
                pieces[name].append(delta["content"])
                if len(pieces[name]) == 4:
                    event.set()
                    await begun.wait()
            ended[name] = await answer.result()

    async def hear_broken():
        with pytest.raises(RemoteError) as caught:
            await hear("sea", SEA, begun)
        ended["sea"] = caught.value

    async with anyio.create_task_group() as group:
        group.start_soon(hear_broken)
        group.start_soon(hear, "sky", SKY, begun_too)
        await begun.wait()
        await begun_too.wait()
        [victim] = await devices_of(client, "sea")
        os.kill(await pid_on(client, victim), signal.SIGKILL)
    after = len(pieces["sea"]) - 1
    async with client.stream("resume", {"key": "sea", "after": after}) as answer:
        async for delta in answer:
            pieces["sea"].append(delta["content"])
        ended["resumed"] = await answer.result()
    return pieces, ended, await devices_of(client, "sea"), await devices_of(client, "sky")


def test_what_runs_on_one_of_two_workers_goes_on_when_the_other_is_killed_and_takes_over_what_ran_there(log):
    overrides = ["devices=cpu", "devices.cpu_workers=2", "model.replicas=2"]
    with hosting(log, *overrides) as host:
        host.call("models.load", model="smollm2")
        replicas = host.call("models.info", model="smollm2")["replicas"]
        assert {replica["device"]: replica["state"] for replica in replicas} == {"cpu:0": "ready", "cpu:1": "ready"}
        pieces, ended, sea_on, sky_on = host.run(one_of_two_dies)
        reference = host.call("chat", **SEA)
    assert (ended["sea"].code, ended["sea"].data["resumable"]) == (1008, True)
    assert "resumed" not in ended["sky"]
    assert "".join(pieces["sky"]) == ended["sky"]["message"]["content"]
    assert len(sky_on) == 1, "the neighbour was touched"
    assert len(set(sea_on)) == 2, "it did not go on beside"
    assert sea_on[1] == sky_on[0]
    assert ended["resumed"]["resumed"] == "exact"
    assert "".join(pieces["sea"]) == reference["message"]["content"] == ended["resumed"]["message"]["content"]
    assert is_whole(log)
