"""Supervisors as children, what a supervisor tells of its children, and what it must not swallow."""

import random

import pytest
import trio
from supervision_story import NOW, Boom, Count, Leave, Message, crash
from trio.testing import wait_all_tasks_blocked

from mlzoo.actors import (
    ActorCrashed,
    ActorGone,
    Backoff,
    Backpressure,
    ChildCrashed,
    ChildRestarting,
    ChildSpec,
    ChildStarted,
    ChildStatus,
    DeadLetters,
    Down,
    Intensity,
    Mailbox,
    Supervisor,
    SupervisorSpec,
)


async def test_an_exception_group_out_of_a_childs_own_nursery_is_a_crash_of_that_child(story, nursery):
    async def fails_in_a_task(inbox):
        async def task():
            raise OSError("in a task")

        async with trio.open_nursery() as own:
            async for _ in inbox:
                own.start_soon(task)

    child = story.child("a", fails_in_a_task)
    await nursery.start(story.supervisor(child).run)
    child.mailbox.tell_nowait(Boom())
    await wait_all_tasks_blocked()
    crashes = [event.error for event in story.events if isinstance(event, ChildCrashed)]
    assert len(crashes) == 1
    assert isinstance(crashes[0], ExceptionGroup)
    assert crashes[0].__traceback__ is not None


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_is_no_exception_passes_through_and_leaves_nobody_waiting(story, error):
    async def interrupted(inbox):
        await inbox.receive()
        raise error

    child = story.child("a", interrupted)
    ends = []

    async def main():
        async def ask():
            try:
                await child.mailbox.ask(Count)
            except ActorCrashed:
                ends.append("ended")

        async with trio.open_nursery() as askers:
            askers.start_soon(ask)
            with trio.CancelScope(shield=True):
                await wait_all_tasks_blocked()
                await story.supervisor(child).run()

    with pytest.raises(BaseExceptionGroup) as caught:
        trio.run(main)
    assert caught.group_contains(error)
    assert child.mailbox.closed


async def test_cancelling_a_supervisor_cancels_its_children_and_leaves_nobody_waiting(story):
    async def keeps(inbox):
        kept = [message async for message in inbox]
        assert kept == []

    child = story.child("a", keeps)
    ends = []

    async def ask():
        try:
            await child.mailbox.ask(Count)
        except ActorCrashed as error:
            ends.append(error)

    async with trio.open_nursery() as askers, trio.open_nursery() as nursery:
        await nursery.start(story.supervisor(SupervisorSpec("nested", (child,))).run)
        askers.start_soon(ask)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert len(ends) == 1
    assert [event for event in story.events if isinstance(event, ChildCrashed)] == []
    with pytest.raises(ActorGone):
        await child.mailbox.ask(Count)


async def test_a_nested_supervisor_that_is_restarted_with_its_group_keeps_its_addresses_but_no_temporary_child(
    story, nursery
):
    first, inner = story.child("first"), story.child("inner")
    temporary = story.child("temporary", restart="temporary")
    group = SupervisorSpec("group", (inner, temporary))
    supervisor = story.supervisor(first, group, strategy="one_for_all")
    await nursery.start(supervisor.run)
    assert await inner.mailbox.ask(Count) == 1
    await crash(first)
    assert await inner.mailbox.ask(Count) == 1
    assert (await temporary.mailbox.wait_down()).gone
    assert story.states(supervisor) == {
        "first": "running",
        "group": "running",
        "group/inner": "running",
        "group/temporary": "stopped",
    }


async def test_a_watcher_hears_of_each_instance_and_at_last_that_the_actor_has_gone(story):
    child = story.child("a")
    watcher: Mailbox[Down] = Mailbox("watcher", Backpressure(8))
    supervisor = story.supervisor(child)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        child.mailbox.watch(watcher)
        await crash(child)
        supervisor.stop()
    (crashed,) = [event.error for event in story.events if isinstance(event, ChildCrashed)]
    assert watcher.take({}) == Down("a", crashed, gone=False)
    assert watcher.take({}) == Down("a", None, gone=True)
    assert watcher.depth == 0


async def test_a_snapshot_tells_how_each_child_is_nested_ones_too(story, nursery, autojump_clock):
    inner = story.child("inner")
    spec = SupervisorSpec("group", (inner,), backoff=Backoff(first_s=100, most_s=100))
    supervisor = story.supervisor(story.child("a"), spec)
    assert story.states(supervisor) == {"a": "waiting", "group": "waiting"}
    await nursery.start(supervisor.run)
    inner.mailbox.tell_nowait(Boom())
    await trio.sleep(1)
    inner.mailbox.tell_nowait(Leave())
    assert supervisor.snapshot() == (
        ChildStatus("a", "running", 0, 0, None),
        ChildStatus("group", "running", 0, 0, None),
        ChildStatus("group/inner", "backoff", 0, 1, "ValueError"),
    )
    await trio.sleep(100)
    assert ChildStatus("group/inner", "backoff", 1, 0, "ValueError") in supervisor.snapshot()


