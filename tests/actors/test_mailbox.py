"""Telling: what a mailbox does when it has room, when it is full, and when its actor has gone."""

import pytest
import trio
from attrs import frozen
from trio.testing import wait_all_tasks_blocked

from mlzoo.actors import (
    ActorGone,
    Backpressure,
    DeadLetter,
    DeadLetters,
    Down,
    Inbox,
    Mailbox,
    MailboxFull,
    Ref,
    Refuse,
    Reply,
    run,
)


@frozen
class Note:
    text: str


@frozen
class Seen:
    reply: Reply[list[str]]


@frozen
class Boom:
    pass


async def recorder(inbox: Inbox[Note | Seen | Boom]) -> None:
    seen: list[str] = []
    async for message in inbox:
        match message:
            case Note(text):
                seen.append(text)
            case Seen(reply):
                reply.send(list(seen))
            case Boom():
                raise ValueError("boom")


def open_mailbox(overflow=None, dead_letters=None) -> Mailbox[Note | Seen | Boom]:
    return Mailbox("recorder", overflow or Backpressure(4), dead_letters)


async def test_messages_arrive_in_the_order_in_which_they_were_told(nursery):
    mailbox = open_mailbox()
    nursery.start_soon(run, mailbox, recorder)
    for number in range(10):
        await mailbox.tell(Note(str(number)))
    assert await mailbox.ask(Seen) == [str(number) for number in range(10)]


async def test_a_full_backpressure_mailbox_makes_senders_wait_and_lets_them_in_in_order(nursery):
    mailbox = open_mailbox(Backpressure(1))
    told = []

    async def tell(text):
        await mailbox.tell(Note(text))
        told.append(text)

    for text in ("a", "b", "c"):
        nursery.start_soon(tell, text)
        await wait_all_tasks_blocked()
    assert told == ["a"]
    assert mailbox.depth == 3
    nursery.start_soon(run, mailbox, recorder)
    assert await mailbox.ask(Seen) == ["a", "b", "c"]
    await wait_all_tasks_blocked()
    assert sorted(told) == ["a", "b", "c"]


async def test_an_ask_that_waits_for_room_gets_in_and_is_answered(nursery):
    mailbox = open_mailbox(Backpressure(1))
    await mailbox.tell(Note("a"))
    answers = []

    async def ask():
        answers.append(await mailbox.ask(Seen))

    nursery.start_soon(ask)
    await wait_all_tasks_blocked()
    nursery.start_soon(run, mailbox, recorder)
    await wait_all_tasks_blocked()
    assert answers == [["a"]]


async def test_a_full_refusing_mailbox_refuses_tell_and_ask():
    mailbox = open_mailbox(Refuse(1))
    await mailbox.tell(Note("a"))
    with pytest.raises(MailboxFull, match="recorder"):
        await mailbox.tell(Note("b"))
    with pytest.raises(MailboxFull):
        await mailbox.ask(Seen)
    assert mailbox.depth == 1


async def test_tell_nowait_never_waits_not_even_where_tell_would():
    mailbox = open_mailbox(Backpressure(1))
    mailbox.tell_nowait(Note("a"))
    with pytest.raises(MailboxFull):
        mailbox.tell_nowait(Note("b"))


async def test_a_cancelled_sender_has_sent_nothing(nursery):
    mailbox = open_mailbox(Backpressure(1))
    await mailbox.tell(Note("a"))
    with trio.CancelScope() as scope:
        nursery.start_soon(_cancel_when_all_wait, scope)
        await mailbox.tell(Note("b"))
    assert scope.cancelled_caught
    assert mailbox.depth == 1
    nursery.start_soon(run, mailbox, recorder)
    assert await mailbox.ask(Seen) == ["a"]


async def test_a_sender_cancelled_in_the_moment_in_which_room_appears_has_sent_nothing(nursery):
    mailbox = open_mailbox(Backpressure(1))
    await mailbox.tell(Note("a"))
    scope = trio.CancelScope()
    outcomes = []

    async def tell_b():
        with scope:
            await mailbox.tell(Note("b"))
            outcomes.append("told")

    nursery.start_soon(tell_b)
    await wait_all_tasks_blocked()
    scope.cancel()
    assert mailbox.take({}) == Note("a")
    assert mailbox.depth == 0
    await wait_all_tasks_blocked()
    assert outcomes == []


async def _cancel_when_all_wait(scope):
    await wait_all_tasks_blocked()
    scope.cancel()


async def test_a_capacity_below_one_is_refused():
    with pytest.raises(ValueError, match="capacity"):
        Backpressure(0)


