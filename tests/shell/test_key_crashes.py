"""A key never runs twice: whatever a power cut leaves, who was answered under a key is answered the same again."""

from random import Random

import pytest

import mlzoo.actors.keys
from mlzoo.simulation.disk import OUTCOMES

KEYS = 20
FILED_AT_ONCE = 2  # so that a small life files often, and merges once
EVERY = 17  # how many steps of the disk lie between two crashes that are tried


def ask(sidecar, number):
    message = {"role": "user", "content": f"number {number}"}
    return sidecar.host.send("chat", {"model": "toy", "messages": [message], "key": f"k{number}"})


async def a_life(lives):
    """Return the disk after each step of a life, and how many keys had been answered by then."""
    moments, results = [], []
    lives.disk.on_step = lambda _step: moments.append((lives.disk.copy(), len(results)))
    async with lives.begin() as sidecar:
        for number in range(KEYS):
            result = await sidecar.host.result(ask(sidecar, number))
            results.append(result)
    lives.disk.on_step = None
    return moments, results


@pytest.mark.parametrize("outcome", [*OUTCOMES, None], ids=str)
async def test_no_power_cut_has_an_answered_key_run_again(lives, autojump_clock, monkeypatch, outcome):
    monkeypatch.setattr(mlzoo.actors.keys, "FILED_AT_ONCE", FILED_AT_ONCE)
    moments, results = await a_life(lives)
    assert any(disk.names(lives.keys) for disk, _ in moments)
    random = Random(str(outcome))
    start = random.randrange(EVERY)
    for disk, answered in moments[start::EVERY]:
        lives.disk = disk.crashed(random, outcome)
        async with lives.begin() as sidecar:
            for number in range(answered):
                assert await sidecar.host.result(ask(sidecar, number)) == results[number]
            workers = sidecar.workshop.workers
            ran = [number for number in range(answered) if any(w.find(f"number {number}") for w in workers)]
            assert ran == [], "they ran again"
            if answered < KEYS:
                fresh = await sidecar.host.response(ask(sidecar, KEYS - 1))
                again = await sidecar.host.response(ask(sidecar, KEYS - 1))
                assert {**again, "id": 0} == {**fresh, "id": 0}
