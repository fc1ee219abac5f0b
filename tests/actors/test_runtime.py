"""Asking and reading: every ask ends, nothing is handled that nobody waits for, nobody is starved."""

import math

import pytest
import trio
from attrs import frozen
from trio.testing import wait_all_tasks_blocked

from mlzoo.actors import (
    ActorCrashed,
    ActorGone,
    Backpressure,
    DeadlinePassed,
    Inbox,
    Mailbox,
    Reply,
    run,
)


@frozen
class Double:
    reply: Reply[int]
    number: int


@frozen
class Block:
    started: trio.Event
    released: trio.Event


@frozen
class Crash:
    reply: Reply[int]


@frozen
class Keep:
    reply: Reply[int]


@frozen
class TellDeadline:
    reply: Reply[float]


Message = Double | Block | Crash | Keep | TellDeadline


async def worker(inbox: Inbox[Message], handled: list[Message] | None = None) -> None:
    kept = []
    async for message in inbox:
        if handled is not None:
            handled.append(message)
        match message:
            case Double(reply, number) if number < 0:
                reply.fail(ValueError("negative"))
            case Double(reply, number):
                reply.send(2 * number)
            case Block(started, released):
                started.set()
                await released.wait()
            case Crash():
                raise KeyError("crashed on it")
            case Keep(reply):
                kept.append(reply)
            case TellDeadline(reply):
                reply.send(reply.deadline)


def open_mailbox() -> Mailbox[Message]:
    return Mailbox("worker", Backpressure(16))


async def test_an_ask_returns_what_the_actor_answers(nursery):
    mailbox = open_mailbox()
    nursery.start_soon(run, mailbox, worker)
    assert await mailbox.ask(Double, 4) == 8
    assert await mailbox.ask(Double, number=5) == 10


async def test_a_typed_failure_is_raised_where_the_ask_waits_and_the_actor_lives_on(nursery):
    mailbox = open_mailbox()
    nursery.start_soon(run, mailbox, worker)
    with pytest.raises(ValueError, match="negative"):
        await mailbox.ask(Double, -1)
    assert await mailbox.ask(Double, 1) == 2


async def test_an_ask_whose_actor_crashes_on_it_ends_with_the_crash_as_its_cause():
    mailbox = open_mailbox()
    ends = []

    async def ask(make):
        try:
            await mailbox.ask(make)
        except (ActorCrashed, ActorGone) as error:
            ends.append(error)

    async with trio.open_nursery() as nursery:
        for make in (Keep, Crash, Keep):
            nursery.start_soon(ask, make)
            await wait_all_tasks_blocked()
        with pytest.raises(KeyError) as crash:
            await run(mailbox, worker)
    kept, crashed_on, never_taken = sorted(ends, key=lambda error: (type(error).__name__, error.__cause__ is None))
    assert isinstance(kept, ActorCrashed)
    assert isinstance(crashed_on, ActorCrashed)
    assert kept.__cause__ is crashed_on.__cause__ is crash.value
    assert isinstance(never_taken, ActorGone)


async def test_an_ask_that_the_actor_kept_when_it_returned_ends_with_gone(nursery):
    mailbox = open_mailbox()

    async def takes_one(inbox):
        await inbox.receive()

    nursery.start_soon(run, mailbox, takes_one)
    with pytest.raises(ActorGone):
        await mailbox.ask(Keep)
    with pytest.raises(ActorGone):
        await mailbox.ask(Keep)


async def test_an_ask_ends_at_its_deadline(nursery, autojump_clock):
    mailbox = open_mailbox()
    nursery.start_soon(run, mailbox, worker)
    deadline = trio.current_time() + 5
    with pytest.raises(DeadlinePassed, match="worker"):
        await mailbox.ask_by(deadline, Keep)
    assert trio.current_time() == deadline


