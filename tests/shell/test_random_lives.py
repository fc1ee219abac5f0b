"""Whole lives drawn from a seed: hosts, workers and the disk do what they like, and every promise holds."""

from collections import Counter
from random import Random

import attrs
import pytest
import trio
import trio.testing

from mlzoo import frames


class Chance:
    """Draws what happens next in one life."""

    def __init__(self, sidecar, seed):
        self.sidecar = sidecar
        self.host = sidecar.host
        self.random = Random(seed)
        self.asked = []
        self.said = set()  # requests that a worker has begun to answer

    async def act(self):
        random, host = self.random, self.host
        match random.choices(range(10), (6, 3, 3, 2, 10, 1, 2, 2, 3, 1))[0]:
            case 0:
                more = {"deadline_ms": 3000} if random.random() < 0.2 else {}
                if random.random() < 0.4:
                    more["key"] = f"k{random.randrange(6)}"
                self.asked.append(self.sidecar.chat("x", stream=random.random() < 0.7, **more))
            case 1:
                key = {"key": f"k{random.randrange(6)}"}
                calls = [("ping",), ("status",), ("events.read",), ("devices.list",), ("resume", key), ("cancel", key)]
                self.asked.append(host.send(*random.choice(calls)))
            case 2:
                self._send_batch()
            case 3:
                target = random.choice([*self.asked, 123456])
                if random.random() < 0.5:
                    host.notify("cancel", {"request": target})
                else:
                    self.asked.append(host.send("cancel", {"request": target}))
            case 4:
                self._work()
            case 5:
                self._harm()
            case 6:
                host.stop_reading()
            case 7:
                host.read_on()
            case 8:
                await trio.sleep(random.choice((0.01, 0.5, 3, 70)))
            case 9:
                method = random.choice(("models.load", "models.unload"))
                self.asked.append(host.send(method, {"model": random.choice(("toy", "vec"))}))
        if random.random() < 0.6:
            await trio.testing.wait_all_tasks_blocked()

    def _send_batch(self):
        message = {"role": "user", "content": "x"}
        chat = self.host.request("chat", {"model": "toy", "messages": [message]}, id=f"b{len(self.asked)}")
        ping = self.host.request("ping", id=f"p{len(self.asked)}")
        members = self.random.sample([chat, ping], self.random.randint(1, 2))
        self.asked += self.host.batch(*members, self.host.request("nothing"))

    def _work(self):
        living = [w for w in self.sidecar.workshop.workers if w.status is None]
        for worker in living[-1:]:
            rows = []
            for request, frame in list(worker.running.items()):
                if isinstance(frame, frames.Generate) and self.random.random() < 0.7:
                    finish = "stop" if self.random.random() < 0.3 else None
                    content = self.random.choice(("", "é", "some words "))
                    rows.append(worker.row(request, content, finish, first=request not in self.said))
                    self.said.add(request)
            if rows:
                worker.say(frames.Stepped(rows=tuple(rows)))

    def _harm(self):
        for worker in [w for w in self.sidecar.workshop.workers if w.status is None][-1:]:
            if self.random.random() < 0.5:
                worker.end(-11)
            else:
                worker.babble(b"!\n")


def answered(host):
    lines = [m for message in host.messages for m in (message if isinstance(message, list) else [message])]
    return Counter(m["id"] for m in lines if "method" not in m)


@pytest.mark.parametrize("seed", range(40))
async def test_every_call_is_answered_once_whatever_happens(lives, autojump_clock, seed):
    lives.log = attrs.evolve(lives.log, segment_bytes=64 * 1024)
    lives.disk.faults.sync_s = Random(seed).choice((0, 0, 0.2, 2))
    async with lives.begin() as sidecar:
        chance = Chance(sidecar, seed)
        sidecar.workshop.answer = None
        for _ in range(60):
            await chance.act()
        sidecar.host.read_on()
        await sidecar.leave()
        sidecar.host.read_on()
        assert answered(sidecar.host) == Counter(chance.asked)
        for id_ in chance.asked:
            content = "".join(delta["content"] for delta in sidecar.host.stream(id_))
            [answer] = sidecar.host.responses(id_)
            if content and "result" in answer:
                assert answer["result"]["message"]["content"] == content
            elif content:
                assert answer["error"]["data"]["partial"] == content
    assert sidecar.status == 0


@pytest.mark.parametrize("seed", range(40))
async def test_lives_that_end_in_power_cuts_follow_one_another_on_one_log(lives, autojump_clock, seed):
    lives.log = attrs.evolve(lives.log, segment_bytes=64 * 1024)
    random = Random(seed)
    promised = []
    for life in range(3):
        lives.disk.faults.sync_s = random.choice((0, 0.2, 2))
        async with lives.begin(leave=False) as sidecar:
            await sidecar.host.call("ping")
            assert sidecar.watch.groups(durable=True)[: len(promised)] == promised
            chance = Chance(sidecar, seed * 10 + life)
            sidecar.workshop.answer = None
            for _ in range(random.randrange(40)):
                await chance.act()
            promised = sidecar.watch.groups(durable=True)
        lives.disk = lives.disk.crashed(random)
    async with lives.begin() as sidecar:
        await sidecar.host.result(sidecar.chat("still here"))
        found = sidecar.watch.groups(durable=True)
        assert found[: len(promised)] == promised
    assert sidecar.status == 0
