"""Mailboxes: a bounded queue with an address, which outlives the instances of the actor that reads it.

A ``Mailbox`` is made once, where everything is wired; everybody else holds it as a ``Ref``, which is its sending side.
Knows nothing of supervisors, nor of the tasks that read it (``runtime.py``). The queue is our own rather than trio's
memory channel because it has to survive its reader, tell its depth, and drop asks that nobody waits for any more.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any, Concatenate, Final, Generic, ParamSpec, TypeVar

import attrs
import trio

from mlzoo.actors.failures import ActorGone, DeadlinePassed, MailboxFull
from mlzoo.actors.reply import Reply

if TYPE_CHECKING:
    from collections.abc import Callable

R = TypeVar("R")
P = ParamSpec("P")
M = TypeVar("M")
M_contra = TypeVar("M_contra", contravariant=True)


@attrs.frozen
class Backpressure:
    """A mailbox of this capacity; when it is full, ``tell`` and ``ask`` wait for room, first come first served."""

    capacity: int = attrs.field(validator=attrs.validators.ge(1))


@attrs.frozen
class Refuse:
    """A mailbox of this capacity; when it is full, ``tell`` and ``ask`` raise MailboxFull and never wait for room."""

    capacity: int = attrs.field(validator=attrs.validators.ge(1))


@attrs.frozen
class Down:
    """An instance of an actor has ended.

    Attributes:
        name: of the actor.
        reason: what it crashed with; None where it returned or was stopped.
        gone: whether the actor has ended for good. This comes once and last.
    """

    name: str
    reason: Exception | None
    gone: bool


@attrs.frozen
class DeadLetter:
    """A message that was told to an actor which had gone, or was in its mailbox when it went."""

    to: str
    message: object


class DeadLetters:
    """Where told messages go that nobody will read: all are counted, the last few kept, each shown to an observer.

    Args:
        keep: how many are kept.
        observer: called with each one, synchronously; what it raises is raised where the message was told.
    """

    def __init__(self, keep: int = 64, observer: Callable[[DeadLetter], None] | None = None) -> None:
        self.count = 0
        self._recent: deque[DeadLetter] = deque(maxlen=keep)
        self._observer = observer

    @property
    def recent(self) -> tuple[DeadLetter, ...]:
        """The kept ones, oldest first."""
        return tuple(self._recent)

    def add(self, letter: DeadLetter) -> None:
        """Count it, keep it, show it."""
        self.count += 1
        self._recent.append(letter)
        if self._observer is not None:
            self._observer(letter)


EMPTY: Final = object()


class Ref(Generic[M_contra]):
    """The address of an actor: what others hold of it. It stays valid over all restarts.

    Contravariant in the messages: a ``Ref[A | B]`` serves wherever a ``Ref[A]`` is wanted.
    """

    __slots__ = (
        "_dead_letters",
        "_last",
        "_parked",
        "_queue",
        "_reader",
        "_room",
        "_waiters",
        "_watchers",
        "name",
        "overflow",
    )

    def __init__(self, name: str, overflow: Backpressure | Refuse, dead_letters: DeadLetters | None = None) -> None:
        self.name = name
        self.overflow = overflow
        self._dead_letters = DeadLetters() if dead_letters is None else dead_letters
        self._room = overflow.capacity  # 0 once closed, so that the fast paths test only one thing
        self._queue: deque[tuple[M_contra, Reply[Any] | None]] = deque()
        # What waits for room, keyed by what its sender waits for: its own answer, or word that a tell is in. It is
        # empty unless the queue is full, for each message taken out lets one in.
        self._parked: OrderedDict[Reply[Any], tuple[M_contra, Reply[Any] | None]] = OrderedDict()
        self._reader: trio.lowlevel.Task | None = None
        self._last: Down | None = None  # set once the actor has gone
        self._watchers: list[Ref[Down]] = []
        self._waiters: dict[Reply[Down], None] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}: {self.depth} of {self.overflow}>"

    @property
    def depth(self) -> int:
        """How many messages wait to be taken, those of parked senders included."""
        return len(self._queue) + len(self._parked)

    @property
    def closed(self) -> bool:
        """Whether the actor takes no new messages: it is leaving or gone."""
        return self._room == 0

    async def tell(self, message: M_contra) -> None:
        """Put a message into the mailbox; nobody answers. To an actor that has gone, it becomes a dead letter.

        A checkpoint only where it waits for room, which a full ``Backpressure`` mailbox makes it do: so a producer
        runs at most one mailbox ahead without one.

        Raises:
            MailboxFull: a ``Refuse`` mailbox is full.
        """
        if len(self._queue) < self._room:
            self._queue.append((message, None))
            if self._reader is not None:
                self._wake()
        elif self._room and isinstance(self.overflow, Backpressure):
            admitted: Reply[None] = Reply()
            await self._park(admitted, (message, None))
        else:
            self.tell_nowait(message)

    def tell_nowait(self, message: M_contra) -> None:
        """Do as ``tell`` does, for callers that must never wait.

        Raises:
            MailboxFull: the mailbox is full, of whichever kind it is.
        """
        if len(self._queue) < self._room:
            self._queue.append((message, None))
            if self._reader is not None:
                self._wake()
        elif self._room:
            raise self._full()
        else:
            self._dead_letters.add(DeadLetter(self.name, message))

    async def ask(self, make: Callable[Concatenate[Reply[R], P], M_contra], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Send the message ``make(reply, *args, **kwargs)`` and return what the actor answers to it.

        The deadline of the enclosing cancel scopes travels with it, and an ask whose deadline has passed, or which was
        cancelled, is not handled if it was not yet taken. It ends in one of five ways: an answer, the actor's own
        error, the enclosing scope's cancellation, or one of the errors below. Always a checkpoint, unless it raises.

        Args:
            make: what builds the message; usually its class, whose first field is a ``Reply``.
            *args: what follows the reply.
            **kwargs: the same.

        Raises:
            ActorCrashed: the instance that had taken it ended before it answered.
            ActorGone: the actor has ended for good.
            MailboxFull: a ``Refuse`` mailbox is full.
        """
        reply: Reply[R] = Reply(trio.current_effective_deadline())
        message = make(reply, *args, **kwargs)
        if self._post(message, reply):
            return await reply.wait()
        return await self._park(reply, (message, reply))

    async def ask_by(
        self,
        deadline: float,
        make: Callable[Concatenate[Reply[R], P], M_contra],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R:
        """Ask, and wait until ``deadline`` at most, in seconds of trio's clock, absolute (``trio.current_time() + 5``).

        Raises:
            DeadlinePassed: no answer came in time.
            ActorCrashed: as ``ask`` does.
            ActorGone: as ``ask`` does.
            MailboxFull: as ``ask`` does.
        """
        with trio.CancelScope(deadline=deadline):
            reply: Reply[R] = Reply(trio.current_effective_deadline())
            message = make(reply, *args, **kwargs)
            if self._post(message, reply):
                return await reply.wait()
            return await self._park(reply, (message, reply))
        raise DeadlinePassed(f"{self.name} did not answer in time")

    def signal(self, message: M_contra) -> None:
        """Put a message in past the capacity: for news bounded by other means. Lost once the actor has gone."""
        if self._room:
            self._queue.append((message, None))
            if self._reader is not None:
                self._wake()

    def watch(self, watcher: Ref[Down]) -> None:
        """Have ``watcher`` told a Down at the end of each instance, until one says ``gone``; at once if it has gone.

        Restart intensity bounds how many there are, so they are let in past the watcher's capacity.
        """
        if self._last is not None:
            watcher.signal(self._last)
        elif watcher not in self._watchers:
            self._watchers.append(watcher)

    def unwatch(self, watcher: Ref[Down]) -> None:
        """Stop telling ``watcher``; one that does not watch is no error."""
        if watcher in self._watchers:
            self._watchers.remove(watcher)

    async def wait_down(self) -> Down:
        """Wait for the end of an instance, the next one or, if the actor has gone, the last one."""
        if self._last is not None:
            await trio.lowlevel.checkpoint()
            return self._last
        down: Reply[Down] = Reply()
        self._waiters[down] = None
        try:
            return await down.wait()
        finally:
            self._waiters.pop(down, None)

    def _post(self, message: M_contra, reply: Reply[Any]) -> bool:
        """Put an ask in; False where it has to wait for room."""
        if len(self._queue) < self._room:
            self._queue.append((message, reply))
            if self._reader is not None:
                self._wake()
            return True
        if self._room == 0:
            raise self._gone()
        if isinstance(self.overflow, Refuse):
            raise self._full()
        return False

    async def _park(self, waits_for: Reply[R], item: tuple[M_contra, Reply[Any] | None]) -> R:
        self._parked[waits_for] = item
        try:
            return await waits_for.wait()
        finally:
            self._parked.pop(waits_for, None)

    def _wake(self) -> None:
        task, self._reader = self._reader, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    def _full(self) -> MailboxFull:
        return MailboxFull(f"the mailbox of {self.name} is full: {self.depth} of {self.overflow}")

    def _gone(self) -> ActorGone:
        return ActorGone(f"{self.name} has ended")


class Mailbox(Ref[M]):
    """The whole mailbox: its address, and the reading side that ``runtime.run`` or a supervisor uses."""

    __slots__ = ()

    def take(self, held: dict[Reply[Any], None]) -> M | object:
        """Take the oldest message, or return EMPTY. An ask goes into ``held``; one that nobody waits for is skipped."""
        queue = self._queue
        while queue:
            message, reply = queue.popleft()
            if self._parked and len(queue) < self.overflow.capacity:
                self._admit()
            if reply is None or reply.take(held):
                return message
        return EMPTY

    async def wait_for_mail(self) -> None:
        """Wait until there is a message or ``interrupt`` is called.

        Raises:
            trio.BusyResourceError: another task waits already.
        """
        if self._reader is not None:
            raise trio.BusyResourceError(f"another task reads the mailbox of {self.name}")
        self._reader = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._leave)

    def interrupt(self) -> None:
        """Wake the reader without a message."""
        self._wake()

    def close(self) -> None:
        """Take no new messages: asks end with ActorGone, tells are dead letters. What is in can still be taken."""
        self._room = 0

    def instance_ended(self, reason: Exception | None, *, gone: bool) -> None:
        """Tell the watchers; where the actor has gone, end every ask in the mailbox and bury every tell. Once."""
        if self._last is not None:
            return
        down = Down(self.name, reason, gone)
        if gone:
            self._last = down
            self.close()
            self._bury()
        for watcher in tuple(self._watchers):
            watcher.signal(down)
        for waiter in tuple(self._waiters):
            waiter.send(down)

    def _admit(self) -> None:
        while self._parked:
            admitted, item = self._parked.popitem(last=False)
            if admitted.pending:  # A sender that was cancelled in this very moment has sent nothing.
                self._queue.append(item)
                if item[1] is None:
                    admitted.send(None)
                return

    def _bury(self) -> None:
        while self._queue or self._parked:
            if not self._queue:
                self._admit()
                continue
            message, reply = self._queue.popleft()
            if reply is None:
                self._dead_letters.add(DeadLetter(self.name, message))
            else:
                reply.end(self._gone())

    def _leave(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._reader = None
        return trio.lowlevel.Abort.SUCCEEDED