async def test_the_deadline_travels_with_the_ask_whoever_set_it(nursery, autojump_clock):
    mailbox = open_mailbox()
    nursery.start_soon(run, mailbox, worker)
    assert await mailbox.ask(TellDeadline) == math.inf
    deadline = trio.current_time() + 5
    assert await mailbox.ask_by(deadline, TellDeadline) == deadline
    with trio.fail_at(deadline - 1):
        assert await mailbox.ask(TellDeadline) == deadline - 1
        assert await mailbox.ask_by(deadline, TellDeadline) == deadline - 1


async def test_an_ask_whose_deadline_passed_before_it_was_taken_is_not_handled(nursery, autojump_clock):
    mailbox = open_mailbox()
    block = Block(trio.Event(), trio.Event())
    handled: list[Message] = []
    nursery.start_soon(run, mailbox, lambda inbox: worker(inbox, handled))
    await mailbox.tell(block)
    await block.started.wait()
    with pytest.raises(DeadlinePassed):
        await mailbox.ask_by(trio.current_time() + 1, Double, 1)
    block.released.set()
    assert await mailbox.ask(Double, 2) == 4
    assert [message.number for message in handled if isinstance(message, Double)] == [2]


async def test_a_deadline_that_passes_while_the_actor_computes_is_noticed_before_the_cancellation_is(mock_clock):
    mailbox = open_mailbox()
    reply: Reply[int] = Reply(deadline=trio.current_time() + 1)
    assert reply.take({})
    mock_clock.jump(1)
    assert not reply.take({})
    assert reply.pending
    assert mailbox.depth == 0


async def test_a_cancelled_ask_is_not_handled(nursery):
    mailbox = open_mailbox()
    handled: list[Message] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        await mailbox.ask(Double, 1)
    assert scope.cancelled_caught
    nursery.start_soon(run, mailbox, lambda inbox: worker(inbox, handled))
    assert await mailbox.ask(Double, 2) == 4
    assert len(handled) == 1


async def test_an_answer_that_comes_too_late_does_nothing(nursery, autojump_clock):
    mailbox = open_mailbox()
    taken = trio.Event()
    late = trio.Event()

    async def slow(inbox):
        message = await inbox.receive()
        taken.set()
        await late.wait()
        assert not message.reply.pending
        message.reply.send(1)
        message.reply.fail(ValueError())

    async with trio.open_nursery() as own:
        own.start_soon(run, mailbox, slow)
        with pytest.raises(DeadlinePassed):
            await mailbox.ask_by(trio.current_time() + 1, Keep)
        assert taken.is_set()
        late.set()


async def test_answering_twice_is_the_actors_bug():
    reply: Reply[int] = Reply()
    reply.send(1)
    with pytest.raises(RuntimeError):
        reply.send(2)
    with pytest.raises(RuntimeError):
        reply.fail(ValueError())
    assert await reply.wait() == 1


async def test_an_actor_may_answer_later_and_from_a_task_of_its_own(nursery):
    async def concurrent(inbox: Inbox[Double]) -> None:
        async def answer(message):
            await wait_all_tasks_blocked()
            message.reply.send(2 * message.number)

        async with trio.open_nursery() as own:
            async for message in inbox:
                own.start_soon(answer, message)

    mailbox: Mailbox[Double] = Mailbox("concurrent", Backpressure(4))
    nursery.start_soon(run, mailbox, concurrent)
    answers = []

    async def ask(number):
        answers.append(await mailbox.ask(Double, number))

    async with trio.open_nursery() as askers:
        for number in range(4):
            askers.start_soon(ask, number)
    assert sorted(answers) == [0, 2, 4, 6]


async def test_an_actor_can_tell_itself(nursery):
    async def echo(inbox: Inbox[str]) -> None:
        async def task(ref):
            await ref.tell("from within")

        async with trio.open_nursery() as own:
            own.start_soon(task, inbox.ref)
            heard.append(await inbox.receive())

    heard: list[str] = []
    await run(Mailbox("echo", Backpressure(1)), echo)
    assert heard == ["from within"]