async def test_events_tell_the_story_of_a_crash(story, nursery):
    child = story.child("a")
    await nursery.start(story.supervisor(child).run)
    await crash(child)
    started, crashed, restarting, again = story.events
    assert started == ChildStarted("a", restarts=0)
    assert isinstance(crashed, ChildCrashed)
    assert crashed.error.__traceback__ is not None
    assert restarting == ChildRestarting("a", delay_s=0.0)
    assert again == ChildStarted("a", restarts=1)


async def test_an_inner_supervisor_that_gives_up_is_restarted_by_the_outer_one_with_the_same_addresses(
    story, nursery, autojump_clock
):
    inner = story.child("inner")
    done = story.child("done", restart="transient")
    sibling = story.child("sibling")
    group = SupervisorSpec("group", (done, inner, sibling), backoff=NOW, intensity=Intensity(0))
    supervisor = story.supervisor(group, story.child("b"))
    await nursery.start(supervisor.run)
    done.mailbox.tell_nowait(Leave())
    await wait_all_tasks_blocked()
    story.lines.clear()
    await crash(inner)
    assert await sibling.mailbox.ask(Count) == 1
    assert story.lines == ["stop sibling", "start inner", "start sibling"]
    status = {status.name: status for status in supervisor.snapshot()}
    assert status["group"].restarts == 1
    assert status["group"].failure == "RestartIntensityExceeded"
    assert status["group/done"].state == "stopped"
    assert status["b"].restarts == 0


async def test_a_nested_supervisor_stops_in_reverse_order_within_the_outer_order(story):
    group = SupervisorSpec("group", (story.child("b"), story.child("c")))
    supervisor = story.supervisor(story.child("a"), group, story.child("d"))
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        supervisor.stop()
    assert story.lines == ["start a", "start b", "start c", "start d", "stop d", "stop c", "stop b", "stop a"]


async def test_a_nested_supervisor_that_does_not_stop_in_time_is_cancelled_with_its_children(story, autojump_clock):
    async def deaf(inbox):
        inbox.ready()
        await trio.sleep_forever()

    child = story.child("b", deaf, shutdown_s=1000)
    supervisor = story.supervisor(story.child("a"), SupervisorSpec("group", (child,), shutdown_s=2))
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        supervisor.stop()
    assert trio.current_time() == 2
    assert (await child.mailbox.wait_down()).gone


async def test_tells_that_a_stopped_actor_left_are_dead_letters(story):
    async def deaf(inbox):
        await inbox.receive()
        await inbox.stopping.wait()

    dead_letters = DeadLetters()
    mailbox: Mailbox[Message] = Mailbox("deaf", Backpressure(8), dead_letters)
    supervisor = story.supervisor(ChildSpec(mailbox, deaf))
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        mailbox.tell_nowait(Leave())
        await wait_all_tasks_blocked()
        mailbox.tell_nowait(Leave())
        supervisor.stop()
    assert dead_letters.count == 1


async def test_a_supervisor_without_children_starts_and_stops(story):
    supervisor = story.supervisor()
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        supervisor.stop()
    assert supervisor.snapshot() == ()


def test_two_children_of_one_name_are_refused(story):
    with pytest.raises(ValueError, match="same name"):
        story.supervisor(story.child("a"), story.child("a"))


async def test_what_the_observer_raises_is_not_swallowed(story):
    def observe(event):
        raise LookupError(event)

    spec = SupervisorSpec("top", (story.child("a"),))
    with pytest.raises(ExceptionGroup) as caught:
        await Supervisor(spec, random=random.Random(0), observe=observe).run()
    assert caught.group_contains(LookupError)


async def test_a_class_serves_as_an_actor_with_a_new_object_for_each_instance(story, nursery):
    class Counter:
        def __init__(self, step):
            self.step = step
            self.total = 0

        async def run(self, inbox):
            async for message in inbox:
                match message:
                    case Boom():
                        raise ValueError
                self.total += self.step
                message.reply.send(self.total)

    child = story.child("a", lambda inbox: Counter(step=2).run(inbox))
    await nursery.start(story.supervisor(child).run)
    assert await child.mailbox.ask(Count) == 2
    await crash(child)
    assert await child.mailbox.ask(Count) == 4
