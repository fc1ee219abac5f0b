"""Recorded sessions, run again by the sidecar's own code with recorded model output."""

from random import Random

import pytest
from running_again import run_again
from test_random_lives import Chance


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_happened_happens_again(lives, recorded, autojump_clock, seed):
    lives.disk.faults.sync_s = Random(seed).choice((0, 0, 0.2))
    async with lives.begin() as sidecar:
        chance = Chance(sidecar, seed)
        sidecar.workshop.answer = None
        for _ in range(60):
            await chance.act()
        sidecar.host.read_on()
        await sidecar.leave()
    found = run_again(recorded(), lives.config())
    assert found.holds, "\n".join(found.told())
    assert len(found.verdicts) >= 10
