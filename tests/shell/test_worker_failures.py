"""What becomes of requests whose worker fails: only they notice, and the next one works."""

import pytest
import trio

from mlzoo import frames


async def started(sidecar, *prompts):
    """Send chats that are answered by hand, and return their ids, the worker and its names for them."""
    sidecar.workshop.answer = None
    ids = [sidecar.chat(prompt, stream=True) for prompt in prompts]
    worker = await sidecar.worker()
    return ids, worker, [await worker.asked(prompt) for prompt in prompts]


def behave(sidecar):
    from fake_worker import echo

    sidecar.workshop.loads, sidecar.workshop.answer, sidecar.workshop.deaf = "well", echo, False


async def test_a_crash_ends_what_ran_there_with_its_partial_text_and_the_next_chat_works(lives, autojump_clock):
    async with lives.begin() as sidecar:
        ids, worker, requests = await started(sidecar, "a", "b")
        for request in requests:
            worker.generate(request, "so ", "far", finish=None)
        for chat in ids:
            await sidecar.host.streamed(chat, 2)
        worker.end(-11)
        for chat in ids:
            error = await sidecar.host.error(chat)
            assert (error["code"], error["data"]["partial"], error["data"]["seq"]) == (1008, "so far", 1)
        behave(sidecar)
        assert (await sidecar.host.result(sidecar.chat("next")))["message"]["content"] == "next"
        [workers] = [a for a in (await sidecar.host.call("status"))["actors"] if a["name"] == "workers/cpu"]
        assert (workers["restarts"], workers["failure"]) == (1, "WorkerDied")


async def test_a_worker_that_crashes_again_and_again_comes_back_ever_more_slowly(lives, autojump_clock):
    async with lives.begin() as sidecar:
        moments = []
        for round_ in range(6):
            chat = sidecar.chat("x")
            sidecar.workshop.answer = lambda worker, _frame: worker.end(-9)
            assert (await sidecar.host.error(chat))["code"] == 1008
            moments.append(trio.current_time())
            assert len(sidecar.workshop.workers) == round_ + 1
        assert moments[-1] - moments[-2] > moments[2] - moments[1]
        behave(sidecar)
        await sidecar.host.result(sidecar.chat("x"))


async def test_a_model_whose_load_kills_the_worker_is_an_error_and_can_be_tried_again(lives, autojump_clock):
    async with lives.begin() as sidecar:
        sidecar.workshop.loads = "to death"
        error = await sidecar.host.error(sidecar.chat("x"))
        assert (error["code"], error["data"]["model"]) == (1004, "toy")
        behave(sidecar)
        await sidecar.host.result(sidecar.chat("x"))


async def test_a_model_that_will_not_load_is_an_error_and_can_be_tried_again(lives, autojump_clock):
    async with lives.begin() as sidecar:
        sidecar.workshop.loads = "badly"
        assert (await sidecar.host.error(sidecar.chat("x")))["code"] == 1004
        behave(sidecar)
        await sidecar.host.result(sidecar.chat("x"))


async def test_a_process_that_cannot_be_started_is_an_error_and_can_be_tried_again(lives, autojump_clock):
    async with lives.begin() as sidecar:
        sidecar.workshop.refuses = True
        assert (await sidecar.host.error(sidecar.chat("x")))["code"] == 1004
        sidecar.workshop.refuses = False
        await sidecar.host.result(sidecar.chat("x"))


@pytest.mark.parametrize(
    "noise", [b"Segmentation fault\n", b'{"type":"Loaded"}\n', b'{"type":"Lead","x":1}\n', b"[]\n"]
)
async def test_a_worker_that_says_what_is_no_frame_is_killed_and_replaced(lives, autojump_clock, noise):
    async with lives.begin() as sidecar:
        [chat], worker, _ = await started(sidecar, "a")
        worker.babble(noise)
        assert (await sidecar.host.error(chat))["code"] == 1008
        assert worker.status == -9
        behave(sidecar)
        await sidecar.host.result(sidecar.chat("next"))


async def test_a_worker_that_hangs_holds_nobody_past_their_deadline(lives, autojump_clock):
    async with lives.begin() as sidecar:
        _, worker, _ = await started(sidecar, "a")
        sidecar.workshop.deaf = True
        late = sidecar.chat("b", deadline_ms=2000)
        assert (await sidecar.host.error(late))["code"] == 1002
        assert await sidecar.host.call("ping") == {}
    assert sidecar.status == 0
    assert worker.status == -9


async def test_a_worker_that_does_not_leave_when_it_is_told_to_is_killed(lives, autojump_clock):
    async with lives.begin() as sidecar:
        sidecar.workshop.stays = True
        await sidecar.host.result(sidecar.chat("x"))
        await sidecar.host.call("models.unload", {"model": "toy"})
        worker = await sidecar.worker()
        await worker.ended()
        assert worker.status == -9
        await sidecar.host.result(sidecar.chat("y"))


async def test_a_failure_of_one_request_leaves_its_neighbours_alone(lives, autojump_clock):
    async with lives.begin() as sidecar:
        [first, second], worker, requests = await started(sidecar, "a", "b")
        worker.say(frames.WorkFailed(request=requests[0], code=1006, message="too long", data={"limit": 64, "got": 65}))
        error = await sidecar.host.error(first)
        assert (error["code"], error["data"]["limit"]) == (1006, 64)
        worker.generate(requests[1], "fine")
        assert (await sidecar.host.result(second))["message"]["content"] == "fine"


async def test_a_worker_may_not_use_codes_that_are_not_its_own(lives, autojump_clock):
    async with lives.begin() as sidecar:
        [chat], worker, [request] = await started(sidecar, "a")
        worker.say(frames.WorkFailed(request=request, code=1015, message="I am the log"))
        assert (await sidecar.host.error(chat))["code"] == -32603


async def test_a_worker_that_dies_as_the_sidecar_leaves_does_not_keep_it(lives, autojump_clock):
    async with lives.begin() as sidecar:
        [chat], worker, _ = await started(sidecar, "a")
        sidecar.host.close()
        worker.end(-9)
        assert (await sidecar.host.error(chat))["code"] == 1008
        await sidecar.ended.wait()
    assert sidecar.status == 0
