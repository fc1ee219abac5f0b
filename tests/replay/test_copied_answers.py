"""A recording of a log that heard of a key whose records had gone holds what it heard, out of the copy."""

import attrs
import orjson
import pytest
import trio.testing
from playing_host import ReplayedHost, sent
from sidecar_life import LOG
from test_export import heard, steady, taken
from test_kept_answers import SMALL, fill, is_copy, say

from mlzoo.errors import LogUnusable
from mlzoo.events import recording
from mlzoo.replay.check import check
from mlzoo.replay.redaction import rule_of
from mlzoo.world import real_world

ADDRESS = "jane@example.org"


@pytest.fixture
def small(lives):
    """Lives whose log keeps little, and nothing of it in memory."""
    lives.log = attrs.evolve(SMALL)
    return lives


async def last_life(lives, *calls):
    """Ask in a life of its own, whose host nobody else is; return what it heard, and what it sent."""
    async with lives.begin(leave=False) as sidecar:
        host = sidecar.host
        host.on_line = None
        for method, params in calls:
            await host.response(host.send(method, params))
        await sidecar.leave()
    sent_again = [
        {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        for number, (method, params) in enumerate(calls, start=1)
    ]
    return host, sent_again


def of_last(found):
    return found.connections()[-1]


async def test_what_was_heard_out_of_a_copy_is_in_the_recording_which_checks_and_plays(small, recorded, tmp_path):
    chat = {"model": "toy", "messages": [{"role": "user", "content": "well hello there"}], "logprobs": True}
    embed = {"model": "vec", "input": ["a", "bcd"], "key": "e"}
    async with small.begin(leave=False) as sidecar:
        await sidecar.host.call("chat", {**chat, "key": "k"})
        await sidecar.host.call("embed", embed)
        sidecar.workshop.answer = None
        running = say(sidecar, "hush", key="c", stream=True)
        worker = await sidecar.worker()
        worker.generate(await worker.asked("hush"), "so ", "far", finish=None)
        await sidecar.host.streamed(running, 2)
        await sidecar.host.call("cancel", {"key": "c"})
        await fill(sidecar)
        await sidecar.leave()
    host, again = await last_life(
        small,
        ("chat", {**chat, "key": "k"}),
        ("chat", {**chat, "key": "k", "stream": True}),
        ("resume", {"key": "k", "after": 0}),
        ("embed", embed),
        ("resume", {"key": "c"}),
    )
    found = recorded()
    assert steady(heard(found, of_last(found))) == steady(taken(host))
    assert host.responses(5)[0]["error"]["data"]["partial"] == "so far"
    [name] = {line["result"]["id"] for line in found.wire(of_last(found)) if "id" in line.get("result", {})}
    assert name.removeprefix("req-").isdecimal()
    assert check(real_world(), tmp_path / "recording.ndjson").difference is None
    player = ReplayedHost(recording.read(tmp_path / "recording.ndjson").wire(of_last(found)), *sent(*again))
    player.play()
    assert steady(taken(player)) == steady(taken(host))


async def test_who_came_while_it_ran_heard_it_to_its_end_though_its_beginning_has_gone(small, recorded):
    async with small.begin(leave=False) as sidecar:
        sidecar.host.on_line = None
        sidecar.workshop.answer = None
        asked = say(sidecar, "long", key="k", stream=True)
        worker = await sidecar.worker()
        begun = await worker.asked("long")
        worker.generate(begun, "it ", "is ", finish=None)
        await sidecar.host.streamed(asked, 2)
        accepted_seq = sidecar.services.log.last_seq
        await little(sidecar, worker, "between")
        client = sidecar.connect()
        client.on_line = None
        resumed = client.send("resume", {"key": "k", "after": 0})
        await trio.testing.wait_all_tasks_blocked()
        worker.generate(begun, "all ", "there")
        result = await client.result(resumed)
        attached_seq = sidecar.services.log.last_seq
        number = 0
        while sidecar.services.log.oldest_seq <= accepted_seq:
            number += 1
            await little(sidecar, worker, f"after {number}")
            await trio.testing.wait_all_tasks_blocked()
        assert sidecar.services.log.oldest_seq < attached_seq
        told = taken(client)[resumed]
        client.close()
        await sidecar.leave()
    found = recorded()
    [said] = [said for name in found.connections() for said in heard(found, name).values() if len(said) == len(told)]
    assert steady({"call": said}) == steady({"call": told})
    assert told[-1] == ("result", result)


async def little(sidecar, worker, prompt):
    """Have enough be said to fill a segment."""
    call = say(sidecar, prompt)
    worker.generate(await worker.asked(prompt), *(f"{piece:0800}" for piece in range(100)))
    await sidecar.host.result(call)


async def test_a_rule_takes_out_of_a_copy_what_it_takes_out_of_the_log(small, recorded):
    async with small.begin(leave=False) as sidecar:
        await sidecar.host.result(say(sidecar, "write to jane@example.org, then", key="k"))
        await fill(sidecar)
        await sidecar.leave()
    host, _ = await last_life(small, ("resume", {"key": "k"}))
    assert ADDRESS in host.responses(1)[0]["result"]["message"]["content"]
    found = recorded(rules=[rule_of(f"who={ADDRESS}")])
    [*told, (_, result)] = heard(found, of_last(found))[1]
    assert result["message"]["content"] == "write to [redacted:who], then"
    assert "".join(piece["delta"]["content"] for _, piece in told) == result["message"]["content"]
    assert not [word for word in ("jane", "@example") if word in orjson.dumps(found.lines).decode()]


async def kept_then_heard(lives):
    """Have a key be answered out of a copy, in a log which then stands still."""
    async with lives.begin(leave=False) as sidecar:
        await sidecar.host.result(say(sidecar, "hello", key="k"))
        await fill(sidecar)
        await sidecar.leave()
    host, _ = await last_life(lives, ("resume", {"key": "k"}))
    return host.responses(1)[0]["result"]


async def test_an_answer_that_was_forgotten_since_is_told_to_be_gone(small, recorded):
    await kept_then_heard(small)
    await last_life(small, ("forget", {"key": "k"}))
    found = recorded()
    [answer] = [
        said[-1] for name in found.connections() for said in heard(found, name).values() if said[-1][0] == "error"
    ]
    assert (answer[1]["code"], answer[1]["data"]["type"]) == (1013, "expired")


async def test_a_log_whose_copy_is_damaged_is_not_recorded_as_if_it_were_whole(small, recorded):
    await kept_then_heard(small)
    [name] = filter(is_copy, small.disk.names(LOG / "keys"))
    small.disk.corrupt(LOG / "keys" / name, small.disk.read(LOG / "keys" / name).index(b"pieces"))
    with pytest.raises(LogUnusable, match="damaged"):
        recorded()
