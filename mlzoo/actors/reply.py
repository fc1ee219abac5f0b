"""The answer to one ask: a one-shot slot between the task that waits and the actor that answers.

Knows nothing of mailboxes: it can be answered once, given up by the one who waits, or ended by the runtime.
"""

from __future__ import annotations

import math
from typing import Any, Generic, TypeVar

import trio

R = TypeVar("R")

_PENDING, _ANSWERED, _ENDED = 0, 1, 2


class Reply(Generic[R]):
    """Where the answer to an ask goes: the first field of each message that expects one.

    An actor calls :meth:`send` or :meth:`fail` once, now or later, in any of its tasks. Answering somebody who no
    longer waits is no error and does nothing; answering twice is one.

    Attributes:
        deadline: the absolute time, on trio's clock, when the asker gives up; infinity where it never does. An actor
            that asks others on behalf of this ask passes it on.
    """

    __slots__ = ("_error", "_held", "_state", "_task", "_value", "deadline")

    def __init__(self, deadline: float = math.inf) -> None:
        self.deadline = deadline
        self._state = _PENDING
        self._held: dict[Reply[Any], None] | None = None  # what an instance has taken and not answered
        self._task: trio.lowlevel.Task | None = None
        self._value: R
        self._error: Exception | None = None

    def send(self, value: R) -> None:
        """Answer.

        Raises:
            RuntimeError: it is answered already, which is the actor's bug.
        """
        if self._state != _PENDING:
            self._refuse_second()
            return
        self._value = value
        self._finish(_ANSWERED)

    def fail(self, error: Exception) -> None:
        """Answer with an error, which is raised where the ask waits: a typed failure, not a crash.

        Raises:
            RuntimeError: it is answered already, which is the actor's bug.
        """
        if self._state != _PENDING:
            self._refuse_second()
            return
        self._error = error
        self._finish(_ANSWERED)

    def end(self, error: Exception) -> None:
        """End it from outside of the actor, unless it is answered or given up already."""
        if self._state == _PENDING:
            self._error = error
            self._finish(_ENDED)

    @property
    def pending(self) -> bool:
        """Whether an answer would still reach somebody."""
        return self._state == _PENDING

    def take(self, held: dict[Reply[Any], None]) -> bool:
        """Note that an instance has taken the ask; False, and nothing noted, where nobody waits for it any more."""
        if self._state != _PENDING or (self.deadline != math.inf and self.deadline <= trio.current_time()):
            return False
        held[self] = None
        self._held = held
        return True

    async def wait(self) -> R:
        """Return the answer, or raise its error. One task waits, once; its cancellation gives the ask up.

        A checkpoint unless the answer is there already.
        """
        if self._state == _PENDING:
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._give_up)
        if self._error is not None:
            raise self._error
        return self._value

    def _finish(self, state: int) -> None:
        self._state = state
        if self._held is not None:
            del self._held[self]
            self._held = None
        if self._task is not None:
            task, self._task = self._task, None
            trio.lowlevel.reschedule(task)

    def _give_up(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._task = None
        self._finish(_ENDED)
        return trio.lowlevel.Abort.SUCCEEDED

    def _refuse_second(self) -> None:
        if self._state == _ANSWERED:
            raise RuntimeError("this ask is answered already")
