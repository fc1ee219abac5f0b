"""Supervision: who is restarted, when, in which order, and when it is given up."""

import random

import pytest
import trio
from attrs import frozen
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
    ChildStopped,
    DeadLetters,
    Down,
    Inbox,
    Intensity,
    Mailbox,
    Reply,
    RestartIntensityExceeded,
    Supervisor,
    SupervisorSpec,
)

NOW = Backoff(first_s=0)


@frozen
class Boom:
    reply: Reply[None] | None = None


@frozen
class Leave:
    pass


@frozen
class Count:
    """Answered with how many messages this instance has had."""

    reply: Reply[int]


Message = Boom | Leave | Count


class Story:
    """What happened, in order: actors write into it, and so does the supervisor."""

    def __init__(self):
        self.lines: list[str] = []
        self.events = []

    async def actor(self, inbox: Inbox[Message]) -> None:
        name = inbox.ref.name
        self.lines.append(f"start {name}")
        had = 0
        async for message in inbox:
            had += 1
            match message:
                case Boom():
                    raise ValueError(name)
                case Leave():
                    return
                case Count(reply):
                    reply.send(had)
        self.lines.append(f"stop {name}")

    def child(self, name, actor=None, **options) -> ChildSpec[Message]:
        return ChildSpec(Mailbox[Message](name, Backpressure(8)), actor or self.actor, **options)

    def supervisor(self, *children, **options) -> Supervisor:
        spec = SupervisorSpec("top", children, **{"backoff": NOW, **options})
        return Supervisor(spec, random=random.Random(0), observe=self.events.append)

    def states(self, supervisor):
        return {status.name: status.state for status in supervisor.snapshot()}


@pytest.fixture
def story():
    return Story()


async def crash(child):
    """Crash a child, and wait until its next instance has answered."""
    with pytest.raises(ActorCrashed):
        await child.mailbox.ask(Boom)
    await child.mailbox.ask(Count)


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


async def test_what_is_in_the_mailbox_is_handled_before_a_child_stops_for_good(story, nursery):
    released = trio.Event()

    async def busy(inbox):
        inbox.ready()
        await released.wait()
        await story.actor(inbox)

    child = story.child("a", busy)
    supervisor = story.supervisor(child)
    await nursery.start(supervisor.run)
    answers = []

    async def ask():
        answers.append(await child.mailbox.ask(Count))

    async with trio.open_nursery() as askers:
        for _ in range(5):
            askers.start_soon(ask)
        await wait_all_tasks_blocked()
        supervisor.stop()
        await wait_all_tasks_blocked()
        with pytest.raises(ActorGone):
            await child.mailbox.ask(Count)
        released.set()
    assert sorted(answers) == [1, 2, 3, 4, 5]


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


async def test_a_child_that_ignores_its_cancellation_does_not_hold_up_those_below_it(story, autojump_clock):
    released = trio.Event()

    async def stubborn(inbox):
        inbox.ready()
        with trio.CancelScope(shield=True):
            await released.wait()

    supervisor = story.supervisor(story.child("a"), story.child("b", stubborn, shutdown_s=1))
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        supervisor.stop()
        await trio.sleep(3)
        assert story.states(supervisor) == {"a": "stopped", "b": "stopping"}
        released.set()
    assert story.states(supervisor) == {"a": "stopped", "b": "stopped"}


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
    supervisor = story.supervisor(*children, backoff=Backoff(first_s=100, most_s=100, factor=1))
    await nursery.start(supervisor.run)
    children[0].mailbox.tell_nowait(Boom())
    await trio.sleep(30)
    children[1].mailbox.tell_nowait(Boom())
    await trio.sleep(1)
    assert story.states(supervisor) == {"a": "backoff", "b": "backoff"}
    await children[0].mailbox.ask(Count)
    assert story.states(supervisor)["a"] == "running"


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


async def test_cancelling_a_supervisor_cancels_its_children_and_leaves_them_gone(story):
    child = story.child("a")
    nested = SupervisorSpec("nested", (child,))
    async with trio.open_nursery() as nursery:
        await nursery.start(story.supervisor(nested).run)
        nursery.cancel_scope.cancel()
    assert [event for event in story.events if isinstance(event, ChildCrashed)] == []
    with pytest.raises(ActorGone):
        await child.mailbox.ask(Count)


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
    group = SupervisorSpec("group", (done, inner), backoff=NOW, intensity=Intensity(0))
    supervisor = story.supervisor(group, story.child("b"))
    await nursery.start(supervisor.run)
    done.mailbox.tell_nowait(Leave())
    await wait_all_tasks_blocked()
    story.lines.clear()
    await crash(inner)
    assert story.lines == ["start inner"]
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
