"""Actors: one task that reads one mailbox.

An actor is an async function of its inbox; calling it makes a new instance, so that a restart can never meet the state
of the instance that crashed::

    async def counter(inbox: Inbox[Add | Total]) -> None:
        total = 0
        async for message in inbox:
            ...

What it does before it first reads is its start; what it does after the last message is its end. ``run`` runs one
instance without a supervisor. Knows nothing of restarts (``supervisor.py``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, cast

import trio

from mlzoo.actors.failures import ActorCrashed, ActorGone
from mlzoo.actors.mailbox import EMPTY, Mailbox, Ref

if TYPE_CHECKING:
    from mlzoo.actors.reply import Reply

M = TypeVar("M")

DRAIN = 64  # messages taken in a row before the other tasks get their turn


class Inbox(Generic[M]):
    """The reading end of a mailbox, as one instance of an actor has it.

    Messages come one by one (``async for``, ``receive``) or as many as there are (``receive_batch``), and end when the
    actor is to stop. Where it stops for good, what is in the mailbox still comes; where it is only restarted, that is
    left to the next instance. At most 64 messages come in a row without a checkpoint.

    Args:
        mailbox: what to read.
        on_ready: called once, when the instance first reads or calls ``ready``.
    """

    __slots__ = ("_budget", "_held", "_mailbox", "_on_ready", "_stopped", "_stopping")

    def __init__(self, mailbox: Mailbox[M], on_ready: Callable[[], None]) -> None:
        self._mailbox = mailbox
        self._on_ready: Callable[[], None] | None = on_ready
        self._held: dict[Reply[Any], None] = {}
        self._budget = 0  # so that the first read takes the slow way, which says that the instance is ready
        self._stopped = False
        self._stopping: trio.Event | None = None  # made when somebody asks for it

    @property
    def ref(self) -> Ref[M]:
        """The actor's own address, for tasks that it starts."""
        return self._mailbox

    def ready(self) -> None:
        """Say that the start is over, so that a supervisor starts the next child. The first read says it too."""
        if self._on_ready is not None:
            on_ready, self._on_ready = self._on_ready, None
            on_ready()

    @property
    def stopping(self) -> trio.Event:
        """Set when the instance is to stop: for actors that wait for something else than their mailbox."""
        if self._stopping is None:
            self._stopping = trio.Event()
            if self._stopped:
                self._stopping.set()
        return self._stopping

    def __aiter__(self) -> Inbox[M]:
        return self

    async def __anext__(self) -> M:
        while True:
            if self._budget == 0:
                await self._pause()
            if not self._stopped or self._mailbox.closed:  # Where it is only restarted, mail is left to the next one.
                message = self._mailbox.take(self._held)
                if message is not EMPTY:
                    self._budget -= 1
                    return cast("M", message)
            if self._stopped:
                raise StopAsyncIteration
            await self._mailbox.wait_for_mail()
            self._budget = DRAIN

    async def receive(self) -> M:
        """Return the next message; a checkpoint where it waits.

        Raises:
            trio.EndOfChannel: the instance is to stop.
        """
        try:
            return await anext(self)
        except StopAsyncIteration:
            raise trio.EndOfChannel from None

    async def receive_batch(self, limit: int = DRAIN) -> list[M]:
        """Return one message or more, at most ``limit``, oldest first; an empty list where the instance is to stop.

        Always a checkpoint. What it returns counts as taken: if the instance crashes, none of it comes again.
        """
        # The other tasks get their turn here or, where nothing has come yet, while it waits.
        self._budget = 0 if self._mailbox.depth or self._on_ready is not None else 1
        try:
            batch = [await anext(self)]
        except StopAsyncIteration:
            return []
        while len(batch) < limit and (message := self._mailbox.take(self._held)) is not EMPTY:
            batch.append(cast("M", message))
        return batch

    def stop(self) -> None:
        """Let the messages end. For who runs the instance; an actor stops itself by returning."""
        self._stopped = True
        if self._stopping is not None:
            self._stopping.set()
        self._mailbox.interrupt()

    def end(self, reason: Exception | None) -> None:
        """End every ask that this instance has taken and not answered. For who ran the instance, when it is over."""
        while self._held:
            reply = next(iter(self._held))
            failure: ActorCrashed | ActorGone
            if reason is None and self._mailbox.closed:
                failure = ActorGone(f"{self._mailbox.name} ended before it answered")
            else:
                failure = ActorCrashed(f"{self._mailbox.name} ended before it answered")
                failure.__cause__ = reason
            reply.end(failure)

    async def _pause(self) -> None:
        self.ready()
        await trio.lowlevel.checkpoint()
        self._budget = DRAIN


Actor: TypeAlias = Callable[[Inbox[M]], Awaitable[None]]


async def run(
    mailbox: Mailbox[M], actor: Actor[M], *, task_status: trio.TaskStatus[Ref[M]] = trio.TASK_STATUS_IGNORED
) -> None:
    """Run one instance of an actor, without a supervisor; when it ends, however it ends, the actor has gone.

    Usable with ``nursery.start_soon`` and, to wait until it is ready, with ``nursery.start``.

    Raises:
        Exception: whatever the actor crashed with, unchanged.
    """
    inbox = Inbox(mailbox, lambda: task_status.started(mailbox))
    reason: Exception | None = None
    try:
        await actor(inbox)
    except Exception as error:
        reason = error
        raise
    finally:
        mailbox.close()
        inbox.end(reason)
        mailbox.instance_ended(reason, gone=True)
