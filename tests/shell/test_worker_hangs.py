"""A worker process that hangs: it is noticed by itself, also where nobody set a deadline, and nobody else is."""

import attrs
import pytest
import trio
from fake_worker import echo

from mlzoo import frames

HOUR_S = 3600


async def hung(sidecar, **how):
    """Have a chat begin, say two words, and hang; return the chat's id and the worker."""
    sidecar.workshop.answer = None
    chat = sidecar.chat("a", stream=True)
    worker = await sidecar.worker()
    [request] = await worker.given()
    worker.generate(request, "so ", "far", finish=None)
    await sidecar.host.streamed(chat, 2)
    for name, value in how.items():
        setattr(sidecar.workshop, name, value)
    return chat, worker


async def works(sidecar):
    """Say whether the next chat is answered by a process that does not hang."""
    sidecar.workshop.silent = sidecar.workshop.stuck = sidecar.workshop.deaf = False
    sidecar.workshop.answer, sidecar.workshop.loads = echo, "well"
    return (await sidecar.host.result(sidecar.chat("next")))["message"]["content"] == "next"


@pytest.mark.parametrize(
    ("how", "bound_s"), [({"silent": True}, 30), ({"deaf": True}, 30), ({"stuck": True}, 600)], ids=str
)
async def test_one_that_hangs_is_killed_and_what_ran_there_ends_with_1008(lives, autojump_clock, how, bound_s):
    async with lives.begin() as sidecar:
        chat, worker = await hung(sidecar, **how)
        began_s = trio.current_time()
        error = await sidecar.host.error(chat)
        assert (error["code"], error["data"]["partial"], error["data"]["seq"]) == (1008, "so far", 1)
        assert trio.current_time() - began_s < bound_s * 1.2
        assert worker.status == -9
        assert await works(sidecar)
        assert len(sidecar.workshop.workers) == 2
    assert "worker of cpu was killed: it had" in sidecar.stderr_text()


async def test_one_that_does_not_read_while_more_is_sent_to_it_is_killed_too(lives, autojump_clock):
    async with lives.begin() as sidecar:
        chat, _ = await hung(sidecar, deaf=True)
        another = sidecar.chat("b")
        assert (await sidecar.host.error(chat))["code"] == 1008
        assert (await sidecar.host.error(another))["code"] == 1008
        assert await works(sidecar)


@pytest.mark.parametrize("how", ["silent", "stuck"])
async def test_one_that_hangs_in_a_load_is_killed_and_the_model_can_be_loaded_again(lives, autojump_clock, how):
    async with lives.begin() as sidecar:
        sidecar.workshop.loads, sidecar.workshop.doing = "later", "load"
        setattr(sidecar.workshop, how, True)
        began_s = trio.current_time()
        error = await sidecar.host.error(sidecar.chat("a"))
        assert (error["code"], error["data"]["model"]) == (1004, "toy")
        assert 1800 <= trio.current_time() - began_s < 2000
        assert await works(sidecar)


async def test_one_that_works_for_hours_is_left_alone(lives, autojump_clock):
    async with lives.begin() as sidecar:
        chat, worker = await hung(sidecar)
        await trio.sleep(5 * HOUR_S)
        worker.generate(worker.find("a"), "!")
        assert (await sidecar.host.result(chat))["message"]["content"] == "so far!"
        assert len(sidecar.workshop.workers) == 1


async def test_a_machine_that_sleeps_costs_no_worker_its_life(lives, autojump_clock):
    async with lives.begin() as sidecar:
        chat, worker = await hung(sidecar)
        for _ in range(20):
            autojump_clock.jump(8 * HOUR_S)
            await trio.sleep(1)
        worker.generate(worker.find("a"), "!")
        assert (await sidecar.host.result(chat))["message"]["content"] == "so far!"
        assert len(sidecar.workshop.workers) == 1


async def test_one_that_has_nothing_to_do_is_not_disturbed(lives, autojump_clock):
    lives.models["toy"] = attrs.evolve(lives.models["toy"], keep_alive_s=2.0 * HOUR_S)
    async with lives.begin() as sidecar:
        await sidecar.host.result(sidecar.chat("a"))
        worker = await sidecar.worker()
        await trio.sleep(60)
        beats = worker.beats
        sidecar.workshop.silent = True
        await trio.sleep(HOUR_S)
        assert worker.beats == beats
        assert worker.status is None
    assert isinstance(worker.told[-1], frames.Leave)