async def test_a_batch_is_what_there_is_up_to_its_limit_and_waits_for_the_first(nursery):
    batches = []

    async def batching(inbox: Inbox[int]) -> None:
        while batch := await inbox.receive_batch(3):
            batches.append(batch)

    mailbox: Mailbox[int] = Mailbox("batching", Backpressure(8))
    for number in range(5):
        mailbox.tell_nowait(number)
    nursery.start_soon(run, mailbox, batching)
    await wait_all_tasks_blocked()
    mailbox.tell_nowait(5)
    await wait_all_tasks_blocked()
    assert batches == [[0, 1, 2], [3, 4], [5]]


async def test_a_cancelled_read_loses_no_message(nursery, autojump_clock):
    async def patient(inbox: Inbox[int]) -> None:
        with trio.move_on_after(1):
            await inbox.receive_batch()
        mailbox.tell_nowait(1)
        with trio.CancelScope() as scope:
            scope.cancel()
            await inbox.receive_batch()
        got.extend(await inbox.receive_batch())

    got: list[int] = []
    mailbox: Mailbox[int] = Mailbox("patient", Backpressure(8))
    await run(mailbox, patient)
    assert got == [1]


@pytest.mark.parametrize("reading", ["one by one", "in batches"])
async def test_other_tasks_get_their_turn_after_64_messages_at_most(nursery, reading):
    async def glutton(inbox: Inbox[int]) -> None:
        if reading == "one by one":
            async for _ in inbox:
                taken[-1] += 1
        else:
            while batch := await inbox.receive_batch():
                taken[-1] += len(batch)

    async def bystander():
        while mailbox.depth:
            taken.append(0)
            await trio.lowlevel.checkpoint()

    taken = [0]
    mailbox: Mailbox[int] = Mailbox("glutton", Backpressure(1000))
    for number in range(1000):
        mailbox.tell_nowait(number)
    nursery.start_soon(run, mailbox, glutton)
    nursery.start_soon(bystander)
    await wait_all_tasks_blocked()
    assert sum(taken) == 1000
    # Trio runs the tasks of one round in any order, so that two turns of one may fall between two of the other.
    assert max(taken) <= 2 * 64


async def test_run_says_that_it_has_started_when_the_actor_first_reads(nursery):
    async def slow_start(inbox: Inbox[int]) -> None:
        await trio.lowlevel.checkpoint()
        story.append("prepared")
        async for _ in inbox:
            pass

    story = []
    await nursery.start(run, Mailbox("slow", Backpressure(1)), slow_start)
    story.append("started")
    assert story == ["prepared", "started"]


async def test_an_actor_that_does_not_read_says_that_it_is_ready(nursery):
    async def sleeper(inbox: Inbox[int]) -> None:
        inbox.ready()
        inbox.ready()
        await inbox.stopping.wait()

    await nursery.start(run, Mailbox("sleeper", Backpressure(1)), sleeper)
    nursery.cancel_scope.cancel()


async def test_cancelling_an_actor_is_no_crash_and_ends_its_asks():
    mailbox = open_mailbox()
    ends = []

    async def ask():
        with pytest.raises(ActorGone):
            await mailbox.ask(Keep)
        ends.append("gone")

    async with trio.open_nursery() as askers:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(run, mailbox, worker)
                askers.start_soon(ask)
                await wait_all_tasks_blocked()
                scope.cancel()
    assert ends == ["gone"]
    assert (await mailbox.wait_down()).reason is None


async def test_an_actor_that_asks_for_the_stop_after_it_came_finds_it(nursery):
    async def asks_late(inbox: Inbox[int]) -> None:
        async for _ in inbox:
            pass
        assert inbox.stopping.is_set()
        story.append("stopped")

    story = []
    mailbox: Mailbox[int] = Mailbox("late", Backpressure(1))
    inbox = Inbox(mailbox, lambda: story.append("ready"))
    inbox.stop()
    await asks_late(inbox)
    assert story == ["ready", "stopped"]
