"""Supervision: who starts and stops when, and what becomes of the mail."""

import pytest
import trio
from supervision_story import Boom, Count
from trio.testing import wait_all_tasks_blocked

from mlzoo.actors import ActorGone, ChildStopped, SupervisorSpec


async def test_children_start_in_order_each_when_the_one_before_is_ready(story, nursery, autojump_clock):
    async def slow(inbox):
        story.lines.append(f"begin {inbox.ref.name}")
        await trio.sleep(3)
        await story.actor(inbox)

    await nursery.start(story.supervisor(story.child("a", slow), story.child("b", slow), story.child("c")).run)
    assert story.lines == ["begin a", "start a", "begin b", "start b", "start c"]
    assert trio.current_time() == 6


async def test_children_stop_in_reverse_order(story, nursery):
    supervisor = story.supervisor(*map(story.child, "abc"))
    await nursery.start(supervisor.run)
    story.lines.clear()
    supervisor.stop()
    await wait_all_tasks_blocked()
    assert story.lines == ["stop c", "stop b", "stop a"]
    assert story.states(supervisor) == {"a": "stopped", "b": "stopped", "c": "stopped"}


async def answers_of_a_busy_child_that_is_stopped_by(
    story, stop, *, nest=lambda child: child, restart="permanent", **options
):
    """Queue five asks at a child that does not read yet, call ``stop(supervisor, first)``, let it read."""
    released = trio.Event()

    async def busy(inbox):
        inbox.ready()
        await released.wait()
        await story.actor(inbox)

    first = story.child("first")
    child = story.child("busy", busy, restart=restart)
    supervisor = story.supervisor(first, nest(child), **options)
    answers = []

    async def ask():
        answers.append(await child.mailbox.ask(Count))

    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        async with trio.open_nursery() as askers:
            for _ in range(5):
                askers.start_soon(ask)
            await wait_all_tasks_blocked()
            stop(supervisor, first)
            await wait_all_tasks_blocked()
            with pytest.raises(ActorGone):
                await child.mailbox.ask(Count)
            released.set()
        supervisor.stop()
    return sorted(answers)


async def test_what_is_in_the_mailbox_is_handled_before_a_child_stops_for_good(story):
    answers = await answers_of_a_busy_child_that_is_stopped_by(story, lambda supervisor, _: supervisor.stop())
    assert answers == [1, 2, 3, 4, 5]


async def test_what_is_in_the_mailbox_is_handled_before_a_nested_child_stops_for_good(story):
    answers = await answers_of_a_busy_child_that_is_stopped_by(
        story, lambda supervisor, _: supervisor.stop(), nest=lambda child: SupervisorSpec("group", (child,))
    )
    assert answers == [1, 2, 3, 4, 5]


async def test_what_is_in_the_mailbox_of_a_temporary_child_is_handled_before_it_ends_with_its_group(story):
    answers = await answers_of_a_busy_child_that_is_stopped_by(
        story,
        lambda _, first: first.mailbox.tell_nowait(Boom()),
        restart="temporary",
        strategy="one_for_all",
    )
    assert answers == [1, 2, 3, 4, 5]


async def test_a_stop_for_good_is_not_weakened_by_a_later_one_that_is_not(story):
    def stop_twice(supervisor, _):
        supervisor.stop()
        supervisor.stop(for_good=False)

    assert await answers_of_a_busy_child_that_is_stopped_by(story, stop_twice) == [1, 2, 3, 4, 5]


async def test_a_child_that_is_stopped_while_it_starts_is_never_called_started(story, nursery):
    released = trio.Event()

    async def slow(inbox):
        await released.wait()
        await story.actor(inbox)

    supervisor = story.supervisor(story.child("a", slow))
    nursery.start_soon(supervisor.run)
    await wait_all_tasks_blocked()
    supervisor.stop()
    await wait_all_tasks_blocked()
    assert story.states(supervisor) == {"a": "stopping"}
    released.set()
    await wait_all_tasks_blocked()
    assert story.events == [ChildStopped("a", cancelled=False)]


async def test_a_child_that_does_not_stop_in_time_is_cancelled_and_each_has_its_own_time(story, autojump_clock):
    async def deaf(inbox):
        inbox.ready()
        await trio.sleep_forever()

    supervisor = story.supervisor(
        story.child("a"), story.child("b", deaf, shutdown_s=2), story.child("c", deaf, shutdown_s=3)
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        story.events.clear()
        supervisor.stop()
    assert trio.current_time() == 5
    assert story.events == [
        ChildStopped("c", cancelled=True),
        ChildStopped("b", cancelled=True),
        ChildStopped("a", cancelled=False),
    ]


async def test_a_shutdown_time_of_zero_cancels_at_once(story, nursery):
    supervisor = story.supervisor(story.child("a", shutdown_s=0))
    await nursery.start(supervisor.run)
    supervisor.stop()
    await wait_all_tasks_blocked()
    assert story.events[-1] == ChildStopped("a", cancelled=True)


@pytest.mark.parametrize("shutdown_s", [0, 1])
@pytest.mark.parametrize("restarting", [False, True])
async def test_a_child_that_ignores_its_cancellation_does_not_hold_up_those_below_it(
    story, autojump_clock, shutdown_s, restarting
):
    released = trio.Event()

    async def stubborn(inbox):
        inbox.ready()
        with trio.CancelScope(shield=True):
            await released.wait()

    first = story.child("a")
    supervisor = story.supervisor(
        first, story.child("b", stubborn, shutdown_s=shutdown_s), story.child("c"), strategy="one_for_all"
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        if restarting:
            first.mailbox.tell_nowait(Boom())
            await trio.sleep(10)
            assert story.states(supervisor) == {"a": "backoff", "b": "stopping", "c": "waiting"}
        supervisor.stop()
        await trio.sleep(3)
        assert story.states(supervisor)["a"] == ("backoff" if restarting else "stopped")
        assert story.states(supervisor)["b"] == "stopping"
        released.set()
    assert story.states(supervisor)["b"] == "stopped"


async def test_a_child_that_is_cancelled_at_once_may_clean_up_before_those_below_it_stop(story, autojump_clock):
    async def tidy(inbox):
        inbox.ready()
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.5)
            story.lines.append("tidied up")

    supervisor = story.supervisor(story.child("a"), story.child("b", tidy, shutdown_s=0))
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        supervisor.stop()
    assert story.lines == ["start a", "tidied up", "stop a"]