async def test_only_one_task_reads_a_mailbox(nursery):
    async def two_readers(inbox: Inbox[Note]) -> None:
        async with trio.open_nursery() as own:
            own.start_soon(inbox.receive)
            await wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await inbox.receive()
            own.cancel_scope.cancel()

    await run(Mailbox("twice", Backpressure(1)), two_readers)


async def test_what_is_told_to_an_actor_that_has_gone_is_a_dead_letter():
    shown: list[DeadLetter] = []
    dead_letters = DeadLetters(keep=2, observer=shown.append)
    mailbox = open_mailbox(dead_letters=dead_letters)

    async def leaves(inbox):
        await inbox.receive()

    mailbox.tell_nowait(Note("taken"))
    mailbox.tell_nowait(Note("left"))
    await run(mailbox, leaves)
    await mailbox.tell(Note("late"))
    mailbox.tell_nowait(Note("later"))
    assert [letter.message for letter in shown] == [Note("left"), Note("late"), Note("later")]
    assert dead_letters.count == 3
    assert dead_letters.recent == (DeadLetter("recorder", Note("late")), DeadLetter("recorder", Note("later")))


async def test_senders_that_wait_for_room_learn_that_the_actor_has_gone(nursery):
    dead_letters = DeadLetters()
    mailbox = open_mailbox(Backpressure(1), dead_letters)
    failures = []
    told = trio.Event()

    async def ask():
        with pytest.raises(ActorGone) as caught:
            await mailbox.ask(Seen)
        failures.append(caught.value)

    async def tell():
        await mailbox.tell(Note("b"))
        told.set()

    async def leaves(inbox):
        pass

    await mailbox.tell(Note("a"))
    nursery.start_soon(ask)
    nursery.start_soon(tell)
    await wait_all_tasks_blocked()
    await run(mailbox, leaves)
    await told.wait()
    await wait_all_tasks_blocked()
    assert len(failures) == 1
    assert dead_letters.count == 2
    assert mailbox.depth == 0


async def test_a_watcher_is_told_why_an_actor_ended(nursery):
    watched = open_mailbox()
    watcher: Mailbox[Down | Note] = Mailbox("watcher", Backpressure(1))
    watcher.tell_nowait(Note("it is full, yet it hears of the end"))
    watched.watch(watcher)
    watched.watch(watcher)
    watched.tell_nowait(Boom())
    with pytest.raises(ValueError, match="boom") as crash:
        await run(watched, recorder)
    assert watcher.depth == 2
    assert watcher.take({}) == Note("it is full, yet it hears of the end")
    assert watcher.take({}) == Down("recorder", crash.value, gone=True)
    watched.watch(watcher)
    assert watcher.take({}) == Down("recorder", crash.value, gone=True)


async def test_news_that_came_in_past_the_capacity_counts_before_a_waiting_sender_gets_in(nursery):
    mailbox: Mailbox[Note | Down] = Mailbox("watcher", Backpressure(1))
    told = trio.Event()

    async def tell():
        await mailbox.tell(Note("b"))
        told.set()

    await mailbox.tell(Note("a"))
    nursery.start_soon(tell)
    await wait_all_tasks_blocked()
    mailbox.signal(Down("other", None, gone=True))
    assert mailbox.take({}) == Note("a")
    await wait_all_tasks_blocked()
    assert not told.is_set()
    assert mailbox.take({}) == Down("other", None, gone=True)
    await told.wait()
    assert mailbox.take({}) == Note("b")


async def test_who_gives_up_waiting_for_an_end_leaves_nothing_behind(autojump_clock):
    mailbox = open_mailbox()
    with trio.move_on_after(1):
        await mailbox.wait_down()
    assert mailbox._waiters == {}


async def test_who_no_longer_watches_is_not_told():
    watched = open_mailbox()
    watcher: Mailbox[Down] = Mailbox("watcher", Backpressure(1))
    watched.watch(watcher)
    watched.unwatch(watcher)
    watched.unwatch(watcher)

    async def leaves(inbox):
        pass

    await run(watched, leaves)
    assert watcher.depth == 0


async def test_wait_down_returns_when_the_actor_ends_and_at_once_afterwards(nursery):
    mailbox = open_mailbox()
    downs = []

    async def wait():
        downs.append(await mailbox.wait_down())

    nursery.start_soon(wait)
    await wait_all_tasks_blocked()
    assert downs == []

    async def leaves(inbox):
        pass

    await run(mailbox, leaves)
    assert await mailbox.wait_down() == Down("recorder", None, gone=True)
    await wait_all_tasks_blocked()
    assert downs == [Down("recorder", None, gone=True)]


async def test_an_address_for_more_messages_serves_as_one_for_fewer(nursery):
    narrow: Ref[Note] = open_mailbox()
    await narrow.tell(Note("a"))
    assert narrow.depth == 1
    assert "recorder" in repr(narrow)
