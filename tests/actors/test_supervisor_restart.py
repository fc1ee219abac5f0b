"""Restarts: of whom, in which order, after how long, and when they are given up."""

import pytest
import trio
from supervision_story import Boom, Count, Leave, Story, crash
from trio.testing import wait_all_tasks_blocked

from mlzoo.actors import ActorCrashed, ActorGone, Backoff, ChildRestarting, Intensity, RestartIntensityExceeded


async def test_a_crash_restarts_a_new_instance_behind_the_same_address(story, nursery):
    child = story.child("a")
    await nursery.start(story.supervisor(child).run)
    assert await child.mailbox.ask(Count) == 1
    assert await child.mailbox.ask(Count) == 2
    with pytest.raises(ActorCrashed) as crashed:
        await child.mailbox.ask(Boom)
    assert isinstance(crashed.value.__cause__, ValueError)
    assert await child.mailbox.ask(Count) == 1


async def test_what_is_in_the_mailbox_at_a_crash_waits_for_the_new_instance_and_the_message_of_the_crash_does_not(
    story, nursery
):
    child = story.child("a")
    await nursery.start(story.supervisor(child).run)
    child.mailbox.tell_nowait(Boom())
    assert await child.mailbox.ask(Count) == 1
    assert story.lines == ["start a", "start a"]


async def test_one_for_one_restarts_the_crashed_child_only(story, nursery):
    children = [story.child(name) for name in "abc"]
    await nursery.start(story.supervisor(*children).run)
    story.lines.clear()
    await crash(children[1])
    assert story.lines == ["start b"]


async def test_one_for_all_stops_the_others_in_reverse_and_starts_all_in_order(story, nursery):
    children = [story.child(name) for name in "abc"]
    await nursery.start(story.supervisor(*children, strategy="one_for_all").run)
    story.lines.clear()
    await crash(children[1])
    await children[2].mailbox.ask(Count)
    assert story.lines == ["stop c", "stop a", "start a", "start b", "start c"]


async def test_rest_for_one_restarts_those_that_started_after_the_crashed_child(story, nursery):
    children = [story.child(name) for name in "abcd"]
    await nursery.start(story.supervisor(*children, strategy="rest_for_one").run)
    story.lines.clear()
    await crash(children[1])
    await children[3].mailbox.ask(Count)
    assert story.lines == ["stop d", "stop c", "start b", "start c", "start d"]


async def test_mail_of_a_child_that_is_restarted_with_its_group_waits_for_its_next_instance(story, nursery):
    children = [story.child(name) for name in "ab"]
    await nursery.start(story.supervisor(*children, strategy="one_for_all").run)
    await children[1].mailbox.ask(Count)
    children[0].mailbox.tell_nowait(Boom())
    await crash(children[0])
    assert await children[1].mailbox.ask(Count) == 1


async def test_a_crash_in_the_middle_of_a_group_restart_is_followed_by_a_whole_group(story, nursery, autojump_clock):
    starts = iter(["well", "badly", "well"])

    async def fails_once_at_its_second_start(inbox):
        story.lines.append("start b")
        if next(starts) == "badly":
            raise OSError("not yet")
        async for _ in inbox:
            pass

    children = [story.child("a"), story.child("b", fails_once_at_its_second_start), story.child("c")]
    await nursery.start(story.supervisor(*children, strategy="one_for_all").run)
    story.lines.clear()
    with pytest.raises(ActorCrashed):
        await children[0].mailbox.ask(Boom)
    assert await children[2].mailbox.ask(Count) == 1
    assert story.lines == ["stop c", "start a", "start b", "stop a", "start a", "start b", "start c"]


@pytest.mark.parametrize(
    ("restart", "message", "state"),
    [
        ("permanent", Boom(), "running"),
        ("permanent", Leave(), "running"),
        ("transient", Boom(), "running"),
        ("transient", Leave(), "stopped"),
        ("temporary", Boom(), "failed"),
        ("temporary", Leave(), "stopped"),
    ],
)
async def test_who_is_restarted_is_as_its_specification_says(story, nursery, restart, message, state):
    child = story.child("a", restart=restart)
    supervisor = story.supervisor(child)
    await nursery.start(supervisor.run)
    child.mailbox.tell_nowait(message)
    await wait_all_tasks_blocked()
    assert story.states(supervisor) == {"a": state}
    if state != "running":
        with pytest.raises(ActorGone):
            await child.mailbox.ask(Count)


async def test_a_temporary_child_ends_with_its_group_for_good(story, nursery):
    children = [story.child("a"), story.child("b", restart="temporary"), story.child("c", restart="transient")]
    supervisor = story.supervisor(*children, strategy="one_for_all")
    await nursery.start(supervisor.run)
    await crash(children[0])
    await children[2].mailbox.ask(Count)
    assert story.states(supervisor) == {"a": "running", "b": "stopped", "c": "running"}
    with pytest.raises(ActorGone):
        await children[1].mailbox.ask(Count)


async def test_more_restarts_than_the_intensity_allows_are_escalated_and_everybody_is_gone(story, autojump_clock):
    children = [story.child("a"), story.child("b")]
    supervisor = story.supervisor(*children, intensity=Intensity(2, within_s=10))

    async def crash_thrice():
        async with trio.open_nursery() as nursery:
            await nursery.start(supervisor.run)
            await crash(children[0])
            await crash(children[1])
            story.lines.clear()
            with pytest.raises(ActorCrashed):
                await children[0].mailbox.ask(Boom)
            with pytest.raises(ActorGone):
                await children[0].mailbox.ask(Count)

    with pytest.raises(ExceptionGroup) as caught:
        await crash_thrice()
    (exceeded,) = caught.value.exceptions
    assert isinstance(exceeded, RestartIntensityExceeded)
    assert isinstance(exceeded.__cause__, ValueError)
    assert story.lines == ["stop b"]
    assert story.states(supervisor) == {"a": "failed", "b": "stopped"}


async def test_restarts_that_are_long_past_do_not_count(story, nursery, autojump_clock):
    child = story.child("a")
    await nursery.start(story.supervisor(child, intensity=Intensity(1, within_s=10)).run)
    for _ in range(5):
        await crash(child)
        await trio.sleep(11)
    assert await child.mailbox.ask(Count) == 2


async def test_backoff_doubles_up_to_its_limit_with_at_most_half_taken_off(story, nursery, autojump_clock):
    child = story.child("a")
    backoff = Backoff(first_s=1, most_s=5)
    await nursery.start(story.supervisor(child, backoff=backoff, intensity=Intensity(9, within_s=1000)).run)
    waits = []
    for _ in range(5):
        before = trio.current_time()
        await crash(child)
        waits.append(trio.current_time() - before)
    announced = [event.delay_s for event in story.events if isinstance(event, ChildRestarting)]
    assert waits == pytest.approx(announced)
    for wait, longest in zip(waits, [1, 2, 4, 5, 5], strict=True):
        assert longest / 2 <= wait <= longest
    assert len(set(waits)) == len(waits)


async def test_the_same_random_gives_the_same_jitter(story, autojump_clock):
    async def delays():
        own = Story()
        child = own.child("a")
        supervisor = own.supervisor(child, backoff=Backoff(first_s=1))
        async with trio.open_nursery() as nursery:
            await nursery.start(supervisor.run)
            await crash(child)
            supervisor.stop()
        return [event.delay_s for event in own.events if isinstance(event, ChildRestarting)]

    assert await delays() == await delays()


async def test_a_child_in_backoff_does_not_keep_others_from_being_restarted(story, nursery, autojump_clock):
    children = [story.child("a"), story.child("b")]
    supervisor = story.supervisor(*children, backoff=Backoff(first_s=1, most_s=100, factor=100))
    await nursery.start(supervisor.run)
    await crash(children[0])
    children[0].mailbox.tell_nowait(Boom())
    await crash(children[1])
    assert story.states(supervisor) == {"a": "backoff", "b": "running"}
    await children[0].mailbox.ask(Count)
    assert story.states(supervisor) == {"a": "running", "b": "running"}


async def test_a_stop_interrupts_a_backoff(story, autojump_clock):
    child = story.child("a")
    supervisor = story.supervisor(child, backoff=Backoff(first_s=1000, most_s=1000))
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        child.mailbox.tell_nowait(Boom())
        await trio.sleep(1)
        supervisor.stop()
    assert trio.current_time() == 1
    with pytest.raises(ActorGone):
        await child.mailbox.ask(Count)


async def test_a_child_that_crashes_before_it_is_ready_is_tried_again_and_the_next_one_waits(
    story, nursery, autojump_clock
):
    tries = iter([OSError(), OSError()])

    async def third_time_lucky(inbox):
        story.lines.append("try a")
        if (error := next(tries, None)) is not None:
            raise error
        await story.actor(inbox)

    await nursery.start(story.supervisor(story.child("a", third_time_lucky), story.child("b")).run)
    assert story.lines == ["try a", "try a", "try a", "start a", "start b"]
